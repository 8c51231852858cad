"""One writer a directory, whoever and however many they are."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from optix_stream.checkpoints import CheckpointRegistry
from optix_stream.errors import CheckpointError, DirectoryInUseError
from optix_stream.testing import RecordingAgent
from optix_stream.types import EvalMetrics


def save(registry: CheckpointRegistry, score: float) -> str:
    agent = RecordingAgent()
    agent.weight = score
    return registry.save(agent, EvalMetrics(score, {}, 0), agent.get_hyperparams()).snapshot_id


def test_a_second_writer_fails_at_once_and_is_told_who_has_it(tmp_path: Path) -> None:
    first = CheckpointRegistry(tmp_path)
    first.begin_run()
    second = CheckpointRegistry(tmp_path)
    before = time.time()
    with pytest.raises(DirectoryInUseError, match="another run of this same process, since ") as raised:
        second.begin_run()
    assert time.time() - before < 1.0
    assert (raised.value.pid, raised.value.host) == (os.getpid(), platform.node())
    assert raised.value.since is not None
    assert before - 60 < raised.value.since <= time.time()
    with pytest.raises(DirectoryInUseError):
        save(second, 1.0)
    save(first, 1.0)
    first.end_run()
    second.begin_run()
    save(second, 2.0)
    second.end_run()


def test_readers_need_no_lock(tmp_path: Path) -> None:
    writer = CheckpointRegistry(tmp_path)
    writer.begin_run()
    save(writer, 3.0)
    reader, agent = CheckpointRegistry(tmp_path), RecordingAgent()
    assert reader.load_best(agent) is not None
    assert agent.weight == 3.0


def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=hold, args=(tmp_path, theirs), daemon=True)
    process.start()
    assert ours.recv() == "held"
    with pytest.raises(DirectoryInUseError, match=f"process {process.pid} on"):
        CheckpointRegistry(tmp_path).begin_run()
    process.kill()
    process.join()
    registry = CheckpointRegistry(tmp_path)
    registry.begin_run()
    registry.end_run()


def hold(directory: Path, connection: Connection) -> None:
    CheckpointRegistry(directory).begin_run()
    connection.send("held")
    connection.recv()


def test_a_writer_that_lost_its_lock_commits_nothing_more(tmp_path: Path) -> None:
    """As when somebody has removed the file to make room for a new run, while the old one was asleep."""
    old = CheckpointRegistry(tmp_path)
    old.begin_run()
    save(old, 1.0)
    (tmp_path / "lock").unlink()
    with pytest.raises(DirectoryInUseError, match="in use by another writer"):
        save(old, 2.0)
    new = CheckpointRegistry(tmp_path)
    new.begin_run()
    newest = save(new, 3.0)
    with pytest.raises(DirectoryInUseError, match="in use by another run of this same process"):
        save(old, 4.0)
    assert CheckpointRegistry(tmp_path).latest == new.latest
    assert [snapshot.snapshot_id for snapshot in CheckpointRegistry(tmp_path).snapshots()] == [
        "snapshot-000000",
        newest,
    ]


def test_epochs_only_go_up(tmp_path: Path) -> None:
    epochs = []
    for content in (None, b"", b"\xff", b'{"epoch": 7}'):
        if content is not None:
            (tmp_path / "lock").write_bytes(content)
        name = save(CheckpointRegistry(tmp_path), 1.0)
        epochs.append(json.loads((tmp_path / name / "manifest.json").read_bytes())["snapshot"]["epoch"])
    assert epochs == sorted(set(epochs))
    assert epochs[-1] == 8


def test_a_lock_that_cannot_be_used_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(CheckpointError, match=r"cannot lock .*lock"):
        CheckpointRegistry(tmp_path).begin_run()


@pytest.mark.parametrize("rounds", [30, pytest.param(1000, marks=pytest.mark.slow)])
def test_of_two_that_start_together_exactly_one_has_the_directory(rounds: int, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(2)]
    racers = [context.Process(target=race, args=(tmp_path, theirs), daemon=True) for _, theirs in pipes]
    for racer in racers:
        racer.start()
    for number in range(rounds):
        for ours, _ in pipes:
            ours.send(number)
        answers = [ours.recv() for ours, _ in pipes]
        assert sorted(answer[0] for answer in answers) == ["held", "refused"], answers
        winner = racers[[answer[0] for answer in answers].index("held")]
        (refused,) = [answer[1] for answer in answers if answer[0] == "refused"]
        assert refused == winner.pid, answers
        for ours, _ in pipes:
            ours.send("next")
            assert ours.recv() == "ready"
    for racer in racers:
        racer.kill()
        racer.join()


def race(directory: Path, connection: Connection) -> None:
    """A run that does nothing, again and again."""
    while True:
        connection.recv()
        registry = CheckpointRegistry(directory)
        try:
            registry.begin_run()
            connection.send(("held", None))
        except DirectoryInUseError as error:
            connection.send(("refused", error.pid))
        connection.recv()
        registry.end_run()
        connection.send("ready")
