"""``TFAgent``: policy gradient with a learned baseline, and what on-policy agents share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import keras
import numpy as np
import tensorflow as tf

from optix_stream.agents.settings import widths_of
from optix_stream.errors import ConfigurationError
from optix_stream.policies.composed import Sampler
from optix_stream.recipes import recipe_of
from optix_stream.types import Array, EpisodeData, FloatArray, HyperparamSet
from optix_stream_adapters.tensorflow.actions import ActionHead, CategoricalHead
from optix_stream_adapters.tensorflow.forward import ModelForward
from optix_stream_adapters.tensorflow.hyperparams import check_hyperparams
from optix_stream_adapters.tensorflow.keras_agent import KerasAgent, require_finite, split_settings
from optix_stream_adapters.tensorflow.networks import build_mlp
from optix_stream_adapters.tensorflow.reinforce import ReinforceUpdate
from optix_stream_adapters.tensorflow.returns import Segments, discounted_returns, find_segments

_EPSILON = 1e-8


@dataclass(frozen=True, kw_only=True, slots=True)
class TFAgentConfig:
    """What is fixed for the life of a ``TFAgent``; the rest are hyperparameters.

    Attributes:
        value_updates: full-batch gradient steps on the baseline a window.
    """

    value_updates: int = 20


class TFAgent(KerasAgent):
    """REINFORCE with a value baseline, around a Keras model. Williams 1992.

    The policy is sampled. Returns stop at the end of an episode, never cross streams or gaps, and go
    on with the value of the last ``next_observation`` where the window or a truncation cuts them off.
    Subclass it and override ``learn`` for another algorithm: ``self.model``, ``self.optimizer`` and
    ``self._hyperparams.params`` are what a subclass works with, and publishing, rollback and
    checkpoints keep working.

    Hyperparameters, all live: ``learning_rate`` (the optimizer's), ``value_learning_rate``, ``gamma``,
    ``entropy_coef``. Those that are left out have the values of ``default_hyperparams``, except
    ``learning_rate``, which then stays as the optimizer has it.

    Args:
        model: built Keras model from observations to logits, or to the means of a Gaussian policy.
        optimizer: of the policy.
        hyperparams: initial values.
        compute_loss_fn: ``(model, window, returns) -> loss``, in place of the policy-gradient loss;
            ``returns`` is a float32 tensor ``[T]`` with mean 0 and standard deviation 1.
        value_model: built Keras model from observations to ``[N, 1]``; by default two layers of 64.
        observation_space: needed for observations that are not arrays of numbers.
        action_space: needed for anything but a discrete choice from 0.
        seed: of sampling, shuffling and networks that the agent builds; None: not reproducible.
        config: what is fixed.

    Raises:
        ConfigurationError: models, spaces or hyperparameters that do not fit each other.
    """

    config_type: ClassVar[type[Any]] = TFAgentConfig
    default_hyperparams: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 3e-3,
        "value_learning_rate": 1e-3,
        "gamma": 0.99,
        "entropy_coef": 0.0,
    }

    def __init__(
        self,
        model: Any,
        optimizer: Any,
        hyperparams: HyperparamSet,
        compute_loss_fn: Callable[[Any, EpisodeData, Any], Any] | None = None,
        *,
        value_model: Any = None,
        observation_space: Any = None,
        action_space: Any = None,
        seed: int | None = None,
        config: Any = None,
    ) -> None:
        super().__init__(model, hyperparams, observation_space=observation_space, seed=seed, config=config)
        self.optimizer = optimizer
        self._compute_loss_fn = compute_loss_fn
        shape = self._forward.input_shape
        self._head = self._make_head(action_space)
        if value_model is None:
            rng = np.random.default_rng(self._initial_seed)
            value_model = build_mlp(shape, (64, 64), 1, rng=rng, output_gain=1.0)
        self.value_model = value_model
        self._value_forward = ModelForward(value_model)
        if self._value_forward.input_shape != shape or self._value_forward.units != 1:
            got = f"{self._value_forward.input_shape} to {self._value_forward.units}"
            raise ConfigurationError(f"value_model: expected {shape} to 1, got {got}")
        self._policy_variables = [*model.trainable_variables, *self._head.variables]
        owned = {id(variable) for variable in self._policy_variables}
        self._value_variables = [v for v in value_model.trainable_variables if id(v) not in owned]
        self.value_optimizer = keras.optimizers.Adam(1e-3, epsilon=1e-5)
        optimizer.build(self._policy_variables)
        self.value_optimizer.build(self._value_variables)
        self._update = self._make_update()
        self._set_learning_rate(hyperparams)

    @classmethod
    def for_spaces(
        cls,
        observation_space: Any,
        action_space: Any,
        *,
        hidden: Sequence[int] = (64, 64),
        seed: int | None = None,
        **config: Any,
    ) -> Self:
        """An agent with networks of its own.

        Args:
            observation_space: Box, Discrete, MultiDiscrete, MultiBinary, or Dict or Tuple of them.
            action_space: Discrete, or a Box of floats.
            hidden: width of each hidden layer, for both networks.
            seed: fixes everything that is random.
            **config: hyperparameters, and fields of ``config_type``.

        Raises:
            ConfigurationError: an unsupported space, an unknown keyword, or a value that cannot be.
        """
        from optix_stream_adapters.tensorflow.encoding import ObservationEncoder
        from optix_stream_adapters.tensorflow.spaces import make_head

        given = {"observation_space": observation_space, "action_space": action_space, "hidden": hidden, "seed": seed}
        recipe = recipe_of(cls.for_spaces, given | config)
        hidden = widths_of(hidden)
        params, fixed = split_settings(config, cls.default_hyperparams, cls.config_type)
        size = (ObservationEncoder(observation_space).size,)
        units = make_head(action_space).units
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3,)))
        agent = cls(
            build_mlp(size, hidden, units, rng=rng, output_gain=0.01),
            keras.optimizers.Adam(params["learning_rate"], epsilon=1e-5),
            HyperparamSet(params),
            value_model=build_mlp(size, hidden, 1, rng=rng, output_gain=1.0),
            observation_space=observation_space,
            action_space=action_space,
            seed=seed,
            config=fixed,
        )
        agent._recipe = recipe
        return agent

    def _sampler(self, rng: np.random.Generator | None) -> Sampler:
        return self._head.sampler(rng)

    # --- learning

    def learn(self, episode_data: EpisodeData) -> dict[str, float]:
        """One policy-gradient step, then ``config.value_updates`` steps of the baseline.

        Raises:
            TransitionMismatchError: observations or actions that do not fit.
            FloatingPointError: the loss or the gradient is not finite.
        """
        if not episode_data.length:
            return {}
        inputs = self._prepare()(episode_data.observations)
        segments = find_segments(episode_data)
        values, bootstraps = self._values(inputs, episode_data, segments)
        returns = discounted_returns(segments, episode_data.rewards, bootstraps, self._param("gamma"))
        if self._compute_loss_fn is not None:
            diagnostics = self._learn_by(self._compute_loss_fn, episode_data, returns)
        else:
            diagnostics = self._update.step_policy(
                inputs, self._head.learnable(episode_data), standardize(returns - values), self._param("entropy_coef")
            )
        self.value_optimizer.learning_rate = self._param("value_learning_rate")
        diagnostics["value_loss"] = self._update.fit_values(inputs, returns, self.config.value_updates)
        self._steps += episode_data.length
        require_finite(diagnostics)
        return diagnostics

    def _learn_by(
        self, compute_loss: Callable[[Any, EpisodeData, Any], Any], window: EpisodeData, returns: FloatArray
    ) -> dict[str, float]:
        with tf.GradientTape() as tape:
            loss = compute_loss(self.model, window, tf.constant(standardize(returns), tf.float32))
        variables = self._policy_variables
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        pairs = [(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None]
        if not pairs:
            raise ConfigurationError(
                "compute_loss_fn: expected a loss that depends on the model, got one that does not"
            )
        norm = tf.linalg.global_norm([gradient for gradient, _ in pairs])
        self.optimizer.apply_gradients(pairs)
        return {"loss": float(loss), "grad_norm": float(norm)}

    def _values(self, inputs: Array, window: EpisodeData, segments: Segments) -> tuple[FloatArray, FloatArray]:
        """``V`` of each row's observation, and of its next one where a return goes on from there; ``[T]``, ``[T]``."""
        values = self._value_forward(inputs)[:, 0].astype(np.float64)
        following = np.zeros(window.length)
        rows = np.flatnonzero(segments.bootstraps)
        if window.next_observations is not None and len(rows):
            # All rows, so that a compiled graph sees one shape.
            following = self._value_forward(self._prepare()(window.next_observations))[:, 0].astype(np.float64)
        return values, following

    def _make_update(self) -> Any:
        return ReinforceUpdate(
            self.model,
            self.value_model,
            self._head,
            self.optimizer,
            self.value_optimizer,
            self._policy_variables,
            self._value_variables,
        )

    def _make_head(self, action_space: Any) -> ActionHead:
        units = self._forward.units
        if action_space is None:
            return CategoricalHead(units)
        from optix_stream_adapters.tensorflow.spaces import make_head

        head = make_head(action_space)
        if head.units != units:
            raise ConfigurationError(f"model: expected {head.units} outputs for {action_space}, got {units}")
        return head

    # --- hyperparameters

    def get_hyperparams(self) -> HyperparamSet:
        """A copy, with ``learning_rate`` as the optimizer has it now."""
        if not self._has_schedule():
            live = np.float32(np.asarray(self.optimizer.learning_rate))
            # The optimizer holds a float32; the same number must not look changed.
            if live != np.float32(self._hyperparams.params.get("learning_rate", np.nan)):
                self._hyperparams.params["learning_rate"] = float(live)
        return self._hyperparams.copy()

    def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        """Put them in force; ``learning_rate`` goes to the optimizer at once, unknown ones are carried.

        Raises:
            ConfigurationError: one is not a finite number or out of its range, or it is a ``learning_rate`` for an
                optimizer that has a schedule.
        """
        check_hyperparams(hyperparams.params, self.default_hyperparams)
        self._set_learning_rate(hyperparams)
        self._hyperparams = hyperparams.copy()

    def _set_learning_rate(self, hyperparams: HyperparamSet) -> None:
        rate = hyperparams.params.get("learning_rate")
        if rate is None:
            return
        if self._has_schedule():
            raise ConfigurationError(
                "learning_rate: expected an optimizer with a plain number, got one with a schedule; "
                "leave the hyperparameter out"
            )
        self.optimizer.learning_rate = float(rate)

    def _has_schedule(self) -> bool:
        return isinstance(self.optimizer.get_config()["learning_rate"], dict)

    # --- state

    def _variables(self) -> dict[str, Any]:
        groups = {
            "model": self.model.variables,
            "head": self._head.variables,
            "value_model": self.value_model.variables,
        }
        named = {
            f"{group}/{index:03d}/{variable.name}": variable
            for group, variables in groups.items()
            for index, variable in enumerate(variables)
        }
        # Slots are called after their variables, whose names Keras counts up.
        for group, optimizer in (("optimizer", self.optimizer), ("value_optimizer", self.value_optimizer)):
            named.update({f"{group}/{index:03d}": variable for index, variable in enumerate(optimizer.variables)})
        return named


def standardize(values: FloatArray, floor: float = 0.0) -> FloatArray:
    """Shifted to mean 0 and divided by the standard deviation, or by ``floor`` where that is more.

    A single one stays as it is.
    """
    if len(values) < 2:
        return values
    result: FloatArray = (values - values.mean()) / max(values.std() + _EPSILON, floor)
    return result
