"""Saved state that is damaged is refused before anything changes."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from saved_state import FILE, read_saved, with_arrays, with_content, with_state, with_text, without_file

from optix_stream.agents import StreamACAgent
from optix_stream.agents.state import read_state, write_state
from optix_stream.errors import CheckpointError
from optix_stream.types import Array, Transition


@dataclass
class Box:
    shape: tuple[int, ...]


@dataclass
class Discrete:
    n: int
    start: int = 0


def make_agent(seed: int) -> StreamACAgent:
    agent = StreamACAgent.for_spaces(Box((2,)), Discrete(2), hidden=(8,), seed=seed)
    for index in range(5):
        agent.learn_one(Transition(np.array([index, 1.0]), index % 2, 1.0, np.array([index + 1, 1.0])))
    return agent


def assert_same(first: Any, second: Any) -> None:
    """Two captures of an agent."""
    np.testing.assert_array_equal(first.parameters, second.parameters)
    assert first.steps == second.steps
    assert first.rng == second.rng
    assert list(first.streams) == list(second.streams)


Damage = Callable[[Path], None]


def change_state(**changes: Any) -> Damage:
    return with_state(lambda state: state.update(changes))


def without_state(name: str) -> Damage:
    return with_state(lambda state: state.pop(name))


def put(name: str, array: Array) -> Damage:
    return with_arrays(lambda arrays: arrays.update({name: array}))


def without_array(name: str) -> Damage:
    return with_arrays(lambda arrays: arrays.pop(name))


def cut(length: int) -> Damage:
    return with_content(lambda content: content[:length])


def cut_state(length: int) -> Damage:
    def damage(folder: Path) -> None:
        with_text(json.dumps(read_saved(folder)[1])[:length])(folder)

    return damage


def flip(position: int) -> Damage:
    return with_content(lambda content: flipped(content, position, 0xFF))


def flipped(content: bytes, position: int, bits: int) -> bytes:
    damaged = bytearray(content)
    damaged[position] ^= bits
    return bytes(damaged)


def rename_text(content: bytes) -> bytes:
    assert content.count(b'"state":') == 1
    return content.replace(b'"state":', b'"stave":')


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (without_file, "cannot read weights"),
        (with_text(None), "expected format 3, got None"),
        (with_content(rename_text), "expected format 3, got None"),
        (with_text("[]"), r"expected format 3, got \[\]"),
        (with_text("no JSON"), "cannot read weights"),
        (with_text("[" * 100_000), "cannot read weights"),
        (change_state(format=2), "expected format 3, got 2"),
        (without_state("format"), "expected format 3, got None"),
        (cut_state(40), "cannot read weights"),
        (cut(0), "cannot read weights"),
        (cut(300), "cannot read weights"),
        (cut(-1), "cannot read weights"),
        (flip(20), "cannot read weights"),
        (without_state("agent"), "cannot read weights"),
        (without_state("streams"), "cannot read weights"),
        (without_state("rng"), "cannot read weights"),
        (change_state(rng={"bit_generator": "MT19937"}), "cannot read weights"),
        (change_state(steps="many"), "cannot read weights"),
        (change_state(steps=float("inf")), "cannot read weights"),
        (change_state(observations=None), "cannot read weights"),
        (change_state(streams=[0, 0]), "expected streams by name or number"),
        (change_state(streams=[[1]]), "expected streams by name or number"),
        (change_state(streams=[1, 2]), r"streams/traces: expected F32\[2, .*got F32\[1, "),
        (without_array("rewards"), r"expected arrays \['rewards'\]"),
        (put("more", np.zeros(1)), r"got \['more'\] that do not belong"),
        (put("rewards", np.zeros(3)), r"rewards: expected F64\[2\], got F64\[3\]"),
        (put("rewards", np.zeros(2, np.float32)), r"rewards: expected F64\[2\], got F32\[2\]"),
        (put("rewards", np.array([1.0, np.nan])), "rewards: expected finite numbers"),
        (with_content(lambda content: pickle.dumps(np.zeros(2))), "cannot read weights"),
    ],
)
def test_damage_is_refused_and_changes_nothing(damage: Damage, match: str, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    make_agent(1).save_weights(str(folder))
    agent = make_agent(2)
    before = agent.capture_state()
    damage(folder)
    with pytest.raises(CheckpointError, match=match):
        agent.load_weights(str(folder))
    assert_same(agent.capture_state(), before)


def test_a_flipped_bit_before_the_arrays_is_refused_or_says_something_else(tmp_path: Path) -> None:
    make_agent(1).save_weights(str(tmp_path))
    agent = make_agent(2)
    content = (tmp_path / FILE).read_bytes()
    length = 8 + int.from_bytes(content[:8], "little")
    rng = random.Random(0)
    refused = 0
    for position in range(length):
        (tmp_path / FILE).write_bytes(flipped(content, position, 1 << rng.randrange(8)))
        before = agent.capture_state()
        try:
            agent.load_weights(str(tmp_path))
        except CheckpointError:
            refused += 1
            assert_same(agent.capture_state(), before)
    # What is left are the digits of numbers.
    assert refused > 0.9 * length


@pytest.mark.parametrize(
    "dtype", [np.bool_, np.uint8, np.int32, np.uint32, np.int64, np.float16, np.float32, np.float64]
)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)], ids=str)
def test_arrays_of_any_kind_are_read_as_they_were(dtype: Any, shape: tuple[int, ...], tmp_path: Path) -> None:
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    folder = str(tmp_path / "saved")
    write_state(folder, {"array": array, "turned": array.T}, {"name": "none, \ud800 and \U0001f600"})
    specs = {"array": (shape, dtype), "turned": (shape[::-1], dtype)}
    arrays, state = read_state(folder, lambda state: specs)
    assert state == {"format": 3, "name": "none, \ud800 and \U0001f600"}
    for name, expected in (("array", array), ("turned", array.T)):
        assert arrays[name].dtype == dtype
        np.testing.assert_array_equal(arrays[name], expected, strict=True)
    with pytest.raises(CheckpointError, match=r"array: expected C128\["):
        read_state(folder, lambda state: specs | {"array": (shape, np.complex128)})


def test_without_streams_there_is_nothing_to_stack(tmp_path: Path) -> None:
    agent = StreamACAgent.for_spaces(Box((2,)), Discrete(2), hidden=(8,), seed=3)
    agent.save_weights(str(tmp_path / "saved"))
    loaded = make_agent(1)
    loaded.load_weights(str(tmp_path / "saved"))
    assert loaded.capture_state().streams == {}
    np.testing.assert_array_equal(loaded.capture_state().parameters, agent.capture_state().parameters)


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot save weights"):
        make_agent(1).save_weights(str(tmp_path / "file" / "saved"))
    with pytest.raises(CheckpointError, match="cannot save weights"):
        write_state(str(tmp_path / "other"), {}, {"number": float("nan")})
