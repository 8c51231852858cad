"""Simultaneous perturbation: every parameter is moved at once, however many there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from optix_stream.errors import ConfigurationError
from optix_stream.optimizers.ask_tell import AskTellOptimizer
from optix_stream.optimizers.block_effect import Blocks, EffectKind, paired_effect
from optix_stream.optimizers.parameters import Bounds, Range, tunable
from optix_stream.types import EvalMetrics, HyperparamSet

_GAIN_DECAY, _PERTURBATION_DECAY = 0.602, 0.101
_MAX_Z = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SPSAConfig:
    """How ``SPSAOptimizer`` moves. Distances are decades where the range of a parameter spans one, else shares of it.

    Attributes:
        perturbation: distance of the two points from the values between them, at first.
        gain: distance that is moved for a difference of one standard error, at first.
        block: scored windows in each of the four blocks of a comparison.
        effect: ``"slope"`` where a value changes how fast the score rises, ``"level"`` where it changes the score.
    """

    perturbation: float = 0.15
    gain: float = 0.15
    block: int = 16
    effect: EffectKind = "slope"

    def __post_init__(self) -> None:
        if self.block < 2:
            raise ConfigurationError(f"block: expected at least 2 windows, got {self.block}")
        if not (0.0 < self.perturbation < 10.0 and 0.0 < self.gain < 10.0):
            raise ConfigurationError(
                f"perturbation and gain: expected above 0 and below 10, got {self.perturbation} and {self.gain}"
            )


class _Pair(msgspec.Struct):
    """Two points (B and A) on either side of the values that were in force."""

    origin: dict[str, Any]
    signs: dict[str, int]
    above: dict[str, Any]
    below: dict[str, Any]
    blocks: Blocks

    @property
    def values(self) -> dict[str, Any]:
        letter = self.blocks.letter
        return self.origin if letter is None else self.above if letter == "B" else self.below


class _Memory(msgspec.Struct):
    moves: int = 0
    pair: _Pair | None = None


class SPSAOptimizer(AskTellOptimizer[_Memory]):
    """Simultaneous perturbation stochastic approximation, for many parameters at once. Spall 1992; gains of Spall 1998.

    All numbers are moved by ``c`` together, each up or down by chance, and then the other way, in blocks of windows in
    the order ABBA or BAAB. With ``z`` the difference between the two points in standard errors, cut at 2, each
    parameter moves by ``a z`` in the direction of its perturbation; dividing by the error, instead of by ``2 c``, makes
    the gain independent of the unit of scores. ``a`` and ``c`` fall with the number of moves ``k`` as ``k^-0.602`` and
    ``k^-0.101``. Between two comparisons at least one window has the values of neither point.

    Args:
        param_bounds: which parameters to tune, and between which values; choices are left alone.
        config: how it moves.
        seed: of the perturbations; None: not reproducible.

    Raises:
        ConfigurationError: bounds that mean nothing.
    """

    def __init__(
        self, param_bounds: Bounds | None = None, *, config: SPSAConfig | None = None, seed: int | None = None
    ) -> None:
        super().__init__(_Memory(), seed, param_bounds=param_bounds)
        self._config = config if config is not None else SPSAConfig()

    @property
    def is_probing(self) -> bool:
        pair = self.memory.pair
        return pair is not None and pair.blocks.letter is not None

    def tell(self, hyperparams: HyperparamSet, metrics: EvalMetrics) -> None:
        pair = self.memory.pair
        if pair is None:
            return
        if any(hyperparams.params.get(name) != value for name, value in pair.values.items()):
            self.memory.pair = None  # Someone else set them, such as a rollback.
        else:
            pair.blocks.add(metrics.primary_score)

    def ask(self, hyperparams: HyperparamSet) -> HyperparamSet:
        new, memory = hyperparams.copy(), self.memory
        if memory.pair is None:
            specs = {name: spec for name, spec in tunable(new, self.specs).items() if isinstance(spec, Range)}
            if specs and self.has_scores:
                memory.pair = self._start(new.params, specs)
        if memory.pair is not None:
            pair = memory.pair
            if pair.blocks.is_over:
                memory.pair = None
                memory.moves += 1
                new.params.update(self._move(pair, tunable(new, self.specs)))
            else:
                new.params.update(pair.values)
        return new

    def settle(self, current_hyperparams: HyperparamSet) -> HyperparamSet:
        new, pair = current_hyperparams.copy(), self.memory.pair
        if pair is not None and all(new.params.get(name) == value for name, value in pair.values.items()):
            new.params.update(pair.origin)
        self.memory.pair = None
        return new

    def _start(self, params: Mapping[str, Any], specs: Mapping[str, Range]) -> _Pair:
        size = self._config.perturbation / (self.memory.moves + 1) ** _PERTURBATION_DECAY
        signs = {name: 1 if self.rng.random() < 0.5 else -1 for name in specs}
        return _Pair(
            origin={name: params[name] for name in specs},
            signs=signs,
            above={name: spec.move(params[name], signs[name], size) for name, spec in specs.items()},
            below={name: spec.move(params[name], -signs[name], size) for name, spec in specs.items()},
            blocks=Blocks.draw(self.rng, self._config.block),
        )

    def _move(self, pair: _Pair, specs: Mapping[str, Any]) -> dict[str, Any]:
        z = paired_effect(pair.blocks.scores, pair.blocks.order, self._config.effect).z
        reach = self._config.gain / self.memory.moves**_GAIN_DECAY * min(abs(z), _MAX_Z)
        towards = 1 if z > 0 else -1
        return {
            name: specs[name].move(value, towards * pair.signs[name], reach) if abs(z) > 0.0 else value
            for name, value in pair.origin.items()
            if name in specs
        }
