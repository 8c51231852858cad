"""What a live run has accepted is learned from exactly once, also by the process that comes after it."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from optix_stream import CheckpointEvery, JournalOptions, LivePipeline, RLOptimizer, every_n_steps
from optix_stream.contracts import Producer, StreamItem, TransitionLearner
from optix_stream.errors import CheckpointError, ConfigurationError, LearningFailedError
from optix_stream.events import (
    Event,
    GapDetected,
    JournalFailed,
    JournalRegained,
    RunResumed,
    RunSaved,
    TransitionsDropped,
    TransitionsRejected,
    WindowLearned,
)
from optix_stream.journal.store import JournalStore
from optix_stream.pipeline import StreamPipeline
from optix_stream.testing import (
    FakeClock,
    NullAgent,
    RecordingAgent,
    ScriptedProducer,
    assert_balanced,
    make_transition,
)
from optix_stream.types import EpisodeData, Transition, TransitionBatch

WINDOW = 4
SOME = CheckpointEvery(windows=1)


class Noting(RecordingAgent):
    """Its weights are the rewards that it has learned from, in order."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.noted: list[float] = []

    def learn(self, episode_data: EpisodeData) -> dict[str, float]:
        diagnostics = super().learn(episode_data)
        self.noted.extend(map(float, episode_data.rewards))
        return diagnostics

    def save_weights(self, path: str) -> None:
        Path(path).write_text(json.dumps(self.noted))

    def load_weights(self, path: str) -> None:
        self.noted = json.loads(Path(path).read_text())


class NotingEach(Noting, TransitionLearner):
    """Learns from each transition as it comes."""

    def live_policy(self) -> Any:
        return self.publish_policy()

    def learn_one(self, transition: Transition) -> dict[str, float]:
        if transition.reward in self._fail_on:
            raise RuntimeError("told to fail")
        self.noted.append(float(transition.reward))
        return {}

    def learn(self, episode_data: EpisodeData) -> dict[str, float]:
        self.windows.append(episode_data)
        return {}


def ticks(first: int, end: int, **options: Any) -> list[StreamItem]:
    return [make_transition(number, **options) for number in range(first, end)]


def live(
    script: Iterable[StreamItem | anyio.Event], *, stays_open: bool = False, clock: FakeClock | None = None
) -> LivePipeline:
    producer = ScriptedProducer(script, stays_open=stays_open)
    return LivePipeline(
        producer, episode_boundary_fn=every_n_steps(WINDOW), buffer_size=64, overflow="block", clock=clock
    )


def make(agent: Noting, pipeline: LivePipeline, directory: Path, **options: Any) -> RLOptimizer:
    return RLOptimizer(agent, pipeline, checkpoint_dir=directory, checkpoint_every=SOME, journal=True, **options)


async def run_until_killed(optimizer: RLOptimizer, directory: Path, killed: Path, *, windows: int, held: int) -> None:
    """Run until so many windows are saved and so many transitions wait; then copy the disk, as a kill leaves it."""
    async with anyio.create_task_group() as tasks, optimizer.events(10_000) as events:
        tasks.start_soon(optimizer.run)
        async for event in events:
            if isinstance(event, RunSaved) and event.window == windows - 1:
                break
        while optimizer.statistics().held_in_window < held:
            await anyio.lowlevel.checkpoint()
        assert_balanced(optimizer.statistics())
        await anyio.to_thread.run_sync(shutil.copytree, directory, killed)
        optimizer.stop()


async def run_and_watch(optimizer: RLOptimizer) -> list[Event]:
    async with optimizer.events(10_000) as events:
        await optimizer.run()
        return [event async for event in events]


def numbers(windows: Sequence[EpisodeData]) -> list[list[float]]:
    return [[float(reward) for reward in window.rewards] for window in windows]


# --- one process after another -------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [Noting, NotingEach])
async def test_what_was_accepted_is_learned_first_and_once(tmp_path: Path, kind: type[Noting]) -> None:
    directory, killed = tmp_path / "run", tmp_path / "killed"
    first = make(kind(), live(ticks(0, 11), stays_open=True), directory)
    await run_until_killed(first, directory, killed, windows=2, held=3)
    agent = kind()
    optimizer = make(agent, live(ticks(11, 16)), killed, resume=True)
    events = await run_and_watch(optimizer)
    assert agent.noted == list(range(16))
    # The three that were accepted, up to the gap; then the live feed, from there on.
    assert numbers(agent.windows) == [[8, 9, 10], [11, 12, 13, 14], [15]]
    assert [window.gaps.tolist() for window in agent.windows] == [[False, False, True], [False] * 4, [False]]
    assert [event.window for event in events if isinstance(event, RunResumed)] == [1]
    statistics = optimizer.statistics()
    assert_balanced(statistics)
    assert (statistics.received, statistics.learned) == (16, 16)


@pytest.mark.anyio
async def test_a_run_that_was_killed_before_its_first_checkpoint_begins_with_what_it_accepted(tmp_path: Path) -> None:
    directory, killed = tmp_path / "run", tmp_path / "killed"
    optimizer = make(Noting(), live(ticks(0, 3), stays_open=True), directory)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(optimizer.run)
        while optimizer.statistics().held_in_window < 3:
            await anyio.lowlevel.checkpoint()
        await anyio.to_thread.run_sync(shutil.copytree, directory, killed)
        optimizer.stop()
    agent = Noting()
    await make(agent, live(ticks(3, 6)), killed, resume=True).run()
    assert numbers(agent.windows) == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.anyio
async def test_what_arrives_while_a_run_stops_is_accepted(tmp_path: Path) -> None:
    agent = Noting()
    optimizer = make(agent, live(ticks(0, 300), stays_open=True), tmp_path)
    async with anyio.create_task_group() as tasks, optimizer.events(10_000) as events:
        tasks.start_soon(optimizer.run)
        async for event in events:
            if isinstance(event, WindowLearned) and event.window == 3:
                optimizer.stop()
    statistics = optimizer.statistics()
    assert_balanced(statistics)
    # What its producer was still waiting to push was not accepted, and that is counted.
    accepted = statistics.received - statistics.dropped.get("cancelled", 0)
    assert statistics.received - 1 <= accepted
    assert accepted > len(agent.noted)
    later = Noting()
    resumed = make(later, live([]), tmp_path, resume=True)
    await resumed.run()
    assert later.noted == list(range(accepted))
    assert_balanced(resumed.statistics())
    assert resumed.statistics().learned == accepted


@pytest.mark.anyio
async def test_losses_are_remembered_with_what_was_accepted(tmp_path: Path) -> None:
    directory, killed = tmp_path / "run", tmp_path / "killed"
    unfit = make_transition(9)
    unfit.observation = np.array([np.nan], np.float32)
    script: list[StreamItem] = [
        *ticks(0, 9),
        unfit,
        TransitionsRejected(stream=0, reason="malformed", detail="expected a number, got none", count=2),
        GapDetected(stream=0, reason="malformed"),
        TransitionsDropped(reason="cancelled", count=3),
        *ticks(10, 12),
    ]
    optimizer = make(Noting(), live(script, stays_open=True), directory)
    await run_until_killed(optimizer, directory, killed, windows=3, held=2)
    agent = Noting()
    resumed = make(agent, live([]), killed, resume=True)
    await resumed.run()
    statistics = resumed.statistics()
    assert_balanced(statistics)
    assert agent.noted == [*range(9), 10, 11]
    assert statistics.received == 9 + 1 + 2 + 3 + 2
    assert (statistics.rejected, statistics.dropped) == ({"not finite": 1, "malformed": 2}, {"cancelled": 3})


@pytest.mark.anyio
async def test_a_transition_that_cannot_be_learned_is_lost_once(tmp_path: Path) -> None:
    agent = NotingEach(fail_on=frozenset({2}))
    optimizer = make(agent, live(ticks(0, 8)), tmp_path)
    await optimizer.run()
    assert agent.noted == [0, 1, 3, 4, 5, 6, 7]
    assert_balanced(optimizer.statistics())
    assert optimizer.statistics().dropped == {"learning_failed": 1}


@pytest.mark.anyio
async def test_an_agent_that_learns_nothing_any_more_ends_the_run(tmp_path: Path) -> None:
    optimizer = make(NotingEach(fail_on=frozenset(range(2, 8))), live(ticks(0, 8)), tmp_path)
    with pytest.raises(LearningFailedError, match="3 transitions in a row"):
        await optimizer.run()
    assert_balanced(optimizer.statistics())


@pytest.mark.anyio
async def test_the_time_of_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    directory, killed = tmp_path / "run", tmp_path / "killed"
    script = [make_transition(number, time=1000.0 + number) for number in range(6)]
    optimizer = make(Noting(), live(script, stays_open=True, clock=FakeClock(1006.0)), directory)
    await run_until_killed(optimizer, directory, killed, windows=1, held=2)
    agent = Noting()
    # The machine has started again meanwhile, and its clock from 0.
    resumed = make(agent, live([make_transition(6, time=1.0)], clock=FakeClock(1.0)), killed, resume=True)
    await resumed.run()
    times = [float(time) for window in agent.windows for time in window.times]
    assert times == [-1.0, 0.0, 1.0]


@pytest.mark.anyio
async def test_the_journal_holds_what_the_checkpoints_need_and_no_more(tmp_path: Path) -> None:
    optimizer = make(Noting(), live(ticks(0, 400)), tmp_path)
    await optimizer.run()
    with sqlite3.connect(tmp_path / "journal.sqlite") as connection:
        (left,) = connection.execute("SELECT TOTAL(transitions) FROM batches").fetchone()
    connection.close()
    assert left <= 3 * 64


@pytest.mark.anyio
async def test_a_new_run_forgets_what_an_earlier_one_accepted(tmp_path: Path) -> None:
    directory, killed = tmp_path / "run", tmp_path / "killed"
    await run_until_killed(
        make(Noting(), live(ticks(0, 6), stays_open=True), directory), directory, killed, windows=1, held=2
    )
    agent = Noting()
    await make(agent, live(ticks(50, 54)), killed).run()
    assert agent.noted == [50, 51, 52, 53]


# --- a journal that cannot be kept ---------------------------------------------------------------


@pytest.mark.anyio
async def test_a_full_journal_is_told_and_learning_goes_on(tmp_path: Path) -> None:
    agent = Noting()
    optimizer = RLOptimizer(
        agent,
        LivePipeline(
            ScriptedProducer(ticks(0, 200)), episode_boundary_fn=every_n_steps(WINDOW), buffer_size=1, overflow="block"
        ),
        checkpoint_dir=tmp_path,
        checkpoint_every=CheckpointEvery(windows=20),
        journal=JournalOptions(max_bytes=600),
    )
    events = await run_and_watch(optimizer)
    assert agent.noted == list(range(200))
    assert_balanced(optimizer.statistics())
    failed = [event for event in events if isinstance(event, JournalFailed | JournalRegained)]
    assert isinstance(failed[0], JournalFailed)
    assert "full" in failed[0].error
    regained = next(event for event in failed if isinstance(event, JournalRegained))
    assert regained.unkept > 0
    # Told once until it works again, not for each batch.
    assert [type(event) for event in failed[:4]] == [JournalFailed, JournalRegained, JournalFailed, JournalRegained][
        : len(failed[:4])
    ]


@pytest.mark.anyio
async def test_a_damaged_batch_is_passed_over_and_counted(tmp_path: Path) -> None:
    directory, killed = tmp_path / "run", tmp_path / "killed"
    signal = anyio.Event()
    script = [*ticks(0, 2), signal, *ticks(2, 3)]
    optimizer = make(Noting(), live(script, stays_open=True), directory)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(optimizer.run)
        for held in (2, 3):
            while optimizer.statistics().held_in_window < held:
                await anyio.lowlevel.checkpoint()
            signal.set()
        await anyio.to_thread.run_sync(shutil.copytree, directory, killed)
        optimizer.stop()
    connection = sqlite3.connect(killed / "journal.sqlite")
    connection.execute("UPDATE batches SET items = zeroblob(LENGTH(items)) WHERE position = 1")
    connection.commit()
    connection.close()
    agent = Noting()
    resumed = make(agent, live([]), killed, resume=True)
    await resumed.run()
    assert_balanced(resumed.statistics())
    assert sum(resumed.statistics().dropped.values()) + len(agent.noted) == 3
    assert agent.noted == [2]


@pytest.mark.anyio
async def test_a_run_that_had_a_journal_goes_on_with_one(tmp_path: Path) -> None:
    await make(Noting(), live(ticks(0, 5)), tmp_path).run()
    without = RLOptimizer(Noting(), live([]), checkpoint_dir=tmp_path, resume=True)
    with pytest.raises(CheckpointError, match="expected a run with a journal"):
        await without.run()


@pytest.mark.anyio
async def test_what_is_no_journal_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").write_bytes(b"something else" * 100)
    with pytest.raises(CheckpointError, match=r"cannot open journal .*not a database"):
        await make(Noting(), live(ticks(0, 5)), tmp_path).run()
    assert (tmp_path / "journal.sqlite").read_bytes() == b"something else" * 100


class Pausable(StreamPipeline):
    def __init__(self) -> None:
        super().__init__(boundary=every_n_steps(1), capacity=1, overflow="block", lockstep=True)

    @property
    def is_live(self) -> bool:
        return False

    def producers(self) -> Sequence[Producer]:
        return []


def test_a_source_that_can_wait_needs_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="journal: expected a live pipeline, got a Pausable"):
        RLOptimizer(NullAgent(), Pausable(), checkpoint_dir=tmp_path, journal=True)


# --- the file ------------------------------------------------------------------------------------


def test_batches_come_back_as_they_were(tmp_path: Path) -> None:
    store = JournalStore(tmp_path / "journal")
    store.open()
    gap = GapDetected(stream="a", reason="cut", missed=3)
    store.append(1, ticks(0, 3, stream="a"), 5.0, 1.5)
    store.append(4, [gap, *ticks(3, 4, stream="b", terminated=True)], 6.0, 1.5)
    store.close()
    again = JournalStore(tmp_path / "journal")
    again.open()
    first, second = again.read(0, 9, at_least=100)
    assert (first.position, first.transitions, first.time, first.clock_offset) == (1, 3, 5.0, 1.5)
    assert first.items is not None
    assert second.items is not None
    assert isinstance(first.items[0], TransitionBatch)
    assert first.items[0].rewards.tolist() == [0, 1, 2]
    assert second.items[0] == gap
    assert isinstance(second.items[1], TransitionBatch)
    assert second.items[1].terminated.tolist() == [True]
    assert [batch.position for batch in again.read(0, 9, at_least=1)] == [1]
    assert [batch.position for batch in again.read(1, 3, at_least=1)] == []
    assert again.count(0, 9) == 4
    again.close()


def test_a_position_is_not_used_twice(tmp_path: Path) -> None:
    store = JournalStore(tmp_path / "journal")
    store.append(7, ticks(0, 1), 5.0, 0.0)
    store.trim(7)
    assert store.size == 0
    assert store.last() == (7, None)
    store.close()


def test_what_cannot_travel_is_left_out(tmp_path: Path) -> None:
    store = JournalStore(tmp_path / "journal")
    ragged = make_transition(1)
    ragged.observation = [[1.0], [1.0, 2.0]]
    store.append(1, [*ticks(0, 1), ragged, *ticks(2, 3)], 5.0, 0.0)
    assert store.count(0, 1) == 2
    store.close()


def test_one_process_has_it(tmp_path: Path) -> None:
    first, second = JournalStore(tmp_path / "journal"), JournalStore(tmp_path / "journal")
    first.open()
    with pytest.raises(CheckpointError, match="locked"):
        second.open()
    first.close()
    second.open()
    second.close()


def test_neither_a_link_nor_another_format_is_a_journal(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="got a link"):
        JournalStore(tmp_path / "link").open()
    connection = sqlite3.connect(tmp_path / "other")
    connection.execute("CREATE TABLE batches (position)")
    connection.close()
    with pytest.raises(CheckpointError, match="expected format 1 of a journal"):
        JournalStore(tmp_path / "other").open()
