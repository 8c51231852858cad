"""Observations as vectors, for spaces that are known by their names and attributes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from optix_stream.agents.encoding import ObservationEncoder, kind_of
from optix_stream.errors import ConfigurationError, TransitionMismatchError
from optix_stream.types import Array


@dataclass
class Box:
    shape: tuple[int, ...]


@dataclass
class Discrete:
    n: int
    start: int = 0


class MultiDiscrete:
    def __init__(self, sizes: Any, starts: Any) -> None:
        self.nvec, self.start = np.asarray(sizes), np.asarray(starts)


@dataclass
class MultiBinary:
    shape: tuple[int, ...]


@dataclass
class Dict:
    spaces: dict[str, Any]


@dataclass
class Tuple:
    spaces: tuple[Any, ...]


class Text:
    pass


class Special(Box):
    pass


def test_a_space_is_what_it_derives_from() -> None:
    assert kind_of(Special((1,))) == "Box"
    assert kind_of(Text()) == ""


def test_numbers_stay_and_are_copied() -> None:
    encoder = ObservationEncoder(Box((2, 2)))
    given = np.array([[1.0, 2.0], [3.0, 4.0]])
    row = encoder.encode_one(given)
    given[:] = 9.0
    assert encoder.size == 4
    assert row.dtype == np.float64
    assert row.tolist() == [1.0, 2.0, 3.0, 4.0]


def test_numbers_that_are_no_array_are_taken_too() -> None:
    assert ObservationEncoder(Box(())).encode_one(3).tolist() == [3.0]
    assert ObservationEncoder(Box((2,))).encode_one([1, 2]).tolist() == [1.0, 2.0]


def test_categories_become_one_hot() -> None:
    assert ObservationEncoder(Discrete(3, start=1)).encode_one(2).tolist() == [0.0, 1.0, 0.0]
    encoder = ObservationEncoder(MultiDiscrete([2, 3], [0, 5]))
    assert encoder.encode_one(np.array([1, 5])).tolist() == [0.0, 1.0, 1.0, 0.0, 0.0]
    grid = ObservationEncoder(MultiDiscrete([[2, 2]], [[0, 0]]))
    assert grid.encode_one(np.array([[0, 1]])).tolist() == [1.0, 0.0, 0.0, 1.0]


def test_parts_follow_in_the_order_of_the_space() -> None:
    space = Dict({"b": Discrete(2), "a": Tuple((MultiBinary((2,)), Box((1,))))})
    encoder = ObservationEncoder(space)
    one: dict[str, Any] = {"a": (np.array([1, 0]), np.array([0.5])), "b": np.int64(1)}
    assert encoder.encode_one(one).tolist() == [0.0, 1.0, 1.0, 0.0, 0.5]
    many = encoder({"a": (np.array([[1, 0], [0, 1]]), np.array([[0.5], [1.5]])), "b": np.array([1, 0])})
    assert many.tolist() == [[0.0, 1.0, 1.0, 0.0, 0.5], [1.0, 0.0, 0.0, 1.0, 1.5]]


def test_a_space_without_parts_is_of_size_0() -> None:
    assert ObservationEncoder(Dict({})).size == 0


@pytest.mark.parametrize(
    ("space", "observation"),
    [
        (Box((2,)), np.zeros(3)),
        (Box((2,)), "text"),
        (Box((2,)), [[1.0], [2.0, 3.0]]),
        (Discrete(2), 2),
        (Discrete(2, start=1), 0),
        (MultiDiscrete([2, 2], [0, 0]), np.zeros(3, np.int64)),
        (MultiBinary((2,)), np.zeros(3)),
        (Dict({"a": Box((1,))}), {"b": np.zeros(1)}),
        (Tuple((Box((1,)), Box((1,)))), (np.zeros(1),)),
    ],
)
def test_what_is_not_of_the_space_is_refused(space: Any, observation: Any) -> None:
    with pytest.raises(TransitionMismatchError, match=r"observation: expected of .*, got ") as caught:
        ObservationEncoder(space).encode_one(observation)
    assert caught.value.field == "observation"


def test_lists_of_different_lengths_are_named() -> None:
    with pytest.raises(TransitionMismatchError, match="got a ragged list"):
        ObservationEncoder(Box((2,))).encode_one([[1.0], [2.0, 3.0]])


def test_columns_of_another_shape_are_refused() -> None:
    with pytest.raises(TransitionMismatchError, match=r"got float64\[4, 3\]"):
        ObservationEncoder(Box((2,)))(np.zeros((4, 3)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e200, 1e308])
@pytest.mark.parametrize("row", [[0.0, 1.0], [-1e308, 1.0]])
def test_what_is_not_finite_or_has_no_finite_variance_is_refused(bad: float, row: list[float]) -> None:
    observation: Array = np.array([*row, bad])
    with pytest.raises(TransitionMismatchError, match=r"numbers within ±1e\+100"):
        ObservationEncoder(Box((3,))).encode_one(observation)
    assert ObservationEncoder(Box((1,))).encode_one([1e99]).tolist() == [1e99]


def test_an_unknown_space_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="expected Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple"):
        ObservationEncoder(Text())
    with pytest.raises(ConfigurationError, match="observation space"):
        ObservationEncoder(Dict({"a": Text()}))
