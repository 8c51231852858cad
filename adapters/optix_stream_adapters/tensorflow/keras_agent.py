"""What every agent around a Keras model shares: acting and publishing, and its state in memory and on disk."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from optix_stream.agents.settings import config_of
from optix_stream.agents.state import Specs, read_state, write_state
from optix_stream.contracts import BaseAgent, Policy, PolicyPublisher, Reproducible, Restorable
from optix_stream.errors import CheckpointError, ConfigurationError
from optix_stream.policies import EncodedInput
from optix_stream.policies.composed import Sampler
from optix_stream.recipes import AgentRecipe
from optix_stream.trees import as_tree, with_batch_axis
from optix_stream.types import Array, HyperparamSet, Tree
from optix_stream_adapters.tensorflow.forward import ModelForward
from optix_stream_adapters.tensorflow.hyperparams import check_hyperparams
from optix_stream_adapters.tensorflow.policy import ModelPolicy


class KerasAgent(BaseAgent, PolicyPublisher, Reproducible, Restorable):
    """Acts by a Keras model. What is learned, and how, is a subclass's.

    Args:
        model: Keras model from observations to what ``_sampler`` decides by.
        hyperparams: initial values.
        observation_space: needed for observations that are not arrays of numbers.
        seed: of everything random; None: not reproducible.
        config: what is fixed; None: the defaults of ``config_type``.

    Raises:
        ConfigurationError: the model does not fit the space, or a hyperparameter cannot be.
    """

    config_type: ClassVar[type[Any]]
    default_hyperparams: ClassVar[Mapping[str, Any]]

    def __init__(
        self, model: Any, hyperparams: HyperparamSet, *, observation_space: Any, seed: int | None, config: Any
    ) -> None:
        acting, learning, self._initial_seed = np.random.SeedSequence(seed).spawn(3)
        self._acting_rng = np.random.default_rng(acting)
        self._rng = np.random.default_rng(learning)
        self.config = config if config is not None else self.config_type()
        self.model = model
        check_hyperparams(hyperparams.params, self.default_hyperparams)
        self._hyperparams = hyperparams.copy()
        self._encoder = None
        if observation_space is not None:
            # Here, because an agent without spaces needs no Gymnasium.
            from optix_stream_adapters.tensorflow.encoding import ObservationEncoder

            self._encoder = ObservationEncoder(observation_space)
            if not model.built:
                model.build((None, self._encoder.size))
        self._forward = ModelForward(model)
        shape = self._forward.input_shape
        if self._encoder is not None and self._encoder.size != int(np.prod(shape)):
            raise ConfigurationError(f"model: expected {self._encoder.size} inputs for its space, got {shape}")
        self._recipe: AgentRecipe | None = None
        self._read_variables: Any = None
        self._version = 0
        self._steps = 0

    @property
    def recipe(self) -> AgentRecipe | None:
        """How ``for_spaces`` was called; None for an agent around models of the user's own."""
        return self._recipe

    # --- acting

    def act(self, observation: Tree) -> Any:
        """One sampled action, by the weights of this moment; an int where actions are discrete."""
        policy = ModelPolicy(self._version, self._prepare(), self._forward.live(), self._sampler(self._acting_rng))
        action = policy.act(with_batch_axis(as_tree(observation))).actions[0]
        return int(action) if isinstance(action, np.integer) else action

    def publish_policy(self, *, deterministic: bool = False) -> Policy:
        """A policy of copies; ``deterministic`` takes the best action and says nothing besides."""
        self._version += 1
        sampler = self._sampler(None if deterministic else self._acting_rng)
        return ModelPolicy(self._version, self._prepare(), self._forward.freeze(), sampler)

    @abstractmethod
    def _sampler(self, rng: np.random.Generator | None) -> Sampler:
        """Decides by the model's outputs, frozen; without a generator it does not explore."""

    def _prepare(self) -> EncodedInput:
        """Observations as the networks take them: encoded, and of their input shape."""
        return EncodedInput(self._forward.input_shape, self._encoder)

    # --- hyperparameters

    def get_hyperparams(self) -> HyperparamSet:
        """A copy."""
        return self._hyperparams.copy()

    def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        """Put them in force; unknown ones are carried.

        Raises:
            ConfigurationError: one is not a finite number, or out of its range.
        """
        check_hyperparams(hyperparams.params, self.default_hyperparams)
        self._hyperparams = hyperparams.copy()

    def _param(self, name: str) -> float:
        return float(self._hyperparams.params.get(name, self.default_hyperparams[name]))

    # --- state

    def capture_state(self) -> Any:
        """Everything that ``learn`` changes. Tensors are immutable, so that nothing is copied twice."""
        return (
            self._tensors(),
            self._arrays(),
            self._counters(),
            self._rng.bit_generator.state,
            self._hyperparams.copy(),
        )

    def _tensors(self) -> dict[str, Any]:
        """The present values of all variables."""
        if self._read_variables is None:
            variables = self._variables()
            # One call into a graph: a read of each by itself would cost more than a small update.
            self._read_variables = tf.function(
                lambda: {name: tf.identity(variable.value) for name, variable in variables.items()}, autograph=False
            )
        tensors: dict[str, Any] = self._read_variables()
        return tensors

    def restore_state(self, state: Any) -> None:
        tensors, arrays, counters, rng, hyperparams = state
        for name, variable in self._variables().items():
            variable.assign(tensors[name])
        self._restore_arrays(arrays)
        self._restore_counters(counters)
        self._rng.bit_generator.state = rng
        self._hyperparams = hyperparams.copy()

    def save_weights(self, path: str) -> None:
        """Write all variables, optimizer slots, normalisers, counters and generators to ``path``.

        Raises:
            CheckpointError: it could not be written.
        """
        tensors = {name: tensor.numpy() for name, tensor in self._tensors().items()}
        state = {
            "version": self._version,
            "counters": self._counters(),
            "rng": self._rng.bit_generator.state,
            "acting_rng": self._acting_rng.bit_generator.state,
        }
        write_state(path, tensors | self._arrays(), state)

    def load_weights(self, path: str) -> None:
        """Restore what ``save_weights`` wrote; all of it or nothing.

        Raises:
            CheckpointError: it is missing, damaged, or of another agent.
        """
        variables, arrays = self._variables(), self._arrays()
        specs: Specs = {
            **{name: (tuple(each.shape), each.value.dtype.as_numpy_dtype) for name, each in variables.items()},
            **{name: (array.shape, array.dtype) for name, array in arrays.items()},
        }
        tensors, state = read_state(path, lambda _: specs)
        before = self.capture_state()
        try:
            for name, variable in variables.items():
                variable.assign(tensors[name])
            self._restore_arrays({name: tensors[name] for name in arrays})
            self._restore_counters(state["counters"])
            version = int(state["version"])
            self._rng.bit_generator.state = state["rng"]
            # Last, because what is captured does not hold it.
            self._acting_rng.bit_generator.state = state["acting_rng"]
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            self.restore_state(before)
            raise CheckpointError(f"cannot read weights in {path}: {error!r}") from error
        # A version never goes back: a policy that is loaded later is a later policy.
        self._version = max(self._version, version)

    @abstractmethod
    def _variables(self) -> dict[str, Any]:
        """Every variable by a name that says where it is in the agent, not what Keras called it."""

    def _arrays(self) -> dict[str, Array]:
        """State in arrays besides the variables; never changed in place."""
        return {}

    def _restore_arrays(self, arrays: dict[str, Array]) -> None:
        pass

    def _counters(self) -> dict[str, Any]:
        """State that is no array, as JSON."""
        return {"steps": self._steps}

    def _restore_counters(self, counters: dict[str, Any]) -> None:
        self._steps = int(counters["steps"])


def split_settings(
    settings: Mapping[str, Any], default_hyperparams: Mapping[str, Any], config_type: type[Any]
) -> tuple[dict[str, Any], Any]:
    """Keywords of ``for_spaces`` as hyperparameters, with their defaults, and a config.

    Raises:
        ConfigurationError: a keyword that is neither, or a value that cannot be.
    """
    params = {name: settings.get(name, value) for name, value in default_hyperparams.items()}
    known = {field.name for field in fields(config_type)}
    rest = {name: value for name, value in settings.items() if name not in params}
    if not rest.keys() <= known:
        names = sorted({*params, *known})
        raise ConfigurationError(f"config: expected some of {names}, got {sorted(rest.keys() - known)}")
    check_hyperparams(params, default_hyperparams)
    return params, config_of(config_type, rest)


def require_finite(diagnostics: Mapping[str, float]) -> None:
    """Raise FloatingPointError, naming what is not finite."""
    broken = {name: value for name, value in diagnostics.items() if not np.isfinite(value)}
    if broken:
        raise FloatingPointError(f"learning diverged: expected finite numbers, got {broken}")
