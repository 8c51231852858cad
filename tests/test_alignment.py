"""Sequence numbers, reward functions, event times: what an ``Aligner`` does beyond pairing (see test_producers)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optix_stream.alignment import Aligner, FeedStep, UnusableStepError, is_finite
from optix_stream.contracts import StreamItem
from optix_stream.delayed_rewards import DelayedReward
from optix_stream.events import GapDetected, TransitionsRejected
from optix_stream.types import StreamId, Transition


def step(value: float, reward: float | None = 0.0, **fields: Any) -> FeedStep:
    return FeedStep(np.array([value]), reward, False, False)._replace(**fields)


def feed(aligner: Aligner, item: Any, now: float = 0.0) -> list[StreamItem]:
    """One step, acted on by its own value."""
    try:
        completed, stream, observation = aligner.arrive(item, now)
    except UnusableStepError as error:
        return list(error.events(now))
    if observation is not None:
        aligner.decide(stream, observation, float(observation[0]), None, now)
    return list(completed)


def test_the_event_time_of_the_feed_wins_over_that_of_arrival() -> None:
    aligner = Aligner()
    feed(aligner, step(1.0))
    (first,) = feed(aligner, step(2.0, time=7.5), now=100.0)
    (second,) = feed(aligner, step(3.0), now=101.0)
    assert isinstance(first, Transition)
    assert isinstance(second, Transition)
    assert (first.time, second.time) == (7.5, 101.0)


def test_a_reward_function_sees_what_was_before_what_was_done_and_what_came_of_it() -> None:
    def reward_fn(previous: Any, action: Any, observation: Any) -> float:
        return float(100 * previous[0] + 10 * action + observation[0])

    aligner = Aligner(reward_fn=reward_fn)
    feed(aligner, step(1.0, None))
    (transition,) = feed(aligner, step(2.0, None))
    assert isinstance(transition, Transition)
    assert transition.reward == 112.0


def test_a_reward_function_that_returns_nonsense_breaks_that_stream_only() -> None:
    aligner = Aligner(reward_fn=lambda previous, action, observation: float("nan"))
    feed(aligner, step(1.0))
    rejected, gap = feed(aligner, step(2.0))
    assert isinstance(rejected, TransitionsRejected)
    assert isinstance(gap, GapDetected)
    assert "finite" in rejected.detail


# --- sequence numbers ----------------------------------------------------------------------------


def test_a_jump_is_a_gap_that_says_how_many_and_the_stream_starts_afresh() -> None:
    aligner = Aligner()
    feed(aligner, step(1.0, sequence=10))
    (gap,) = feed(aligner, step(2.0, sequence=14))
    assert gap == GapDetected(stream=0, reason="sequence jump", missed=3, time=0.0)
    (transition,) = feed(aligner, step(3.0, sequence=15))
    assert isinstance(transition, Transition)
    assert transition.observation[0] == 2.0


@pytest.mark.parametrize(("sequence", "reason"), [(5, "duplicate"), (3, "out of order")])
def test_a_step_that_came_before_is_refused_and_harms_nothing(sequence: int, reason: str) -> None:
    aligner = Aligner()
    feed(aligner, step(1.0, sequence=5))
    (refused,) = feed(aligner, step(9.0, sequence=sequence))
    assert isinstance(refused, TransitionsRejected)
    assert (refused.reason, refused.detail) == (reason, f"sequence: expected 6, got {sequence}")
    (transition,) = feed(aligner, step(2.0, sequence=6))
    assert isinstance(transition, Transition)
    assert transition.observation[0] == 1.0


def test_numbers_start_again_on_a_new_connection() -> None:
    aligner = Aligner()
    feed(aligner, step(1.0, sequence=5))
    aligner.interrupt("gone", 0.0)
    aligner.restart_sequences()
    assert feed(aligner, step(2.0, sequence=0)) == []


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 8)), max_size=40))
def test_only_neighbours_are_joined(arrivals: list[tuple[StreamId, int]]) -> None:
    """Whatever is lost, doubled or swapped on the way."""
    aligner = Aligner()
    highest: dict[StreamId, int] = {}
    missed = {"a": 0, "b": 0}
    for stream, sequence in arrivals:
        for item in feed(aligner, step(float(sequence), sequence=sequence, stream=stream)):
            if isinstance(item, Transition):
                assert item.next_observation[0] == item.observation[0] + 1
            elif isinstance(item, GapDetected):
                assert item.missed is not None
                missed[str(item.stream)] += item.missed
        expected = highest.get(stream)
        if expected is not None and sequence > expected:
            missed[str(stream)] -= sequence - expected - 1
        highest[stream] = max(sequence, expected if expected is not None else sequence)
    assert missed == {"a": 0, "b": 0}


# --- holding, interrupting, refusing -------------------------------------------------------------


def test_what_was_not_acted_on_is_a_gap() -> None:
    aligner = Aligner()
    feed(aligner, step(1.0))
    completed, stream, observation = aligner.arrive(step(2.0), 0.0)
    assert len(completed) == 1
    assert observation is not None
    assert aligner.hold(stream, "too late", 3.0) == (GapDetected(stream=0, reason="too late", missed=1, time=3.0),)
    assert feed(aligner, step(3.0)) == []
    (transition,) = feed(aligner, step(4.0))
    assert isinstance(transition, Transition)
    assert transition.observation[0] == 3.0


def test_a_message_that_cannot_be_read_breaks_the_stream_it_names_or_all() -> None:
    aligner = Aligner()
    feed(aligner, step(1.0, stream="a"))
    feed(aligner, step(1.0, stream="b"))
    assert aligner.malformed("not JSON", "a").streams == ("a",)
    assert len(feed(aligner, step(2.0, stream="b"))) == 1
    assert set(aligner.malformed("not JSON").streams) == {"a", "b"}
    assert feed(aligner, step(3.0, stream="b")) == []


def test_a_delayed_reward_that_nobody_expects_is_refused() -> None:
    (refused,) = feed(Aligner(), DelayedReward(1, 2.0, "a"))
    assert isinstance(refused, TransitionsRejected)
    assert (refused.stream, refused.reason) == ("a", "unexpected reward")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, -2.0], True),
        ([], True),
        ([3e38, 3e38], True),
        ([1.0, np.nan], False),
        ([np.inf, -np.inf], False),
        ([-np.inf, 0.0], False),
    ],
)
@pytest.mark.parametrize("shape", [(-1,), (-1, 1), (1, -1, 1)])
def test_finite_numbers_are_told_from_others(values: list[float], expected: bool, shape: tuple[int, ...]) -> None:
    assert is_finite(np.array(values, np.float32).reshape(shape if values else (0,))) is expected
