"""Population-based training with one learner: its own past is the population."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from optix_stream.errors import ConfigurationError
from optix_stream.optimizers.ask_tell import AskTellOptimizer
from optix_stream.optimizers.parameters import Bounds, Range, tunable
from optix_stream.types import EvalMetrics, HyperparamSet


class _Past(msgspec.Struct, frozen=True):
    params: dict[str, Any]
    score: float


class _Memory(msgspec.Struct):
    history: list[_Past] = []


class PBTOptimizer(AskTellOptimizer[_Memory]):
    """Pseudo population-based training, after Jaderberg et al. 2017, for a single learner.

    Remembers ``(hyperparameters, score)`` pairs. Where the latest score is in the bottom share of
    that history, copy hyperparameters from its top share and perturb them a little (exploit);
    otherwise perturb the present ones (explore). A perturbation adds ``uniform(-d, d)`` with
    ``d = scale * (high - low)`` and stays within bounds; a choice is drawn anew with probability ``scale``.

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
        super().__init__(_Memory(), seed, param_bounds=param_bounds)
        self._history_size = history_size
        self._exploit_percentile = exploit_percentile
        self._top_percentile = top_percentile
        self._explore_scale = explore_scale
        self._exploit_scale = exploit_scale

    def tell(self, hyperparams: HyperparamSet, metrics: EvalMetrics) -> None:
        params = {name: hyperparams.params[name] for name in tunable(hyperparams, self.specs)}
        past = _Past(params, metrics.primary_score)
        self.memory.history = [*self.memory.history, past][-self._history_size :]

    def ask(self, hyperparams: HyperparamSet) -> HyperparamSet:
        history = self.memory.history
        if not history:
            return hyperparams.copy()
        scores = np.array([past.score for past in history])
        if scores[-1] < np.quantile(scores, self._exploit_percentile):
            best = np.flatnonzero(scores >= np.quantile(scores, 1.0 - self._top_percentile))
            source = history[int(self.rng.choice(best))].params
            return self._perturb(source, self._exploit_scale, hyperparams)
        return self._perturb(hyperparams.params, self._explore_scale, hyperparams)

    def settle(self, current_hyperparams: HyperparamSet) -> HyperparamSet:
        self.memory.history = []
        return current_hyperparams.copy()

    def _perturb(self, source: Mapping[str, Any], scale: float, current: HyperparamSet) -> HyperparamSet:
        new = current.copy()
        for name, spec in tunable(current, self.specs).items():
            value = source.get(name, current.params[name])
            if isinstance(spec, Range):
                reach = scale * (spec.high - spec.low)
                new.params[name] = spec.clip(float(value) + float(self.rng.uniform(-reach, reach)))
            else:
                new.params[name] = spec.pick(self.rng) if self.rng.random() < scale else value
        return new
