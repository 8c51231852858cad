from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optix_stream.errors import TransitionMismatchError
from optix_stream.testing.comparing import same_tree
from optix_stream.trees import as_tree, describe, make_column, map_tree, stack, tree_length, with_batch_axis
from optix_stream.types import Tree


def trees() -> st.SearchStrategy[Tree]:
    leaves = st.lists(st.integers(-5, 5), min_size=2, max_size=2).map(np.array)
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3), st.tuples(inner, inner)
        ),
        max_leaves=5,
    )


@given(trees(), st.integers(1, 5))
def test_stacking_puts_rows_on_a_leading_axis(tree: Tree, count: int) -> None:
    rows = [map_tree(lambda leaf, add=index: leaf + add, tree) for index in range(count)]
    stacked = stack(rows)
    assert tree_length(stacked) == count
    for index, row in enumerate(rows):
        assert same_tree(row, map_tree(lambda leaf, i=index: leaf[i], stacked))


@given(trees())
def test_a_batch_axis_makes_one_row(tree: Tree) -> None:
    batched = with_batch_axis(tree)
    assert tree_length(batched) == 1
    assert same_tree(tree, map_tree(lambda leaf: leaf[0], batched))


@given(trees(), st.integers(1, 4))
def test_a_column_gives_back_what_was_stored(tree: Tree, count: int) -> None:
    rows = stack([map_tree(lambda leaf, add=index: leaf + add, tree) for index in range(count)])
    column = make_column("observation", tree, capacity=1)
    column.grow(count)
    column.store_many(0, rows)
    assert same_tree(rows, column.take(count))


def test_plain_values_become_leaves() -> None:
    tree = as_tree({"a": [1, 2], "b": (3.0, [4.0])})
    assert describe(tree) == "{a: int64[2], b: (float64[], float64[1])}"


@pytest.mark.parametrize(
    ("row", "other"),
    [
        (np.zeros(2), np.zeros((1, 3))),
        (np.zeros(2), np.zeros((1, 2), np.complex128)),
        (np.zeros(2, np.float32), np.zeros((1, 2), np.float64)),
        (np.zeros(2, np.int64), np.zeros((1, 2), np.float64)),
        (np.zeros(2), {"a": np.zeros((1, 2))}),
        ({"a": np.zeros(2)}, np.zeros((1, 2))),
        ({"a": np.zeros(2)}, {"b": np.zeros((1, 2))}),
        ((np.zeros(2), np.zeros(2)), (np.zeros((1, 2)),)),
    ],
)
def test_a_column_refuses_what_does_not_fit(row: Any, other: Any) -> None:
    column = make_column("observation", row, capacity=4)
    with pytest.raises(TransitionMismatchError, match="observation: expected"):
        column.store_many(0, other)


@pytest.mark.parametrize("kind", [np.float32, np.int64, np.bool_])
def test_a_column_widens_where_nothing_is_lost(kind: Any) -> None:
    column = make_column("observation", np.zeros(2), capacity=1)
    column.store_many(0, np.ones((1, 2), kind))
    assert column.take(1).tolist() == [[1.0, 1.0]]


def test_a_column_is_made_of_numbers() -> None:
    with pytest.raises(TransitionMismatchError, match="expected numbers"):
        make_column("observation", object(), capacity=1)


def test_taking_hands_the_memory_over() -> None:
    column = make_column("observation", np.zeros(1), capacity=2)
    column.store_many(0, np.array([[1.0], [2.0]]))
    taken = column.take(2)
    column.store_many(0, np.array([[3.0], [4.0]]))
    assert taken.tolist() == [[1.0], [2.0]]
