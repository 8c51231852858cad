"""Which spaces can be streamed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
from gymnasium import spaces

from optix_stream.errors import ConfigurationError

_OBSERVATION_SPACES = (
    spaces.Box,
    spaces.Discrete,
    spaces.MultiDiscrete,
    spaces.MultiBinary,
    spaces.Dict,
    spaces.Tuple,
)
_ACTION_SPACES = (spaces.Discrete, spaces.Box)


def check_spaces(observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
    """Raise ConfigurationError unless both spaces are supported."""
    if not isinstance(action_space, _ACTION_SPACES):
        raise ConfigurationError(f"action space: expected Discrete or Box, got {action_space}")
    if not isinstance(observation_space, _OBSERVATION_SPACES):
        raise ConfigurationError(
            "observation space: expected Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple, "
            f"got {observation_space}"
        )
    parts: Sequence[gym.Space[Any]] = ()
    if isinstance(observation_space, spaces.Dict):
        parts = tuple(observation_space.spaces.values())
    elif isinstance(observation_space, spaces.Tuple):
        parts = observation_space.spaces
    for part in parts:
        check_spaces(part, action_space)
