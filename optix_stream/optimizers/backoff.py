"""Two-phase finite differences on one live learner."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec
import numpy as np

from optix_stream.errors import ConfigurationError
from optix_stream.optimizers.ask_tell import AskTellOptimizer
from optix_stream.optimizers.parameters import Bounds, Range, tunable
from optix_stream.types import EvalMetrics, HyperparamSet

logger = logging.getLogger(__name__)


class _Move(msgspec.Struct):
    """What is remembered of a parameter: where it last went well, and how large its steps still are."""

    direction: float = 1.0
    step_scale: float = 1.0


class _Probe(msgspec.Struct, frozen=True):
    name: str
    origin: float | int
    value: float | int
    delta: float
    base_score: float


class _Memory(msgspec.Struct):
    """Scores since the last change; whose turn it is; what is known of each parameter; what is on trial."""

    scores: list[float] = []
    turn: int = 0
    moves: dict[str, _Move] = {}
    probe: _Probe | None = None


class BackoffOptimizer(AskTellOptimizer[_Memory]):
    """Tries one parameter at a time a little to one side, and keeps what the score says.

    Probe: apply ``theta + d`` and collect scores. Commit: with the gradient ``(mean score after -
    mean score before) / d``, keep ``theta + d`` where it is positive, apply ``theta - d`` where it is
    negative, and go back to ``theta`` where there is none. Then the next parameter has its turn.

    The step ``d = direction * alpha * step_scale * max(perturbation_scale * |theta|, min_delta)`` is
    proportional to the value, smaller where scores vary (``alpha = 1 / (1 + variance_penalty *
    variance)``), taken in the direction that helped last, and halved after a probe that did not
    help; it is at least 1 for integers. Everything stays within bounds; a parameter without bounds is
    left alone, and so are choices, which have no gradient.

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
        super().__init__(_Memory(), param_bounds=param_bounds)
        self._perturbation_scale = perturbation_scale
        self._min_delta = min_delta
        self._gradient_threshold = gradient_threshold
        self._score_window = score_window
        self._min_samples = min_samples
        self._variance_penalty = variance_penalty
        self._high_variance_threshold = high_variance_threshold

    @property
    def is_probing(self) -> bool:
        return self.memory.probe is not None

    def tell(self, hyperparams: HyperparamSet, metrics: EvalMetrics) -> None:
        self.memory.scores = [*self.memory.scores, metrics.primary_score][-self._score_window :]

    def ask(self, hyperparams: HyperparamSet) -> HyperparamSet:
        memory, new = self.memory, hyperparams.copy()
        specs = {name: spec for name, spec in tunable(hyperparams, self.specs).items() if isinstance(spec, Range)}
        if not specs or len(memory.scores) < self._min_samples:
            return new
        if memory.probe is not None:
            probe, memory.probe = memory.probe, None
            memory.turn += 1
            if probe.name in specs:
                new.params[probe.name] = self._commit(probe, specs[probe.name])
            return new
        variance = float(np.var(memory.scores))
        name = list(specs)[memory.turn % len(specs)]
        if self._high_variance_threshold is not None and variance > self._high_variance_threshold:
            logger.info("skipped tuning %s: score variance %.3g is above the threshold", name, variance)
            return new
        memory.probe = self._start_probe(name, specs[name], hyperparams.params[name], variance)
        new.params[name] = memory.probe.value
        return new

    def settle(self, current_hyperparams: HyperparamSet) -> HyperparamSet:
        new, probe = current_hyperparams.copy(), self.memory.probe
        self.memory.scores, self.memory.probe = [], None
        if probe is not None and probe.name in new.params:
            new.params[probe.name] = probe.origin
        return new

    def on_plateau(self, metrics_history: Sequence[EvalMetrics]) -> None:
        """Step sizes that failures have halved start anew."""
        self.memory.moves = {}

    def _start_probe(self, name: str, spec: Range, value: float | int, variance: float) -> _Probe:
        memory = self.memory
        move = memory.moves.setdefault(name, _Move())
        alpha = 1.0 / (1.0 + self._variance_penalty * variance)
        delta = max(alpha * move.step_scale * self._perturbation_scale * abs(value), self._min_delta)
        if spec.is_integer:
            delta = max(round(delta), 1)
        if spec.clip(value + move.direction * delta) == value:
            move.direction = -move.direction  # At a bound there is only one way to go.
        base_score = float(np.mean(memory.scores))
        memory.scores = []
        probed = spec.clip(value + move.direction * delta)
        return _Probe(name, value, probed, move.direction * delta, base_score)

    def _commit(self, probe: _Probe, spec: Range) -> float | int:
        gain = float(np.mean(self.memory.scores)) - probe.base_score
        self.memory.scores = []
        move = self.memory.moves.setdefault(probe.name, _Move())  # A plateau may have cleared it meanwhile.
        if abs(gain / probe.delta) <= self._gradient_threshold:
            return spec.clip(probe.origin)
        if gain > 0:
            return spec.clip(probe.value)
        move.direction = -move.direction
        move.step_scale /= 2
        return spec.clip(probe.origin - probe.delta)
