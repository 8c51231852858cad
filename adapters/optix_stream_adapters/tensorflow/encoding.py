"""Observations of any Gymnasium space as flat float32 vectors, a batch at a time."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from optix_stream.policies import encoding
from optix_stream.spaces import describe_space


class ObservationEncoder(encoding.ObservationEncoder):
    """Turns a tree of columns ``[N, …]`` into float32 ``[N, size]``; see its base.

    Args:
        space: Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of them.

    Raises:
        ConfigurationError: any other space.
    """

    def __init__(self, space: gym.Space[Any]) -> None:
        super().__init__(describe_space(space, "observation space"))
