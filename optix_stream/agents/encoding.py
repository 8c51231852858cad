"""Observations of any Gymnasium space as flat float64 rows, without Gymnasium.

A space is known by the name of its class and by its attributes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from optix_stream.errors import ConfigurationError, TransitionMismatchError
from optix_stream.trees import as_tree, describe, tree_length, with_batch_axis
from optix_stream.types import Array, FloatArray, Tree

LARGEST = 1e100
"""What is further from 0 is refused: the variance of what is learned from must be finite."""

_Write: TypeAlias = Callable[[Tree, Array], None]
"""Writes a column of ``N`` observations of one space into its ``[N, width]`` share of the result."""


class ObservationEncoder:
    """Turns observations into float64 vectors.

    Numbers stay as they are, ``Discrete`` and ``MultiDiscrete`` become one-hot; parts of ``Dict`` and
    ``Tuple`` follow one another in the order of the space.

    Args:
        space: Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of them.

    Attributes:
        size: numbers in an encoded observation.

    Raises:
        ConfigurationError: any other space.
    """

    def __init__(self, space: Any) -> None:
        self.size, self._write = _writer(space)
        self._box_shape = tuple(space.shape) if kind_of(space) == "Box" else None
        self._space = space

    def encode_one(self, observation: Tree) -> FloatArray:
        """``[size]`` for one observation; a copy.

        Raises:
            TransitionMismatchError: it is not of this space, or there are numbers beyond ``LARGEST`` or NaN.
        """
        if self._box_shape is None:
            row: FloatArray = self(with_batch_axis(as_tree(observation)))[0]
        else:
            try:
                row = np.array(observation, np.float64)
            except (ValueError, TypeError) as error:
                raise self._mismatch(observation) from error
            if row.shape != self._box_shape:
                raise self._mismatch(observation)
            row = row.reshape(-1)
        # False for NaN as well.
        if not np.maximum.reduce(np.abs(row), initial=0.0) <= LARGEST:
            raise TransitionMismatchError("observation", f"numbers within ±{LARGEST}", str(row))
        return row

    def __call__(self, observations: Tree) -> FloatArray:
        """``[N, size]`` for a tree of columns ``[N, …]``.

        Raises:
            TransitionMismatchError: they are not of this space.
        """
        try:
            result = np.zeros((tree_length(observations), self.size))
            self._write(observations, result)
        except (ValueError, KeyError, TypeError, IndexError, StopIteration) as error:
            raise self._mismatch(observations) from error
        return result

    def _mismatch(self, observations: Tree) -> TransitionMismatchError:
        return TransitionMismatchError("observation", f"of {self._space}", describe(observations))


def kind_of(space: Any) -> str:
    """Name of the Gymnasium class that ``space`` is, or derives from; empty if there is none."""
    known = {"Box", "Discrete", "MultiDiscrete", "MultiBinary", "Dict", "Tuple"}
    return next((base.__name__ for base in type(space).__mro__ if base.__name__ in known), "")


def _writer(space: Any) -> tuple[int, _Write]:
    match kind_of(space):
        case "Box" | "MultiBinary":
            return int(np.prod(space.shape)), _numbers(tuple(space.shape))
        case "Discrete":
            return int(space.n), _one_hot(np.asarray([space.n]), np.asarray([space.start]))
        case "MultiDiscrete":
            return int(space.nvec.sum()), _one_hot(space.nvec.ravel(), space.start.ravel())
        case "Dict":
            return _join(list(space.spaces), list(space.spaces.values()))
        case "Tuple":
            return _join(list(range(len(space.spaces))), list(space.spaces))
    raise ConfigurationError(
        f"observation space: expected Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple, got {space}"
    )


def _numbers(shape: tuple[int, ...]) -> _Write:
    def write(observations: Tree, result: Array) -> None:
        if np.shape(observations)[1:] != shape:
            raise ValueError("another shape")
        result[:] = np.reshape(observations, result.shape)

    return write


def _one_hot(sizes: Array, starts: Array) -> _Write:
    offsets = np.cumsum(sizes) - sizes

    def write(observations: Tree, result: Array) -> None:
        values = np.reshape(observations, (len(result), len(sizes))) - starts
        if ((values < 0) | (values >= sizes)).any():
            raise ValueError("a category out of range")
        result[np.arange(len(result))[:, None], values.astype(np.int64) + offsets] = 1.0

    return write


def _join(keys: list[Any], parts: list[Any]) -> tuple[int, _Write]:
    writers = [_writer(part) for part in parts]
    ends = np.cumsum([size for size, _ in writers])
    shares = [(key, slice(end - size, end), write) for key, end, (size, write) in zip(keys, ends, writers, strict=True)]

    def write_all(observations: Tree, result: Array) -> None:
        for key, share, write in shares:
            write(observations[key], result[:, share])

    return int(ends[-1]) if len(ends) else 0, write_all
