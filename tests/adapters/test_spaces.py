"""Spaces as data: what was described is made again."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from optix_stream.errors import ConfigurationError
from optix_stream.spaces import describe_space, make_space, name_space
from optix_stream.wire import decode, encode

SPACES: tuple[gym.Space[Any], ...] = (
    spaces.Box(-1, 1, (3,)),
    spaces.Box(np.asarray([-np.inf, 0.0]), np.asarray([np.inf, 2.0]), dtype=np.float64),
    spaces.Box(0, 255, (2, 2, 3), np.uint8),
    spaces.Discrete(4, start=-2),
    spaces.MultiDiscrete(np.asarray([[2, 3], [4, 5]])),
    spaces.MultiDiscrete([2, 3], start=[1, 2]),
    spaces.MultiBinary(4),
    spaces.MultiBinary((2, 2)),
    spaces.Tuple([spaces.Discrete(3, start=1), spaces.Box(-1, 1, (2,))]),
    spaces.Dict(
        [
            ("z", spaces.Box(-1, 1, (2,))),
            ("a", spaces.Tuple([spaces.MultiBinary(2), spaces.Dict(k=spaces.Discrete(2))])),
        ]
    ),
)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_a_space_is_made_again_from_its_description(space: gym.Space[Any]) -> None:
    again = make_space(describe_space(space))
    assert again == space
    assert str(again) == str(space)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_a_space_travels(space: gym.Space[Any]) -> None:
    assert decode(encode({"space": space}))["space"] == space


def test_a_described_space_has_a_short_name() -> None:
    assert [name_space(describe_space(space)) for space in SPACES] == [
        "Box float32[3]",
        "Box float64[2]",
        "Box uint8[2, 2, 3]",
        "Discrete -2 to 1",
        "MultiDiscrete [[2, 3], [4, 5]]",
        "MultiDiscrete [2, 3]",
        "MultiBinary [4]",
        "MultiBinary [2, 2]",
        "Tuple(Discrete 1 to 3, Box float32[2])",
        "Dict(z: Box float32[2], a: Tuple(MultiBinary [2], Dict(k: Discrete 0 to 1)))",
    ]


def test_other_spaces_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"^action space: expected Box, Discrete.* got Text"):
        describe_space(spaces.Tuple([spaces.Text(4)]), "action space")
    with pytest.raises(ConfigurationError, match="expected the description of a space"):
        make_space({"kind": "Text"})
