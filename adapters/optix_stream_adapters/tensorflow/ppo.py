"""``PPOAgent``: proximal policy optimisation for discrete and continuous actions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from optix_stream.errors import ConfigurationError
from optix_stream.policies import EncodedInput
from optix_stream.types import Array, EpisodeData, HyperparamSet
from optix_stream_adapters.tensorflow.actions import LOG_PROB, are_own
from optix_stream_adapters.tensorflow.agent import TFAgent, standardize
from optix_stream_adapters.tensorflow.keras_agent import require_finite
from optix_stream_adapters.tensorflow.normalizers import ObservationNormalizer, RewardScaler
from optix_stream_adapters.tensorflow.ppo_update import PPOUpdate, Rollout
from optix_stream_adapters.tensorflow.returns import find_segments, generalized_advantages


@dataclass(frozen=True, kw_only=True, slots=True)
class PPOConfig:
    """What is fixed for the life of a ``PPOAgent``; the rest are hyperparameters.

    Attributes:
        epochs: passes over a window.
        minibatch_size: rows a gradient step, at most.
        normalize_observations: standardise observations by their running moments.
        normalize_rewards: divide rewards by the running deviation of the discounted return.
        schedule_steps: transitions over which ``learning_rate`` and ``clip_range`` fall linearly to
            ``schedule_end`` of their values; None: they stay.
        schedule_end: share that is left at the end of the schedule, 0 to 1.
        advantage_floor: advantages are divided by their deviation, but by no less than this many times the reward of
            a typical step (root mean square): where nothing is to be gained, dividing by the deviation would make a
            gradient of what is left, the noise of the value network, and lead a perfect policy astray.
        jit_compile: fuse the update by XLA; slower to start, and again for each larger window.
    """

    epochs: int = 10
    minibatch_size: int = 64
    normalize_observations: bool = False
    normalize_rewards: bool = False
    schedule_steps: int | None = None
    schedule_end: float = 0.0
    advantage_floor: float = 0.5
    jit_compile: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.minibatch_size < 1:
            raise ConfigurationError(
                f"expected epochs and minibatch_size of at least 1, got {self.epochs} and {self.minibatch_size}"
            )
        if self.schedule_steps is not None and self.schedule_steps < 1:
            raise ConfigurationError(f"schedule_steps: expected at least 1, got {self.schedule_steps}")
        if not 0.0 <= self.schedule_end <= 1.0:
            raise ConfigurationError(f"schedule_end: expected 0 to 1, got {self.schedule_end}")
        if not self.advantage_floor >= 0.0:
            raise ConfigurationError(f"advantage_floor: expected at least 0, got {self.advantage_floor}")


class PPOAgent(TFAgent):
    """PPO with generalised advantages. Schulman et al. 2017 (arXiv 1707.06347).

    The clipped ratio is against the log-probabilities that the policy which acted wrote into
    ``extras``, so that an update stays right when the policy changes within a window; where they are
    missing, the present policy is taken to have acted. Where they are NaN, it was not the policy that chose, as when
    a deadline was missed: such a row teaches the value network alone.

    Hyperparameters, all live: ``learning_rate`` (of both networks), ``gamma``, ``gae_lambda``,
    ``clip_range``, ``entropy_coef``, ``value_coef``, ``max_grad_norm``, and ``target_kl``: the update
    of a window ends at a gradient step whose KL divergence from the acting policy is above 1.5 times
    it; None: never.

    Args:
        model: built Keras model from observations to logits, or to the means of a Gaussian policy.
        optimizer: of the policy; the value network has one like it.
        hyperparams: initial values; those that are left out are ``default_hyperparams``.
        value_model: built Keras model from observations to ``[N, 1]``; by default two layers of 64.
        observation_space: needed for observations that are not arrays of numbers.
        action_space: needed for anything but a discrete choice from 0.
        seed: of sampling, shuffling and networks that the agent builds; None: not reproducible.
        config: what is fixed.

    Raises:
        ConfigurationError: models, spaces or hyperparameters that do not fit each other.
    """

    config: PPOConfig
    config_type: ClassVar[type[Any]] = PPOConfig
    default_hyperparams: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 3e-4,
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "clip_range": 0.2,
        "entropy_coef": 0.0,
        "value_coef": 0.5,
        "max_grad_norm": 0.5,
        "target_kl": None,
    }

    def __init__(
        self,
        model: Any,
        optimizer: Any,
        hyperparams: HyperparamSet,
        *,
        value_model: Any = None,
        observation_space: Any = None,
        action_space: Any = None,
        seed: int | None = None,
        config: PPOConfig | None = None,
    ) -> None:
        super().__init__(
            model,
            optimizer,
            hyperparams,
            value_model=value_model,
            observation_space=observation_space,
            action_space=action_space,
            seed=seed,
            config=config,
        )
        size = math.prod(self._forward.input_shape)
        self._observations = ObservationNormalizer(size) if self.config.normalize_observations else None
        self._rewards = RewardScaler() if self.config.normalize_rewards else None

    def learn(self, episode_data: EpisodeData) -> dict[str, float]:
        """``config.epochs`` passes over the window.

        Raises:
            TransitionMismatchError: observations or actions that do not fit.
            FloatingPointError: a loss or the gradient is not finite.
        """
        window = episode_data
        if not window.length:
            return {}
        # The window was acted with the moments before it, and is learned with the same; only the very
        # first one comes before there are any.
        is_first = self._observations is not None and not self._observations.count
        if is_first:
            self._observe(window)
        inputs = self._prepare()(window.observations)
        actions = self._head.learnable(window)
        segments = find_segments(window)
        gamma = self._param("gamma")
        rewards = window.rewards if self._rewards is None else self._rewards.scale(window, segments, gamma)
        values, bootstraps = self._values(inputs, window, segments)
        advantages = generalized_advantages(segments, rewards, values, bootstraps, gamma, self._param("gae_lambda"))
        own = are_own(window)
        log_probs = window.extras.get(LOG_PROB)
        if log_probs is None or is_first:
            log_probs = np.where(own, self._log_probs(inputs, actions), np.nan)
        weights = np.zeros(window.length)
        floor = self.config.advantage_floor * math.sqrt(np.mean(np.square(rewards)))
        weights[own] = standardize(advantages[own], floor)
        rollout = Rollout(inputs, actions, log_probs, weights, advantages + values)
        diagnostics = self._improve(rollout)
        if not is_first:
            self._observe(window)
        self._steps += window.length
        require_finite(diagnostics)
        return diagnostics

    def _improve(self, rollout: Rollout) -> dict[str, float]:
        left = self._schedule()
        target = self._hyperparams.params.get("target_kl", self.default_hyperparams["target_kl"])
        coefficients = {name: self._param(name) for name in ("value_coef", "entropy_coef", "max_grad_norm")}
        coefficients |= {
            "clip_range": left * self._param("clip_range"),
            "kl_limit": math.inf if target is None else 1.5 * float(target),
        }
        if self._has_schedule():
            diagnostics: dict[str, float] = self._update(rollout, self._rng, coefficients)
            return diagnostics
        rate = float(np.asarray(self.optimizer.learning_rate))
        self.optimizer.learning_rate = self.value_optimizer.learning_rate = left * rate
        try:
            diagnostics = self._update(rollout, self._rng, coefficients)
        finally:
            # Between updates it is the hyperparameter, which tuners read and set.
            self.optimizer.learning_rate = rate
        return diagnostics | {"learning_rate": left * rate}

    def _schedule(self) -> float:
        """The share of ``learning_rate`` and ``clip_range`` that is in force."""
        steps = self.config.schedule_steps
        if steps is None:
            return 1.0
        return max(1.0 - (1.0 - self.config.schedule_end) * self._steps / steps, self.config.schedule_end)

    def _log_probs(self, inputs: Array, actions: Array) -> Array:
        return np.asarray(self._head.log_prob(tf.constant(self._forward(inputs)), tf.constant(actions)))

    def _observe(self, window: EpisodeData) -> None:
        if self._observations is not None:
            rows = super()._prepare()(window.observations)
            self._observations.update(rows.reshape(len(rows), -1))

    def _prepare(self) -> EncodedInput:
        if self._observations is None or not self._observations.count:
            return super()._prepare()
        return EncodedInput(self._forward.input_shape, self._encoder, *self._observations.standardization())

    def _make_update(self) -> Any:
        return PPOUpdate(
            self.model,
            self.value_model,
            self._head,
            self.optimizer,
            self.value_optimizer,
            self._policy_variables,
            self._value_variables,
            epochs=self.config.epochs,
            minibatch_size=self.config.minibatch_size,
            jit_compile=self.config.jit_compile,
        )

    def _arrays(self) -> dict[str, Array]:
        parts = {"observations": self._observations, "rewards": self._rewards}
        return {
            f"{part}/{name}": value
            for part, moments in parts.items()
            if moments is not None
            for name, value in moments.tensors().items()
        }

    def _restore_arrays(self, arrays: dict[str, Array]) -> None:
        for part, moments in (("observations", self._observations), ("rewards", self._rewards)):
            if moments is not None:
                moments.restore({name: arrays[f"{part}/{name}"] for name in moments.tensors()})

    def _counters(self) -> dict[str, Any]:
        gathered = [] if self._rewards is None else [[key, value] for key, value in self._rewards.gathered.items()]
        return super()._counters() | {"gathered": gathered}

    def _restore_counters(self, counters: dict[str, Any]) -> None:
        super()._restore_counters(counters)
        if self._rewards is not None:
            self._rewards.gathered = {key: float(value) for key, value in counters["gathered"]}
