"""Observations scaled by the bounds of their space: nothing is estimated, so that what is remembered stays as it is."""

from __future__ import annotations

from typing import Any

import numpy as np

from optix_stream.errors import ConfigurationError
from optix_stream.spaces import describe_space
from optix_stream.types import Array

_UNBOUNDED = 1e30


def scaling_of(observation_space: Any) -> tuple[Array, Array]:
    """Middles and inverse half widths of a Box, float32 ``[size]`` each; 0 and 1 where it is not bounded.

    Raises:
        ConfigurationError: another space, or none.
    """
    space = None if observation_space is None else describe_space(observation_space, "observation space")
    if space is None or space["kind"] != "Box":
        raise ConfigurationError(f"scale_observations: expected a Box of observations, got {observation_space}")
    low, high = (np.ravel(space[name]).astype(np.float64) for name in ("low", "high"))
    # Some spaces say "not bounded" by the largest float.
    bounded = (np.abs(low) < _UNBOUNDED) & (np.abs(high) < _UNBOUNDED) & (low < high)
    low, high = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
    return (0.5 * (low + high)).astype(np.float32), (2.0 / (high - low)).astype(np.float32)
