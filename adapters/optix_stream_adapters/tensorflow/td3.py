"""``TD3Agent``: twin delayed deep deterministic policy gradient for continuous actions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from optix_stream.errors import ConfigurationError
from optix_stream.types import Array
from optix_stream_adapters.tensorflow.continuous import ActorCriticAgent, ActorCriticConfig
from optix_stream_adapters.tensorflow.fused_update import FusedUpdate, Learned
from optix_stream_adapters.tensorflow.td3_update import DIAGNOSTICS, td3_step


@dataclass(frozen=True, kw_only=True, slots=True)
class TD3Config(ActorCriticConfig):
    """What is fixed for the life of a ``TD3Agent``; see also ``ActorCriticConfig``.

    Attributes:
        actor_interval: gradient steps of the critics for each of the actor and the targets.

    Raises:
        ConfigurationError: a number out of its range.
    """

    actor_interval: int = 2

    def __post_init__(self) -> None:
        ActorCriticConfig.__post_init__(self)
        if self.actor_interval < 1:
            raise ConfigurationError(f"actor_interval: expected at least 1, got {self.actor_interval}")


class TD3Agent(ActorCriticAgent):
    """Deterministic policy gradient with two critics and smoothed targets. Fujimoto et al. 2018 (arXiv 1802.09477).

    It explores by noise on its actions, whose standard deviation before the first gradient step is 1.

    Hyperparameters, all live: ``learning_rate``, ``gamma``, ``tau`` (share by which targets come closer a step), and,
    in half widths of the action space, ``exploration_std``, ``smoothing_std`` and ``smoothing_clip`` of the targets.

    For the arguments see ``ActorCriticAgent``; the actor has an output for each number of an action.
    """

    config_type: ClassVar[type[Any]] = TD3Config
    outputs_per_unit: ClassVar[int] = 1
    default_hyperparams: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 1e-3,
        "gamma": 0.99,
        "tau": 0.005,
        "exploration_std": 0.1,
        "smoothing_std": 0.2,
        "smoothing_clip": 0.5,
    }

    def _noise_std(self) -> float | None:
        return 1.0 if self._steps < self.config.learning_starts else self._param("exploration_std")

    def _make_learned(self) -> dict[str, Learned]:
        return {
            "actor": Learned(self.model.trainable_variables, has_targets=True),
            "critics": Learned(self._critics.variables, has_targets=True),
        }

    def _make_update(self, learned: Mapping[str, Learned]) -> FusedUpdate:
        step = td3_step(self.model, self._critics, actor_interval=self.config.actor_interval)
        return FusedUpdate(learned, step, DIAGNOSTICS, updates=self.config.updates)

    def _coefficients(self) -> dict[str, float]:
        return {name: self._param(name) for name in ("learning_rate", "tau", "smoothing_std", "smoothing_clip")}

    def _noise(self, count: int, size: int) -> dict[str, Array]:
        return {"noise": self._normal(count, size)}
