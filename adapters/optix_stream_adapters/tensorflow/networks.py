"""Networks that agents build for themselves. Every initialiser is seeded; nothing global is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np


def build_mlp(
    input_shape: Sequence[int],
    hidden: Sequence[int],
    units: int,
    *,
    rng: np.random.Generator,
    output_gain: float,
    activation: str = "tanh",
    layer_norm: bool = False,
) -> Any:
    """Dense layers with orthogonal kernels (gain √2, the last ``output_gain``) and zero biases.

    Saxe et al. 2014 (arXiv 1312.6120); the gains are those of Andrychowicz et al. 2020
    (arXiv 2006.05990), section 3.2.

    Args:
        input_shape: of one row; flattened where it is not a vector.
        hidden: width of each hidden layer.
        units: outputs.
        rng: draws a seed for each layer.
        output_gain: of the last layer; small for a policy, so that it starts out undecided.
        activation: of the hidden layers.
        layer_norm: normalise each hidden layer before its activation. Ba et al. 2016 (arXiv 1607.06450).
    """

    def dense(width: int, gain: float, function: str | None) -> Any:
        initializer: Any = keras.initializers.Orthogonal(gain, seed=int(rng.integers(2**31)))
        return keras.layers.Dense(width, function, kernel_initializer=initializer)

    layers: list[Any] = [keras.Input(tuple(input_shape))]
    if len(input_shape) != 1:
        layers.append(keras.layers.Flatten())
    for width in hidden:
        if layer_norm:
            layers += [dense(width, math.sqrt(2.0), None), keras.layers.LayerNormalization()]
            layers.append(keras.layers.Activation(activation))
        else:
            layers.append(dense(width, math.sqrt(2.0), activation))
    layers.append(dense(units, output_gain, None))
    return keras.Sequential(layers)
