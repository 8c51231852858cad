"""A plain stack of layers in numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import msgspec
import numpy as np

from optix_stream.policies.activations import activation_of
from optix_stream.policies.parts import PolicyPart
from optix_stream.types import Array


class DenseLayer(msgspec.Struct, frozen=True, eq=False):
    """``activation(x @ kernel + bias)``, or an activation alone.

    Attributes:
        kernel: float32 ``[inputs, units]``.
        bias: float32 ``[units]``.
        activation: its name in ``optix_stream.policies.activations``; None: none.
        parameter: of the activation, where it has one.
    """

    kernel: Array | None = None
    bias: Array | None = None
    activation: str | None = None
    parameter: float | None = None


class DenseNetwork(PolicyPart):
    """Layers one after another: float32 ``[N, …]`` in, which is flattened, float32 ``[N, units]`` out.

    Args:
        layers: from the input on; their arrays are taken as they are and never changed.
    """

    __slots__ = ("_layers", "_steps")

    def __init__(self, layers: Sequence[DenseLayer]) -> None:
        self._layers = tuple(layers)
        self._steps = tuple(
            (layer.kernel, layer.bias, activation_of(layer.activation, layer.parameter)) for layer in layers
        )

    def __call__(self, inputs: Array) -> Array:
        # One row as a vector: adding a bias to a matrix costs three times as much, and a feed asks for one at a time.
        x = inputs.reshape(-1) if len(inputs) == 1 else inputs.reshape(len(inputs), -1)
        for kernel, bias, activation in self._steps:
            x = x.copy() if kernel is None else x.dot(kernel)
            if bias is not None:
                x += bias
            if activation is not None:
                x = activation(x)
        return x.reshape(len(inputs), -1)

    def describe(self) -> tuple[Mapping[str, Any], Mapping[str, Array]]:
        arrays: dict[str, Array] = {}
        for index, layer in enumerate(self._layers):
            if layer.kernel is not None:
                arrays[f"{index}/kernel"] = layer.kernel
            if layer.bias is not None:
                arrays[f"{index}/bias"] = layer.bias
        return {"activations": [[layer.activation, layer.parameter] for layer in self._layers]}, arrays

    @classmethod
    def restore(
        cls, structure: Mapping[str, Any], arrays: Mapping[str, Array], generator: np.random.Generator | None
    ) -> Self:
        return cls(
            [
                DenseLayer(arrays.get(f"{index}/kernel"), arrays.get(f"{index}/bias"), activation, parameter)
                for index, (activation, parameter) in enumerate(structure["activations"])
            ]
        )
