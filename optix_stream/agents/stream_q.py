"""``StreamQAgent``: Q(λ) that learns from each transition as it arrives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from optix_stream.agents.encoding import kind_of
from optix_stream.agents.heads import choice_of
from optix_stream.agents.policies import Decide
from optix_stream.agents.stream_agent import StreamAgent, StreamConfig
from optix_stream.contracts import Decision
from optix_stream.errors import ConfigurationError
from optix_stream.types import Array, HyperparamSet


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamQConfig(StreamConfig):
    """What is fixed for the life of a ``StreamQAgent``.

    Attributes:
        epsilon_start: share of random actions at the start.
        exploration_steps: transitions over which it falls linearly to ``epsilon_end``.
    """

    hidden: tuple[int, ...] = (32,)
    epsilon_start: float = 1.0
    exploration_steps: int = 5_000

    def __post_init__(self) -> None:
        StreamConfig.__post_init__(self)
        if not 0.0 <= self.epsilon_start <= 1.0:
            raise ConfigurationError(f"epsilon_start: expected 0 to 1, got {self.epsilon_start}")
        if self.exploration_steps < 1:
            raise ConfigurationError(f"exploration_steps: expected at least 1, got {self.exploration_steps}")


class StreamQAgent(StreamAgent):
    """Stream Q(λ) for discrete actions, with Watkins's cut of the traces: see ``StreamAgent``.

    What led to an action that was not the best one earns nothing by it: traces begin anew there.

    Hyperparameters, all live: ``kappa_value`` (how far below the bound of its step the network stays),
    ``trace_lambda``, ``gamma``, ``epsilon_end`` (share of random actions in the end).

    Args:
        observation_space: Box, Discrete, MultiDiscrete, MultiBinary, or Dict or Tuple of them.
        action_space: Discrete.
        hyperparams: initial values; those that are left out are ``default_hyperparams``.
        seed: of initialisation and exploration; None: not reproducible.
        config: what is fixed.

    Raises:
        ConfigurationError: a space or a hyperparameter that cannot be.
    """

    config_type: ClassVar[type[StreamConfig]] = StreamQConfig
    default_hyperparams: ClassVar[Mapping[str, float]] = {
        "kappa_value": 2.0,
        "trace_lambda": 0.8,
        "gamma": 0.99,
        "epsilon_end": 0.01,
    }

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        hyperparams: HyperparamSet | None = None,
        *,
        seed: int | None = None,
        config: StreamQConfig | None = None,
    ) -> None:
        if kind_of(action_space) != "Discrete":
            raise ConfigurationError(f"action space: expected Discrete, got {action_space}")
        self._start = int(action_space.start)
        self._units = int(action_space.n)
        config = config if config is not None else StreamQConfig()
        self._epsilon_start, self._exploration_steps = config.epsilon_start, config.exploration_steps
        super().__init__(
            observation_space, units=self._units, networks=1, hyperparams=hyperparams, seed=seed, config=config
        )

    @classmethod
    def _of(
        cls,
        observation_space: Any,
        action_space: Any,
        hyperparams: HyperparamSet,
        seed: int | None,
        config: Any,
    ) -> Self:
        return cls(observation_space, action_space, hyperparams, seed=seed, config=config)

    @property
    def epsilon(self) -> float:
        """Share of random actions now."""
        end = self._params["epsilon_end"]
        left = max(1.0 - self._steps / self._exploration_steps, 0.0)
        return end + (self._epsilon_start - end) * left

    def _choose(self, outputs: Array) -> tuple[Any, Mapping[str, Any]]:
        return self._explore(int(outputs[0].argmax()), self.epsilon, self._rng) + self._start, {}

    def _freeze_choice(self, rng: np.random.Generator | None) -> Decide:
        epsilon = self.epsilon

        def decide(outputs: Array) -> Decision:
            best = outputs.argmax(axis=1)
            if rng is not None:
                best = np.asarray([self._explore(int(choice), epsilon, rng) for choice in best], np.int64)
            return Decision(best + self._start)

        return decide

    def _explore(self, choice: int, epsilon: float, rng: np.random.Generator) -> int:
        return int(rng.integers(self._units)) if rng.random() < epsilon else choice

    def _learnable(self, action: Any, extras: Mapping[str, Any] | None) -> int:
        return choice_of(action, self._start, self._units)

    def _differentiate(
        self, outputs: Array, following: Array | None, action: Any, reward: float
    ) -> tuple[float, tuple[float, ...], bool, dict[str, float]]:
        params = self._params
        values: list[float] = outputs[0].tolist()
        value = values[action]
        target = reward if following is None else reward + params["gamma"] * float(following[0].max())
        delta = target - value
        self._output_gradient[0] = 0.0
        self._output_gradient[0, action] = 1.0
        diagnostics = {"td_error": delta, "value": value, "epsilon": self.epsilon}
        return delta, (params["kappa_value"],), value >= max(values), diagnostics
