"""The observation encoder against ``gymnasium.spaces.flatten``."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from optix_stream_adapters.tensorflow.encoding import ObservationEncoder

from optix_stream.errors import ConfigurationError, TransitionMismatchError
from optix_stream.trees import as_tree, stack
from optix_stream.types import Tree

SPACES: tuple[gym.Space[Any], ...] = (
    spaces.Box(-1, 1, (3,)),
    spaces.Box(-1, 1, (2, 3), np.float64),
    spaces.Box(-1, 1, ()),
    spaces.Box(0, 255, (2, 2), np.uint8),
    spaces.Discrete(4),
    spaces.Discrete(4, start=-2),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiDiscrete(np.asarray([[2, 3], [4, 5]])),
    spaces.MultiBinary(4),
    spaces.MultiBinary((2, 2)),
    spaces.Tuple([spaces.Discrete(3, start=1), spaces.Box(-1, 1, (2,))]),
    spaces.Dict(
        z=spaces.Box(-1, 1, (2,)), a=spaces.Tuple([spaces.MultiBinary(2), spaces.Dict(k=spaces.MultiDiscrete([2, 2]))])
    ),
)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_like_gymnasium(space: gym.Space[Any]) -> None:
    space.seed(1)
    samples = [space.sample() for _ in range(5)]
    encoder = ObservationEncoder(space)
    encoded = encoder(stack([as_tree(sample) for sample in samples]))
    assert encoded.dtype == np.float32
    assert encoded.shape == (5, encoder.size)
    expected = np.asarray([spaces.flatten(space, sample) for sample in samples], np.float32)
    np.testing.assert_array_equal(encoded, expected)


@pytest.mark.parametrize(
    ("space", "observations"),
    [
        (spaces.Box(-1, 1, (3,)), np.zeros((2, 4), np.float32)),
        (spaces.Discrete(3), np.asarray([0, 3])),
        (spaces.Discrete(3), np.asarray([-1, 0])),
        (spaces.MultiDiscrete([2, 3]), np.asarray([[2, 0]])),
        (spaces.MultiBinary(2), np.zeros((3, 3), np.int8)),
        (spaces.Dict(a=spaces.Discrete(2)), {"b": np.zeros(1, np.int64)}),
        (spaces.Dict(a=spaces.Discrete(2)), np.zeros(1, np.int64)),
        (spaces.Dict(a=spaces.Discrete(2)), {}),
        (spaces.Tuple([spaces.Discrete(2), spaces.Discrete(2)]), (np.zeros(1, np.int64),)),
        (spaces.Box(-1, 1, (3,)), {"a": np.zeros((2, 3), np.float32)}),
        (spaces.Box(-1, 1, (3,)), np.float32(0.0)),
        (spaces.Box(-1, 1, (3,)), np.asarray([["a", "b", "c"]])),
    ],
)
def test_what_does_not_fit_is_refused(space: gym.Space[Any], observations: Tree) -> None:
    with pytest.raises(TransitionMismatchError, match="expected a batch of"):
        ObservationEncoder(space)(observations)


@pytest.mark.parametrize("nested", [spaces.Text(4), spaces.Tuple([spaces.Discrete(2), spaces.Text(4)])], ids=str)
def test_an_unsupported_space_is_named(nested: gym.Space[Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"expected Box, Discrete.*got Text"):
        ObservationEncoder(nested)
