from __future__ import annotations

import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import anyio
import anyio.lowlevel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optix_stream.alignment import FeedStep
from optix_stream.boundaries import every_n_steps
from optix_stream.contracts import Decision, StreamItem
from optix_stream.errors import ConfigurationError, SourceFailedError
from optix_stream.events import (
    GapDetected,
    SourceLost,
    SourceRegained,
    TransitionsDropped,
    TransitionsRejected,
)
from optix_stream.pipeline import LivePipeline
from optix_stream.producers import ActionReceiver, DataSource, FeedProducer
from optix_stream.queue import TransitionQueue
from optix_stream.reconnecting import ReconnectPolicy
from optix_stream.testing import FakeClock, RecordingEvents, RecordingSink, assert_balanced, check_producer
from optix_stream.types import StreamId, Transition, Tree

pytestmark = pytest.mark.anyio

NO_JITTER = ReconnectPolicy(initial_sec=1.0, factor=2.0, max_sec=5.0, jitter=0.0, max_attempts=3)


class ModuloPolicy:
    """Acts by ``observation % 7``, so that a feed can know what was done."""

    version = 0

    def act(self, observations: Tree) -> Decision:
        actions = observations[:, 0].astype(np.int64) % 7
        return Decision(actions, {"log_prob": -actions.astype(np.float64)})


def reward_of(observation: float) -> float:
    """What follows from acting on this observation by ``ModuloPolicy``."""
    return 10.0 * observation + observation % 7


@dataclass
class Sessions:
    """A feed whose every ``stream()`` plays the next script; an exception in it is raised."""

    scripts: Sequence[Sequence[Any]]
    played: int = 0

    def next_script(self) -> Sequence[Any]:
        self.played += 1
        return self.scripts[self.played - 1] if self.played <= len(self.scripts) else ()


class AsyncFeed(Sessions):
    async def stream(self) -> AsyncIterator[Any]:
        for item in self.next_script():
            await anyio.lowlevel.checkpoint()
            if isinstance(item, Exception):
                raise item
            yield item


class ThreadFeed(Sessions):
    def stream(self) -> Iterator[Any]:
        for item in self.next_script():
            if isinstance(item, Exception):
                raise item
            yield item


FEEDS = [pytest.param(AsyncFeed, id="async"), pytest.param(ThreadFeed, id="thread")]
Feed = Callable[[Sequence[Sequence[Any]]], DataSource]


def step(observation: float, reward: float | None = None, *, done: str = "", stream: StreamId = 0) -> FeedStep:
    return FeedStep(np.array([observation]), reward, done == "terminated", done == "truncated", None, stream)


def walk(*observations: float) -> list[FeedStep]:
    """An episode's opening and its steps, each rewarded as ``reward_of`` says."""
    steps = [step(observations[0])]
    steps += [step(now, reward_of(before)) for before, now in pairwise(observations)]
    return steps


async def run_feed(source: DataSource, reconnect: ReconnectPolicy | None = None) -> list[StreamItem]:
    clock, sink = FakeClock(), RecordingSink()
    producer = FeedProducer(source, clock=clock, name="feed", reconnect=reconnect)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.autojump)
        try:
            await producer.run(ModuloPolicy(), sink)
        except SourceFailedError:
            assert reconnect is not None
        tasks.cancel_scope.cancel()
    return sink.items


def pairs(items: Sequence[StreamItem]) -> list[tuple[StreamId, float, float]]:
    return [
        (item.stream, float(item.observation[0]), float(item.next_observation[0]))
        for item in items
        if isinstance(item, Transition)
    ]


# --- a reward belongs to the action before it ----------------------------------------------------

MALFORMED: dict[str, Callable[[StreamId], Any]] = {
    "not a step": lambda stream: "nonsense",
    "text of five letters": lambda stream: "wrong",
    "too short": lambda stream: (1, 2),
    "reward is NaN": lambda stream: (np.array([0.5]), float("nan"), False, False, None, stream),
    "reward is infinite": lambda stream: (np.array([0.5]), float("-inf"), False, False, None, stream),
    "reward is text": lambda stream: (np.array([0.5]), "much", False, False, None, stream),
    "observation is ragged": lambda stream: ([[1.0], [2.0, 3.0]], 0.0, False, False, None, stream),
    "observation is text": lambda stream: (np.array(["1.5"]), 0.0, False, False, None, stream),
    "observation is NaN": lambda stream: (np.array([0.5, np.nan]), 0.0, False, False, None, stream),
    "observation is infinite": lambda stream: ([np.inf], 0.0, False, False, None, stream),
    "observation is nothing": lambda stream: (None, 0.0, False, False, None, stream),
}
NAMES_NO_STREAM = ("not a step", "text of five letters", "too short")


@st.composite
def feeds(draw: st.DrawFn) -> tuple[list[list[Any]], list[tuple[StreamId, float, float]], int]:
    """Scripts of a feed, the transitions that they must make, and how many malformed steps they have."""
    kinds = ["step", "step", "step", "terminated", "truncated", "malformed"]
    scripts: list[list[Any]] = []
    expected: list[tuple[StreamId, float, float]] = []
    malformed = 0
    number = 0.0
    for _ in range(draw(st.integers(1, 3))):
        last: dict[StreamId, float] = {}
        script: list[Any] = []
        drawn = draw(st.lists(st.tuples(st.sampled_from(kinds), st.sampled_from(["a", "b"])), max_size=25))
        for kind, stream in [("step", "a"), *drawn]:
            before = last.get(stream)
            if kind == "malformed":
                name = draw(st.sampled_from(sorted(MALFORMED)))
                if before is None and name.startswith("reward"):
                    continue  # The reward of an opening is ignored, so that there is nothing wrong with it.
                script.append(MALFORMED[name](stream))
                malformed += 1
                if name in NAMES_NO_STREAM:
                    last.clear()
                else:
                    last.pop(stream, None)
                continue
            number += 1
            reward = 12345.0 if before is None else reward_of(before)
            script.append(step(number, reward, done=kind, stream=stream))
            if before is not None:
                expected.append((stream, before, number))
            if kind == "step":
                last[stream] = number
            else:
                last.pop(stream, None)  # An episode of its final observation alone joins nothing.
        if draw(st.booleans()):
            script.append(ConnectionError("gone"))
        scripts.append(script)
    return scripts, expected, malformed


@pytest.mark.parametrize("make_feed", FEEDS)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@given(feeds())
@settings(max_examples=60)
def test_every_reward_answers_the_action_on_the_observation_before(
    make_feed: Feed, backend: str, drawn: tuple[list[list[Any]], list[tuple[StreamId, float, float]], int]
) -> None:
    """The original system paired each reward with the observation that it arrived with."""
    scripts, expected, malformed = drawn
    items = anyio.run(run_feed, make_feed(scripts), NO_JITTER, backend=backend)
    for item in items:
        if isinstance(item, Transition):
            observation = float(item.observation[0])
            assert item.action == observation % 7
            assert item.reward == 10.0 * observation + item.action
            assert item.extras is not None
            assert item.extras["log_prob"] == -item.action
    assert pairs(items) == expected
    assert sum(isinstance(item, TransitionsRejected) for item in items) == malformed


@pytest.mark.parametrize("make_feed", FEEDS)
async def test_the_opening_of_an_episode_is_an_observation_only(make_feed: Feed) -> None:
    script = [step(1), step(2, 11.0, done="terminated"), step(50, 999.0), step(51, 501.0, done="truncated")]
    items = await run_feed(make_feed([script]))
    assert pairs(items) == [(0, 1.0, 2.0), (0, 50.0, 51.0)]
    first, second = (item for item in items if isinstance(item, Transition))
    assert (first.terminated, first.truncated) == (True, False)
    assert (second.terminated, second.truncated) == (False, True)
    assert second.reward == 501.0


@pytest.mark.parametrize("make_feed", FEEDS)
async def test_a_malformed_step_is_a_rejection_and_a_gap_and_the_feed_goes_on(make_feed: Feed) -> None:
    bad = (np.array([9.0]), float("nan"), False, False, None)
    items = await run_feed(make_feed([[*walk(1, 2), bad, *walk(20, 21)]]))
    assert [type(item) for item in items[:4]] == [Transition, TransitionsRejected, GapDetected, Transition]
    assert pairs(items) == [(0, 1.0, 2.0), (0, 20.0, 21.0)]
    rejected = items[1]
    assert isinstance(rejected, TransitionsRejected)
    assert rejected.detail == "reward: expected a finite number, got nan"


@pytest.mark.parametrize("make_feed", FEEDS)
async def test_a_step_that_names_no_stream_breaks_every_stream(make_feed: Feed) -> None:
    """It may have been a step of any of them: joining across it would misalign a reward."""
    script = [
        step(1, stream="a"),
        step(10, stream="b"),
        "nonsense",
        step(3, 30.0, stream="a"),
        step(4, 30.0, stream="a"),
    ]
    items = await run_feed(make_feed([script]))
    assert [item.stream for item in items if isinstance(item, GapDetected)] == ["a", "b"]
    assert pairs(items) == [("a", 3.0, 4.0)]


# --- answering -----------------------------------------------------------------------------------


class AnsweredFeed:
    """Rewards what it was sent; async or plain in both directions."""

    def __init__(self, steps: int) -> None:
        self.sent: list[int] = []
        self.steps = steps

    def rows(self) -> Iterator[FeedStep]:
        yield step(1)
        for number in range(2, self.steps + 2):
            # The answer to the observation before must be here before the next one is asked for.
            assert len(self.sent) == number - 1
            yield step(number, 100.0 * self.sent[-1])


class PlainAnsweredFeed(AnsweredFeed):
    def stream(self) -> Iterator[FeedStep]:
        yield from self.rows()

    def send(self, action: Any) -> None:
        self.sent.append(int(action))


class AsyncAnsweredFeed(AnsweredFeed):
    async def stream(self) -> AsyncIterator[FeedStep]:
        for row in self.rows():
            await anyio.lowlevel.checkpoint()
            yield row

    async def send(self, action: Any) -> None:
        await anyio.lowlevel.checkpoint()
        self.sent.append(int(action))


class PlainStreamAsyncSend(PlainAnsweredFeed):
    def send(self, action: Any) -> Awaitable[None]:  # type: ignore[override]
        return self._send(action)

    async def _send(self, action: Any) -> None:
        await anyio.lowlevel.checkpoint()
        self.sent.append(int(action))


@pytest.mark.parametrize("make_feed", [PlainAnsweredFeed, AsyncAnsweredFeed, PlainStreamAsyncSend])
async def test_every_action_is_sent_before_the_next_step_is_asked_for(make_feed: Callable[[int], Any]) -> None:
    """The original system acted after the fact and never sent the action anywhere."""
    feed = make_feed(20)
    items = await run_feed(feed)
    assert feed.sent == [number % 7 for number in range(1, 22)]
    assert [item.reward for item in items if isinstance(item, Transition)] == [
        100.0 * (number % 7) for number in range(1, 21)
    ]


async def test_no_action_is_sent_after_the_end_of_an_episode() -> None:
    class Feed(PlainAnsweredFeed):
        def stream(self) -> Iterator[FeedStep]:
            yield from (step(1), step(2, 0.0, done="terminated"), step(3))

    feed = Feed(0)
    await run_feed(feed)
    assert feed.sent == [1, 3]


async def test_a_transition_is_kept_when_sending_the_next_action_fails() -> None:
    class Feed(AsyncAnsweredFeed):
        async def send(self, action: Any) -> None:
            if self.sent:
                raise ConnectionError("gone")
            self.sent.append(int(action))

    sink = RecordingSink()
    with pytest.raises(ConnectionError):
        await FeedProducer(Feed(3), clock=FakeClock()).run(ModuloPolicy(), sink)
    assert pairs(sink.items) == [(0, 1.0, 2.0)]


def test_a_feed_that_wants_no_actions_need_not_have_send() -> None:
    assert isinstance(PlainAnsweredFeed(1), ActionReceiver)
    assert not isinstance(ThreadFeed([]), ActionReceiver)


# --- supervision ---------------------------------------------------------------------------------


@pytest.mark.parametrize("make_feed", FEEDS)
async def test_losing_and_regaining_a_source_is_told_in_order(make_feed: Feed) -> None:
    items = await run_feed(make_feed([[*walk(1, 2), OSError("cut")], walk(3, 4)]), NO_JITTER)
    assert items[:5] == [
        items[0],
        SourceLost(source="feed", error="OSError('cut')", retry_sec=1.0),
        GapDetected(stream=0, reason="source lost: OSError('cut')"),
        SourceRegained(source="feed", attempts=1),
        items[4],
    ]
    assert pairs(items) == [(0, 1.0, 2.0), (0, 3.0, 4.0)]


@pytest.mark.parametrize("make_feed", FEEDS)
async def test_a_source_that_never_delivers_fails_the_run_in_the_end(make_feed: Feed) -> None:
    sink, clock = RecordingSink(), FakeClock()
    producer = FeedProducer(
        make_feed([[OSError(str(number))] for number in range(9)]), clock=clock, reconnect=NO_JITTER
    )
    attempts = 0
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.autojump)
        try:
            await producer.run(ModuloPolicy(), sink)
        except SourceFailedError as error:
            attempts = error.attempts
        tasks.cancel_scope.cancel()
    assert attempts == 4
    assert [item.retry_sec for item in sink.items if isinstance(item, SourceLost)] == [1.0, 2.0, 4.0]
    assert clock.now() == 7.0


@pytest.mark.parametrize("make_feed", FEEDS)
async def test_one_observation_is_a_sign_of_life(make_feed: Feed) -> None:
    """Attempts that deliver are not counted as failures, in whichever thread the feed runs."""
    scripts = [[step(number), OSError("cut")] for number in range(8)]
    items = await run_feed(make_feed(scripts), NO_JITTER)
    assert sum(isinstance(item, SourceRegained) for item in items) == 7


@pytest.mark.parametrize("make_feed", FEEDS)
async def test_malformed_steps_alone_are_no_sign_of_life(make_feed: Feed) -> None:
    feed = make_feed([["nonsense", OSError("cut")] for _ in range(9)])
    items = await run_feed(feed, NO_JITTER)
    assert not any(isinstance(item, SourceRegained) for item in items)
    assert sum(isinstance(item, SourceLost) for item in items) == 3


@pytest.mark.parametrize("make_feed", FEEDS)
async def test_sessions_of_whole_episodes_have_no_gap_between_them(make_feed: Feed) -> None:
    session = [step(1), step(2, 11.0, done="terminated")]
    items = await run_feed(make_feed([session, session]), NO_JITTER)
    assert not any(isinstance(item, GapDetected) for item in items)
    assert pairs(items) == [(0, 1.0, 2.0)] * 2


async def test_episodes_are_scored_also_when_each_comes_in_a_session_of_its_own() -> None:
    session = [step(1), step(2, 11.0, done="terminated")]
    clock, events = FakeClock(), RecordingEvents()
    pipeline = LivePipeline(AsyncFeed([session] * 3), reconnect=NO_JITTER, clock=clock)
    async with pipeline.open(ModuloPolicy(), events) as source:
        for _ in range(3):
            window = await source.next_window()
            assert window is not None
            assert [episode.total_reward for episode in window.completed] == [11.0]
            source.record_learned(window)


async def test_reconnecting_waits_on_the_clock_and_not_a_moment_less() -> None:
    clock = FakeClock()
    feed = AsyncFeed([[OSError("cut")]])
    producer = FeedProducer(feed, clock=clock, reconnect=NO_JITTER)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(producer.run, ModuloPolicy(), RecordingSink())
        await clock.advance(0.999)
        assert feed.played == 1
        await clock.advance(0.001)
        assert feed.played == 2
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("make_feed", FEEDS)
async def test_without_reconnecting_the_end_is_the_end_and_a_failure_is_a_failure(make_feed: Feed) -> None:
    items = await run_feed(make_feed([walk(1, 2)]))
    assert items[1:] == [SourceLost(source="feed", error="stream ended", retry_sec=None)]
    sink = RecordingSink()
    with pytest.raises(ZeroDivisionError):
        await FeedProducer(make_feed([[*walk(1, 2), ZeroDivisionError()]]), clock=FakeClock()).run(ModuloPolicy(), sink)
    assert pairs(sink.items) == [(0, 1.0, 2.0)]


async def test_a_stream_that_cannot_be_iterated_is_refused_and_not_tried_again() -> None:
    class Feed:
        def stream(self) -> Any:
            return 7

    with pytest.raises(ConfigurationError, match=r"Feed.stream\(\): expected a plain or async generator, got int"):
        await FeedProducer(Feed(), clock=FakeClock(), reconnect=NO_JITTER).run(ModuloPolicy(), RecordingSink())


async def async_ticks() -> AsyncIterator[FeedStep]:
    for each in walk(1.0, 2.0, 3.0):
        await anyio.lowlevel.checkpoint()
        yield each


def plain_ticks() -> Iterator[FeedStep]:
    yield from walk(1.0, 2.0, 3.0)


def scaled_ticks(factor: float) -> Iterator[FeedStep]:
    yield from walk(*(factor * each for each in (1.0, 2.0, 3.0)))


@pytest.mark.parametrize("ticks", [async_ticks, plain_ticks, partial(scaled_ticks, 1.0)])
async def test_a_generator_function_is_a_data_source_too(ticks: Callable[[], Any]) -> None:
    """It is what one tries first."""
    pipeline = LivePipeline(ticks, None, every_n_steps(2), reconnect_on_disconnect=False, clock=FakeClock())
    async with pipeline.open(ModuloPolicy(), RecordingEvents()) as source:
        window = await source.next_window()
        assert window is not None
        assert window.rewards.tolist() == [reward_of(1.0), reward_of(2.0)]
        source.record_learned(window)


@pytest.mark.parametrize("ticks", [async_ticks, plain_ticks])
async def test_a_generator_function_is_called_at_each_connection(ticks: Callable[[], Any]) -> None:
    clock = FakeClock()
    pipeline = LivePipeline(ticks, clock=clock, reconnect=NO_JITTER, episode_boundary_fn=every_n_steps(6))
    events, rewards = RecordingEvents(), list[float]()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.autojump)
        async with pipeline.open(ModuloPolicy(), events) as source:
            while len(rewards) < 6:
                window = await source.next_window()
                assert window is not None
                rewards += window.rewards.tolist()
                source.record_learned(window)
        tasks.cancel_scope.cancel()
    assert rewards[:6] == [reward_of(1.0), reward_of(2.0)] * 3
    assert {event.source for event in events.of(SourceLost)} == {ticks.__name__}


@pytest.mark.parametrize("ticks", [async_ticks, plain_ticks])
async def test_a_generator_that_is_passed_itself_is_refused_because_it_cannot_begin_again(
    ticks: Callable[[], Any],
) -> None:
    generator = ticks()
    with pytest.raises(ConfigurationError, match=r"data_source: .* got <.*: pass its function, without calling it$"):
        LivePipeline(generator)
    with pytest.raises(ConfigurationError, match=r"or a generator function, got <function .*<lambda>"):
        FeedProducer(lambda: generator, clock=FakeClock())


async def test_an_async_stream_is_closed_when_the_producer_is_cancelled() -> None:
    closed: list[bool] = []

    class Feed:
        async def stream(self) -> AsyncIterator[FeedStep]:
            try:
                yield step(1)
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.lowlevel.checkpoint()
                closed.append(True)

    clock = FakeClock()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(FeedProducer(Feed(), clock=clock).run, ModuloPolicy(), RecordingSink())
        await clock.settle()
        tasks.cancel_scope.cancel()
    assert closed == [True]


async def test_a_plain_stream_that_is_stuck_does_not_hold_up_cancellation() -> None:
    release, is_stuck = threading.Event(), anyio.Event()

    class Feed:
        def stream(self) -> Iterator[FeedStep]:
            yield from walk(1, 2)
            anyio.from_thread.run_sync(is_stuck.set)
            release.wait(60)
            yield step(3, 0.0)

    queue = TransitionQueue(10)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(FeedProducer(Feed(), clock=FakeClock()).run, ModuloPolicy(), queue)
        await is_stuck.wait()
        tasks.cancel_scope.cancel()
    release.set()
    # What the thread had brought is received, and nothing of what it would have brought.
    assert queue.ledger.received == 1
    assert_balanced(queue.ledger.statistics(in_queue=queue.size, in_window=0))


@dataclass
class FullSink:
    """Takes some transitions, and then makes everyone wait until it is cancelled."""

    room: int
    items: list[StreamItem] = field(default_factory=list)

    async def push(self, item: StreamItem) -> None:
        self.items.append(item)
        if isinstance(item, Transition):
            self.room -= 1
            if self.room < 0:
                await anyio.sleep_forever()


async def test_what_a_thread_brought_is_counted_when_the_push_is_cancelled() -> None:
    clock, sink = FakeClock(), FullSink(room=3)
    async with anyio.create_task_group() as tasks:

        async def cancel_when_full() -> None:
            while sink.room >= 0:
                await anyio.lowlevel.checkpoint()
            await clock.settle()
            tasks.cancel_scope.cancel()

        tasks.start_soon(cancel_when_full)
        await FeedProducer(ThreadFeed([walk(*range(11))]), clock=clock).run(ModuloPolicy(), sink)
    pushed = sum(isinstance(item, Transition) for item in sink.items)
    dropped = sum(item.count for item in sink.items if isinstance(item, TransitionsDropped))
    assert (pushed, dropped) == (4, 6)


# --- configuration -------------------------------------------------------------------------------


@given(st.integers(1, 5000), st.floats(0.0, 1.0), st.integers(0, 2**32))
def test_waits_are_jittered_and_capped(attempt: int, jitter: float, seed: int) -> None:
    policy = ReconnectPolicy(initial_sec=0.5, factor=2.0, max_sec=30.0, jitter=jitter)
    full = min(30.0, 0.5 * 2.0 ** min(attempt - 1, 64))
    wait = policy.wait_sec(attempt, random.Random(seed))
    assert full * (1 - jitter) <= wait <= full
    assert wait == policy.wait_sec(attempt, random.Random(seed))


@pytest.mark.parametrize("changes", [{"initial_sec": -1.0}, {"max_sec": 0.1}, {"factor": 0.5}, {"jitter": 1.5}])
def test_a_policy_that_cannot_work_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="expected 0 <= initial_sec"):
        ReconnectPolicy(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("make_feed", FEEDS)
async def test_a_feed_producer_keeps_the_promises_of_a_producer(make_feed: Feed) -> None:
    feed = make_feed([[*walk(*range(20)), "nonsense", *walk(*range(20)), OSError("cut")], walk(*range(20, 60))])
    items = await check_producer(
        FeedProducer(feed, clock=FakeClock(), reconnect=ReconnectPolicy(initial_sec=0.0)),
        policy=ModuloPolicy(),
        transitions=70,
    )
    assert len(pairs(items)) >= 70
