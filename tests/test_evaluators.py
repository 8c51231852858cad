from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from optix_stream.evaluators import EpisodeReturnEvaluator, completed_returns, describe_window
from optix_stream.testing import check_evaluator, make_window
from optix_stream.types import CompletedEpisode, EpisodeData


def window(rewards: list[float], *returns: float, window_id: int = 0) -> EpisodeData:
    """A window as an assembler makes it: it says which episodes ended in it."""
    made = make_window(rewards, window_id=window_id)
    episodes = tuple(CompletedEpisode(0, total, 1) for total in returns)
    return dataclasses.replace(made, completed=episodes, terminated=np.zeros(made.length, np.bool_))


def test_the_score_is_the_mean_return_of_the_episodes_that_ended() -> None:
    """The original default, mean reward minus its deviation, is constant where every step earns 1."""
    evaluator = EpisodeReturnEvaluator()
    short = evaluator.score(window([1.0] * 4, 20.0), {})
    long = evaluator.score(window([1.0] * 4, 180.0, 220.0), {})
    assert short is not None
    assert long is not None
    assert (short.primary_score, long.primary_score, long.basis) == (20.0, 200.0, "episode_return")
    assert evaluator.compare(long, short)
    assert not evaluator.compare(short, long)


def test_without_episodes_the_score_is_the_mean_reward_a_step() -> None:
    score = EpisodeReturnEvaluator().score(window([1.0, 2.0, 6.0]), {})
    assert score is not None
    assert (score.primary_score, score.basis) == (3.0, "reward_per_step")


def test_a_window_without_an_episode_end_says_nothing_once_there_are_episodes() -> None:
    evaluator = EpisodeReturnEvaluator()
    assert evaluator.score(window([1.0], 5.0), {}) is not None
    assert evaluator.score(window([1.0, 1.0]), {}) is None


def test_an_empty_window_says_nothing() -> None:
    assert EpisodeReturnEvaluator().score(window([]), {}) is None


def test_a_handmade_window_is_taken_as_whole_episodes() -> None:
    made = dataclasses.replace(
        make_window([1.0, 2.0, 4.0, 8.0]), next_observations=None, terminated=np.array([0, 1, 0, 0], np.bool_)
    )
    assert completed_returns(made) == [3.0]


def test_an_episode_that_was_not_seen_whole_has_no_return() -> None:
    """Its window has a done row, but the assembler knows that a gap cut the beginning off."""
    assert completed_returns(make_window([1.0, 2.0])) == []


@pytest.mark.parametrize("kind", [float, int, np.float32, np.float64, np.int64])
def test_what_learning_reports_is_in_the_metrics(kind: type) -> None:
    assert describe_window(window([2.0, 4.0]), {"loss": kind(3)}) == {
        "total_reward": 6.0,
        "mean_reward": 3.0,
        "transitions": 2.0,
        "loss": 3.0,
    }


def test_it_keeps_the_promises_of_an_evaluator() -> None:
    check_evaluator(
        EpisodeReturnEvaluator,
        [window([1.0]), window([], window_id=1), window([1.0], 3.0, window_id=2), window([1.0], window_id=3)],
    )
