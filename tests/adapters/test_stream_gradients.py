"""The streaming agents' hand-written gradients beside automatic differentiation."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from optix_stream.agents.heads import ActionHead, CategoricalHead, GaussianHead
from optix_stream.agents.network import TwinNetworks
from optix_stream.types import Array


def run_network(flat: Any, widths: tuple[int, ...], inputs: Array) -> Any:
    start, values = 0, tf.constant(inputs[:, None], tf.float64)
    for index, (before, after) in enumerate(itertools.pairwise(widths)):
        middle, end = start + before * after, start + (before + 1) * after
        values = tf.reshape(flat[start:middle], (after, before)) @ values + flat[middle:end, None]
        start = end
        if index < len(widths) - 2:
            mean, variance = tf.nn.moments(values, axes=[0, 1])
            values = tf.nn.leaky_relu((values - mean) / tf.sqrt(variance + 1e-5), 0.01)
    return values[:, 0]


def categorical_objective(outputs: Any, action: int, weight: float) -> Any:
    logs = tf.nn.log_softmax(outputs)
    return logs[action] - weight * tf.reduce_sum(tf.exp(logs) * logs)


def gaussian_objective(outputs: Any, action: Array, weight: float) -> Any:
    size = len(action)
    deviations = tf.nn.softplus(outputs[size:]) + 1e-6
    density = -0.5 * ((action - outputs[:size]) / deviations) ** 2 - tf.math.log(deviations)
    return tf.reduce_sum(density + weight * tf.math.log(deviations))


GAUSSIAN = GaussianHead(np.full(2, -1.0), np.full(2, 1.0), np.float32)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("head", "action", "objective"),
    [
        (CategoricalHead(3), 1, categorical_objective),
        (GAUSSIAN, np.array([0.3, -1.2]), gaussian_objective),
    ],
    ids=["categorical", "gaussian"],
)
def test_gradients_equal_automatic_ones(
    head: ActionHead, action: Any, objective: Callable[..., Any], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    networks = TwinNetworks(5, (32, 16), head.units, 2)
    networks.parameters[:] = rng.normal(0.0, 0.3, networks.parameters.shape)
    inputs = rng.normal(size=5).astype(np.float32)
    outputs = networks.forward(inputs)
    wanted = np.zeros((2, head.units), np.float32)
    head.differentiate(outputs[0], action, -0.1, wanted[0])
    # The second network is a critic: its first output is the value.
    wanted[1, 0] = 1.0
    got = networks.backward(wanted)
    flat: Any = [tf.Variable(tf.constant(row.astype(np.float64))) for row in networks.parameters]
    with tf.GradientTape() as tape:
        policy, value = (run_network(row, networks.widths, inputs) for row in flat)
        target = objective(policy, action, -0.1) + value[0]
    gradients: Any = tape.gradient(target, flat)
    expected = [gradient.numpy() for gradient in gradients]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
