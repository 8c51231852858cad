"""Networks that agents build for themselves. Every initialiser is seeded; nothing global is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

SMALL_GAIN = 1.0 / math.sqrt(3.0)
"""Gain whose functions are smooth to begin with: temporal differences then carry over to what is alike, no further."""


def build_mlp(
    input_shape: Sequence[int],
    hidden: Sequence[int],
    units: int,
    *,
    rng: np.random.Generator,
    output_gain: float,
    activation: str = "tanh",
    hidden_gain: float = math.sqrt(2.0),
    layer_norm: bool = False,
) -> Any:
    """Dense layers with orthogonal kernels and zero biases.

    Saxe et al. 2014 (arXiv 1312.6120); the default gain is that of Andrychowicz et al. 2020
    (arXiv 2006.05990), section 3.2.

    Args:
        input_shape: of one row; flattened where it is not a vector.
        hidden: width of each hidden layer.
        units: outputs.
        rng: draws a seed for each layer.
        output_gain: of the last layer; small for a policy, so that it starts out undecided.
        activation: of the hidden layers.
        hidden_gain: of all layers but the last.
        layer_norm: normalise each hidden layer before its activation, without parameters. Ba et al. 2016
            (arXiv 1607.06450).
    """

    def dense(width: int, gain: float, function: str | None) -> Any:
        initializer: Any = keras.initializers.Orthogonal(gain, seed=int(rng.integers(2**31)))
        return keras.layers.Dense(width, function, kernel_initializer=initializer)

    layers: list[Any] = [keras.Input(tuple(input_shape))]
    if len(input_shape) != 1:
        layers.append(keras.layers.Flatten())
    for width in hidden:
        if layer_norm:
            layers += [dense(width, hidden_gain, None), keras.layers.LayerNormalization(center=False, scale=False)]
            layers.append(keras.layers.Activation(activation))
        else:
            layers.append(dense(width, hidden_gain, activation))
    layers.append(dense(units, output_gain, None))
    return keras.Sequential(layers)
