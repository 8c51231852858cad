"""Distributions over actions: what is drawn, and the gradients of what is learned."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optix_stream.agents.heads import CategoricalHead, GaussianHead, make_head
from optix_stream.errors import ConfigurationError, TransitionMismatchError
from optix_stream.types import Array, FloatArray


class Box:
    def __init__(self, low: Any, high: Any, dtype: Any = np.float32) -> None:
        self.low, self.high = np.asarray(low, dtype), np.asarray(high, dtype)
        self.shape, self.dtype = self.low.shape, np.dtype(dtype)


@dataclass
class Discrete:
    n: int
    start: int = 0


class Text:
    pass


def numerical(function: Callable[[FloatArray], float], at: FloatArray) -> FloatArray:
    step = 1e-6
    return np.array(
        [(function(at + step * unit) - function(at - step * unit)) / (2.0 * step) for unit in np.eye(len(at))]
    )


def categorical_objective(logits: FloatArray, action: int, weight: float) -> float:
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    return float(np.log(probabilities[action]) - weight * (probabilities * np.log(probabilities)).sum())


def gaussian_objective(outputs: FloatArray, action: FloatArray, weight: float) -> float:
    size = len(action)
    deviation = np.log1p(np.exp(outputs[size:])) + 1e-6
    density = -0.5 * ((action - outputs[:size]) / deviation) ** 2 - np.log(deviation) - 0.5 * math.log(2 * math.pi)
    entropy = np.log(deviation) + 0.5 * (math.log(2 * math.pi) + 1.0)
    return float(density.sum() + weight * entropy.sum())


numbers = st.floats(-3.0, 3.0, width=32)


@given(st.lists(numbers, min_size=2, max_size=5), st.integers(0, 1), st.sampled_from([0.0, 0.01, -0.5]))
def test_categorical_gradients_equal_numerical_ones(logits: list[float], action: int, weight: float) -> None:
    head = CategoricalHead(len(logits))
    gradient = np.zeros(len(logits), np.float32)
    outputs = np.asarray(logits, np.float32)
    entropy = head.differentiate(outputs, action, weight, gradient)
    exact = outputs.astype(np.float64)
    np.testing.assert_allclose(
        gradient, numerical(lambda at: categorical_objective(at, action, weight), exact), atol=1e-5
    )
    expected = categorical_objective(exact, action, 1.0) - categorical_objective(exact, action, 0.0)
    assert entropy == pytest.approx(expected, abs=1e-6)


@given(st.integers(1, 3), st.integers(0, 99), st.sampled_from([0.0, 0.01, -0.5]))
def test_gaussian_gradients_equal_numerical_ones(size: int, seed: int, weight: float) -> None:
    rng = np.random.default_rng(seed)
    head = GaussianHead(np.full(size, -1.0), np.full(size, 1.0), np.float32)
    outputs = rng.normal(size=2 * size).astype(np.float32)
    action = rng.normal(size=size)
    gradient = np.zeros(2 * size, np.float32)
    entropy = head.differentiate(outputs, action, weight, gradient)
    exact = outputs.astype(np.float64)
    expected = numerical(lambda at: gaussian_objective(at, action, weight), exact)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)
    difference = gaussian_objective(exact, action, 1.0) - gaussian_objective(exact, action, 0.0)
    assert entropy == pytest.approx(difference, abs=1e-5)


def test_a_choice_that_is_certain_has_a_gradient() -> None:
    gradient = np.zeros(2, np.float32)
    assert CategoricalHead(2).differentiate(np.array([0.0, -2000.0], np.float32), 1, 0.01, gradient) == 0.0
    np.testing.assert_array_equal(gradient, [-1.0, 1.0])


def test_choices_are_drawn_by_their_probabilities() -> None:
    head, rng = CategoricalHead(3, start=5), np.random.default_rng(0)
    outputs = np.log(np.array([0.2, 0.5, 0.3], np.float32))
    drawn = np.array([head.sample(outputs, rng)[0] for _ in range(20_000)])
    np.testing.assert_allclose([(drawn == action).mean() for action in (5, 6, 7)], [0.2, 0.5, 0.3], atol=0.015)
    many = head.decide(np.tile(outputs, (20_000, 1)), rng).actions
    np.testing.assert_allclose([(many == action).mean() for action in (5, 6, 7)], [0.2, 0.5, 0.3], atol=0.015)


def test_without_a_generator_the_most_likely_is_taken() -> None:
    outputs = np.array([[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]], np.float32)
    assert CategoricalHead(3, start=-1).decide(outputs, None).actions.tolist() == [0, -1]
    head = GaussianHead(np.array([-2.0, 0.0]), np.array([2.0, 10.0]), np.float32)
    decision = head.decide(np.array([[0.5, 0.5, 0.0, 0.0], [-7.0, 7.0, 0.0, 0.0]], np.float32), None)
    assert decision.actions.tolist() == [[1.0, 7.5], [-2.0, 10.0]]
    assert decision.actions.dtype == np.float32
    assert decision.extras == {}


def test_gaussian_draws_have_their_moments_before_they_are_clipped() -> None:
    head, rng = GaussianHead(np.array([[-2.0]]), np.array([[2.0]]), np.float64), np.random.default_rng(0)
    outputs = np.array([0.5, 1.0], np.float32)
    decision = head.decide(np.tile(outputs, (20_000, 1)), rng)
    raw = decision.extras["raw_action"]
    assert raw.mean() == pytest.approx(0.5, abs=0.03)
    assert raw.std() == pytest.approx(math.log1p(math.e), abs=0.03)
    assert decision.actions.shape == (20_000, 1, 1)
    assert decision.actions.dtype == np.float64
    np.testing.assert_allclose(decision.actions[:, 0], np.clip(2.0 * raw, -2.0, 2.0), rtol=1e-6)
    action, extras = head.sample(outputs, rng)
    assert action.shape == (1, 1)
    np.testing.assert_allclose(action[0], np.clip(2.0 * extras["raw_action"], -2.0, 2.0), rtol=1e-6)


def test_an_unbounded_space_is_taken_as_it_is() -> None:
    head = make_head(Box([-np.inf, -4.0], [np.inf, np.inf]))
    assert head.decide(np.array([[3.0, -9.0, 0.0, 0.0]], np.float32), None).actions.tolist() == [[3.0, -4.0]]


def test_what_was_drawn_is_learned_rather_than_what_was_executed() -> None:
    head = GaussianHead(np.array([-2.0]), np.array([2.0]), np.float32)
    executed = np.array([2.0], np.float32)
    assert head.learnable(executed, {"raw_action": np.array([1.5], np.float32)}).tolist() == [1.5]
    for extras in (None, {}, {"raw_action": np.array([np.nan])}, {"raw_action": np.array([1.0, 2.0])}):
        assert head.learnable(executed, extras).tolist() == [1.0]


@pytest.mark.parametrize("action", [np.zeros(2), np.array([np.nan]), 0.0])
def test_an_action_of_another_shape_is_refused(action: Any) -> None:
    with pytest.raises(TransitionMismatchError, match=r"action: expected finite numbers \[1\]"):
        GaussianHead(np.array([-2.0]), np.array([2.0]), np.float32).learnable(action, None)


def test_choices_come_as_any_integer() -> None:
    head = CategoricalHead(3, start=2)
    given_actions: list[Any] = [3, np.int64(3), np.array(3), np.array([3], np.int32)]
    assert [head.learnable(action, None) for action in given_actions] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("action", "match"),
    [
        (1, "expected 2 to 4, got 1"),
        (5, "expected 2 to 4, got 5"),
        (3.0, "expected one integer, got float64"),
        (np.array([3, 3]), "expected one integer"),
        (np.array([5]), "expected 2 to 4, got 5"),
    ],
)
def test_what_is_no_choice_is_refused(action: Any, match: str) -> None:
    with pytest.raises(TransitionMismatchError, match=match):
        CategoricalHead(3, start=2).learnable(action, None)


@pytest.mark.parametrize("space", [Text(), Box([0], [3], np.int64)])
def test_other_spaces_are_refused(space: Any) -> None:
    with pytest.raises(ConfigurationError, match="action space: expected Discrete or a Box of floats"):
        make_head(space)


def test_heads_say_how_many_outputs_they_need() -> None:
    assert make_head(Discrete(3)).units == 3
    assert make_head(Box(np.zeros((2, 2)), np.ones((2, 2)))).units == 8


def test_one_seed_gives_one_draw() -> None:
    outputs: Array = np.zeros((5, 2), np.float32)
    head = GaussianHead(np.array([-2.0]), np.array([2.0]), np.float32)
    first, second = (head.decide(outputs, np.random.default_rng(3)).actions for _ in range(2))
    np.testing.assert_array_equal(first, second)
