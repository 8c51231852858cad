"""Paired blocks: two values take turns on one live learner until one of them is the better."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from optix_stream.change_detection import ChangeDetector, Noise, estimate_noise
from optix_stream.optimizers.ask_tell import AskTellOptimizer
from optix_stream.optimizers.block_effect import (
    Blocks,
    Effect,
    paired_effect,
    pool,
    trend,
)
from optix_stream.optimizers.paired_block_config import PairedBlockConfig
from optix_stream.optimizers.parameters import Bounds, Choices, ParamSpec, Range, tunable
from optix_stream.types import EvalMetrics, FloatArray, HyperparamSet


class _Search(msgspec.Struct):
    """What is known of one parameter: which way to go next, how far, and what not to try until when."""

    direction: int
    scale: float = 1.0
    failures: int = 0
    comparisons: int = 0
    barriers: list[tuple[float, int]] = []


class _Comparison(msgspec.Struct):
    """``usual`` (A) against ``trial`` (B)."""

    name: str
    usual: Any
    trial: Any
    blocks: Blocks
    effects: list[Effect] = []
    noise: Noise | None = None
    is_given_up: bool = False

    @property
    def is_over(self) -> bool:
        return self.is_given_up or self.blocks.is_over

    @property
    def is_trying(self) -> bool:
        return not self.is_given_up and self.blocks.letter == "B"

    @property
    def value(self) -> Any:
        return self.trial if self.is_trying else self.usual


class _Memory(msgspec.Struct):
    """Which parameter's turn it is, what is known of each, what is compared, and how the usual values score."""

    turn: int = 0
    searches: dict[str, _Search] = {}
    comparison: _Comparison | None = None
    reference: list[float] = []
    rest: int = 0
    idle: int = 0
    is_due: bool = False


_REFERENCE = 64
_LEAST_REFERENCE = 8


class PairedBlockTuner(AskTellOptimizer[_Memory]):
    """Compares one value with the usual one at a time, in blocks of windows, and keeps it where it is the better.

    Most hyperparameters show in the slope of the score, so that one window says next to nothing. Two values therefore
    take turns in four blocks, in the order ABBA or BAAB by chance, in which a trend cancels out. While the evidence is
    thin the blocks are repeated, longer each time; what is known from all of them together decides. The winner stays.
    The first trial goes towards the middle of the range, where a good value is likelier than at its ends. After a
    failure the other direction is next, and after two the distance is halved.

    A value on trial under which the score falls is given up within its block, and values beyond it are not tried for
    some time. While the score rises no more and nothing helps, comparisons become rare. Windows with a value on trial
    are not judged. Randomised switchbacks: Bojinov et al. 2023 (arXiv 2009.00148).

    Args:
        param_bounds: which parameters to tune, and between or among which values; the others are left alone.
        config: how carefully.
        seed: of the orders; None: not reproducible.

    Raises:
        ConfigurationError: bounds that mean nothing.
    """

    def __init__(
        self, param_bounds: Bounds | None = None, *, config: PairedBlockConfig | None = None, seed: int | None = None
    ) -> None:
        super().__init__(_Memory(), seed, param_bounds=param_bounds)
        self._config = config if config is not None else PairedBlockConfig()
        # Follows from the memory, and is made anew where it is missing.
        self._fall: ChangeDetector | None = None

    @property
    def is_probing(self) -> bool:
        comparison = self.memory.comparison
        return comparison is not None and comparison.is_trying

    @property
    def is_comparing(self) -> bool:
        return self.memory.comparison is not None or self.memory.is_due

    def tell(self, hyperparams: HyperparamSet, metrics: EvalMetrics) -> None:
        memory, score = self.memory, metrics.primary_score
        memory.rest = max(memory.rest - 1, 0)
        comparison = memory.comparison
        if comparison is not None and hyperparams.params.get(comparison.name) != comparison.value:
            # Someone else set it, such as a rollback: the scores no longer belong together.
            comparison = memory.comparison = None
        if comparison is None or not comparison.is_trying:
            memory.reference = [*memory.reference, score][-_REFERENCE:]
        if comparison is not None:
            self._watch(comparison, score)
            comparison.blocks.add(score)

    def ask(self, hyperparams: HyperparamSet) -> HyperparamSet:
        new, memory = hyperparams.copy(), self.memory
        specs = tunable(hyperparams, self.specs)
        comparison = memory.comparison
        if comparison is not None and comparison.is_over:
            new.params[comparison.name] = self._decide(comparison)
            comparison = memory.comparison
        if comparison is None and specs and self.has_scores and (memory.is_due or not memory.rest):
            name = list(specs)[memory.turn % len(specs)]
            comparison = memory.comparison = self._start(name, specs[name], new.params[name])
            memory.is_due = False
        if comparison is not None:
            new.params[comparison.name] = comparison.value
        return new

    def settle(self, current_hyperparams: HyperparamSet) -> HyperparamSet:
        new, comparison = current_hyperparams.copy(), self.memory.comparison
        if comparison is not None and new.params.get(comparison.name) == comparison.value:
            new.params[comparison.name] = comparison.usual
        self.memory.comparison, self.memory.reference, self.memory.is_due = None, [], False
        return new

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._fall = None

    def on_plateau(self, metrics_history: Sequence[EvalMetrics]) -> None:
        """One comparison more, however far tuning has backed off."""
        self.memory.is_due = self.memory.comparison is None and bool(self.specs)

    def _start(self, name: str, spec: ParamSpec, value: Any) -> _Comparison:
        search = self.memory.searches.setdefault(name, _Search(_towards_the_middle(spec, value)))
        search.comparisons += 1
        search.barriers = [barrier for barrier in search.barriers if barrier[1] > search.comparisons]
        trial = self._step(search, spec, value)
        if trial == value:  # At a bound there is only one way to go.
            search.direction = -search.direction
            trial = self._step(search, spec, value)
        return _Comparison(name, value, trial, Blocks.draw(self.rng, self._config.first_block))

    def _step(self, search: _Search, spec: ParamSpec, value: Any) -> Any:
        if isinstance(spec, Choices):
            return spec.move(value, search.direction, search.scale)
        step = self._config.decades if spec.is_log else self._config.share
        trial = spec.move(value, search.direction, search.scale * step)
        for barrier, _ in search.barriers:
            if value < barrier <= trial or trial <= barrier < value:
                trial = spec.at((spec.position(value) + spec.position(barrier)) / 2)
        return trial

    def _watch(self, comparison: _Comparison, score: float) -> None:
        """Give the value on trial up where the score falls."""
        if not comparison.is_trying:
            comparison.noise = self._fall = None
            return
        if comparison.noise is None:
            if len(self.memory.reference) < _LEAST_REFERENCE:
                return
            comparison.noise = estimate_noise(_at_the_last_level(self.memory.reference))
        if self._fall is None:
            self._fall = _watch_for_a_fall(comparison.noise, comparison.blocks.since_the_last_change)
        self._fall.update(score)
        if self._fall.log_down < math.log(self._config.windows_per_false_alarm):
            return
        comparison.is_given_up = True
        if isinstance(self.specs[comparison.name], Range):
            search = self.memory.searches[comparison.name]
            until = search.comparisons + self._config.barrier_comparisons
            search.barriers = [*search.barriers, (float(comparison.trial), until)]

    def _decide(self, comparison: _Comparison) -> Any:
        """What to use after four blocks: the winner, or the usual value while there is none."""
        config, is_won = self._config, False
        if not comparison.is_given_up:
            blocks = comparison.blocks
            comparison.effects = [*comparison.effects, paired_effect(blocks.scores, blocks.order, config.effect)]
            z, is_longest = pool(comparison.effects).z, blocks.length >= config.max_block
            least, most = (0.0, config.keep_z) if is_longest else (-config.lose_z, config.win_z)
            if least < z <= most and len(comparison.effects) < config.max_repeats:
                comparison.blocks = Blocks.draw(self.rng, min(blocks.length * config.block_growth, config.max_block))
                return comparison.usual
            is_won = z > most
        self._conclude(comparison, is_won)
        return comparison.trial if is_won else comparison.usual

    def _conclude(self, comparison: _Comparison, is_won: bool) -> None:
        memory, search = self.memory, self.memory.searches[comparison.name]
        memory.comparison = None
        memory.turn += 1
        if is_won:
            search.failures, search.scale = 0, min(2 * search.scale, 1.0)
        else:
            search.failures += 1
            search.direction = -search.direction
            if search.failures % 2 == 0:
                search.scale = max(search.scale / 2, self._config.least_scale)
        is_rising = len(memory.reference) < _LEAST_REFERENCE or trend(memory.reference).z > self._config.keep_z
        memory.idle = 0 if is_won or is_rising else memory.idle + 1
        if memory.idle:
            memory.rest = 4 * comparison.blocks.length * min(2 ** (memory.idle - 1), self._config.max_rest)


def _towards_the_middle(spec: ParamSpec, value: Any) -> int:
    return -1 if isinstance(spec, Range) and spec.position(value) > 0.5 else 1


def _at_the_last_level(scores: Sequence[float]) -> FloatArray:
    """The scores as they would be had they been as high all the time as their trend ends."""
    values: FloatArray = np.asarray(scores, np.float64)
    missing: FloatArray = trend(scores).size * np.arange(len(scores) - 1.0, -1.0, -1.0)
    return values + missing


def _watch_for_a_fall(noise: Noise, scores: Sequence[float]) -> ChangeDetector:
    # The slack is what the end of the trend may be wrong by.
    detector = ChangeDetector(noise, slack=2.0 * noise.count**-0.5)
    detector.reset(up=False)
    for score in scores:
        detector.update(score)
    return detector
