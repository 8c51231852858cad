from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optix_stream.errors import ConfigurationError
from optix_stream.optimizers.parameters import Choices, Range, parse_bounds, tunable
from optix_stream.types import HyperparamSet

ranges = st.one_of(
    st.tuples(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3)).map(lambda ends: Range(ends[0], ends[0] + ends[1])),
    st.tuples(st.floats(1e-6, 1.0), st.floats(10.0, 1e6)).map(lambda ends: Range(ends[0], ends[0] * ends[1])),
    st.tuples(st.integers(-50, 50), st.integers(1, 1000)).map(lambda ends: Range(ends[0], ends[0] + ends[1], True)),
)


@given(ranges, st.floats(0.0, 1.0))
def test_a_position_gives_a_value_and_the_value_its_position(spec: Range, position: float) -> None:
    value = spec.at(position)
    assert spec.low <= value <= spec.high
    if spec.is_integer:
        assert isinstance(value, int)
        assert spec.at(spec.position(value)) == value
    else:
        assert spec.position(value) == pytest.approx(position, abs=1e-6)


@given(ranges, st.floats(0.0, 1.0), st.sampled_from([1, -1]), st.floats(1e-3, 0.5))
def test_a_step_moves_within_the_range_and_in_its_direction(
    spec: Range, position: float, direction: int, step: float
) -> None:
    value = spec.at(position)
    moved = spec.move(value, direction, step)
    assert spec.low <= moved <= spec.high
    assert (moved - value) * direction >= -1e-9 * abs(value)
    if spec.is_integer and value not in (spec.low, spec.high):
        assert moved != value, "a step on integers is at least 1"


def test_steps_are_ratios_where_the_range_spans_a_decade() -> None:
    assert Range(1e-5, 1e-2).move(1e-4, 1, 0.3) == pytest.approx(1e-4 * 10**0.3)
    assert Range(0.9, 0.999).move(0.95, -1, 0.1) == pytest.approx(0.95 - 0.0099)
    assert Range(-1.0, 100.0).is_log is False


def test_choices_go_around() -> None:
    spec = Choices(("relu", "tanh", "elu"))
    assert [spec.move("elu", direction, 0.1) for direction in (1, -1)] == ["relu", "tanh"]


def test_a_grid_has_both_ends() -> None:
    assert Range(1.0, 100.0).grid(3) == [1.0, pytest.approx(10.0), 100.0]
    assert Range(1, 3, True).grid(9) == [1, 2, 3]
    assert Choices((16, 32)).grid(9) == [16, 32]


def test_a_choice_is_drawn_from_all() -> None:
    rng = np.random.default_rng(0)
    assert {Choices(("a", "b", "c")).pick(rng) for _ in range(50)} == {"a", "b", "c"}


def test_what_can_be_tuned_is_what_has_bounds_and_a_value_that_fits() -> None:
    specs = parse_bounds(
        {"a": (0.0, 1.0), "k": (1, 64), "share": (0, 1), "kind": ["x", "y"], "absent": (0.0, 1.0), "flag": (0, 1)}
    )
    hyperparams = HyperparamSet({"k": 3, "a": 0.5, "share": 0.25, "kind": "x", "free": 1.0, "flag": True})
    assert tunable(hyperparams, specs) == {
        "k": Range(1, 64, True),
        "a": Range(0.0, 1.0),
        "share": Range(0, 1),
        "kind": Choices(("x", "y")),
    }
    assert not tunable(HyperparamSet({"kind": "z"}), specs)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((1.0, 1.0), "low < high"),
        ((2.0, 1.0), "low < high"),
        ((0.0, float("inf")), "both finite"),
        ((0.0, float("nan")), "low < high"),
        (["one"], "two or more different choices"),
        (["one", "one"], "two or more different choices"),
        ([[64], [32]], "numbers, strings or None"),
        ("relu", r"\(low, high\) or a list of choices"),
        (3.0, r"\(low, high\) or a list of choices"),
    ],
)
def test_bounds_that_mean_nothing_are_refused(given: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=f"param_bounds.'x'.: expected {said}|expected .*{said}"):
        parse_bounds({"x": given})
