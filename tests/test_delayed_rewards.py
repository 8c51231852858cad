from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optix_stream.alignment import Aligner, FeedStep
from optix_stream.contracts import StreamItem
from optix_stream.delayed_rewards import DelayedReward, DelayedRewards
from optix_stream.errors import ConfigurationError
from optix_stream.events import GapDetected, RewardMissing, TransitionsDropped, TransitionsRejected
from optix_stream.types import Transition


class Feed:
    """Drives an aligner and remembers what came out."""

    def __init__(self, **config: Any) -> None:
        self.aligner = Aligner(delayed_rewards=DelayedRewards(**{"timeout_sec": 10.0, **config}))
        self.items: list[StreamItem] = []
        self.number = 0.0

    def step(self, now: float = 0.0, *, is_last: bool = False, stream: str = "a") -> int | None:
        """The next step; the id of the decision on it."""
        self.number += 1
        item = FeedStep(np.array([self.number]), None, is_last, False, None, stream)
        completed, _, observation = self.aligner.arrive(item, now)
        self.items += completed
        if observation is None:
            return None
        return self.aligner.decide(stream, observation, 0, None, now)

    def reward(self, decision_id: int | None, reward: float, now: float = 0.0) -> None:
        assert decision_id is not None
        self.items += self.aligner.arrive(DelayedReward(decision_id, reward, "a"), now)[0]

    @property
    def rewards(self) -> list[tuple[float, float]]:
        """Observation and reward of the transitions that were let go."""
        return [(float(item.observation[0]), item.reward) for item in self.items if isinstance(item, Transition)]


def test_a_reward_joins_the_decision_that_it_names_whenever_it_comes() -> None:
    feed = Feed()
    first = feed.step()
    feed.reward(first, 0.5)  # Before what followed is known.
    assert feed.items == []
    second = feed.step()
    assert feed.rewards == [(1.0, 0.5)]
    feed.step(is_last=True)
    assert feed.rewards == [(1.0, 0.5)]
    feed.reward(second, 1.5)  # Long after.
    assert feed.rewards == [(1.0, 0.5), (2.0, 1.5)]


def test_the_order_of_a_stream_is_kept() -> None:
    feed = Feed()
    first, second = feed.step(), feed.step()
    feed.step()
    feed.reward(second, 2.0)
    assert feed.rewards == []
    feed.reward(first, 1.0)
    assert feed.rewards == [(1.0, 1.0), (2.0, 2.0)]


def test_what_waits_too_long_is_given_up_and_leaves_a_gap() -> None:
    feed = Feed(timeout_sec=2.0)
    feed.step(now=0.0)
    second = feed.step(now=1.0)
    feed.step(now=1.9)
    assert feed.items == []
    feed.reward(second, 5.0, now=2.0)
    dropped, gap, transition = feed.items
    assert isinstance(dropped, TransitionsDropped)
    assert (dropped.count, dropped.stream, dropped.reason) == (1, "a", "no reward came in time")
    assert isinstance(gap, GapDetected)
    assert isinstance(transition, Transition)
    assert transition.reward == 5.0


def test_or_gets_the_declared_default_and_that_is_told() -> None:
    feed = Feed(timeout_sec=2.0, missing=-1)
    first = feed.step(now=0.0)
    feed.step(now=1.0)
    feed.step(now=2.0)
    assert feed.rewards == [(1.0, -1.0)]
    (missing,) = [item for item in feed.items if isinstance(item, RewardMissing)]
    assert (missing.stream, missing.decision_id, missing.default, missing.time) == ("a", first, -1.0, 2.0)


def test_whole_transitions_that_wait_when_all_is_over_are_counted() -> None:
    feed = Feed()
    for stream in ("a", "a", "a", "b"):
        feed.step(stream=stream)
    assert feed.aligner.abandon() == 2
    assert feed.aligner.abandon() == 0
    assert feed.items == []


def test_a_reward_that_comes_too_late_twice_or_for_nothing_is_refused_and_counts_no_transition() -> None:
    feed = Feed(timeout_sec=2.0)
    first = feed.step(now=0.0)
    feed.step(now=1.0)
    feed.step(now=2.0)
    feed.items.clear()
    feed.reward(first, 1.0, now=3.0)
    feed.reward(999, 1.0, now=3.0)
    assert [(type(item), item.count) for item in feed.items if isinstance(item, TransitionsRejected)] == [
        (TransitionsRejected, 0)
    ] * 2


def test_a_reward_that_is_no_number_is_refused_and_the_right_one_may_still_come() -> None:
    feed = Feed()
    first = feed.step()
    feed.step()
    feed.reward(first, math.nan)
    feed.reward(first, "much")  # type: ignore[arg-type]
    feed.reward(first, 3.0)
    assert [type(item) for item in feed.items] == [TransitionsRejected, TransitionsRejected, Transition]


def test_streams_do_not_wait_for_each_other() -> None:
    feed = Feed()
    feed.step(stream="a")
    other = feed.step(stream="b")
    feed.step(stream="a")
    feed.step(stream="b")
    feed.reward(other, 4.0)
    assert feed.rewards == [(2.0, 4.0)]


def test_a_gap_comes_after_what_was_before_it() -> None:
    feed = Feed()
    first = feed.step()
    feed.step()
    feed.items += feed.aligner.interrupt("gone", 1.0)
    assert feed.items == []
    feed.reward(first, 1.0, now=1.0)
    assert [type(item) for item in feed.items] == [Transition, GapDetected]


def test_at_the_end_the_rule_is_for_everything_that_waits() -> None:
    feed = Feed(missing=0.0)
    for _ in range(4):
        feed.step()
    feed.items += feed.aligner.finish(1.0)
    assert feed.rewards == [(1.0, 0.0), (2.0, 0.0), (3.0, 0.0)]


def test_no_more_wait_than_may() -> None:
    feed = Feed(max_waiting=3)
    for _ in range(10):
        feed.step()
    assert sum(item.count for item in feed.items if isinstance(item, TransitionsDropped)) == 6


@given(st.lists(st.integers(0, 5), max_size=40), st.sampled_from(["drop", 0.25]))
def test_every_transition_comes_out_once_with_its_own_reward_or_by_the_rule(
    events: list[int], missing: float | str
) -> None:
    feed = Feed(timeout_sec=3.0, missing=missing)
    open_ids: list[int] = []
    now = 0.0
    for event in events:
        now += 0.5
        if event < 3 or not open_ids:
            decision_id = feed.step(now)
            assert decision_id is not None
            open_ids.append(decision_id)
        else:
            chosen = open_ids.pop(event % len(open_ids))
            feed.reward(chosen, float(chosen), now)
    feed.items += feed.aligner.finish(now)
    complete = max(int(feed.number) - 1, 0)
    dropped = sum(item.count for item in feed.items if isinstance(item, TransitionsDropped))
    assert len(feed.rewards) + dropped == complete
    assert [number for number, _ in feed.rewards] == sorted({number for number, _ in feed.rewards})
    # The n-th decision was made on the n-th observation.
    assert all(reward in (number, missing) for number, reward in feed.rewards)


@pytest.mark.parametrize(
    "config", [{"timeout_sec": 0.0}, {"max_waiting": 0}, {"missing": "hope"}, {"missing": math.inf}]
)
def test_a_rule_that_cannot_work_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        DelayedRewards(**{"timeout_sec": 1.0, **config})
