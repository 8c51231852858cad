"""The circuit breaker, alone and in a supervised source."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optix_stream.errors import ConfigurationError
from optix_stream.events import CircuitOpened, SourceLost
from optix_stream.learner import ThreadLearner
from optix_stream.producers import FeedProducer
from optix_stream.reconnecting import BreakerPolicy, CircuitBreaker, ReconnectPolicy
from optix_stream.testing import FakeClock, NullAgent, RecordingSink

THREE = BreakerPolicy(failures=3, window_sec=10.0, cool_down_sec=100.0)


def test_failures_close_together_open_the_circuit_and_those_far_apart_do_not() -> None:
    breaker = CircuitBreaker(THREE)
    assert [breaker.record_failure(now) for now in (0.0, 1.0, 10.0)] == [False, False, True]
    breaker = CircuitBreaker(THREE)
    assert [breaker.record_failure(now) for now in (0.0, 6.0, 12.0, 18.0)] == [False] * 4


def test_the_attempt_after_a_cool_down_must_last_or_the_circuit_opens_again() -> None:
    breaker = CircuitBreaker(THREE)
    assert [breaker.record_failure(0.0) for _ in range(3)] == [False, False, True]
    assert breaker.record_failure(109.0)
    assert not breaker.record_failure(219.5)  # 10.5 s after its beginning: that was a connection.
    assert not breaker.record_failure(220.0)


@given(st.lists(st.floats(0.0, 50.0), max_size=60))
def test_it_opens_only_on_enough_recent_failures_or_on_a_failed_trial(gaps: list[float]) -> None:
    breaker, now, since, trial = CircuitBreaker(THREE), 0.0, [], None
    for gap in gaps:
        now += gap
        since.append(now)
        full = len(since) >= 3 and now - since[-3] <= THREE.window_sec
        failed_trial = trial is not None and now - trial < THREE.window_sec
        assert breaker.record_failure(now) == (full or failed_trial)
        trial = None
        if full or failed_trial:
            now += THREE.cool_down_sec
            since, trial = [], now


@pytest.mark.parametrize("changes", [{"failures": 0}, {"window_sec": 0.0}, {"cool_down_sec": -1.0}])
def test_a_breaker_that_cannot_work_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="expected at least 1 failure"):
        BreakerPolicy(**changes)


class Flapping:
    """Delivers one step and dies, again and again: backoff starts anew each time."""

    def __init__(self, clock: FakeClock) -> None:
        self.attempts: list[float] = []
        self._clock = clock

    async def stream(self) -> AsyncIterator[Any]:
        self.attempts.append(self._clock.now())
        yield [1.0], None, False, False, {}
        raise OSError("cut")


@pytest.mark.anyio
async def test_a_source_that_delivers_a_little_and_dies_again_is_left_alone_for_a_while() -> None:
    clock, sink = FakeClock(), RecordingSink()
    feed = Flapping(clock)
    policy = ReconnectPolicy(initial_sec=1.0, jitter=0.0, breaker=THREE)
    producer = FeedProducer(feed, clock=clock, reconnect=policy, name="feed")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(producer.run, ThreadLearner(NullAgent(), 1).policy, sink)
        await clock.advance(1.0)
        await clock.advance(1.0)
        assert feed.attempts == [0.0, 1.0, 2.0]
        await clock.advance(99.9)
        assert len(feed.attempts) == 3
        await clock.advance(0.1)
        assert feed.attempts[3:] == [102.0]
        await clock.advance(100.0)
        assert feed.attempts[4:] == [202.0]
        tasks.cancel_scope.cancel()
    opened = [item for item in sink.items if isinstance(item, CircuitOpened)]
    assert [(item.source, item.failures, item.cool_down_sec, item.time) for item in opened] == [
        ("feed", 3, 100.0, 2.0),
        ("feed", 3, 100.0, 102.0),
        ("feed", 3, 100.0, 202.0),
    ]
    assert [item.retry_sec for item in sink.items if isinstance(item, SourceLost)] == [1.0, 1.0, 100.0, 100.0, 100.0]
