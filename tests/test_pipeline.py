from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import anyio
import numpy as np
import pytest

from optix_stream.alignment import FeedStep
from optix_stream.batching import batch_of
from optix_stream.boundaries import BoundaryFn, every_n_steps, on_done_signal
from optix_stream.contracts import Policy, Producer, StreamItem, TransitionSink, as_policy
from optix_stream.errors import ConfigurationError, UnusableSourceError
from optix_stream.events import GapDetected, SourceLost, TransitionsDropped, TransitionsRejected
from optix_stream.pipeline import LivePipeline, StreamPipeline
from optix_stream.queue import OverflowPolicy
from optix_stream.testing import (
    FakeClock,
    NullAgent,
    RecordingEvents,
    ScriptedProducer,
    assert_balanced,
    check_pipeline,
    make_transition,
)
from optix_stream.types import EpisodeData, Transition

pytestmark = pytest.mark.anyio

POLICY: Policy = as_policy(NullAgent())


class Scripted(StreamPipeline):
    """A pipeline around given producers."""

    def __init__(
        self,
        *producers: Producer,
        boundary: BoundaryFn | None = None,
        capacity: int = 100,
        overflow: OverflowPolicy = "block",
        lockstep: bool = False,
        max_rejected: int = 10_000,
        is_live: bool = False,
    ) -> None:
        super().__init__(
            boundary=boundary if boundary is not None else every_n_steps(2),
            capacity=capacity,
            overflow=overflow,
            lockstep=lockstep,
            clock=FakeClock(),
            max_rejected=max_rejected,
        )
        self._producers = producers
        self._is_live = is_live

    @property
    def is_live(self) -> bool:
        return self._is_live

    def producers(self) -> Sequence[Producer]:
        return self._producers


def steps(count: int, first: int = 0, stream: str = "s") -> list[StreamItem]:
    return [make_transition(index, stream=stream) for index in range(first, first + count)]


async def learn_all(pipeline: StreamPipeline, events: RecordingEvents | None = None) -> list[EpisodeData]:
    windows = []
    async with pipeline.open(POLICY, events if events is not None else RecordingEvents()) as source:
        while (window := await source.next_window()) is not None:
            source.record_learned(window)
            assert_balanced(pipeline.statistics())
            windows.append(window)
    return windows


async def test_the_last_partial_window_is_learned_when_the_source_ends() -> None:
    """In the original system it silently vanished."""
    pipeline = Scripted(ScriptedProducer(steps(5)))
    windows = await learn_all(pipeline)
    assert [window.rewards.tolist() for window in windows] == [[0.0, 1.0], [2.0, 3.0], [4.0]]
    assert pipeline.statistics().learned == pipeline.statistics().received == 5


async def test_what_was_not_learned_is_dropped_and_said_when_the_run_stops() -> None:
    events = RecordingEvents()
    pipeline = Scripted(ScriptedProducer(steps(7), stays_open=True))
    async with pipeline.open(POLICY, events) as source:
        window = await source.next_window()
        assert window is not None
        source.record_learned(window)
    statistics = pipeline.statistics()
    assert (statistics.learned, statistics.dropped, statistics.held) == (2, {"stopped": 5}, 0)
    assert_balanced(statistics)
    assert events.events == [TransitionsDropped(reason="stopped", count=5)]


async def test_what_was_not_learned_is_dropped_when_the_run_is_cancelled() -> None:
    pipeline = Scripted(ScriptedProducer(steps(3), stays_open=True), boundary=every_n_steps(100))
    clock = FakeClock()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(learn_all, pipeline)
        await clock.settle()
        assert pipeline.statistics().held_in_window == 3
        tasks.cancel_scope.cancel()
    assert pipeline.statistics().dropped == {"cancelled": 3}
    assert_balanced(pipeline.statistics())


async def test_a_gap_closes_the_window_that_it_breaks() -> None:
    events = RecordingEvents()
    gap = GapDetected(stream="s", reason="test")
    script: list[StreamItem] = [*steps(3), gap, *steps(2, first=10)]
    windows = await learn_all(Scripted(ScriptedProducer(script), boundary=every_n_steps(100)), events)
    assert [window.rewards.tolist() for window in windows] == [[0.0, 1.0, 2.0], [10.0, 11.0]]
    assert windows[0].gaps.tolist() == [False, False, True]
    assert events.events == [gap]


@pytest.mark.parametrize("is_batch", [False, True])
async def test_a_transition_that_does_not_fit_is_rejected_and_breaks_its_stream(is_batch: bool) -> None:
    events = RecordingEvents()
    odd = Transition(np.zeros(3, np.float32), np.int64(0), 0.0, np.zeros(3, np.float32), stream="s")
    bad: StreamItem = batch_of([odd]) if is_batch else odd
    script: list[StreamItem] = [*steps(2), bad, *steps(2, first=2)]
    pipeline = Scripted(ScriptedProducer(script), boundary=every_n_steps(100))
    windows = await learn_all(pipeline, events)
    assert [window.rewards.tolist() for window in windows] == [[0.0, 1.0], [2.0, 3.0]]
    assert pipeline.statistics().rejected == {"mismatch": 1}
    detail = "observation: expected float32[1], got float32[3]"
    assert events.events == [
        TransitionsRejected(stream="s", reason="mismatch", detail=detail),
        GapDetected(stream="s", reason="rejected transition", missed=1),
    ]


async def test_an_observation_of_another_structure_is_rejected_and_does_not_crash_the_run() -> None:
    tree = {"a": np.zeros(1, np.float32)}
    odd = Transition(tree, np.int64(0), 0.0, tree, stream="s")
    pipeline = Scripted(ScriptedProducer([*steps(2), odd, *steps(2, first=2)]))
    assert sum(window.length for window in await learn_all(pipeline)) == 4
    assert pipeline.statistics().rejected == {"mismatch": 1}


async def test_events_arrive_in_order_with_the_transitions_around_them() -> None:
    events = RecordingEvents()
    script: list[StreamItem] = [SourceLost(source="x", error="", retry_sec=1.0), *steps(2)]
    async with Scripted(ScriptedProducer(script)).open(POLICY, events) as source:
        assert events.events == []
        window = await source.next_window()
        assert window is not None
        source.record_learned(window)
        assert events.events == script[:1]


async def test_a_failing_producer_ends_the_run_after_what_was_received() -> None:
    pipeline = Scripted(ScriptedProducer(steps(3), error=ZeroDivisionError("broken")))
    with pytest.raises(ZeroDivisionError, match="broken"):
        await learn_all(pipeline)
    assert pipeline.statistics().learned == 3
    assert_balanced(pipeline.statistics())


async def test_an_error_in_the_loop_is_not_wrapped_in_a_group() -> None:
    pipeline = Scripted(ScriptedProducer(steps(3), stays_open=True))
    with pytest.raises(ZeroDivisionError):
        async with pipeline.open(POLICY, RecordingEvents()):
            raise ZeroDivisionError
    assert_balanced(pipeline.statistics())


async def test_in_lockstep_a_producer_waits_until_its_window_has_been_learned() -> None:
    """One seed, one run: no step is taken by a policy that is about to change."""
    producer = ScriptedProducer(steps(6))
    pushed_at_learning = []
    async with Scripted(producer, lockstep=True).open(POLICY, RecordingEvents()) as source:
        while (window := await source.next_window()) is not None:
            await FakeClock().settle()
            pushed_at_learning.append(producer.pushed)
            source.record_learned(window)
    assert pushed_at_learning == [1, 3, 5]


async def test_in_lockstep_a_producer_that_is_stopped_may_still_say_what_it_lost() -> None:
    """Nobody takes anything any more then, and nobody may be waited for."""

    class Parting:
        name = "parting"

        async def run(self, policy: Policy, sink: TransitionSink) -> None:
            try:
                await sink.push(make_transition(0))
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await sink.push(TransitionsDropped(reason="not handled", count=3, stream="s"))

    events = RecordingEvents()
    pipeline = Scripted(Parting(), boundary=every_n_steps(1), lockstep=True)
    with anyio.fail_after(5):
        async with pipeline.open(POLICY, events) as source:
            window = await source.next_window()
            assert window is not None
            source.record_learned(window)
    assert (pipeline.statistics().learned, pipeline.statistics().dropped) == (1, {"not handled": 3})
    assert_balanced(pipeline.statistics())
    assert [event.count for event in events.of(TransitionsDropped)] == [3]


async def test_streams_of_several_producers_do_not_mix() -> None:
    producers = [ScriptedProducer(steps(4, stream=name)) for name in "ab"]
    (window,) = await learn_all(Scripted(*producers, boundary=every_n_steps(8)))
    for code in range(2):
        rows = window.observations[window.streams == code]
        assert rows[:, 0].tolist() == [0.0, 1.0, 2.0, 3.0]


async def test_a_live_source_drops_what_is_old_while_the_learner_is_behind() -> None:
    """Acting never waits for learning: the source goes on while a window is being learned from."""

    class Ticks:
        async def stream(self) -> AsyncIterator[FeedStep]:
            for number in range(1000):
                yield FeedStep(np.array([float(number)]), float(number), False, False)

    events = RecordingEvents()
    pipeline = LivePipeline(
        Ticks(), episode_boundary_fn=every_n_steps(10), buffer_size=50, reconnect_on_disconnect=False, clock=FakeClock()
    )
    async with pipeline.open(POLICY, events) as source:
        await FakeClock().settle()
        statistics = pipeline.statistics()
        assert (statistics.received, statistics.held, statistics.dropped) == (999, 50, {"overflow": 949})
        window = await source.next_window()
        assert window is not None
        assert window.rewards.tolist() == [float(number) for number in range(950, 960)]
        source.record_learned(window)
    assert events.of(GapDetected) == [GapDetected(stream=0, reason="overflow, drop_oldest", missed=949)]
    assert_balanced(pipeline.statistics())


async def test_a_window_ends_with_an_episode_unless_it_is_told_otherwise() -> None:
    class Episodes:
        def stream(self) -> Iterator[tuple[Any, ...]]:
            for _ in range(3):
                yield (np.array([0.0]), None, False, False, None)
                yield (np.array([1.0]), 1.0, False, False, None)
                yield (np.array([2.0]), 1.0, True, False, None)

    pipeline = LivePipeline(Episodes(), reconnect_on_disconnect=False, clock=FakeClock())
    assert pipeline.is_live
    windows = await learn_all(pipeline)
    assert [window.length for window in windows] == [2, 2, 2]
    assert [episode.total_reward for window in windows for episode in window.completed] == [2.0] * 3


async def test_a_pipeline_can_be_opened_again_and_keeps_its_promises() -> None:
    windows = await check_pipeline(Scripted(ScriptedProducer(steps(9))), windows=10)
    assert [window.length for window in windows] == [2, 2, 2, 2, 1]


def test_the_original_names_of_the_boundaries_still_work() -> None:
    assert LivePipeline.every_n_steps is every_n_steps
    assert LivePipeline.on_done_signal is on_done_signal


def test_a_buffer_that_cannot_work_is_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match="capacity: expected at least 1 transition, got 0"):
        Scripted(capacity=0)


def test_what_is_no_source_and_what_is_no_boundary_is_named_at_once() -> None:
    with pytest.raises(ConfigurationError, match=r"data_source: expected an object with stream\(\) .*, got <object"):
        LivePipeline(object())  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"boundary: expected a function such as every_n_steps\(200\), got 7"):
        LivePipeline(ScriptedProducer([]), episode_boundary_fn=7)  # type: ignore[arg-type]


@pytest.mark.parametrize("as_batch", [False, True], ids=["one at a time", "as a batch"])
@pytest.mark.parametrize("count", [6, 40])
@pytest.mark.parametrize("where", ["reward", "observation", "next_observation", "action"])
async def test_what_is_not_finite_is_refused_wherever_it_comes_from(where: str, count: int, as_batch: bool) -> None:
    script = [make_transition(index, stream="ab"[index % 2]) for index in range(count)]
    for transition in script:
        transition.action = np.array([0.5, 0.5])
        transition.observation = {"a": np.array([1.0, 1.0]), "b": np.array([3])}
        transition.next_observation = {"a": np.array([2.0, 2.0]), "b": np.array([4])}
    odd = script[3]
    if where == "reward":
        odd.reward = float("inf")
    elif where == "action":
        odd.action = np.array([0.5, np.nan])
    else:
        setattr(odd, where, {"a": np.array([1.0, np.nan]), "b": np.array([3])})
    events = RecordingEvents()
    items: list[StreamItem] = [batch_of(script)] if as_batch else list(script)
    pipeline = Scripted(ScriptedProducer(items), boundary=every_n_steps(1000))
    windows = await learn_all(pipeline, events)
    assert sum(window.length for window in windows) == count - 1
    for window in windows:
        assert isinstance(window.observations, dict)
        assert np.isfinite(window.rewards).all()
        assert np.isfinite(window.actions).all()
        assert np.isfinite(window.observations["a"]).all()
    # The window ends where its stream is broken.
    assert [window.length for window in windows] == [3, count - 4]
    assert [bool(window.gaps.any()) for window in windows] == [True, False]
    (rejected,) = events.of(TransitionsRejected)
    assert (rejected.stream, rejected.reason, rejected.count) == ("b", "not finite", 1)
    assert events.of(GapDetected) == [GapDetected(stream="b", reason="rejected transition", missed=1)]
    assert pipeline.statistics().rejected == {"not finite": 1}
    assert_balanced(pipeline.statistics())


class Spoilt:
    """Steps without end of which only some can be used."""

    name = "spoilt"

    def __init__(self, batch: int, *, mends_after: int | None = None, count: int | None = None) -> None:
        self._batch = batch
        self._mends_after = mends_after
        self._count = count

    async def run(self, policy: Policy, sink: TransitionSink) -> None:
        for number in itertools.count() if self._count is None else range(self._count):
            is_fit = self._mends_after is not None and number % (self._mends_after + 1) == self._mends_after
            transitions = [make_transition(row, reward=1.0 if is_fit else np.nan) for row in range(self._batch)]
            await sink.push(batch_of(transitions) if self._batch > 1 else transitions[0])


@pytest.mark.parametrize("batch", [1, 10, 50])
async def test_a_source_that_brings_nothing_that_can_be_used_is_given_up(batch: int) -> None:
    """An environment that only yields NaN once ran, and wrote to the log, for ever."""
    events = RecordingEvents()
    pipeline = Scripted(Spoilt(batch), max_rejected=100, lockstep=True)
    with pytest.raises(
        UnusableSourceError, match=r"100 transitions in a row were rejected .* as not finite: .* got NaN"
    ) as raised:
        await learn_all(pipeline, events)
    assert (raised.value.rejected, raised.value.reason) == (100, "not finite")
    assert "expected finite observations" in raised.value.detail
    assert pipeline.statistics().rejected == {"not finite": 100}
    assert_balanced(pipeline.statistics())


async def test_a_word_on_what_a_producer_refused_itself_counts_too() -> None:
    word = TransitionsRejected(stream="s", reason="malformed", detail="expected a step, got None")
    pipeline = Scripted(ScriptedProducer([*steps(3), *[word] * 7], stays_open=True), max_rejected=7)
    with pytest.raises(UnusableSourceError, match=r"^7 transitions .* malformed: expected a step, got None"):
        await learn_all(pipeline)
    assert pipeline.statistics().learned == 2
    assert_balanced(pipeline.statistics())


@pytest.mark.parametrize("batch", [1, 10])
async def test_a_source_that_is_used_now_and_then_goes_on(batch: int) -> None:
    pipeline = Scripted(Spoilt(batch, mends_after=9, count=100), max_rejected=10 * batch, lockstep=True)
    assert sum(window.length for window in await learn_all(pipeline)) == 10 * batch
    assert pipeline.statistics().rejected == {"not finite": 90 * batch}


async def test_a_live_source_is_not_given_up_because_it_may_recover() -> None:
    pipeline = Scripted(Spoilt(10, mends_after=999, count=1000), max_rejected=10, is_live=True)
    assert sum(window.length for window in await learn_all(pipeline)) == 10
    assert pipeline.statistics().rejected == {"not finite": 9990}


def test_a_limit_of_rejections_below_one_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="max_rejected: expected at least 1 transition, got 0"):
        Scripted(max_rejected=0)


async def test_what_the_policy_said_may_be_nan_where_it_was_not_the_policy_that_chose() -> None:
    script = steps(2)
    for item in script:
        assert isinstance(item, Transition)
        item.extras = {"log_prob": np.float64("nan")}
    (window,) = await learn_all(Scripted(ScriptedProducer(script)))
    assert np.isnan(window.extras["log_prob"]).all()
