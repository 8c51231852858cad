"""``DQNAgent``: deep Q-learning for discrete actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from optix_stream.errors import ConfigurationError
from optix_stream.policies.composed import Sampler
from optix_stream.types import Array, EpisodeData, HyperparamSet
from optix_stream_adapters.tensorflow.actions import CategoricalHead
from optix_stream_adapters.tensorflow.dqn_update import DIAGNOSTICS, dqn_step
from optix_stream_adapters.tensorflow.fused_update import FusedUpdate, Learned
from optix_stream_adapters.tensorflow.networks import SMALL_GAIN, build_mlp
from optix_stream_adapters.tensorflow.off_policy import OffPolicyAgent
from optix_stream_adapters.tensorflow.off_policy_config import OffPolicyConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class DQNConfig(OffPolicyConfig):
    """What is fixed for the life of a ``DQNAgent``; see also ``OffPolicyConfig``.

    Attributes:
        target_interval: gradient steps after which the target network comes closer to the model.
        exploration_steps: transitions over which the share of random actions falls linearly from 1 to ``epsilon_end``.
        priority_exponent: draw rows in proportion to the size of their last error to this power; 0: evenly.

    Raises:
        ConfigurationError: a number out of its range.
    """

    batch_size: int = 64
    update_ratio: float = 0.5
    n_step: int = 3
    target_interval: int = 128
    exploration_steps: int = 10_000
    priority_exponent: float = 0.0

    def __post_init__(self) -> None:
        OffPolicyConfig.__post_init__(self)
        for name in ("target_interval", "exploration_steps"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name}: expected at least 1, got {getattr(self, name)}")


class DQNAgent(OffPolicyAgent):
    """Double deep Q-learning with returns over several steps and, if wanted, prioritised replay.

    Mnih et al. 2015; van Hasselt et al. 2016 (arXiv 1509.06461); Schaul et al. 2016 (arXiv 1511.05952).

    A published policy explores as much as the schedule says at that moment; the deterministic one not at all.

    Hyperparameters, all live: ``learning_rate``, ``gamma``, ``tau`` (share by which the target network comes closer to
    the model when it is due, 1: becomes the same), ``epsilon_end`` (share of random actions in the end),
    ``max_grad_norm``, and ``importance_exponent``, which says how far weights make up for priorities, 0 to 1.

    Args:
        model: built Keras model from observations to one value an action; Adam is the agent's own.
        hyperparams: initial values; those that are left out are ``default_hyperparams``.
        observation_space: needed for observations that are not arrays of numbers.
        action_space: needed for anything but a discrete choice from 0.
        seed: of replay, exploration and networks that the agent builds; None: not reproducible.
        config: what is fixed.

    Raises:
        ConfigurationError: model, spaces or hyperparameters that do not fit each other.
    """

    config: DQNConfig
    config_type: ClassVar[type[Any]] = DQNConfig
    default_hyperparams: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 5e-4,
        "gamma": 0.99,
        "tau": 1.0,
        "epsilon_end": 0.05,
        "max_grad_norm": 10.0,
        "importance_exponent": 0.5,
    }

    def __init__(
        self,
        model: Any,
        hyperparams: HyperparamSet,
        *,
        observation_space: Any = None,
        action_space: Any = None,
        seed: int | None = None,
        config: DQNConfig | None = None,
    ) -> None:
        config = config if config is not None else DQNConfig()
        super().__init__(
            model,
            hyperparams,
            observation_space=observation_space,
            seed=seed,
            config=config,
            action_shape=(),
            action_dtype=np.int32,
            priority_exponent=config.priority_exponent,
        )
        units = self._forward.units
        self._head = CategoricalHead(units) if action_space is None else _head_of(action_space)
        if self._head.units != units:
            raise ConfigurationError(f"model: expected {self._head.units} outputs for {action_space}, got {units}")

    @classmethod
    def _build_networks(
        cls, size: int, action_space: Any, hidden: Sequence[int], rng: np.random.Generator, config: Any
    ) -> tuple[Any, ...]:
        network = build_mlp(
            (size,),
            hidden,
            _head_of(action_space).units,
            rng=rng,
            output_gain=0.1,
            activation="relu",
            hidden_gain=SMALL_GAIN,
            layer_norm=config.layer_norm,
        )
        return (network,)

    @property
    def epsilon(self) -> float:
        """Share of random actions of a policy that is published now."""
        end = self._param("epsilon_end")
        return end + (1.0 - end) * max(1.0 - self._steps / self.config.exploration_steps, 0.0)

    def _sampler(self, rng: np.random.Generator | None) -> Sampler:
        return self._head.explorer(self.epsilon, rng)

    def _learnable(self, window: EpisodeData) -> Array:
        return self._head.learnable(window)

    def _make_learned(self) -> dict[str, Learned]:
        return {"model": Learned(self.model.trainable_variables, has_targets=True)}

    def _make_update(self, learned: Mapping[str, Learned]) -> FusedUpdate:
        step = dqn_step(self.model, target_interval=self.config.target_interval)
        return FusedUpdate(learned, step, DIAGNOSTICS, updates=self.config.updates)

    def _coefficients(self) -> dict[str, float]:
        return {name: self._param(name) for name in ("learning_rate", "max_grad_norm", "tau")}

    def _importance_exponent(self) -> float:
        return self._param("importance_exponent")


def _head_of(action_space: Any) -> CategoricalHead:
    from optix_stream_adapters.tensorflow.spaces import make_head

    head = make_head(action_space)
    if not isinstance(head, CategoricalHead):
        raise ConfigurationError(f"action space: expected Discrete, got {action_space}")
    return head
