"""Multilayer perceptrons with hand-written gradients: LayerNorm, then LeakyReLU, sparsely initialised.

Networks of one shape stand side by side in one array, so that each numpy call does the work of all
of them: at these sizes a call costs more than its arithmetic.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from optix_stream.types import Array

SLOPE = 0.01
"""Of LeakyReLU where its input is not positive."""
LAYER_NORM_EPSILON = 1e-5
_SLOPE = np.float32(SLOPE)
_EPSILON = np.float32(LAYER_NORM_EPSILON)


class TwinNetworks:
    """``count`` networks of one shape on one input; not thread-safe, its buffers are its own.

    Layers are affine; all but the last are followed by LayerNorm without parameters and LeakyReLU.

    Args:
        inputs: width of the input.
        hidden: width of each hidden layer.
        outputs: width of the output.
        count: networks.

    Attributes:
        parameters: float32 ``[count, size]``, a row for each network; change it in place only.
        gradient: float32 ``[count, size]``, what ``backward`` wrote.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int, count: int) -> None:
        self.widths = (inputs, *hidden, outputs)
        size = sum((before + 1) * after for before, after in itertools.pairwise(self.widths))
        self.parameters = np.zeros((count, size), np.float32)
        self.gradient = np.zeros_like(self.parameters)
        layers = [
            _Layer(*parts)
            for parts in zip(_views(self.parameters, self.widths), _views(self.gradient, self.widths), strict=True)
        ]
        self._hidden = [_Hidden(layer) for layer in layers[:-1]]
        self._last = layers[-1]
        self._column = np.zeros((inputs, 1), np.float32)
        self.outputs = self._last.outputs[:, :, 0]
        """Float32 ``[count, outputs]``, what ``forward`` computed last."""

    def initialize(self, rng: np.random.Generator, sparsity: float = 0.9) -> None:
        """Draw new parameters. Elsayed et al. 2024 (arXiv 2410.14606), sparse initialisation.

        Biases are 0. Of the weights of each unit a share ``sparsity`` is 0, rounded up, the others are
        uniform within ``±1/sqrt(fan-in)``. With fewer than ten inputs that leaves the first layer empty,
        which is no fault: behind it LayerNorm passes large gradients until there is something to normalise.
        """
        for weights, biases in _views(self.parameters, self.widths):
            biases[:] = 0.0
            fan_in = weights.shape[2]
            bound = 1.0 / math.sqrt(fan_in)
            kept = fan_in - math.ceil(sparsity * fan_in)
            drawn = rng.uniform(-bound, bound, weights.shape)
            order = rng.random(weights.shape).argsort(axis=2)
            weights[:] = np.where(order < kept, drawn, 0.0)

    def forward(self, inputs: Array) -> Array:
        """``outputs`` for float32 ``[inputs]``; they are overwritten by the next call."""
        column = self._column
        column[:, 0] = inputs
        for layer in self._hidden:
            column = layer.forward(column)
        self._last.forward(column)
        return self.outputs

    def backward(self, output_gradient: Array) -> Array:
        """``gradient`` of ``sum(output_gradient * outputs)``, for the input of the last ``forward``.

        Args:
            output_gradient: float32 ``[count, outputs]``.
        """
        flowing = self._last.backward(output_gradient[:, :, None], is_first=not self._hidden)
        for index in range(len(self._hidden) - 1, -1, -1):
            flowing = self._hidden[index].backward(flowing, is_first=index == 0)
        return self.gradient


class _Layer:
    """An affine layer: its parameters and its gradient, as views."""

    def __init__(self, parameters: tuple[Array, Array], gradients: tuple[Array, Array]) -> None:
        weights, biases = parameters
        self._weights, self._biases = weights, biases[:, :, None]
        self._transposed = weights.transpose(0, 2, 1)
        self._weight_gradient, bias_gradient = gradients
        self._bias_gradient = bias_gradient[:, :, None]
        count, after, before = weights.shape
        self.outputs = np.zeros((count, after, 1), np.float32)
        self._flowing = np.zeros((count, before, 1), np.float32)
        self._input_row = np.zeros((1, before), np.float32)

    def forward(self, inputs: Array) -> None:
        np.matmul(self._weights, inputs, out=self.outputs)
        np.add(self.outputs, self._biases, out=self.outputs)
        self._input_row = inputs.swapaxes(-1, -2)

    def backward(self, gradient: Array, *, is_first: bool) -> Array:
        """The gradient with respect to the inputs, unless there is none below to want it."""
        np.multiply(gradient, self._input_row, out=self._weight_gradient)
        self._bias_gradient[...] = gradient
        return gradient if is_first else np.matmul(self._transposed, gradient, out=self._flowing)


class _Hidden:
    """An affine layer with LayerNorm and LeakyReLU behind it."""

    def __init__(self, layer: _Layer) -> None:
        self._layer = layer
        shape = layer.outputs.shape
        self._share = np.float32(1.0 / shape[1])
        self._outputs, self._slopes, self._scratch = (np.zeros(shape, np.float32) for _ in range(3))
        self._mean, self._deviation, self._along = (np.zeros((shape[0], 1, 1), np.float32) for _ in range(3))

    def forward(self, inputs: Array) -> Array:
        layer, share, scratch, deviation = self._layer, self._share, self._scratch, self._deviation
        layer.forward(inputs)
        # Becomes the normalised activation, in place.
        normal = layer.outputs
        mean = np.add.reduce(normal, axis=1, keepdims=True, out=self._mean)
        np.multiply(mean, share, out=mean)
        np.subtract(normal, mean, out=normal)
        np.multiply(normal, normal, out=scratch)
        np.add.reduce(scratch, axis=1, keepdims=True, out=deviation)
        np.multiply(deviation, share, out=deviation)
        np.add(deviation, _EPSILON, out=deviation)
        np.sqrt(deviation, out=deviation)
        np.divide(normal, deviation, out=normal)
        np.multiply(normal, _SLOPE, out=scratch)
        return np.maximum(normal, scratch, out=self._outputs)

    def backward(self, gradient: Array, *, is_first: bool) -> Array:
        normal, slopes, scratch, share = self._layer.outputs, self._slopes, self._scratch, self._share
        np.greater(normal, 0.0, out=slopes)
        np.maximum(slopes, _SLOPE, out=slopes)
        # Becomes the gradient with respect to what LayerNorm was given, in place.
        flowing = np.multiply(gradient, slopes, out=slopes)
        mean = np.add.reduce(flowing, axis=1, keepdims=True, out=self._mean)
        np.multiply(mean, share, out=mean)
        np.multiply(flowing, normal, out=scratch)
        along = np.add.reduce(scratch, axis=1, keepdims=True, out=self._along)
        np.multiply(along, share, out=along)
        np.multiply(normal, along, out=scratch)
        np.subtract(flowing, scratch, out=flowing)
        np.subtract(flowing, mean, out=flowing)
        np.divide(flowing, self._deviation, out=flowing)
        return self._layer.backward(flowing, is_first=is_first)


class FrozenNetwork:
    """A copy of one of the networks that takes batches and never changes; safe from any thread.

    Args:
        networks: where it is copied from.
        index: which of them.
    """

    __slots__ = ("_layers",)

    def __init__(self, networks: TwinNetworks, index: int = 0) -> None:
        parameters = networks.parameters[index : index + 1].copy()
        self._layers = [(weights[0].T, biases[0]) for weights, biases in _views(parameters, networks.widths)]

    def __call__(self, rows: Array) -> Array:
        """Outputs ``[N, outputs]`` for float32 ``[N, inputs]``."""
        *hidden, (last_weights, last_biases) = self._layers
        for weights, biases in hidden:
            rows = rows @ weights
            rows += biases
            rows -= rows.mean(axis=1, keepdims=True)
            rows /= np.sqrt(np.multiply(rows, rows).mean(axis=1, keepdims=True) + _EPSILON)
            rows = np.maximum(rows, rows * _SLOPE)
        result: Array = rows @ last_weights
        result += last_biases
        return result


def _views(flat: Array, widths: Sequence[int]) -> list[tuple[Array, Array]]:
    """Weights ``[count, after, before]`` and biases ``[count, after]`` of each layer, as views."""
    result, start = [], 0
    count = len(flat)
    for before, after in itertools.pairwise(widths):
        end = start + before * after
        weights = flat[:, start:end].reshape(count, after, before)
        assert np.may_share_memory(weights, flat), "a copy would silently learn nothing"
        result.append((weights, flat[:, end : end + after]))
        start = end + after
    return result
