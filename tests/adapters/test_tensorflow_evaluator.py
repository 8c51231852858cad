"""The evaluator's keywords."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from optix_stream_adapters.tensorflow import TFEvaluator

from optix_stream.errors import ConfigurationError
from optix_stream.evaluators import EpisodeReturnEvaluator
from optix_stream.testing import check_evaluator
from optix_stream.types import CompletedEpisode, EpisodeData


def make_window(rewards: Sequence[float], completed: Sequence[tuple[float, int]] = ()) -> EpisodeData:
    length = len(rewards)
    return EpisodeData(
        np.zeros((length, 1)),
        np.zeros(length),
        np.asarray(rewards),
        np.zeros(length),
        np.zeros(length),
        [{}] * length,
        3,
        next_observations=np.zeros((length, 1)),
        completed=tuple(CompletedEpisode(0, total, steps) for total, steps in completed),
    )


def test_the_default_is_the_framework_s_score() -> None:
    ours, theirs = TFEvaluator(), EpisodeReturnEvaluator()
    for window in (make_window([1.0, 3.0]), make_window([1.0], [(10.0, 5), (20.0, 7)]), make_window([1.0])):
        assert ours.score(window, {"loss": 0.5}) == theirs.score(window, {"loss": 0.5})


def test_weights_are_scaled_to_sum_to_one() -> None:
    evaluator = TFEvaluator(2.0, 1.0, 1.0, max_episode_length=100)
    scored = evaluator.score(make_window([1.0], [(10.0, 20), (20.0, 40)]), {"loss": 0.5})
    assert scored is not None
    assert scored.primary_score == pytest.approx(0.5 * 15.0 - 0.25 * 5.0 + 0.25 * 0.3)
    assert scored.metrics["loss"] == 0.5
    assert scored.metrics["mean_return"] == 15.0


def test_without_episodes_rewards_and_the_window_count() -> None:
    scored = TFEvaluator(1.0, 1.0, 0.0).score(make_window([1.0, 3.0]), {})
    assert scored is not None
    assert scored.primary_score == pytest.approx(0.5 * 2.0 - 0.5 * 1.0)


def test_a_function_overrides_all_of_it() -> None:
    evaluator = TFEvaluator(primary_score_fn=lambda window, diagnostics: window.total_reward + diagnostics["loss"])
    scored = evaluator.score(make_window([1.0, 3.0]), {"loss": 0.5})
    assert scored is not None
    assert (scored.primary_score, scored.metrics["loss"], scored.episode_id) == (4.5, 0.5, 3)


@pytest.mark.parametrize("weights", [(0, 0, 0), (-1, 2, 0)])
def test_weights_that_mean_nothing_are_refused(weights: tuple[float, float, float]) -> None:
    with pytest.raises(ConfigurationError, match="weights"):
        TFEvaluator(*weights)
    with pytest.raises(ConfigurationError, match="max_episode_length"):
        TFEvaluator(max_episode_length=0)


@pytest.mark.parametrize("weights", [(1.0, 0.0, 0.0), (2.0, 1.0, 0.5)])
def test_conforms(weights: tuple[float, float, float]) -> None:
    windows = [make_window([1.0, 3.0]), make_window([1.0], [(10.0, 5), (20.0, 7)])]
    check_evaluator(lambda: TFEvaluator(*weights), windows)
