"""Running moments, bounded steps, traces, and the streams that are remembered."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optix_stream.agents.normalizers import ObservationNormalizer, RewardScaler
from optix_stream.agents.obgd import BoundedStep, accumulate
from optix_stream.agents.streams import StreamTable

numbers = st.floats(-100.0, 100.0, width=32)


@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=20))
def test_observations_are_standardised_by_all_moments_so_far(rows: list[tuple[float, float]]) -> None:
    normalizer = ObservationNormalizer(2)
    taken = np.array(rows, np.float64)
    for count, row in enumerate(taken, 1):
        standard, moments = normalizer.preview(row)
        seen = taken[:count]
        deviation = seen.std(axis=0, ddof=1) if count > 1 else np.ones(2)
        expected = (row - seen.mean(axis=0)) / np.where(deviation > 0.0, deviation, 1e-15)
        varied = deviation > 1e-6
        np.testing.assert_allclose(standard[varied], np.clip(expected, -10.0, 10.0)[varied], rtol=1e-4, atol=1e-5)
        assert (np.abs(standard) <= 10.0).all()
        assert normalizer.moments[0] == count - 1, "a preview changes nothing"
        normalizer.moments = moments
    frozen = normalizer.freeze()
    deviation, mean = taken.std(axis=0, ddof=1), taken.mean(axis=0)
    varied = deviation > 1e-6
    expected = np.clip((taken - mean)[:, varied] / deviation[varied], -10.0, 10.0)
    np.testing.assert_allclose(frozen(taken)[:, varied], expected, rtol=1e-4, atol=1e-4)
    before = frozen(taken)
    normalizer.moments = normalizer.preview(np.array([1e6, 1e6]))[1]
    np.testing.assert_array_equal(frozen(taken), before)


def test_what_never_varies_is_0() -> None:
    normalizer = ObservationNormalizer(1)
    for _ in range(3):
        standard, normalizer.moments = normalizer.preview(np.array([5.0]))
        assert standard.tolist() == [0.0]
    assert ObservationNormalizer(1).freeze()(np.array([[5.0]])).tolist() == [[5.0]]


def test_small_units_are_not_drowned() -> None:
    normalizer = ObservationNormalizer(1)
    for value in (1e-9, 2e-9, 3e-9):
        standard, normalizer.moments = normalizer.preview(np.array([value]))
    assert standard[0] == pytest.approx(1.0)


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=20))
def test_rewards_are_divided_by_the_deviation_of_the_sums(pairs: list[tuple[float, float]]) -> None:
    scaler = RewardScaler()
    for count, (reward, total) in enumerate(pairs, 1):
        scaled, moments = scaler.preview(reward, total)
        sums = np.array([pair[1] for pair in pairs[:count]], np.float64)
        deviation = sums.std(ddof=1) if count > 1 else 0.0
        if deviation > 1e-6:
            assert scaled == pytest.approx(reward / deviation, rel=1e-6)
        elif (sums == sums[0]).all():
            assert scaled == reward
        assert scaler.moments[0] == count - 1, "a preview changes nothing"
        scaler.moments = moments


@given(st.integers(0, 99), st.floats(-50.0, 50.0), st.floats(0.1, 10.0), st.floats(0.001, 20.0))
def test_steps_are_bounded_as_the_paper_says(seed: int, delta: float, kappa: float, size: float) -> None:
    rng = np.random.default_rng(seed)
    traces = (size * rng.normal(size=(2, 6))).astype(np.float32)
    parameters = rng.normal(size=(2, 6)).astype(np.float32)
    before = parameters.astype(np.float64)
    step = BoundedStep((2, 6))
    kappas = (kappa, 2.0)
    sizes = step.sizes(traces, delta, kappas)
    step.apply(parameters, traces, delta, sizes)
    for row in range(2):
        norm = sum(abs(float(trace)) for trace in traces[row])
        alpha = 1.0 / max(1.0, kappas[row] * max(abs(delta), 1.0) * norm)
        assert sizes[row] == pytest.approx(alpha, rel=1e-5)
        np.testing.assert_allclose(parameters[row], before[row] + alpha * delta * traces[row], rtol=1e-5, atol=1e-5)
        # What gives the method its name: all changes together stay below 1/κ.
        assert np.abs(parameters[row] - before[row]).sum() <= 1.0 / kappas[row] + 1e-4 or norm * abs(delta) <= 1.0


@pytest.mark.parametrize(("delta", "trace"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, np.nan), (1.0, np.inf)])
def test_what_is_not_finite_takes_no_step(delta: float, trace: float) -> None:
    step = BoundedStep((1, 2))
    with pytest.raises(FloatingPointError, match="learning diverged"):
        step.sizes(np.array([[1.0, trace]], np.float32), delta, (2.0,))


def test_traces_decay_and_accumulate() -> None:
    traces = np.array([[1.0, -2.0]], np.float32)
    accumulate(traces, 0.5, np.array([[10.0, 10.0]], np.float32))
    assert traces.tolist() == [[10.5, 9.0]]
    traces[0, 0] = np.nan
    accumulate(traces, 0.0, np.array([[1.0, 2.0]], np.float32))
    assert traces.tolist() == [[1.0, 2.0]], "whatever was there is forgotten"


def test_the_stream_that_was_silent_longest_makes_room() -> None:
    table = StreamTable((1, 2), 2)
    first = table.open("a")
    first.discounted = 3.0
    table.open("b")
    assert table.open("a") is first
    table.open("c")
    assert [stream for stream, _ in table] == ["a", "c"]
    assert len(table) == 2
    assert table.open("a").discounted == 3.0
    assert table.open("b").discounted == 0.0


def test_episodes_use_arrays_again_and_begin_anew() -> None:
    table = StreamTable((1, 2), 100)
    traces = table.open(0).traces
    table.forget(0)
    table.forget(0)
    again = table.open(1)
    assert again.traces is traces
    assert again.is_cold
    assert len(table) == 1


def test_no_more_than_a_few_arrays_are_kept() -> None:
    table = StreamTable((1, 2), 100)
    used = [table.open(stream).traces for stream in range(50)]
    for stream in range(50):
        table.forget(stream)
    reused = [any(table.open(stream).traces is traces for traces in used) for stream in range(50)]
    assert 0 < sum(reused) < 20
