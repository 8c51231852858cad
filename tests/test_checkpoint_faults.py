"""Killed, or starved of disk, at every system call of a save: what is on the disk is the old or the new, and whole.

The faults are real ones, injected into a process of its own by ``strace``.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import saving

DRIVER = Path(saving.__file__)
CHANGING = ("write", "rename", "fsync", "unlink", "unlinkat", "mkdir", "rmdir")
CALLS = (*CHANGING, "openat", "read", "getdents64", "newfstatat", "fstat")
KINDS = ("policy", "run")


def strace_is_missing() -> str | None:
    """Why no fault can be injected here."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run(["strace", "-e", "trace=none", "true"], capture_output=True, check=False)
    return None if tried.returncode == 0 else f"strace may not trace here: {tried.stderr.decode().strip()}"


WHY_NOT = strace_is_missing() if sys.platform == "linux" else "strace is for Linux"
needs_strace = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


def run_driver(directory: Path, kind: str, *options: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-B", str(DRIVER), str(directory), kind]
    environment = {**os.environ, "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(["strace", "-f", *options, *command], capture_output=True, check=False, env=environment)


def calls_of_a_save(base: Path, kind: str, tmp_path: Path) -> list[tuple[str, int]]:
    """Every system call that a save makes, with its number among those of its name in the process."""
    directory, log = tmp_path / "traced", tmp_path / "log"
    shutil.copytree(base, directory)
    done = run_driver(directory, kind, "-o", str(log), "-e", f"trace={','.join(CALLS)},access")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"first": [], "second": []}
    shutil.rmtree(directory)
    lines = [re.match(r"(\d+) +(\w+)\((.*)", line) for line in log.read_text().splitlines()]
    calls = [match.groups() for match in lines if match is not None]
    main = calls[0][0]
    seen: Counter[str] = Counter()
    found: list[tuple[str, int]] = []
    is_saving = False
    for process, name, arguments in calls:
        if process == main:
            seen[name] += 1
            if name == "access":
                is_saving = '"/begins"' in arguments or (is_saving and '"/ends"' not in arguments)
            elif is_saving:
                found.append((name, seen[name]))
    assert {"write", "rename", "fsync", "mkdir"} < {name for name, _ in found}
    return found


def at(name: str, nth: int, fault: str) -> tuple[str, ...]:
    return ("-o", os.devnull, "-e", f"trace={name}", "-e", f"inject={name}:{fault}:when={nth}")


def sampled(calls: list[tuple[str, int]], count: int | None) -> list[tuple[str, int]]:
    """All of them, or some; always the last ones, after which the new one is to be found."""
    if count is None or count >= len(calls):
        return calls
    return sorted(random.Random(0).sample(calls[:-1], count - 1)) + calls[-1:]


def what_loads(directory: Path) -> tuple[int, int]:
    """Of which window the best policy and the last checkpoint are; everything is checked."""
    registry = saving.make_registry(directory)
    assert registry.damaged == {}
    for name in [s.snapshot_id for s in registry.snapshots()] + [c.name for c in registry.run_checkpoints()]:
        registry.verify(name)
    agent = saving.make_agent(0)
    best = registry.load_best(agent)
    assert best is not None
    assert saving.knowledge(agent) == saving.knowledge(saving.make_agent(best.episode_id))
    windows: list[int] = []
    registry.resume_run(lambda checkpoint, state: windows.append(state["window"]), agent)
    assert saving.knowledge(agent) == saving.knowledge(saving.make_agent(windows[0]))
    registry.end_run()
    return best.episode_id, windows[0]


@needs_strace
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [8, pytest.param(None, marks=pytest.mark.slow)], ids=["some", "all"])
def test_killed_at_any_call_of_a_save_the_old_or_the_new_is_there(count: int | None, kind: str, tmp_path: Path) -> None:
    base = tmp_path / "base"
    saving.fill(base)
    calls = [call for call in calls_of_a_save(base, kind, tmp_path) if call[0] in CHANGING]
    new = (3, 2) if kind == "policy" else (2, 3)
    found = []
    for number, (name, nth) in enumerate(sampled(calls, count)):
        directory = tmp_path / f"{number}"
        shutil.copytree(base, directory)
        done = run_driver(directory, kind, *at(name, nth, "signal=KILL"))
        assert (done.returncode, done.stdout) == (-9, b""), (name, nth, done.stderr)
        found.append(what_loads(directory))
        assert found[-1] in ((2, 2), new), (name, nth)
        registry = saving.make_registry(directory)
        registry.begin_run()
        saving.save(registry, 5, kind)
        assert registry.take_reports() == []
        registry.end_run()
        shutil.rmtree(directory)
    print(f"killed at {len(found)} calls of saving a {kind}: {found.count((2, 2))} old, {found.count(new)} new")
    # The rename decides: all before it find the old one, all after it the new one.
    assert found == sorted(found, key=lambda loaded: loaded == new) if count is None else found


@needs_strace
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
@pytest.mark.parametrize("count", [5, pytest.param(None, marks=pytest.mark.slow)], ids=["some", "all"])
def test_whatever_the_disk_refuses_is_told_once_and_the_old_is_there(
    count: int | None, error: str, kind: str, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    saving.fill(base)
    calls = calls_of_a_save(base, kind, tmp_path)
    if error == "ENOSPC":
        calls = [call for call in calls if call[0] in ("write", "fsync", "rename", "mkdir", "openat")]
    for number, (name, nth) in enumerate(sampled(calls, count)):
        directory = tmp_path / f"{number}"
        shutil.copytree(base, directory)
        done = run_driver(directory, kind, *at(name, nth, f"error={error}"))
        assert done.returncode == 0, (name, nth, done.stderr)
        outcome = json.loads(done.stdout)
        assert len(outcome["first"]) <= 1, (name, nth, outcome)
        assert outcome["second"] == [], (name, nth, outcome)
        assert what_loads(directory) == ((4, 2) if kind == "policy" else (2, 4)), (name, nth)
        shutil.rmtree(directory)


FULL_DISK = """
mount -t tmpfs -o size=1m none "$1" || exit 77
"$2" -m optix_stream.cli train CartPole-v1 --agent stream-ac --window-size 200 --max-steps 4000 --checkpoint-every 1 \
    --json --checkpoint-dir "$1/run" || exit 1
"$2" -m optix_stream.cli inspect "$1/run" --json
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare is not installed")
def test_a_run_goes_on_when_the_disk_is_full(tmp_path: Path) -> None:
    """A file system of one megabyte, of which a checkpoint takes a sixth."""
    pytest.importorskip("gymnasium", reason="the command trains in an environment")
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    done = subprocess.run(
        [*namespace, "sh", "-c", FULL_DISK, "full", str(tmp_path), sys.executable],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    report, inspection = (json.loads(line) for line in done.stdout.splitlines())
    assert (report["windows"], report["transitions"]) == (20, 4000)
    assert report["statistics"]["is_balanced"]
    told = re.findall(r"checkpoint failed: cannot save ([\w-]+)\b.*No space left on device", done.stderr)
    assert told, "the disk is meant to be full"
    assert len(told) == len(set(told)), "each is told once"
    assert inspection["damaged"] == {}
    assert inspection["checkpoints"]
