"""Trees of arrays: structured observations, one at a time and as growing columns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from optix_stream.errors import TransitionMismatchError
from optix_stream.types import Array, Tree


def map_tree(function: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """Apply ``function`` to every leaf (and the matching leaves of ``others``)."""
    if isinstance(tree, dict):
        return {key: map_tree(function, value, *(other[key] for other in others)) for key, value in tree.items()}
    if isinstance(tree, tuple):
        return tuple(map_tree(function, *parts) for parts in zip(tree, *others, strict=True))
    return function(tree, *others)


def as_tree(value: Any) -> Tree:
    """``value`` with every leaf an array; dicts and tuples keep their shape."""
    if isinstance(value, np.ndarray):
        return value
    return map_tree(np.asarray, value)


def with_batch_axis(tree: Tree) -> Tree:
    """One observation as a batch of one; no copy."""
    if isinstance(tree, np.ndarray):
        return tree[None]
    return map_tree(lambda leaf: leaf[None], tree)


def stack(trees: list[Tree]) -> Tree:
    """Many observations as one tree of columns."""
    return map_tree(lambda *leaves: np.stack(leaves), *trees)


def tree_length(tree: Tree) -> int:
    """Rows of a tree of columns."""
    while not isinstance(tree, np.ndarray):
        tree = next(iter(tree.values())) if isinstance(tree, dict) else tree[0]
    return len(tree)


def describe(value: Any) -> str:
    """Shape and dtype as text for an error message."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {describe(part)}" for key, part in value.items()) + "}"
    if isinstance(value, tuple):
        return "(" + ", ".join(describe(part) for part in value) + ")"
    try:
        array = np.asarray(value)
    except ValueError:
        # Lists of different lengths have no shape.
        return f"a ragged {type(value).__name__}"
    return f"{array.dtype}{list(array.shape)}"


class Column:
    """One growing column: rows of a fixed shape and dtype, fixed by the first row that is seen.

    Storing checks every row: nothing is broadcast, and nothing is cast unless that loses nothing,
    as from float32 or an integer to float64.
    """

    __slots__ = ("_data", "_name", "_row_shape")

    def __init__(self, name: str, row: Any, capacity: int) -> None:
        array = np.asarray(row)
        if array.dtype == object:
            raise TransitionMismatchError(name, "numbers", describe(row))
        self._name = name
        self._row_shape = array.shape
        self._data = np.empty((capacity, *array.shape), array.dtype)

    def store(self, index: int, row: Any) -> None:
        data = self._data
        if type(row) is not np.ndarray:
            row = np.asarray(row)
        if row.shape != self._row_shape or (row.dtype is not data.dtype and not _fits(row.dtype, data.dtype)):
            raise self._mismatch(row)
        data[index] = row

    def store_many(self, start: int, rows: Array) -> None:
        if not isinstance(rows, np.ndarray):
            raise self._mismatch(rows)
        if rows.shape[1:] != self._row_shape or not _fits(rows.dtype, self._data.dtype):
            raise self._mismatch(rows[0])
        self._data[start : start + len(rows)] = rows

    def grow(self, capacity: int) -> None:
        data = np.empty((capacity, *self._row_shape), self._data.dtype)
        data[: len(self._data)] = self._data
        self._data = data

    def peek(self, start: int, end: int) -> Array:
        """A copy of some rows."""
        return self._data[start:end].copy()

    def take(self, length: int) -> Array:
        """The first ``length`` rows, handed over; the column starts afresh."""
        taken = self._data[:length]
        self._data = np.empty_like(self._data)
        return taken

    def _mismatch(self, row: Any) -> TransitionMismatchError:
        expected = f"{self._data.dtype}{list(self._row_shape)}"
        return TransitionMismatchError(self._name, expected, describe(row))


def _fits(given: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    return given == wanted or np.can_cast(given, wanted, "safe")


class TreeColumn:
    """A column for each leaf of a structured observation; the same interface as ``Column``."""

    __slots__ = ("_name", "_tree")

    def __init__(self, name: str, row: Tree, capacity: int) -> None:
        self._name = name
        self._tree = map_tree(lambda leaf: Column(name, leaf, capacity), row)

    def store(self, index: int, row: Tree) -> None:
        self._each(lambda column, leaf: column.store(index, leaf), row)

    def store_many(self, start: int, rows: Tree) -> None:
        self._each(lambda column, leaf: column.store_many(start, leaf), rows)

    def grow(self, capacity: int) -> None:
        map_tree(lambda column: column.grow(capacity), self._tree)

    def peek(self, start: int, end: int) -> Tree:
        return map_tree(lambda column: column.peek(start, end), self._tree)

    def take(self, length: int) -> Tree:
        return map_tree(lambda column: column.take(length), self._tree)

    def _each(self, function: Callable[[Column, Any], None], row: Tree) -> None:
        try:
            map_tree(function, self._tree, row)
        except (KeyError, TypeError, IndexError) as error:
            expected = "the structure of the first row"
            raise TransitionMismatchError(self._name, expected, describe(row)) from error
        except ValueError as error:
            if isinstance(error, TransitionMismatchError):
                raise
            raise TransitionMismatchError(self._name, "the structure of the first row", describe(row)) from error


def make_column(name: str, row: Tree, capacity: int) -> Column | TreeColumn:
    """A column that fits ``row`` and others like it."""
    return TreeColumn(name, row, capacity) if isinstance(row, dict | tuple) else Column(name, row, capacity)
