"""What a checkpoint directory may hold after an accident, or in the hands of an enemy: nothing of it is believed."""

from __future__ import annotations

import json
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from saved_state import FILE, read_saved, with_text, write_saved

from optix_stream.agents import StreamACAgent
from optix_stream.checkpoints import CheckpointRegistry
from optix_stream.checkpoints.files import FileHashes, SavedFile, sync_tree
from optix_stream.checkpoints.manifest import Manifest, encode_manifest, read_manifest
from optix_stream.errors import CheckpointError
from optix_stream.types import EvalMetrics, Transition

OLD, NEW = "snapshot-000000", "snapshot-000001"
OLD_RUN, NEW_RUN = "checkpoint-000000", "checkpoint-000001"


class Box:
    shape = (2,)


class Discrete:
    n = 2
    start = 0


def make_agent(seed: int = 0) -> StreamACAgent:
    return StreamACAgent.for_spaces(Box(), Discrete(), hidden=(4,), seed=seed)


def knowledge(agent: StreamACAgent) -> bytes:
    """Everything that was learned."""
    state = agent.capture_state()
    return bytes(state.parameters.tobytes()) + repr((state.steps, state.rng)).encode()


def fill(directory: Path) -> list[bytes]:
    """Two policies of one agent, the later one better, and a checkpoint of the run after each; what each knows."""
    registry, agent = CheckpointRegistry(directory), make_agent()
    registry.begin_run()
    known = []
    for window in range(2):
        agent.learn_one(Transition(np.array([window, 1.0]), 0, 1.0, np.array([window + 1.0, 1.0])))
        registry.save(agent, EvalMetrics(float(window), {}, window), agent.get_hyperparams())
        registry.commit_run(registry.stage_run(agent, window, {"window": window}))
        known.append(knowledge(agent))
    registry.end_run()
    return known


def load_best(directory: Path) -> bytes | CheckpointError | None:
    """What an agent knows that was given the best policy."""
    agent = make_agent(1)
    before = knowledge(agent)
    try:
        found = CheckpointRegistry(directory).load_best(agent)
    except CheckpointError as error:
        assert knowledge(agent) == before
        return error
    return None if found is None else knowledge(agent)


def resume(directory: Path) -> tuple[bytes, int] | None:
    """What an agent knows that goes on from the last checkpoint, and at which window."""
    agent, registry = make_agent(1), CheckpointRegistry(directory)
    windows: list[int] = []
    try:
        found = registry.resume_run(lambda checkpoint, state: windows.append(state["window"]), agent)
    finally:
        registry.end_run()
    return (knowledge(agent), windows[0]) if found else None


def flip(path: Path, bit: int) -> Callable[[], object]:
    """Change one bit of a file; returns what changes it back."""
    content = path.read_bytes()
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    path.write_bytes(damaged)
    return lambda: path.write_bytes(content)


@pytest.mark.parametrize("name", [NEW, NEW_RUN])
def test_any_changed_byte_of_a_manifest_is_found(name: str, tmp_path: Path) -> None:
    known = fill(tmp_path)
    manifest, rng = tmp_path / name / "manifest.json", random.Random(0)
    for byte in range(manifest.stat().st_size):
        put_back = flip(manifest, 8 * byte + rng.randrange(8))
        registry = CheckpointRegistry(tmp_path)
        assert list(registry.damaged) == [name], byte
        if name == NEW:
            assert load_best(tmp_path) == known[0], byte
        put_back()
    assert load_best(tmp_path) == known[1]
    assert resume(tmp_path) == (known[1], 1)


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_any_changed_bit_of_the_data_is_found(count: int, tmp_path: Path) -> None:
    known = fill(tmp_path)
    files = [path for path in (tmp_path / NEW / "weights").iterdir() if path.is_file()]
    bits = [(path, bit) for path in files for bit in range(8 * path.stat().st_size)]
    for path, bit in random.Random(1).sample(bits, count):
        put_back = flip(path, bit)
        agent, registry = make_agent(1), CheckpointRegistry(tmp_path)
        found = registry.load_best(agent)
        assert found is not None, (path, bit)
        assert (found.snapshot_id, knowledge(agent)) == (OLD, known[0]), (path, bit)
        (report,) = registry.take_reports()
        assert "damaged: expected SHA-256" in str(report)
        put_back()
    assert load_best(tmp_path) == known[1]


def test_when_all_are_damaged_that_is_an_error_and_the_agent_is_untouched(tmp_path: Path) -> None:
    fill(tmp_path)
    for name in (OLD, NEW):
        flip(tmp_path / name / "weights" / FILE, 5)
    error = load_best(tmp_path)
    assert isinstance(error, CheckpointError)
    assert f"{NEW}/weights/{FILE}: damaged" in str(error)


# --- the hostile corpus --------------------------------------------------------------------------


class Bomb:
    """Its unpickling leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, (f"import os; os.mkdir({str(self.mark)!r})",))


def sealed(folder: Path, **changes: Any) -> None:
    """A manifest that is consistent in itself, by somebody who knows the format: hashes and all."""
    manifest = read_manifest(folder)
    assert manifest is not None
    (folder / "manifest.json").unlink()
    files = changes.pop("files", None) or sync_tree(folder, FileHashes())
    (folder / "manifest.json").write_bytes(encode_manifest(msgspec.structs.replace(manifest, files=files, **changes)))


def with_manifest(content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / "manifest.json").write_bytes(content)


def with_files(*files: tuple[str, int]) -> Callable[[Path], None]:
    return lambda folder: sealed(folder, files=[SavedFile(path, size, "0" * 64) for path, size in files])


def with_file(write: Callable[[Path], object]) -> Callable[[Path], None]:
    """Another file in place of the weights, with a manifest to match."""

    def attack(folder: Path) -> None:
        path = folder / "weights" / FILE
        path.unlink()
        write(path)
        sealed(folder)

    return attack


def with_state(text: str) -> Callable[[Path], None]:
    """Another text beside the arrays, with a manifest to match."""

    def attack(folder: Path) -> None:
        with_text(text)(folder / "weights")
        sealed(folder)

    return attack


def other_names(folder: Path) -> None:
    write_saved(folder / "weights", {"x": np.zeros(1)}, json.dumps(read_saved(folder / "weights")[1]))
    sealed(folder)


def link_to_itself(folder: Path) -> None:
    target = folder.parent / "elsewhere"
    folder.rename(target)
    folder.symlink_to(target)


def link_weights(folder: Path) -> None:
    (folder / "weights").rename(folder.parent / "elsewhere")
    (folder / "weights").symlink_to(folder.parent / "elsewhere")


def link_file(folder: Path) -> None:
    (folder / "weights" / FILE).rename(folder.parent / "elsewhere")
    (folder / "weights" / FILE).symlink_to(folder.parent / "elsewhere")


def link_manifest(folder: Path) -> None:
    (folder / "manifest.json").rename(folder.parent / "elsewhere")
    (folder / "manifest.json").symlink_to(folder.parent / "elsewhere")


def pipe_as_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")


def pipe_as_weights(folder: Path) -> None:
    (folder / "weights" / FILE).unlink()
    os.mkfifo(folder / "weights" / FILE)


def surplus(folder: Path) -> None:
    (folder / "weights" / "more").write_bytes(b"code")


def strange_name(folder: Path) -> None:
    (folder / "weights" / "a b").write_bytes(b"code")


def nested(folder: Path) -> None:
    (folder / "weights" / "/".join("d" * 40)).mkdir(parents=True)


def keras_archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps({"class_name": "Lambda"}))
        archive.writestr("model.weights.h5", b"")


def huge_header(path: Path) -> None:
    path.write_bytes((1 << 62).to_bytes(8, "little") + b"{}")


def other_offsets(path: Path) -> None:
    header = json.dumps({"rewards": {"dtype": "F64", "shape": [1 << 40], "data_offsets": [0, 1 << 43]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)


ATTACKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (with_manifest(b""), "damaged"),
    "text": (with_manifest(b"{"), "damaged"),
    "list": (with_manifest(b"[]"), "damaged"),
    "other encoding": (with_manifest(b"\xff\xfe"), "damaged"),
    "nested manifest": (with_manifest(b"[" * 100_000), "damaged"),
    "huge manifest": (with_manifest(b" " * (17 << 20)), "expected at most"),
    "unknown format": (with_manifest(b'{"format": 99, "sha256": "", "snapshot": {}}'), "expected format 2, got 99"),
    "unknown field": (with_manifest(b'{"format": 2, "sha256": "", "snapshot": {}, "run": "code"}'), "damaged"),
    "other hash": (with_manifest(b'{"format": 2, "sha256": "00", "snapshot": {}}'), "expected SHA-256 00"),
    "other snapshot": (lambda folder: sealed(folder, name=OLD), "got that of 'snapshot-000000'"),
    "name outside": (lambda folder: sealed(folder, name="../outside"), "got that of '../outside'"),
    "path outside": (with_files(("../../outside", 1)), "'../../outside'"),
    "absolute path": (with_files(("/etc/passwd", 1)), "'/etc/passwd'"),
    "path named twice": (with_files((f"weights/{FILE}", 1), (f"weights/{FILE}", 1)), "named once"),
    "oversize": (with_files((f"weights/{FILE}", 1 << 50)), "expected at most"),
    "negative size": (with_files((f"weights/{FILE}", -1)), "expected at most"),
    "link as snapshot": (link_to_itself, "not a file or a link"),
    "link as weights": (link_weights, "not a link"),
    "link as file": (link_file, "not a link"),
    "link as manifest": (link_manifest, "cannot read"),
    "pipe as manifest": (pipe_as_manifest, "expected a regular file"),
    "pipe as weights": (pipe_as_weights, "not a link or a device"),
    "surplus file": (surplus, "got ['weights/more'] that do not belong"),
    "strange name": (strange_name, "expected names of letters"),
    "many directories": (nested, "expected at most 16 directories"),
    "pickle": (with_file(lambda path: path.write_bytes(pickle.dumps(Bomb(path.parents[2] / "mark")))), "cannot read"),
    "keras archive": (with_file(keras_archive), "cannot read"),
    "huge header": (with_file(huge_header), "cannot read"),
    "other offsets": (with_file(other_offsets), "cannot read"),
    "other names": (other_names, "that do not belong"),
    "no object": (with_state("[]"), "expected format"),
    "nested state": (with_state("[" * 100_000), "cannot read"),
    "other types": (with_state('{"format": 3, "streams": {"0": "code"}}'), "cannot read"),
}


def load_new(registry: CheckpointRegistry) -> None:
    registry.verify(NEW)
    # What is consistent in itself is for the agent to refuse.
    registry.load_best(make_agent(1))
    raise registry.take_reports()[0]


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_hostile_is_loaded_or_run(attack: str, tmp_path: Path) -> None:
    known = fill(tmp_path)
    damage, match = ATTACKS[attack]
    damage(tmp_path / NEW)
    assert load_best(tmp_path) == known[0]
    registry = CheckpointRegistry(tmp_path)
    with pytest.raises(CheckpointError) as raised:
        load_new(registry)
    assert match in str(raised.value)
    assert str(tmp_path) in str(raised.value)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "content", [b"", pickle.dumps({"window": 1}), b"\x02\0\0\0\0\0\0\0{}"], ids=["nothing", "pickle", "no state"]
)
def test_the_state_of_a_run_is_data(content: bytes, tmp_path: Path) -> None:
    known = fill(tmp_path)
    (tmp_path / NEW_RUN / "run.safetensors").write_bytes(content)
    sealed(tmp_path / NEW_RUN)
    assert resume(tmp_path) == (known[0], 0)


def test_a_manifest_says_the_same_when_it_has_been_read(tmp_path: Path) -> None:
    fill(tmp_path)
    manifest = read_manifest(tmp_path / NEW)
    assert isinstance(manifest, Manifest)
    assert encode_manifest(manifest) == (tmp_path / NEW / "manifest.json").read_bytes()
