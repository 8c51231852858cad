"""Population-based training with one learner: its own past is the population."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from optix_stream.contracts import BaseOptimizer
from optix_stream.errors import ConfigurationError
from optix_stream.optimizers.backoff import Bounds, checked_bounds, clip, tunable
from optix_stream.types import EvalMetrics, HyperparamSet


class PBTOptimizer(BaseOptimizer):
    """Pseudo population-based training, after Jaderberg et al. 2017, for a single learner.

    Remembers ``(hyperparameters, score)`` pairs. Where the latest score is in the bottom share of
    that history, copy hyperparameters from its top share and perturb them a little (exploit);
    otherwise perturb the present ones (explore). A perturbation adds ``uniform(-d, d)`` with
    ``d = scale * (high - low)`` and stays within bounds.

    Args:
        param_bounds: which parameters to tune, and between which values.
        history_size: pairs remembered; the oldest go first.
        exploit_percentile: bottom share that exploits, 0 to 1.
        top_percentile: top share that is copied from, 0 to 1.
        explore_scale: perturbation as a share of the range, when exploring.
        exploit_scale: the same, when exploiting.
        seed: of the perturbations.

    Raises:
        ConfigurationError: an empty interval, a share outside 0 to 1, a history below 1.
    """

    def __init__(
        self,
        param_bounds: Bounds | None = None,
        history_size: int = 50,
        exploit_percentile: float = 0.20,
        top_percentile: float = 0.20,
        explore_scale: float = 0.10,
        exploit_scale: float = 0.05,
        *,
        seed: int | None = None,
    ) -> None:
        if history_size < 1:
            raise ConfigurationError(f"history_size: expected at least 1, got {history_size}")
        for name, share in (("exploit_percentile", exploit_percentile), ("top_percentile", top_percentile)):
            if not 0.0 <= share <= 1.0:
                raise ConfigurationError(f"{name}: expected 0 to 1, got {share}")
        self._bounds = checked_bounds(param_bounds)
        self._history: deque[tuple[HyperparamSet, float]] = deque(maxlen=history_size)
        self._exploit_percentile = exploit_percentile
        self._top_percentile = top_percentile
        self._explore_scale = explore_scale
        self._exploit_scale = exploit_scale
        self._rng = np.random.default_rng(seed)

    def suggest(self, current_hyperparams: HyperparamSet, metrics_history: Sequence[EvalMetrics]) -> HyperparamSet:
        if not metrics_history:
            return current_hyperparams.copy()
        score = metrics_history[-1].primary_score
        self._history.append((current_hyperparams.copy(), score))
        scores = np.array([past for _, past in self._history])
        if score < np.quantile(scores, self._exploit_percentile):
            best = np.flatnonzero(scores >= np.quantile(scores, 1.0 - self._top_percentile))
            source, _ = self._history[int(self._rng.choice(best))]
            return self._perturb(source, self._exploit_scale, current_hyperparams)
        return self._perturb(current_hyperparams, self._explore_scale, current_hyperparams)

    def _perturb(self, source: HyperparamSet, scale: float, current: HyperparamSet) -> HyperparamSet:
        new = current.copy()
        for name in tunable(source, self._bounds):
            low, high = self._bounds[name]
            reach = scale * (high - low)
            new.params[name] = clip(float(source.params[name]) + float(self._rng.uniform(-reach, reach)), (low, high))
        return new
