"""What agents with an actor and two critics for continuous actions share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from optix_stream.errors import ConfigurationError
from optix_stream.policies.composed import Sampler
from optix_stream.types import Array, EpisodeData, HyperparamSet
from optix_stream_adapters.tensorflow.critics import TwinCritics, build_critics
from optix_stream_adapters.tensorflow.networks import SMALL_GAIN, build_mlp
from optix_stream_adapters.tensorflow.off_policy import OffPolicyAgent
from optix_stream_adapters.tensorflow.off_policy_config import OffPolicyConfig
from optix_stream_adapters.tensorflow.squashed import SquashedActions


@dataclass(frozen=True, kw_only=True, slots=True)
class ActorCriticConfig(OffPolicyConfig):
    """What is fixed for the life of an agent with an actor and two critics; see also ``OffPolicyConfig``.

    Attributes:
        noise_correlation: of the exploration noise of a step with that of the one before, 0 to below 1. Where single
            pushes lead nowhere, a high one does; the memory is about ``1 / (1 - noise_correlation)`` steps.

    Raises:
        ConfigurationError: a number out of its range.
    """

    noise_correlation: float = 0.0

    def __post_init__(self) -> None:
        OffPolicyConfig.__post_init__(self)
        if not 0.0 <= self.noise_correlation < 1.0:
            raise ConfigurationError(f"noise_correlation: expected 0 to below 1, got {self.noise_correlation}")


class ActorCriticAgent(OffPolicyAgent):
    """Acts by an actor whose outputs are squashed into the bounds of the action space.

    Args:
        actor: built Keras model from observations to ``outputs_per_unit`` numbers for each number of an action.
        critics: two built Keras models from an observation and an action, one after the other, to ``[N, 1]``.
        hyperparams: initial values; those that are left out are ``default_hyperparams``.
        action_space: a bounded Box of floats.
        observation_space: needed for observations that are not arrays of numbers.
        seed: of replay, exploration and networks that the agent builds; None: not reproducible.
        config: what is fixed.

    Raises:
        ConfigurationError: models, spaces or hyperparameters that do not fit each other.
    """

    config_type: ClassVar[type[Any]] = ActorCriticConfig
    outputs_per_unit: ClassVar[int]

    def __init__(
        self,
        actor: Any,
        critics: Sequence[Any],
        hyperparams: HyperparamSet,
        *,
        action_space: Any,
        observation_space: Any = None,
        seed: int | None = None,
        config: Any = None,
    ) -> None:
        self._actions = SquashedActions(action_space)
        self._critics = TwinCritics(critics, int(np.prod(actor.input_shape[1:])) + self._actions.units)
        super().__init__(
            actor,
            hyperparams,
            observation_space=observation_space,
            action_shape=(self._actions.units,),
            action_dtype=np.float32,
            seed=seed,
            config=config,
        )
        expected = self.outputs_per_unit * self._actions.units
        if self._forward.units != expected:
            raise ConfigurationError(
                f"actor: expected {expected} outputs for {action_space}, got {self._forward.units}"
            )

    @classmethod
    def _build_networks(
        cls, size: int, action_space: Any, hidden: Sequence[int], rng: np.random.Generator, config: Any
    ) -> tuple[Any, ...]:
        units = SquashedActions(action_space).units
        outputs = cls.outputs_per_unit * units
        actor = build_mlp(
            (size,), hidden, outputs, rng=rng, output_gain=0.01, activation="relu", hidden_gain=SMALL_GAIN
        )
        return actor, build_critics(size + units, hidden, rng, layer_norm=config.layer_norm)

    def _sampler(self, rng: np.random.Generator | None) -> Sampler:
        return self._actions.sampler(self._noise_std(), self.config.noise_correlation, rng)

    def _noise_std(self) -> float | None:
        """Standard deviation of exploration after squashing; None: the actor's outputs say it."""
        return None

    def _learnable(self, window: EpisodeData) -> Array:
        return self._actions.learnable(window)

    def _normal(self, count: int, size: int) -> Array:
        return self._rng.standard_normal((count, size, self._actions.units), np.float32)
