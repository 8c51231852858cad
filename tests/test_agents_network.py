"""Hand-written gradients beside numerical ones, and what initialisation promises."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optix_stream.agents.network import FrozenNetwork, TwinNetworks
from optix_stream.types import Array, FloatArray


def slow_outputs(flat: FloatArray, widths: tuple[int, ...], inputs: FloatArray) -> FloatArray:
    """One network on one input, layer after layer, in float64."""
    start, layers = 0, list(itertools.pairwise(widths))
    values = inputs
    for index, (before, after) in enumerate(layers):
        weights = flat[start : start + before * after].reshape(after, before)
        biases = flat[start + before * after : start + (before + 1) * after]
        start += (before + 1) * after
        values = weights @ values + biases
        if index < len(layers) - 1:
            values = (values - values.mean()) / np.sqrt(values.var() + 1e-5)
            values = np.where(values > 0.0, values, 0.01 * values)
    return values


def dense(networks: TwinNetworks, seed: int) -> Array:
    """Parameters of order 1 everywhere: none of the gradients is 0 by itself."""
    networks.parameters[:] = np.random.default_rng(seed).normal(0.0, 0.7, networks.parameters.shape)
    return networks.parameters.astype(np.float64)


shapes = st.tuples(
    st.integers(1, 4), st.lists(st.integers(2, 6), max_size=3), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99)
)


@given(shapes)
def test_outputs_equal_the_slow_ones(shape: tuple[int, list[int], int, int, int]) -> None:
    inputs, hidden, outputs, count, seed = shape
    networks = TwinNetworks(inputs, hidden, outputs, count)
    parameters = dense(networks, seed)
    given_inputs = np.random.default_rng(seed).normal(size=(3, inputs)).astype(np.float32)
    for row in given_inputs:
        expected = [slow_outputs(flat, networks.widths, row.astype(np.float64)) for flat in parameters]
        np.testing.assert_allclose(networks.forward(row), expected, rtol=1e-4, atol=1e-5)
    for index in range(count):
        frozen = FrozenNetwork(networks, index)
        expected = [slow_outputs(parameters[index], networks.widths, row.astype(np.float64)) for row in given_inputs]
        np.testing.assert_allclose(frozen(given_inputs), expected, rtol=1e-4, atol=1e-5)


@given(shapes)
def test_gradients_equal_numerical_ones(shape: tuple[int, list[int], int, int, int]) -> None:
    inputs, hidden, outputs, count, seed = shape
    networks = TwinNetworks(inputs, hidden, outputs, count)
    parameters = dense(networks, seed)
    rng = np.random.default_rng(seed)
    row = rng.normal(size=inputs).astype(np.float32)
    weights = rng.normal(size=(count, outputs)).astype(np.float32)
    networks.forward(row)
    got = networks.backward(weights)
    step = 1e-6
    expected = np.zeros_like(parameters)
    for network, index in np.ndindex(*parameters.shape):
        at = []
        for shift in (step, -step):
            moved = parameters[network].copy()
            moved[index] += shift
            at.append(float(weights[network] @ slow_outputs(moved, networks.widths, row.astype(np.float64))))
        expected[network, index] = (at[0] - at[1]) / (2.0 * step)
    # LeakyReLU has no derivative at 0: an example that comes near it proves nothing.
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=2e-5 * scale)


def test_a_second_pass_leaves_nothing_of_the_first() -> None:
    networks = TwinNetworks(3, (4, 5), 2, 2)
    dense(networks, 1)
    rows = np.random.default_rng(2).normal(size=(2, 3)).astype(np.float32)
    ones = np.ones((2, 2), np.float32)
    networks.forward(rows[0])
    first = networks.backward(ones).copy()
    networks.forward(rows[1])
    networks.backward(ones * 5.0)
    networks.forward(rows[0])
    np.testing.assert_array_equal(networks.backward(ones), first)


@pytest.mark.parametrize(("fan_in", "kept"), [(1, 0), (4, 0), (9, 0), (10, 1), (128, 12), (200, 20)])
def test_initialisation_is_sparse_and_bounded(fan_in: int, kept: int) -> None:
    networks = TwinNetworks(fan_in, (), 50, 2)
    networks.parameters[:] = 7.0
    networks.initialize(np.random.default_rng(0))
    weights = networks.parameters[:, : fan_in * 50].reshape(2, 50, fan_in)
    assert ((weights != 0.0).sum(axis=2) == kept).all()
    assert (networks.parameters[:, fan_in * 50 :] == 0.0).all()
    assert np.abs(weights).max() <= 1.0 / np.sqrt(fan_in)
    if kept:
        assert not np.array_equal(weights[0], weights[1]), "the networks must differ"
        assert len({tuple(np.flatnonzero(unit)) for unit in weights[0]}) > 1, "the zeros must differ"


def test_a_frozen_network_stays_as_it_was() -> None:
    networks = TwinNetworks(2, (3,), 1, 1)
    dense(networks, 3)
    rows = np.ones((2, 2), np.float32)
    frozen = FrozenNetwork(networks)
    before = frozen(rows)
    networks.parameters[:] += 1.0
    np.testing.assert_array_equal(frozen(rows), before)
    assert not np.allclose(networks.forward(rows[0]), before[0])
    np.testing.assert_array_equal(rows, np.ones((2, 2), np.float32))
