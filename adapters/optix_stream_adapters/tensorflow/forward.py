"""A Keras model as a fast function of its weights: numpy where it is a plain stack, compiled otherwise."""

from __future__ import annotations

import functools
import logging
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from optix_stream.errors import ConfigurationError
from optix_stream.policies import DenseLayer, DenseNetwork
from optix_stream.policies.composed import Forward
from optix_stream.types import Array
from optix_stream_adapters.tensorflow.activations import ACTIVATIONS

logger = logging.getLogger(__name__)

_TOLERANCE = 1e-5
_PROBE_ROWS = 8


class ModelForward:
    """Makes frozen functions out of a model's present weights.

    Args:
        model: a built Keras model with one input and one output, ``[N, …]`` to ``[N, units]``.

    Raises:
        ConfigurationError: the model is not built, has several inputs or outputs, or does not know
            their shapes.

    Attributes:
        input_shape: of one row.
        units: outputs a row.
        traces: how often the model has been traced into a graph.
    """

    def __init__(self, model: Any) -> None:
        if not model.built:
            raise ConfigurationError("model: expected a built model (give it an Input layer), got one without weights")
        try:
            shape, output = model.input_shape, model.output_shape
        except AttributeError as error:
            raise ConfigurationError(
                f"model: expected a Sequential or functional model, got {type(model).__name__}, whose shapes "
                "are not known; wrap it: keras.Model(inputs, model(inputs))"
            ) from error
        if not isinstance(shape, tuple) or not shape or isinstance(shape[0], tuple) or None in shape[1:]:
            raise ConfigurationError(f"model: expected one input of known shape, got {shape}")
        if not isinstance(output, tuple) or len(output) != 2 or output[1] is None:
            raise ConfigurationError(f"model: expected one output [N, units], got {output}")
        self.input_shape: tuple[int, ...] = shape[1:]
        self.units: int = output[1]
        self.traces = 0
        self._model = model
        self._stack = _find_stack(model)
        self._has_warned = False
        self._probe = np.random.default_rng(0).standard_normal((_PROBE_ROWS, *self.input_shape)).astype(np.float32)
        self._call = tf.function(
            self._trace, input_signature=(tf.TensorSpec([None, *self.input_shape], tf.float32),), autograph=False
        )
        self._with_weights: Any = None

    def __call__(self, inputs: Array) -> Array:
        """The model's answer with its weights of this moment."""
        return np.asarray(self._call(tf.constant(inputs)))

    def _trace(self, inputs: Any) -> Any:
        self.traces += 1
        return self._model(inputs, training=False)

    def live(self) -> Forward:
        """The fastest function of this moment's weights, not checked against the model."""
        return self._compiled_forward() if self._stack is None else _read_stack(self._stack)

    def freeze(self) -> Forward:
        """The fastest function of this moment's weights, which are copied.

        The numpy one is compared with the model on a small batch; where they differ by more than
        1e-5 (relative to the largest output, where that is above 1), the compiled one is used.
        """
        if self._stack is None:
            return self._compiled_forward()
        forward = _read_stack(self._stack)
        expected = self(self._probe)
        difference = float(np.max(np.abs(forward(self._probe) - expected)))
        # Written so that NaN counts as a difference.
        if difference <= _TOLERANCE * max(1.0, float(np.max(np.abs(expected)))):
            return forward
        if not self._has_warned:
            logger.warning("the numpy form of %s is off by %g; acting through its graph", self._model.name, difference)
            self._has_warned = True
        return self._compiled_forward()

    def _read(self) -> tuple[list[Any], list[Any]]:
        model = self._model
        return (
            [tf.convert_to_tensor(variable.value) for variable in model.trainable_variables],
            [tf.convert_to_tensor(variable.value) for variable in model.non_trainable_variables],
        )

    def _compiled_forward(self) -> Forward:
        if self._with_weights is None:
            self._with_weights = self._compile()
        compiled, (trainable, others) = self._with_weights, self._read()
        return lambda inputs: np.asarray(compiled(trainable, others, tf.constant(inputs)))

    def _compile(self) -> Any:
        # The weights are arguments, so that one graph serves every published policy; the free batch
        # axis makes it serve every batch size.
        trainable, others = self._read()
        model = self._model

        def call(trainable: Any, others: Any, inputs: Any) -> Any:
            self.traces += 1
            return model.stateless_call(trainable, others, inputs, training=False)[0]

        return tf.function(
            call,
            input_signature=(
                [tf.TensorSpec(value.shape, value.dtype) for value in trainable],
                [tf.TensorSpec(value.shape, value.dtype) for value in others],
                tf.TensorSpec([None, *self.input_shape], tf.float32),
            ),
            autograph=False,
        )


class _Step(NamedTuple):
    """One layer of a plain stack: ``activation(x @ kernel + bias)``, or an activation alone."""

    activation: str | None
    parameter: float | None = None
    kernel: Any = None
    bias: Any = None


def _read_stack(stack: list[_Step]) -> DenseNetwork:
    return DenseNetwork(
        [DenseLayer(_copy(step.kernel), _copy(step.bias), step.activation, step.parameter) for step in stack]
    )


def _copy(variable: Any) -> Any:
    return None if variable is None else np.array(variable.value.numpy(), np.float32, order="C")


def _find_stack(model: Any) -> list[_Step] | None:
    """The model as a stack, or None where it is anything else."""
    layers = _chain(model)
    if layers is None:
        return None
    stack: list[_Step] = []
    is_flat = len(model.input_shape) == 2
    for layer in layers:
        if layer.compute_dtype != "float32":
            return None
        kind = type(layer)
        if kind in (keras.layers.InputLayer, keras.layers.Dropout, keras.layers.Identity):
            continue
        if kind is keras.layers.Flatten:
            is_flat = True
            continue
        step = _step_of(layer, kind)
        if step is None or not is_flat:
            return None
        stack.append(step)
    return stack


def _step_of(layer: Any, kind: type) -> _Step | None:
    if kind in (keras.layers.Dense, keras.layers.Activation):
        if layer.activation not in ACTIVATIONS:
            return None
        activation = ACTIVATIONS[layer.activation]
        if kind is keras.layers.Activation:
            return _Step(activation)
        return _Step(activation, None, layer.kernel, layer.bias)
    if kind is keras.layers.LeakyReLU:
        return _Step("leaky_relu", float(layer.negative_slope))
    if kind is keras.layers.ELU:
        return _Step("elu", float(layer.alpha))
    if kind is keras.layers.LayerNormalization and not layer.weights and list(layer.axis) in ([1], [-1]):
        return _Step("layer_norm", float(layer.epsilon))
    return None


def _chain(model: Any) -> list[Any] | None:
    """The model's layers if each takes what the one before it gives, else None."""
    if type(model) is keras.Sequential:
        return list(model.layers)
    if type(model) is not _functional_type():
        return None
    layers: list[Any] = list(model.layers)
    previous: Any = None
    for layer in layers:
        # Both are those of its first use: what uses a layer twice does not end where this ends.
        if previous is not None and layer.input is not previous:
            return None
        previous = layer.output
    return layers if previous is model.output else None


@functools.cache
def _functional_type() -> Any:
    """What ``keras.Model(inputs, outputs)`` makes; Keras does not export the class."""
    inputs = keras.Input((1,))
    return type(keras.Model(inputs, inputs))
