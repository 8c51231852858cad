"""Gymnasium spaces to what an agent is made of: an observation encoder and an action head."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from optix_stream.errors import ConfigurationError
from optix_stream_adapters.tensorflow.actions import ActionHead, CategoricalHead, GaussianHead


def make_head(space: gym.Space[Any]) -> ActionHead:
    """The head for ``Discrete`` or a ``Box`` of floats.

    Raises:
        ConfigurationError: any other space.
    """
    if isinstance(space, spaces.Discrete):
        return CategoricalHead(int(space.n), int(space.start))
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return GaussianHead(space.low, space.high, space.dtype)
    raise ConfigurationError(f"action space: expected Discrete or a Box of floats, got {space}")
