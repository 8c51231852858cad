"""Whatever happens to a feed, a reward answers what was *executed* on the observation before it, in its own stream.

The feed here is a closed loop: its reward is a known function of the observation that it sent and of the action that
it got for it, so that anything joined wrongly has the wrong reward.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import anyio
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optix_stream.alignment import FeedStep
from optix_stream.contracts import Decision, SingleActor
from optix_stream.deadlines import ActDeadline, Fallback
from optix_stream.events import DeadlineMissed, GapDetected, TransitionsRejected
from optix_stream.feed_session import FeedAction, FeedOptions, FeedSession
from optix_stream.testing import FakeClock, RecordingSink
from optix_stream.types import StreamId, Tree

STREAMS = ("a", "b")
KINDS = ("step", "step", "step", "late", "terminated", "truncated", "jump", "malformed", "duplicate", "reconnect")
MAX_AGE = 1.0


class Doubling(SingleActor):
    """Acts by twice what it sees."""

    version = 0

    def act(self, observations: Tree) -> Decision:
        raise AssertionError("expected to be asked for one action at a time")

    def act_one(self, observation: Tree) -> tuple[Any, dict[str, Any]]:
        return 2.0 * float(observation[0]), {"log_prob": np.float64(-1.0)}


def reward_of(observation: float, action: float) -> float:
    return 1000.0 * observation + action


@dataclass
class World:
    """Numbers its observations, and rewards what it was told to do; what it knows is what must be recorded."""

    number: float = 0.0
    last: dict[StreamId, tuple[float, float | None]] = field(default_factory=dict)
    sequences: dict[StreamId, int] = field(default_factory=dict)
    expected: list[tuple[StreamId, float, float, float, float]] = field(default_factory=list)

    def step(self, stream: StreamId, done: str, skip: int = 0) -> FeedStep:
        self.number += 1
        before = self.last.pop(stream, None)
        reward = None
        if before is not None and before[1] is not None:
            observation, action = before[0], before[1]
            reward = reward_of(observation, action)
            self.expected.append((stream, observation, action, reward, self.number))
        sequence = self.sequences[stream] = self.sequences.get(stream, 0) + 1 + skip
        if not done:
            self.last[stream] = (self.number, None)
        return FeedStep(
            np.array([self.number]), reward, done == "terminated", done == "truncated", None, stream, sequence
        )

    def execute(self, action: FeedAction) -> None:
        observation, _ = self.last[action.stream]
        self.last[action.stream] = (observation, float(action.action))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("fallback", [Fallback.HOLD, Fallback.LAST, -7.0], ids=["hold", "last", "a value"])
@given(st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from(STREAMS)), max_size=60))
@settings(max_examples=60)
def test_a_reward_answers_what_was_executed(fallback: Any, backend: str, drawn: list[tuple[str, str]]) -> None:
    world, sink, clock = World(), RecordingSink(), FakeClock(start=100.0)
    late = 0

    async def play() -> None:
        nonlocal late
        options = FeedOptions(deadline=ActDeadline(max_age_sec=MAX_AGE, fallback=fallback))
        session = FeedSession(Doubling(), sink, clock, "feed", options)
        for kind, stream in drawn:
            if kind == "reconnect":
                await session.lose("cut", None)
                session.aligner.restart_sequences()
                world.last.clear()
                world.sequences.clear()
            elif kind == "malformed":
                await session.handle(FeedStep(np.array([np.nan]), 0.0, False, False, None, stream), world.execute)
                world.last.pop(stream, None)
            elif kind == "duplicate":
                if stream in world.sequences:
                    repeated = FeedStep(np.array([0.5]), 0.0, False, False, None, stream, world.sequences[stream])
                    before = dict(world.last)
                    await session.handle(repeated, world.execute)
                    assert world.last == before
            else:
                skip = 2 if kind == "jump" and stream in world.sequences else 0
                if skip:
                    world.last.pop(stream, None)
                done = kind if kind in ("terminated", "truncated") else ""
                item = world.step(stream, done, skip)
                late += kind == "late"
                await session.handle(item, world.execute, clock.now() - (2 * MAX_AGE if kind == "late" else 0.0))

    anyio.run(play, backend=backend)
    recorded = [
        (t.stream, float(t.observation[0]), float(t.action), float(t.reward), float(t.next_observation[0]))
        for t in sink.transitions
    ]
    assert recorded == world.expected
    assert sum(isinstance(item, DeadlineMissed) for item in sink.items) == late
    for transition in sink.transitions:
        observation, action = float(transition.observation[0]), float(transition.action)
        assert transition.extras is not None
        was_chosen = not np.isnan(transition.extras["log_prob"]) if transition.extras else False
        assert not was_chosen or action == 2.0 * observation
    # A stretch that is broken off is told, once for each stream that waited for something.
    assert all(item.reason for item in sink.items if isinstance(item, GapDetected | TransitionsRejected))
