"""Which of Keras' activation functions there are in numpy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

ACTIVATIONS: Mapping[Any, str | None] = {
    keras.activations.linear: None,
    keras.activations.relu: "relu",
    keras.activations.leaky_relu: "leaky_relu",
    keras.activations.tanh: "tanh",
    keras.activations.sigmoid: "sigmoid",
    keras.activations.elu: "elu",
    keras.activations.selu: "selu",
    keras.activations.silu: "silu",
    keras.activations.gelu: "gelu",
    keras.activations.softplus: "softplus",
    keras.activations.softsign: "softsign",
    keras.activations.softmax: "softmax",
}
"""By Keras' function, the name in ``optix_stream.policies.activations``; None is the identity."""
