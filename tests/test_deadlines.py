"""Deadlines and what is executed when one is missed, from the actor to the recorded transition."""

from __future__ import annotations

import math
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest

from optix_stream.alignment import FeedStep
from optix_stream.contracts import Decision, SingleActor
from optix_stream.deadlines import ActDeadline, Fallback
from optix_stream.delayed_rewards import DelayedRewards
from optix_stream.errors import ConfigurationError
from optix_stream.events import DeadlineMissed, GapDetected
from optix_stream.feed_session import FeedAction, FeedOptions, FeedSession
from optix_stream.producers import FeedProducer
from optix_stream.testing import FakeClock, RecordingSink
from optix_stream.types import Transition, Tree

pytestmark = pytest.mark.anyio


class Echo(SingleActor):
    """Acts by what it sees; observations above 100 make it hang until it is released."""

    version = 0

    def __init__(self) -> None:
        self.release = threading.Event()

    def act(self, observations: Tree) -> Decision:
        raise AssertionError("expected to be asked for one action at a time")

    def act_one(self, observation: Tree) -> tuple[Any, dict[str, Any]]:
        if observation[0] > 100:
            assert self.release.wait(60)
        return float(observation[0]), {"log_prob": np.float64(-1.0)}


def step(value: float) -> FeedStep:
    return FeedStep(np.array([value]), value, False, False)


async def run(deadline: ActDeadline, *values: float, ages: dict[float, float] | None = None) -> tuple[Any, Any, Echo]:
    """Feed the values; what was sent, what was recorded, and by whom."""
    policy, sink, sent = Echo(), RecordingSink(), []
    clock = FakeClock(start=50.0)

    async def answer(action: FeedAction) -> None:
        sent.append(action.action)

    session = FeedSession(policy, sink, clock, "feed", FeedOptions(deadline=deadline))
    try:
        for value in values:
            await session.handle(step(value), answer, clock.now() - (ages or {}).get(value, 0.0))
    finally:
        policy.release.set()
    return sent, sink, policy


def actions(sink: RecordingSink) -> list[tuple[float, float]]:
    return [(float(t.observation[0]), float(t.action)) for t in sink.transitions]


async def test_an_action_in_time_is_the_policy_s() -> None:
    sent, sink, _ = await run(ActDeadline(act_sec=60.0), 1.0, 2.0, 3.0)
    assert sent == [1.0, 2.0, 3.0]
    assert actions(sink) == [(1.0, 1.0), (2.0, 2.0)]
    assert sink.events == []


async def test_a_policy_that_hangs_makes_nobody_late_and_what_was_executed_is_recorded() -> None:
    sent, sink, _ = await run(ActDeadline(act_sec=0.01, fallback=-7.0), 101.0, 2.0, 3.0)
    # While the first call hangs the others cannot be asked either.
    assert sent == [-7.0, -7.0, -7.0]
    assert actions(sink) == [(101.0, -7.0), (2.0, -7.0)]
    missed = [event for event in sink.events if isinstance(event, DeadlineMissed)]
    assert len(missed) == 3
    assert not any(event.is_held for event in missed)


async def test_a_fallback_has_the_policy_s_extras_without_values() -> None:
    """A learner must not take a fallback for the policy's own choice."""
    _, sink, _ = await run(ActDeadline(max_age_sec=1.0, fallback=-7.0), 1.0, 2.0, 3.0, ages={2.0: 1.5})
    first, second = sink.transitions
    assert first.extras == {"log_prob": -1.0}
    assert second.extras is not None
    assert second.extras.keys() == {"log_prob"}
    assert math.isnan(second.extras["log_prob"])


async def test_holding_sends_and_records_nothing_and_is_a_gap() -> None:
    sent, sink, _ = await run(ActDeadline(max_age_sec=1.0), 1.0, 2.0, 3.0, 4.0, ages={2.0: 1.5})
    assert sent == [1.0, 3.0, 4.0]
    assert actions(sink) == [(1.0, 1.0), (3.0, 3.0)]
    assert [type(item) for item in sink.items] == [Transition, GapDetected, DeadlineMissed, Transition]
    (gap, missed) = sink.events
    assert isinstance(gap, GapDetected)
    assert gap.missed == 1
    assert isinstance(missed, DeadlineMissed)
    assert missed.is_held
    assert "older than 1 s" in missed.reason


async def test_the_last_action_can_be_repeated_where_there_is_one() -> None:
    deadline = ActDeadline(max_age_sec=1.0, fallback=Fallback.LAST)
    sent, sink, _ = await run(deadline, 1.0, 2.0, 3.0, 4.0, ages={1.0: 2.0, 3.0: 2.0})
    assert sent == [2.0, 2.0, 4.0]
    assert actions(sink) == [(2.0, 2.0), (3.0, 2.0)]


async def test_a_deadline_needs_a_source_that_does_not_block() -> None:
    class Plain:
        def stream(self) -> Iterator[FeedStep]:
            yield step(1.0)

    class Async:
        async def stream(self) -> AsyncIterator[FeedStep]:
            for value in (1.0, 2.0):
                yield step(value)

    options = FeedOptions(deadline=ActDeadline(act_sec=60.0))
    with pytest.raises(ConfigurationError, match="a deadline needs an async generator"):
        await FeedProducer(Plain(), clock=FakeClock(), options=options).run(Echo(), RecordingSink())
    sink = RecordingSink()
    await FeedProducer(Async(), clock=FakeClock(), options=options).run(Echo(), sink)
    assert actions(sink) == [(1.0, 1.0)]


@pytest.mark.parametrize("config", [{"act_sec": 0.0}, {"max_age_sec": -1.0}])
def test_a_time_that_cannot_be_kept_is_refused(config: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="expected more than 0 seconds"):
        ActDeadline(**config)


def test_rewards_come_from_one_place() -> None:
    with pytest.raises(ConfigurationError, match="got both"):
        FeedOptions(reward_fn=lambda *_: 0.0, delayed_rewards=DelayedRewards(timeout_sec=1.0))
