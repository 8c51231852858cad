"""Policies of plain parts: what was exported and built again acts bit for bit as the original."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from optix_stream.contracts import Policy, PolicyExport
from optix_stream.errors import ConfigurationError, TransitionMismatchError
from optix_stream.policies import (
    CategoricalSampler,
    ComposedPolicy,
    DenseLayer,
    DenseNetwork,
    EncodedInput,
    GaussianSampler,
)
from optix_stream.policies.activations import activation_of
from optix_stream.policies.encoding import ObservationEncoder
from optix_stream.recipes import find
from optix_stream.testing.comparing import same_tree
from optix_stream.types import Array
from optix_stream.wire import decode, encode

RNG = np.random.default_rng(0)
LOW, HIGH = np.asarray([-2.0, 0.0], np.float32), np.asarray([2.0, np.inf], np.float32)
SPACE = {
    "kind": "Dict",
    "spaces": {
        "a": {"kind": "Box", "low": np.zeros(2), "high": np.ones(2), "dtype": "<f4"},
        "b": {"kind": "Tuple", "spaces": [{"kind": "Discrete", "n": 3, "start": 1}, {"kind": "MultiBinary", "n": [1]}]},
    },
}
TREE = {"a": RNG.normal(size=(5, 2)), "b": (np.asarray([1, 2, 3, 1, 2]), RNG.integers(0, 2, (5, 1)))}


def weights(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


def network(inputs: int, units: int) -> DenseNetwork:
    return DenseNetwork(
        [
            DenseLayer(weights(inputs, 8), weights(8), "tanh"),
            DenseLayer(activation="leaky_relu", parameter=0.1),
            DenseLayer(weights(8, units)),
        ]
    )


def rebuilt(policy: ComposedPolicy, generator: np.random.Generator | None) -> Policy:
    export = policy.export()
    assert export is not None
    structure, arrays = decode(encode([export.structure, dict(export.arrays)]))
    built: Policy = find(export.builder)(structure, arrays, generator)
    return built


Make = Callable[[np.random.Generator | None], ComposedPolicy]

POLICIES: dict[str, tuple[Make, Any]] = {
    "categorical": (
        lambda rng: ComposedPolicy(3, EncodedInput((4,)), network(4, 3), CategoricalSampler(3, 5, rng)),
        weights(5, 4),
    ),
    "gaussian": (
        lambda rng: ComposedPolicy(
            4,
            EncodedInput((2, 2), None, weights(4), np.abs(weights(4))),
            network(4, 2),
            GaussianSampler(LOW, HIGH, np.float32, weights(2), rng),
        ),
        weights(5, 4),
    ),
    "tree": (
        lambda rng: ComposedPolicy(
            5, EncodedInput((6,), ObservationEncoder(SPACE)), network(6, 2), CategoricalSampler(2, 0, rng)
        ),
        TREE,
    ),
}


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("is_exploring", [True, False])
def test_an_exported_policy_acts_as_the_original(name: str, is_exploring: bool) -> None:
    make, observations = POLICIES[name]
    first, second = (np.random.default_rng(1) if is_exploring else None for _ in range(2))
    policy = make(first)
    other = rebuilt(policy, second)
    for _ in range(3):
        one, two = policy.act(observations), other.act(observations)
        assert one.actions.dtype == two.actions.dtype
        assert same_tree([one.actions, one.extras], [two.actions, two.extras])
        assert bool(one.extras) == is_exploring
    assert other.version == policy.version


def test_policies_that_differ_in_weights_alone_have_one_structure() -> None:
    make, _ = POLICIES["categorical"]
    exports: list[PolicyExport | None] = [make(None).export() for _ in range(2)]
    assert exports[0] is not None
    assert exports[1] is not None
    assert encode(exports[0].structure) == encode(exports[1].structure)
    assert not same_tree(exports[0].arrays, exports[1].arrays)


def test_a_policy_with_a_part_of_another_kind_cannot_be_exported() -> None:
    def forward(inputs: Array) -> Array:
        return inputs

    assert ComposedPolicy(0, EncodedInput((2,)), forward, CategoricalSampler(2, 0, None)).export() is None


def test_a_choice_by_a_single_row_is_one_of_the_many() -> None:
    logits = np.asarray([[0.0, 1.0, 2.0]], np.float32)
    one = CategoricalSampler(3, 0, np.random.default_rng(3))
    many = CategoricalSampler(3, 0, np.random.default_rng(3))
    single = np.concatenate([one(logits).actions for _ in range(4000)])
    batch = many(np.repeat(logits, 4000, axis=0)).actions
    np.testing.assert_array_equal(single, batch)
    expected = np.exp([0.0, 1.0, 2.0]) / np.exp([0.0, 1.0, 2.0]).sum()
    np.testing.assert_allclose(np.bincount(batch) / 4000, expected, atol=0.02)


def test_an_unknown_activation_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"expected one of relu, .* got 'swoosh'"):
        activation_of("swoosh")


@pytest.mark.parametrize(
    ("observations", "error"), [(np.zeros((2, 3)), TransitionMismatchError), ({"a": np.zeros(2)}, ConfigurationError)]
)
def test_observations_that_do_not_fit_are_refused(observations: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        EncodedInput((4,))(observations)
