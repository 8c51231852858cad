"""Many gradient steps in one compiled call: networks as tensors in a loop, with Adam written out.

Nothing here knows an algorithm; it brings one gradient step as a function of all that is learned and one minibatch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from optix_stream.errors import ConfigurationError
from optix_stream.types import Array

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8


class Values(NamedTuple):
    """What is learned, as tensors of one moment.

    Attributes:
        weights: of the networks.
        first: Adam's running means of the gradients.
        second: Adam's running means of their squares.
        count: float32 scalar, Adam steps so far.
        targets: slowly following copies of the weights; none where there are none.
    """

    weights: list[Any]
    first: list[Any]
    second: list[Any]
    count: Any
    targets: list[Any]


Step: TypeAlias = Callable[[dict[str, Values], dict[str, Any], dict[str, Any]], tuple[dict[str, Values], Any, Any]]
"""``(values, minibatch, coefficients) -> (values, diagnostics [K], errors [B])``: one gradient step."""


class Learned:
    """Variables that are learned together, with Adam's moments and, if wanted, targets.

    Args:
        weights: trainable Keras variables.
        has_targets: whether copies follow them.

    Attributes:
        weights: the same.
    """

    def __init__(self, weights: Sequence[Any], *, has_targets: bool = False) -> None:
        self.weights = list(weights)
        starts = [np.array(variable.value.numpy()) for variable in weights]
        self._first = [_variable(np.zeros_like(start)) for start in starts]
        self._second = [_variable(np.zeros_like(start)) for start in starts]
        self._targets = [_variable(start) for start in starts] if has_targets else []
        self._count = _variable(np.zeros((), np.float32))

    def read(self) -> Values:
        """The present values; in a graph."""
        lists = (self.weights, self._first, self._second, self._targets)
        weights, first, second, targets = ([_read(variable) for variable in each] for each in lists)
        return Values(weights, first, second, _read(self._count), targets)

    def write(self, values: Values) -> None:
        """Make these the present values; in a graph."""
        for variables, tensors in (
            (self.weights, values.weights),
            (self._first, values.first),
            (self._second, values.second),
            (self._targets, values.targets),
        ):
            for variable, tensor in zip(variables, tensors, strict=True):
                variable.assign(tensor)
        self._count.assign(values.count)

    def variables(self) -> dict[str, Any]:
        """All of it, by name."""
        named = {f"weights/{index:03d}/{variable.name}": variable for index, variable in enumerate(self.weights)}
        for group, variables in (("first", self._first), ("second", self._second), ("targets", self._targets)):
            named.update({f"{group}/{index:03d}": variable for index, variable in enumerate(variables)})
        return named | {"count": self._count}


def _variable(start: Array) -> Any:
    return keras.Variable(start, trainable=False, dtype=start.dtype.name)


def _read(variable: Any) -> Any:
    return tf.identity(variable.value)


def as_function(model: Any) -> Callable[[Sequence[Any], Any], Any]:
    """A Keras model as a function of its trainable weights and its inputs; layers behave as in inference.

    Raises:
        ConfigurationError: it is not built.
    """
    if not model.built:
        raise ConfigurationError("model: expected a built model (give it an Input layer), got one without weights")
    others = [variable.value for variable in model.non_trainable_variables]

    def call(weights: Sequence[Any], inputs: Any) -> Any:
        return model.stateless_call(list(weights), others, inputs, training=False)[0]

    return call


def adam(values: Values, gradients: Sequence[Any], rate: Any) -> Values:
    """One step of Adam. Kingma & Ba 2015 (arXiv 1412.6980), algorithm 1 in the order of section 2."""
    count = values.count + 1.0
    size = rate * tf.sqrt(1.0 - _BETA_2**count) / (1.0 - _BETA_1**count)
    # So that epsilon is that of the algorithm, which adds it to the corrected moment.
    epsilon = _EPSILON * tf.sqrt(1.0 - _BETA_2**count)
    first = [_BETA_1 * m + (1.0 - _BETA_1) * g for m, g in zip(values.first, gradients, strict=True)]
    second = [_BETA_2 * v + (1.0 - _BETA_2) * tf.square(g) for v, g in zip(values.second, gradients, strict=True)]
    weights = [w - size * m / (tf.sqrt(v) + epsilon) for w, m, v in zip(values.weights, first, second, strict=True)]
    return values._replace(weights=weights, first=first, second=second, count=count)


def follow(values: Values, rate: Any) -> Values:
    """Targets that have come closer to the weights by ``rate``, 0 to 1 (equal)."""
    targets = [t + rate * (w - t) for t, w in zip(values.targets, values.weights, strict=True)]
    return values._replace(targets=targets)


class FusedUpdate:
    """``updates`` gradient steps in one call, fused by XLA. Its shapes never change, so that it is traced once.

    Args:
        learned: what is learned, by name.
        step: one gradient step.
        diagnostics: names of what it returns, whose means over the steps are reported.
        updates: steps a call.

    Attributes:
        traces: how often it has been traced into a graph.
    """

    def __init__(self, learned: Mapping[str, Learned], step: Step, diagnostics: Sequence[str], *, updates: int) -> None:
        self.traces = 0
        self._diagnostics = tuple(diagnostics)

        def update(columns: dict[str, Any], coefficients: dict[str, Any]) -> tuple[Any, Any]:
            self.traces += 1
            batch_size = next(iter(columns.values())).shape[1]

            def body(index: Any, values: Any, totals: Any, errors: Any) -> Any:
                minibatch = {name: column[index] for name, column in columns.items()}
                values, told, error = step(values, minibatch, coefficients)
                return index + 1, values, totals + told, errors.write(index, error)

            _, values, totals, errors = tf.while_loop(
                lambda index, *_: index < updates,
                body,
                (
                    0,
                    {name: each.read() for name, each in learned.items()},
                    tf.zeros(len(self._diagnostics)),
                    tf.TensorArray(tf.float32, updates, element_shape=[batch_size]),
                ),
                maximum_iterations=updates,
            )
            for name, each in learned.items():
                each.write(values[name])
            return totals / updates, errors.stack()

        self._update = tf.function(update, autograph=False, jit_compile=True)

    def __call__(
        self, columns: Mapping[str, Array], coefficients: Mapping[str, float]
    ) -> tuple[dict[str, float], Array]:
        """Make the steps.

        Args:
            columns: of all minibatches, ``[updates, B, …]`` each.
            coefficients: numbers that the step wants.

        Returns:
            Means of the diagnostics, and the errors of each row, ``[updates, B]``.
        """
        told, errors = self._update(
            {name: tf.constant(column) for name, column in columns.items()},
            {name: tf.constant(value, tf.float32) for name, value in coefficients.items()},
        )
        return dict(zip(self._diagnostics, told.numpy().tolist(), strict=True)), errors.numpy()
