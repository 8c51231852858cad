"""The evaluator of the original system, by keyword; without any, the framework's default score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from optix_stream.errors import ConfigurationError
from optix_stream.evaluators import EpisodeReturnEvaluator, completed_returns, describe_window
from optix_stream.types import EpisodeData, EvalMetrics


class TFEvaluator(EpisodeReturnEvaluator):
    """Scores a window by ``w_r · score + w_s · (-std) + w_l · length / max_episode_length``.

    ``score`` is that of ``EpisodeReturnEvaluator``, so that without further weights both are the
    same. ``std`` is that of what ``score`` is the mean of: the returns of the episodes that ended, or
    the rewards of a source without episodes. ``length`` is the mean length of those episodes, or the
    window's. Weights are scaled to sum to 1.

    Args:
        reward_weight: ``w_r``.
        stability_weight: ``w_s``.
        length_weight: ``w_l``.
        primary_score_fn: ``(window, diagnostics) -> score``, in place of all of it.
        max_episode_length: in steps.

    Raises:
        ConfigurationError: no weight is positive, one is negative, or the length is below 1.
    """

    def __init__(
        self,
        reward_weight: float = 1.0,
        stability_weight: float = 0.0,
        length_weight: float = 0.0,
        primary_score_fn: Callable[[EpisodeData, dict[str, float]], float] | None = None,
        max_episode_length: int = 1000,
    ) -> None:
        super().__init__()
        weights = (reward_weight, stability_weight, length_weight)
        if min(weights) < 0.0 or sum(weights) <= 0.0:
            raise ConfigurationError(f"weights: expected none negative and one positive, got {weights}")
        if max_episode_length < 1:
            raise ConfigurationError(f"max_episode_length: expected at least 1 step, got {max_episode_length}")
        self._reward_weight, self._stability_weight, self._length_weight = (w / sum(weights) for w in weights)
        self._primary_score_fn = primary_score_fn
        self._max_episode_length = max_episode_length

    def score(self, episode_data: EpisodeData, train_diagnostics: dict[str, float]) -> EvalMetrics | None:
        if self._primary_score_fn is not None:
            score = float(self._primary_score_fn(episode_data, train_diagnostics))
            metrics = describe_window(episode_data, train_diagnostics) | {"primary_score": score}
            return EvalMetrics(score, metrics, episode_data.episode_id, "primary_score_fn")
        plain = super().score(episode_data, train_diagnostics)
        if plain is None or self._reward_weight == 1.0:
            return plain
        returns = completed_returns(episode_data)
        std = float(np.std(returns if returns else episode_data.rewards))
        lengths = [episode.length for episode in episode_data.completed] or [episode_data.length]
        length_score = float(np.mean(lengths)) / self._max_episode_length
        score = (
            self._reward_weight * plain.primary_score
            - self._stability_weight * std
            + self._length_weight * length_score
        )
        metrics = dict(plain.metrics) | {"std": std, "length_score": length_score}
        return replace(plain, primary_score=score, metrics=metrics, basis=f"weighted_{plain.basis}")
