"""Learning before a window is complete: from each transition, and in increments."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from optix_stream import (
    EpisodeData,
    GapDetected,
    IncrementalLearner,
    LearningFailed,
    LivePipeline,
    Policy,
    RLOptimizer,
    RunReport,
    Transition,
    TransitionLearner,
    TransitionsDropped,
)
from optix_stream.batching import batch_of
from optix_stream.contracts import Intake, as_policy
from optix_stream.errors import LearningFailedError
from optix_stream.learning_sink import LearningSink
from optix_stream.testing import FakeClock, NullAgent, RecordingSink, make_transition

pytestmark = pytest.mark.anyio


class Counter:
    """A feed that notes what is sent to it."""

    def __init__(self, count: int, log: list[str] | None = None) -> None:
        self._count = count
        self._log = log if log is not None else []

    async def stream(self) -> AsyncIterator[tuple[Any, ...]]:
        for index in range(self._count):
            yield [float(index)], 1.0, False, False, {}

    async def send(self, action: Any) -> None:
        self._log.append("sent")


class OneByOne(NullAgent, TransitionLearner):
    def __init__(self, log: list[str] | None = None, fail_on: frozenset[int] = frozenset()) -> None:
        super().__init__()
        self.seen: list[float] = []
        self.windows: list[EpisodeData] = []
        self._log = log if log is not None else []
        self._fail_on = fail_on

    def live_policy(self) -> Policy:
        return as_policy(self)

    def learn_one(self, transition: Transition) -> Mapping[str, float]:
        number = int(transition.observation[0])
        if number in self._fail_on:
            raise RuntimeError(f"told to fail on {number}")
        self._log.append("learned")
        self.seen.append(float(number))
        return {}

    def learn(self, episode_data: EpisodeData) -> dict[str, float]:
        self.windows.append(episode_data)
        return {}


class InIncrements(NullAgent, IncrementalLearner):
    def __init__(self, fail_in: int | None = None) -> None:
        super().__init__()
        self.calls: list[tuple[str, list[float]]] = []
        self.threads: set[int] = set()
        self.windows: list[EpisodeData] = []
        self._fail_in = fail_in

    @property
    def increment(self) -> int:
        return 3

    def learn_increment(self, part: EpisodeData) -> Mapping[str, float]:
        if part.episode_id == self._fail_in:
            raise RuntimeError("told to fail")
        self.threads.add(threading.get_ident())
        self.calls.append(("part", part.observations[:, 0].tolist()))
        return {}

    def learn(self, episode_data: EpisodeData) -> dict[str, float]:
        self.windows.append(episode_data)
        self.calls.append(("window", episode_data.observations[episode_data.rows_learned :, 0].tolist()))
        return {}


def live(count: int, window: int, log: list[str] | None = None) -> LivePipeline:
    return LivePipeline(
        Counter(count, log), episode_boundary_fn=LivePipeline.every_n_steps(window), reconnect_on_disconnect=False
    )


async def run(agent: NullAgent, pipeline: LivePipeline, directory: Path) -> tuple[RunReport, list[Any]]:
    optimizer = RLOptimizer(agent, pipeline, checkpoint_dir=directory)
    async with optimizer.events() as events:
        report = await optimizer.run()
        return report, [event async for event in events]


async def test_each_transition_is_learned_from_after_its_action_was_sent(tmp_path: Path) -> None:
    log: list[str] = []
    agent = OneByOne(log)
    report, _ = await run(agent, live(7, 3, log), tmp_path)
    assert agent.seen == [0, 1, 2, 3, 4, 5]
    # The first observation completes nothing; from then on an action goes out first.
    assert log == ["sent", *["sent", "learned"] * 6]
    assert [window.rows_learned for window in agent.windows] == [3, 3]
    assert report.statistics.learned == 6


async def test_a_transition_that_cannot_be_learned_from_is_counted_and_leaves_a_gap(tmp_path: Path) -> None:
    agent = OneByOne(fail_on=frozenset({2}))
    report, events = await run(agent, live(7, 3), tmp_path)
    assert agent.seen == [0, 1, 3, 4, 5]
    assert report.statistics.dropped == {"learning_failed": 1}
    assert report.statistics.is_balanced
    assert [event.window for event in events if isinstance(event, LearningFailed)] == [None]
    assert [event.missed for event in events if isinstance(event, GapDetected)] == [1]
    assert [window.observations[:, 0].tolist() for window in agent.windows] == [[0, 1], [3, 4, 5]]


async def test_failing_in_a_row_ends_the_run_and_loses_nothing_in_silence(tmp_path: Path) -> None:
    agent = OneByOne(fail_on=frozenset(range(2, 100)))
    optimizer = RLOptimizer(agent, live(50, 3), checkpoint_dir=tmp_path)
    with pytest.raises(LearningFailedError, match=r"3 transitions in a row.*told to fail on 4"):
        await optimizer.run()
    statistics = optimizer.statistics()
    assert statistics.dropped["learning_failed"] == 3
    assert statistics.is_balanced


async def test_a_batch_is_learned_from_row_by_row() -> None:
    agent, clock = OneByOne(fail_on=frozenset({1})), FakeClock()
    received = RecordingSink()

    def learn_one(transition: Transition) -> None:
        agent.learn_one(transition)

    sink = LearningSink(received, Intake(learn_one=learn_one), clock)
    gap = GapDetected(stream=0, reason="test")
    await sink.push(batch_of([make_transition(index) for index in range(3)]))
    await sink.push(gap)
    kinds = [type(item) for item in received.items]
    assert kinds == [Transition, LearningFailed, TransitionsDropped, GapDetected, Transition, GapDetected]
    assert agent.seen == [0, 2]


async def test_increments_come_while_the_window_fills(tmp_path: Path) -> None:
    agent = InIncrements()
    pipeline = LivePipeline(
        Counter(18), episode_boundary_fn=LivePipeline.every_n_steps(8), reconnect_on_disconnect=False, lockstep=True
    )
    report, _ = await run(agent, pipeline, tmp_path)
    assert agent.calls == [
        ("part", [0, 1, 2]),
        ("part", [3, 4, 5]),
        ("window", [6, 7]),
        ("part", [8, 9, 10]),
        ("part", [11, 12, 13]),
        ("window", [14, 15]),
        ("window", [16]),
    ]
    assert threading.get_ident() not in agent.threads
    assert [window.length for window in agent.windows] == [8, 8, 1]
    assert report.statistics.learned == 17


async def test_a_failed_increment_costs_its_window(tmp_path: Path) -> None:
    agent = InIncrements(fail_in=1)
    pipeline = LivePipeline(
        Counter(25), episode_boundary_fn=LivePipeline.every_n_steps(8), reconnect_on_disconnect=False, lockstep=True
    )
    report, events = await run(agent, pipeline, tmp_path)
    assert [window.episode_id for window in agent.windows] == [0, 2]
    assert [event.window for event in events if isinstance(event, LearningFailed)] == [1]
    assert report.statistics.dropped == {"learning_failed": 8}
    assert report.statistics.is_balanced
