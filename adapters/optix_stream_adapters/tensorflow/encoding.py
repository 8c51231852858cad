"""Observations of any Gymnasium space as flat float32 vectors, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from optix_stream.errors import ConfigurationError, TransitionMismatchError
from optix_stream.trees import describe, tree_length
from optix_stream.types import Array, Tree

_Write: TypeAlias = Callable[[Tree, Array], None]
"""Writes a column of ``N`` observations of one space into its ``[N, width]`` share of the result."""


class ObservationEncoder:
    """Turns a tree of columns ``[N, …]`` into float32 ``[N, size]``.

    Numbers stay as they are, ``Discrete`` and ``MultiDiscrete`` become one-hot; parts of ``Dict`` and
    ``Tuple`` follow one another in the order of the space, as in ``gymnasium.spaces.flatten``.

    Args:
        space: Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of them.

    Raises:
        ConfigurationError: any other space.
    """

    def __init__(self, space: gym.Space[Any]) -> None:
        self.size, self._write = _writer(space)
        self._is_box = isinstance(space, spaces.Box)
        self._space = space

    def __call__(self, observations: Tree) -> Array:
        """Encode a batch.

        Raises:
            TransitionMismatchError: the observations are not of this space.
        """
        try:
            if self._is_box and isinstance(observations, np.ndarray) and observations.shape[1:] == (self.size,):
                # Most are: nothing to do where the dtype is right already.
                return observations.astype(np.float32, copy=False)
            result = np.zeros((tree_length(observations), self.size), np.float32)
            self._write(observations, result)
        except (ValueError, KeyError, TypeError, IndexError, StopIteration) as error:
            raise self._mismatch(observations) from error
        return result

    def _mismatch(self, observations: Tree) -> TransitionMismatchError:
        return TransitionMismatchError("observation", f"a batch of {self._space}", describe(observations))


def _writer(space: gym.Space[Any]) -> tuple[int, _Write]:
    match space:
        case spaces.Box() | spaces.MultiBinary():
            return int(np.prod(space.shape)), _write_numbers
        case spaces.Discrete():
            return int(space.n), _one_hot(np.asarray([space.n]), np.asarray([space.start]))
        case spaces.MultiDiscrete():
            return int(space.nvec.sum()), _one_hot(space.nvec.ravel(), space.start.ravel())
        case spaces.Dict():
            return _join(list(space.spaces), list(space.spaces.values()))
        case spaces.Tuple():
            return _join(list(range(len(space.spaces))), list(space.spaces))
    raise ConfigurationError(
        f"observation space: expected Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple, got {space}"
    )


def _write_numbers(observations: Tree, result: Array) -> None:
    result[:] = np.reshape(observations, result.shape)


def _one_hot(sizes: Array, starts: Array) -> _Write:
    offsets = np.cumsum(sizes) - sizes

    def write(observations: Tree, result: Array) -> None:
        values = np.reshape(observations, (len(result), len(sizes))) - starts
        if ((values < 0) | (values >= sizes)).any():
            raise ValueError("a category out of range")
        result[np.arange(len(result))[:, None], values.astype(np.int64) + offsets] = 1.0

    return write


def _join(keys: list[Any], parts: list[gym.Space[Any]]) -> tuple[int, _Write]:
    writers = [_writer(part) for part in parts]
    ends = np.cumsum([size for size, _ in writers])
    shares = [(key, slice(end - size, end), write) for key, end, (size, write) in zip(keys, ends, writers, strict=True)]

    def write_all(observations: Tree, result: Array) -> None:
        for key, share, write in shares:
            write(observations[key], result[:, share])

    return int(ends[-1]) if len(ends) else 0, write_all
