"""``StreamACAgent``: actor and critic that learn from each transition as it arrives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from optix_stream.agents.heads import make_head
from optix_stream.agents.policies import Decide
from optix_stream.agents.stream_agent import StreamAgent, StreamConfig
from optix_stream.types import Array, HyperparamSet

_POLICY, _VALUE = 0, 1


class StreamACAgent(StreamAgent):
    """Stream AC(λ), for discrete and for continuous actions: see ``StreamAgent``.

    The extras of a continuous decision hold ``raw_action``, what was drawn before it was clipped to
    the space; where it is missing or NaN, the executed action is learned from.

    Hyperparameters, all live: ``kappa_policy`` and ``kappa_value`` (how far below the bound of its
    step each network stays), ``trace_lambda``, ``gamma``, ``entropy_coef``.

    Args:
        observation_space: Box, Discrete, MultiDiscrete, MultiBinary, or Dict or Tuple of them.
        action_space: Discrete, or a Box of floats.
        hyperparams: initial values; those that are left out are ``default_hyperparams``.
        seed: of initialisation and exploration; None: not reproducible.
        config: what is fixed.

    Raises:
        ConfigurationError: a space or a hyperparameter that cannot be.
    """

    default_hyperparams: ClassVar[Mapping[str, float]] = {
        "kappa_policy": 3.0,
        "kappa_value": 2.0,
        "trace_lambda": 0.8,
        "gamma": 0.99,
        "entropy_coef": 0.01,
    }

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        hyperparams: HyperparamSet | None = None,
        *,
        seed: int | None = None,
        config: StreamConfig | None = None,
    ) -> None:
        self._head = make_head(action_space)
        super().__init__(
            observation_space, units=self._head.units, networks=2, hyperparams=hyperparams, seed=seed, config=config
        )
        # The networks are of one shape; of the second's outputs the first is the value, the others are idle.
        self._output_gradient[_VALUE, 0] = 1.0

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

    def _choose(self, outputs: Array) -> tuple[Any, Mapping[str, Any]]:
        return self._head.sample(outputs[_POLICY], self._rng)

    def _freeze_choice(self, rng: np.random.Generator | None) -> Decide:
        head = self._head
        return lambda outputs: head.decide(outputs, rng)

    def _learnable(self, action: Any, extras: Mapping[str, Any] | None) -> Any:
        return self._head.learnable(action, extras)

    def _differentiate(
        self, outputs: Array, following: Array | None, action: Any, reward: float
    ) -> tuple[float, tuple[float, ...], bool, dict[str, float]]:
        params = self._params
        value = float(outputs[_VALUE, 0])
        target = reward if following is None else reward + params["gamma"] * float(following[_VALUE, 0])
        delta = target - value
        # The step multiplies by δ, so that its sign makes each one raise the entropy.
        weight = params["entropy_coef"] if delta >= 0.0 else -params["entropy_coef"]
        entropy = self._head.differentiate(outputs[_POLICY], action, weight, self._output_gradient[_POLICY])
        diagnostics = {"td_error": delta, "value": value, "entropy": entropy}
        return delta, (params["kappa_policy"], params["kappa_value"]), True, diagnostics
