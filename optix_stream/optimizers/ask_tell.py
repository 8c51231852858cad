"""How the tuners here are built: they are told scores and asked for hyperparameters."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np

from optix_stream.contracts import BaseOptimizer, Stateful
from optix_stream.errors import CheckpointError
from optix_stream.optimizers.parameters import Bounds, parse_bounds
from optix_stream.types import EvalMetrics, HyperparamSet

Memory = TypeVar("Memory", bound=msgspec.Struct)


class AskTellOptimizer(BaseOptimizer, Stateful, Generic[Memory]):
    """A tuner whose ``suggest`` is made of two: ``tell`` for each new score, then ``ask``.

    ``suggest`` is what the loop calls, and all that a tuner of your own needs; it gets the scores so far each time. A
    subclass of this one is instead told each score once, with the hyperparameters that it was made under, and keeps
    what it remembers in one struct, ``memory``, which is saved and restored as it is.

    Args:
        memory: what it remembers before the first score; its type must hold plain data only.
        seed: of ``rng``; None: not reproducible.
        param_bounds: which parameters it tunes, and between or among which values.

    Attributes:
        specs: what the bounds mean, by parameter.

    Raises:
        ConfigurationError: bounds that mean nothing.
    """

    def __init__(self, memory: Memory, seed: int | None = None, *, param_bounds: Bounds | None = None) -> None:
        self.memory = memory
        self.specs = parse_bounds(param_bounds)
        self.rng = np.random.default_rng(seed)
        self._last_window: int | None = None
        self._basis: str | None = None

    @property
    def bounded(self) -> Collection[str]:
        return self.specs.keys()

    @property
    def has_scores(self) -> bool:
        """Whether it has been told any."""
        return self._last_window is not None

    @abstractmethod
    def tell(self, hyperparams: HyperparamSet, metrics: EvalMetrics) -> None:
        """A window was scored. Called once a score, in order.

        Args:
            hyperparams: what the agent used; not to be changed.
            metrics: the score.
        """

    @abstractmethod
    def ask(self, hyperparams: HyperparamSet) -> HyperparamSet:
        """What to use from here on.

        Args:
            hyperparams: what the agent uses; not to be changed.

        Returns:
            A new set.
        """

    @abstractmethod
    def settle(self, current_hyperparams: HyperparamSet) -> HyperparamSet:
        """Give up a comparison, return what to use instead, and forget scores that later ones cannot be compared with.

        Called where tuning is frozen, and where what scores measure has changed.
        """

    def suggest(self, current_hyperparams: HyperparamSet, metrics_history: Sequence[EvalMetrics]) -> HyperparamSet:
        current = current_hyperparams
        for metrics in self._fresh(metrics_history):
            if self._basis is not None and metrics.basis != self._basis:
                current = self.settle(current)
            self._basis = metrics.basis
            self.tell(current, metrics)
        return self.ask(current)

    def state_dict(self) -> Mapping[str, Any]:
        return {
            "memory": msgspec.to_builtins(self.memory, enc_hook=_plain_number),
            "rng": self.rng.bit_generator.state,
            "last_window": self._last_window,
            "basis": self._basis,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        try:
            saved = msgspec.convert(state, _Saved)
            memory = msgspec.convert(saved.memory, type(self.memory))
            rng = np.random.default_rng()
            rng.bit_generator.state = saved.rng
        except (msgspec.ValidationError, ValueError, TypeError, KeyError) as error:
            raise CheckpointError(f"not the state of a {type(self).__name__}: {error}") from error
        self.memory, self.rng = memory, rng
        self._last_window, self._basis = saved.last_window, saved.basis

    def _fresh(self, history: Sequence[EvalMetrics]) -> list[EvalMetrics]:
        """The scores since the last time; by the window's number, which outlives a restart of the program."""
        fresh: list[EvalMetrics] = []
        for metrics in reversed(history):
            if metrics.episode_id == self._last_window:
                break
            fresh.append(metrics)
        if history:
            self._last_window = history[-1].episode_id
        return fresh[::-1]


class _Saved(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    memory: Any
    rng: dict[str, Any]
    last_window: int | None
    basis: str | None


def _plain_number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"expected plain data in a tuner's memory, got {type(value).__name__}")
