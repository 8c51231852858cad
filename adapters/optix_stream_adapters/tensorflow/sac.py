"""``SACAgent``: soft actor-critic for continuous actions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import keras
import numpy as np

from optix_stream.types import Array
from optix_stream_adapters.tensorflow.continuous import ActorCriticAgent
from optix_stream_adapters.tensorflow.fused_update import FusedUpdate, Learned
from optix_stream_adapters.tensorflow.sac_update import DIAGNOSTICS, sac_step


class SACAgent(ActorCriticAgent):
    """Soft actor-critic with two critics and a learned temperature. Haarnoja et al. 2018 (arXiv 1812.05905).

    Its actor says means and log deviations of a Gaussian that is squashed into the bounds of the action space. Before
    the first gradient step that is close to even over the space, so that nothing else is needed to begin with.

    Hyperparameters, all live: ``learning_rate`` (of actor and critics), ``temperature_learning_rate``, ``gamma``,
    ``tau`` (share by which targets come closer a step), and ``target_entropy`` in nats; None: the negative number of
    an action's numbers.

    For the arguments see ``ActorCriticAgent``; the actor has two outputs for each number of an action.
    """

    outputs_per_unit: ClassVar[int] = 2
    default_hyperparams: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 1e-3,
        "temperature_learning_rate": 1e-3,
        "gamma": 0.99,
        "tau": 0.005,
        "target_entropy": None,
    }

    @property
    def temperature(self) -> float:
        """What a nat of entropy is worth now, in units of return."""
        (log_temperature,) = self._learned["temperature"].weights
        return math.exp(float(log_temperature.value.numpy()))

    def _make_learned(self) -> dict[str, Learned]:
        return {
            "actor": Learned(self.model.trainable_variables),
            "critics": Learned(self._critics.variables, has_targets=True),
            "temperature": Learned([keras.Variable(np.zeros((), np.float32), name="log_temperature")]),
        }

    def _make_update(self, learned: Mapping[str, Learned]) -> FusedUpdate:
        return FusedUpdate(learned, sac_step(self.model, self._critics), DIAGNOSTICS, updates=self.config.updates)

    def _coefficients(self) -> dict[str, float]:
        target = self._hyperparams.params.get("target_entropy")
        names = ("learning_rate", "temperature_learning_rate", "tau")
        return {name: self._param(name) for name in names} | {
            "target_entropy": -float(self._actions.units) if target is None else float(target)
        }

    def _noise(self, count: int, size: int) -> dict[str, Array]:
        return {name: self._normal(count, size) for name in ("noise", "next_noise")}
