"""Two-phase finite differences on one live learner."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from optix_stream.contracts import BaseOptimizer
from optix_stream.errors import ConfigurationError
from optix_stream.types import EvalMetrics, HyperparamSet

logger = logging.getLogger(__name__)

Bounds = Mapping[str, tuple[float, float]]


class BackoffOptimizer(BaseOptimizer):
    """Tries one parameter at a time a little to one side, and keeps what the score says.

    Probe: apply ``theta + d`` and collect scores. Commit: with the gradient ``(mean score after -
    mean score before) / d``, keep ``theta + d`` where it is positive, apply ``theta - d`` where it is
    negative, and go back to ``theta`` where there is none. Then the next parameter has its turn.

    The step ``d = direction * alpha * step_scale * max(perturbation_scale * |theta|, min_delta)`` is
    proportional to the value, smaller where scores vary (``alpha = 1 / (1 + variance_penalty *
    variance)``), taken in the direction that helped last, and halved after a probe that did not
    help. Everything stays within bounds; a parameter without bounds is left alone.

    Args:
        param_bounds: which parameters to tune, and between which values.
        perturbation_scale: size of a probe relative to the value.
        min_delta: smallest probe.
        gradient_threshold: a gradient no larger than this is none.
        score_window: how many of the latest scores a mean is taken over.
        min_samples: scores that must be in before a probe starts and before it is decided.
        variance_penalty: beta above; 0 switches it off.
        high_variance_threshold: no probe starts while the variance of the scores is above this;
            None: never too noisy.

    Raises:
        ConfigurationError: an empty interval or a sample count that cannot be reached.
    """

    def __init__(
        self,
        param_bounds: Bounds | None = None,
        perturbation_scale: float = 0.05,
        min_delta: float = 1e-7,
        gradient_threshold: float = 1e-10,
        *,
        score_window: int = 5,
        min_samples: int = 1,
        variance_penalty: float = 0.0,
        high_variance_threshold: float | None = None,
    ) -> None:
        if not 1 <= min_samples <= score_window:
            raise ConfigurationError(f"expected 1 <= min_samples <= score_window, got {min_samples} and {score_window}")
        self._bounds = checked_bounds(param_bounds)
        self._perturbation_scale = perturbation_scale
        self._min_delta = min_delta
        self._gradient_threshold = gradient_threshold
        self._min_samples = min_samples
        self._variance_penalty = variance_penalty
        self._high_variance_threshold = high_variance_threshold
        self._scores: deque[float] = deque(maxlen=score_window)
        self._last_seen: EvalMetrics | None = None
        self._turn = 0
        self._moves: dict[str, _Move] = {}
        self._probe: _Probe | None = None

    @property
    def is_probing(self) -> bool:
        return self._probe is not None

    def suggest(self, current_hyperparams: HyperparamSet, metrics_history: Sequence[EvalMetrics]) -> HyperparamSet:
        self._take_scores(metrics_history)
        names = tunable(current_hyperparams, self._bounds)
        if not names or len(self._scores) < self._min_samples:
            return current_hyperparams.copy()
        new = current_hyperparams.copy()
        if self._probe is not None:
            new.params[self._probe.name] = self._commit(self._probe)
            self._probe = None
            self._turn += 1
            return new
        variance = float(np.var(self._scores))
        name = names[self._turn % len(names)]
        if self._high_variance_threshold is not None and variance > self._high_variance_threshold:
            logger.info("skipped tuning %s: score variance %.3g is above the threshold", name, variance)
            return new
        self._probe = self._start_probe(name, float(current_hyperparams.params[name]), variance)
        new.params[name] = self._probe.value
        return new

    def on_plateau(self, metrics_history: Sequence[EvalMetrics]) -> None:
        """Step sizes that failures have halved start anew."""
        self._moves.clear()

    def _take_scores(self, history: Sequence[EvalMetrics]) -> None:
        fresh: list[float] = []
        for metrics in reversed(history):
            if metrics is self._last_seen:
                break
            fresh.append(metrics.primary_score)
        if history:
            self._last_seen = history[-1]
        self._scores.extend(reversed(fresh))

    def _start_probe(self, name: str, value: float, variance: float) -> _Probe:
        move = self._moves.setdefault(name, _Move())
        alpha = 1.0 / (1.0 + self._variance_penalty * variance)
        delta = max(alpha * move.step_scale * self._perturbation_scale * abs(value), self._min_delta)
        if clip(value + move.direction * delta, self._bounds[name]) == value:
            move.direction = -move.direction  # At a bound there is only one way to go.
        base_score = float(np.mean(self._scores))
        self._scores.clear()
        probed = clip(value + move.direction * delta, self._bounds[name])
        return _Probe(name, value, probed, move.direction * delta, base_score)

    def _commit(self, probe: _Probe) -> float:
        gain = float(np.mean(self._scores)) - probe.base_score
        self._scores.clear()
        move = self._moves.setdefault(probe.name, _Move())  # A plateau may have cleared it meanwhile.
        if abs(gain / probe.delta) <= self._gradient_threshold:
            return probe.origin
        if gain > 0:
            return probe.value
        move.direction = -move.direction
        move.step_scale /= 2
        return clip(probe.origin - probe.delta, self._bounds[probe.name])


class _Move(msgspec.Struct):
    """What is remembered of a parameter: where it last went well, and how large its steps still are."""

    direction: float = 1.0
    step_scale: float = 1.0


class _Probe(msgspec.Struct, frozen=True):
    name: str
    origin: float
    value: float
    delta: float
    base_score: float


def checked_bounds(bounds: Bounds | None) -> Bounds:
    """A copy of ``bounds``; raises ConfigurationError for an interval that is empty."""
    for name, (low, high) in (bounds or {}).items():
        if not low < high:
            raise ConfigurationError(f"param_bounds[{name!r}]: expected low < high, got ({low}, {high})")
    return dict(bounds or {})


def tunable(hyperparams: HyperparamSet, bounds: Bounds) -> list[str]:
    """The parameters that are numbers and have bounds, in the order of ``hyperparams``."""
    params = hyperparams.params
    return [name for name in params if name in bounds and _is_number(params[name])]


def clip(value: float, bounds: tuple[float, float]) -> float:
    """``value``, moved into its bounds."""
    return min(max(value, bounds[0]), bounds[1])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
