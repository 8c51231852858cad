"""Observations of any space that can be described as flat float32 vectors, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from optix_stream.errors import TransitionMismatchError
from optix_stream.spaces import SpaceDescription, name_space
from optix_stream.trees import describe, tree_length
from optix_stream.types import Array, Tree

_Write: TypeAlias = Callable[[Tree, Array], None]
"""Writes a column of ``N`` observations of one space into its ``[N, width]`` share of the result."""


class ObservationEncoder:
    """Turns a tree of columns ``[N, …]`` into float32 ``[N, size]``.

    Numbers stay as they are, ``Discrete`` and ``MultiDiscrete`` become one-hot; parts of ``Dict`` and
    ``Tuple`` follow one another in the order of the space, as in ``gymnasium.spaces.flatten``.

    Args:
        space: as ``describe_space`` has it.

    Attributes:
        space: the same.
        size: numbers in an encoded observation.
    """

    def __init__(self, space: SpaceDescription) -> None:
        self.space = space
        self.size, self._write = _writer(space)
        self._is_box = space["kind"] == "Box"

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
        return TransitionMismatchError("observation", f"a batch of {name_space(self.space)}", describe(observations))


def _writer(space: SpaceDescription) -> tuple[int, _Write]:
    match space:
        case {"kind": "Box", "low": low}:
            return int(np.size(low)), _write_numbers
        case {"kind": "MultiBinary", "n": shape}:
            return int(np.prod(shape)), _write_numbers
        case {"kind": "Discrete", "n": n, "start": start}:
            return int(n), _one_hot(np.asarray([n]), np.asarray([start]))
        case {"kind": "MultiDiscrete", "nvec": sizes, "start": starts}:
            return int(np.sum(sizes)), _one_hot(np.ravel(sizes), np.ravel(starts))
        case {"kind": "Dict", "spaces": parts}:
            return _join(list(parts), list(parts.values()))
    return _join(list(range(len(space["spaces"]))), list(space["spaces"]))


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


def _join(keys: list[Any], parts: list[SpaceDescription]) -> tuple[int, _Write]:
    writers = [_writer(part) for part in parts]
    ends = np.cumsum([size for size, _ in writers])
    shares = [(key, slice(end - size, end), write) for key, end, (size, write) in zip(keys, ends, writers, strict=True)]

    def write_all(observations: Tree, result: Array) -> None:
        for key, share, write in shares:
            write(observations[key], result[:, share])

    return int(ends[-1]) if len(ends) else 0, write_all
