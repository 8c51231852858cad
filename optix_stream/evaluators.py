"""Scoring without a framework: the default evaluator."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np

from optix_stream.contracts import BaseEvaluator, Stateful
from optix_stream.errors import ScoreError
from optix_stream.state_files import state_of
from optix_stream.types import EpisodeData, EvalMetrics

EPISODE_RETURN = "episode_return"
REWARD_PER_STEP = "reward_per_step"


class EpisodeReturnEvaluator(BaseEvaluator, Stateful):
    """The mean return of the episodes that ended in the window; the mean reward a step where a
    source has no episodes.

    An episode counts whole, with the rewards of earlier windows. Once episodes have been seen, a
    window in which none ended holds no evidence, and is not scored: a mean reward a step is on
    another scale.
    """

    def __init__(self) -> None:
        self._has_episodes = False

    def score(self, episode_data: EpisodeData, train_diagnostics: dict[str, float]) -> EvalMetrics | None:
        metrics = describe_window(episode_data, train_diagnostics)
        returns = completed_returns(episode_data)
        if returns:
            self._has_episodes = True
            mean_return = float(np.mean(returns))
            metrics |= {"mean_return": mean_return, "episodes": len(returns)}
            return EvalMetrics(mean_return, metrics, episode_data.episode_id, EPISODE_RETURN)
        if self._has_episodes or not episode_data.length:
            return None
        return EvalMetrics(metrics["mean_reward"], metrics, episode_data.episode_id, REWARD_PER_STEP)

    def state_dict(self) -> Mapping[str, Any]:
        return {"has_episodes": self._has_episodes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        with state_of("an evaluator"):
            self._has_episodes = bool(state["has_episodes"])


def checked_score(metrics: EvalMetrics | None, window: EpisodeData) -> EvalMetrics | None:
    """What an evaluator answered, with numpy's numbers as Python's: ``sum(window.rewards)`` is one of the former.

    Raises:
        ScoreError: no ``EvalMetrics``, or one whose score is not finite; nothing could ever be compared with that.
    """
    if metrics is None:
        return None
    if not isinstance(metrics, EvalMetrics):
        raise ScoreError(window.episode_id, repr(metrics))
    score = metrics.primary_score
    if not isinstance(score, Real) or not math.isfinite(score):
        raise ScoreError(window.episode_id, f"primary_score {score!r}")
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in metrics.metrics.items()}
    return replace(metrics, primary_score=float(score), metrics=plain)


def completed_returns(window: EpisodeData) -> list[float]:
    """Undiscounted returns of the episodes that ended in the window.

    For a hand-made window that does not say, they are taken from its rows, as if each episode had
    begun in it.
    """
    if window.completed or not window.dones.any() or window.next_observations is not None:
        return [episode.total_reward for episode in window.completed]
    ends = np.flatnonzero(window.dones)
    return [float(part.sum()) for part in np.split(window.rewards, ends + 1)[: len(ends)]]


def describe_window(window: EpisodeData, diagnostics: dict[str, float]) -> dict[str, float]:
    """The numbers that every window has, and those that learning reported."""
    metrics = {
        "total_reward": window.total_reward,
        "mean_reward": float(window.rewards.mean()) if window.length else 0.0,
        "transitions": float(window.length),
    }
    metrics.update((name, float(value)) for name, value in diagnostics.items() if isinstance(value, Real))
    return metrics
