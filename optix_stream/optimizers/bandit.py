"""A bandit over values: for choices, and for parameters whose best value changes as the run goes on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from optix_stream.errors import ConfigurationError
from optix_stream.optimizers.ask_tell import AskTellOptimizer
from optix_stream.optimizers.block_effect import EffectKind, trend
from optix_stream.optimizers.parameters import Bounds, tunable
from optix_stream.types import EvalMetrics, HyperparamSet


@dataclass(frozen=True, kw_only=True, slots=True)
class BanditConfig:
    """How ``BanditOptimizer`` plays.

    Attributes:
        arms: values into which a range is cut; choices are what they are.
        block: scored windows a play lasts.
        memory: plays that are remembered of each parameter.
        exploration: weight of what is unknown against what is known to be good; 0 is greedy.
        effect: what a play is worth: ``"slope"``, how fast the score rose in it, or ``"level"``, its mean.
    """

    arms: int = 5
    block: int = 16
    memory: int = 50
    exploration: float = 1.0
    effect: EffectKind = "slope"

    def __post_init__(self) -> None:
        if self.arms < 2 or self.memory < self.arms:
            raise ConfigurationError(f"expected 2 <= arms <= memory, got {self.arms} and {self.memory}")
        if self.block < 3:
            raise ConfigurationError(f"block: expected at least 3 windows, got {self.block}")
        if not 0.0 <= self.exploration < math.inf:
            raise ConfigurationError(f"exploration: expected a finite number of at least 0, got {self.exploration}")


class _Played(msgspec.Struct, frozen=True):
    value: Any
    reward: float


class _Play(msgspec.Struct):
    name: str
    usual: Any
    value: Any
    scores: list[float] = []


class _Memory(msgspec.Struct):
    turn: int = 0
    played: dict[str, list[_Played]] = {}
    play: _Play | None = None


class BanditOptimizer(AskTellOptimizer[_Memory]):
    """Sliding-window UCB, after Garivier and Moulines 2011 (arXiv 0805.3415), one bandit a parameter.

    Parameters take turns. A play holds one value for a block of windows; the next one is of the value with the largest
    ``mean + exploration * deviation * sqrt(2 ln n / plays)`` over the latest ``n`` plays of its parameter, those that
    were not played among them first. Between two plays at least one window has the value with the best mean; only
    plays of other values are probes.

    Args:
        param_bounds: which parameters to tune, and between or among which values.
        config: how it plays.

    Raises:
        ConfigurationError: bounds that mean nothing, or more choices than plays are remembered.
    """

    def __init__(self, param_bounds: Bounds | None = None, *, config: BanditConfig | None = None) -> None:
        super().__init__(_Memory(), param_bounds=param_bounds)
        self._config = config if config is not None else BanditConfig()
        for name, spec in self.specs.items():
            if len(spec.grid(self._config.arms)) > self._config.memory:
                raise ConfigurationError(
                    f"memory: expected at least as many plays as {name} has choices, got {self._config.memory}"
                )

    @property
    def is_probing(self) -> bool:
        play = self.memory.play
        return play is not None and play.value != play.usual

    @property
    def is_comparing(self) -> bool:
        return self.memory.play is not None

    def tell(self, hyperparams: HyperparamSet, metrics: EvalMetrics) -> None:
        play = self.memory.play
        if play is None:
            return
        if hyperparams.params.get(play.name) != play.value:
            self.memory.play = None  # Someone else set it, such as a rollback.
        else:
            play.scores = [*play.scores, metrics.primary_score]

    def ask(self, hyperparams: HyperparamSet) -> HyperparamSet:
        new, memory, play = hyperparams.copy(), self.memory, self.memory.play
        if play is not None:
            if len(play.scores) >= self._config.block:
                new.params[play.name] = self._finish(play)
            return new
        specs = tunable(hyperparams, self.specs)
        if specs and self.has_scores:
            name = list(specs)[memory.turn % len(specs)]
            usual = new.params[name]
            # The value that is in force is an arm too, so that the best is never worse than it.
            arms = list(dict.fromkeys([usual, *specs[name].grid(self._config.arms)]))
            memory.play = _Play(name, usual, self._choose(arms, memory.played.get(name, [])))
            new.params[name] = memory.play.value
        return new

    def settle(self, current_hyperparams: HyperparamSet) -> HyperparamSet:
        new, play = current_hyperparams.copy(), self.memory.play
        if play is not None and new.params.get(play.name) == play.value:
            new.params[play.name] = play.usual
        self.memory.play, self.memory.played = None, {}
        return new

    def _choose(self, arms: Sequence[Any], played: Sequence[_Played]) -> Any:
        rewards = {arm: [past.reward for past in played if past.value == arm] for arm in arms}
        for arm in arms:
            if not rewards[arm]:
                return arm
        width = self._config.exploration * float(np.std([past.reward for past in played]))
        unknown = 2.0 * math.log(len(played))
        return max(arms, key=lambda arm: float(np.mean(rewards[arm])) + width * math.sqrt(unknown / len(rewards[arm])))

    def _finish(self, play: _Play) -> Any:
        """Remember what it was worth; return the value with the best mean."""
        memory = self.memory
        is_slope = self._config.effect == "slope"
        reward = trend(play.scores).size if is_slope else float(np.mean(play.scores))
        played = [*memory.played.get(play.name, []), _Played(play.value, reward)][-self._config.memory :]
        memory.played[play.name] = played
        memory.play = None
        memory.turn += 1
        values = list(dict.fromkeys(past.value for past in played))
        return max(values, key=lambda value: float(np.mean([past.reward for past in played if past.value == value])))
