"""Running moments of observations and of discounted returns, by Welford's method."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from optix_stream.types import Array, FloatArray

_LEAST_VARIANCE = 1e-30
_LIMIT = np.float32(10.0)

Standardize: TypeAlias = Callable[[Array], Array]
"""Encoded observations ``[N, size]`` to float32 ``[N, size]``."""
ObservationMoments: TypeAlias = tuple[int, FloatArray, FloatArray]
"""Count, means, and sums of squared distances from the means; never changed in place."""
RewardMoments: TypeAlias = tuple[int, float, float]
"""The same for one number."""


class ObservationNormalizer:
    """Standardises observations by the moments of all of them, and clips to ±10 deviations.

    An observation is standardised by moments that include it: the first few would otherwise be many
    deviations away. ``preview`` says what taking one would do, and changes nothing: to take it, assign.

    Args:
        size: of an encoded observation.

    Attributes:
        moments: of the observations taken so far.
    """

    def __init__(self, size: int) -> None:
        self.moments: ObservationMoments = (0, np.zeros(size), np.zeros(size))

    def preview(self, row: FloatArray) -> tuple[Array, ObservationMoments]:
        """``row`` standardised, float32 ``[size]``, and what ``moments`` are to be if it counts."""
        count, mean, squares = self.moments
        count += 1
        distance = row - mean
        mean = mean + distance * (1.0 / count)
        centered = row - mean
        squares = squares + distance * centered
        return _standardize(centered, _inverse_deviation(count, squares)), (count, mean, squares)

    def freeze(self) -> Standardize:
        """The present standardisation, which never changes."""
        count, mean, squares = self.moments
        inverse = _inverse_deviation(count, squares)
        return lambda rows: _standardize(rows - mean, inverse)


def _inverse_deviation(count: int, squares: FloatArray) -> FloatArray:
    if count < 2:
        return np.ones_like(squares)
    inverse = squares * (1.0 / (count - 1))
    # Not an epsilon to add, which would drown what is measured in small units.
    np.maximum(inverse, _LEAST_VARIANCE, out=inverse)
    np.sqrt(inverse, out=inverse)
    return np.divide(1.0, inverse, out=inverse)


def _standardize(centered: FloatArray, inverse: FloatArray) -> Array:
    standard = np.multiply(centered, inverse, out=centered).astype(np.float32)
    np.minimum(standard, _LIMIT, out=standard)
    return np.maximum(standard, -_LIMIT, out=standard)


class RewardScaler:
    """Divides rewards by the running standard deviation of the discounted return; the mean stays.

    Engstrom et al. 2020 (arXiv 2005.12729). The discounted sum itself belongs to a stream and is the
    caller's.

    Attributes:
        moments: of the discounted sums taken so far.
    """

    def __init__(self) -> None:
        self.moments: RewardMoments = (0, 0.0, 0.0)

    def preview(self, reward: float, discounted: float) -> tuple[float, RewardMoments]:
        """``reward`` scaled by moments that include ``discounted``, and what ``moments`` are to be then."""
        count, mean, squares = self.moments
        count += 1
        distance = discounted - mean
        mean += distance / count
        squares += distance * (discounted - mean)
        variance = squares / (count - 1) if count > 1 else 0.0
        scaled = reward / math.sqrt(variance) if variance > _LEAST_VARIANCE else reward
        return scaled, (count, mean, squares)
