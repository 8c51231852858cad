from __future__ import annotations

import itertools
import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optix_stream.change_detection import ChangeDetector, begin_of_last_level, estimate_noise
from optix_stream.change_detection.noise import BETS
from optix_stream.errors import CheckpointError

scores = st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=80)


def autoregressive(seed: int, count: int, rho: float) -> list[float]:
    rng = np.random.default_rng(seed)
    value, values = 0.0, []
    for news in rng.standard_normal(count) * math.sqrt(1.0 - rho * rho):
        value = rho * value + float(news)
        values.append(100.0 + 20.0 * value)
    return values


@pytest.mark.parametrize(("rho", "long_run_sd"), [(0.0, 20.0), (0.5, 20.0 * math.sqrt(3.0))])
def test_the_long_run_deviation_of_an_autoregression_is_found(rho: float, long_run_sd: float) -> None:
    noise = estimate_noise(autoregressive(0, 20_000, rho))
    assert noise.persistence == pytest.approx(rho, abs=0.02)
    assert noise.long_run_sd == pytest.approx(long_run_sd, rel=0.07)
    assert noise.mean == pytest.approx(100.0, abs=1.0)
    assert noise.memory == pytest.approx(1.0, abs=0.1)


def test_memory_beyond_one_step_is_seen() -> None:
    slow = np.array(autoregressive(1, 20_000, 0.98)) - 100.0
    fast = np.random.default_rng(2).normal(0.0, 20.0, 20_000)
    assert estimate_noise(list(100.0 + slow + fast)).memory > 1.5


def test_scores_of_two_levels_are_not_one_reference() -> None:
    """A learner's first windows, in a reference, would make everything that follows look alike."""
    assert begin_of_last_level([18.0, 43.0, 60.0, 55.0, 417.0, 188.0, *[500.0] * 9, 286.0]) == 4
    assert begin_of_last_level(autoregressive(0, 300, 0.0)) == 0
    level = np.repeat([0.0, 60.0], [150, 150])
    assert begin_of_last_level(list(level + autoregressive(0, 300, 0.0))) == pytest.approx(150, abs=38)
    assert begin_of_last_level([1.0] * 20) == 0
    assert begin_of_last_level([1.0, 9.0]) == 0


@given(scores)
def test_any_scores_can_be_described(given_scores: list[float]) -> None:
    noise = estimate_noise(given_scores)
    assert all(math.isfinite(value) for value in msgspec.structs.astuple(noise) if isinstance(value, float))
    assert noise.scale > 0.0
    assert noise.residual_scale > 0.0
    assert noise.memory >= 1.0
    for bet, down, up in zip(BETS, noise.log_mgf_down, noise.log_mgf_up, strict=True):
        assert min(down, up) >= bet * bet / 2.0


@given(scores)
def test_no_bet_wins_on_the_scores_it_was_calibrated_on(given_scores: list[float]) -> None:
    """Each factor of the statistic has a mean of at most 1 there: what makes false alarms rare."""
    noise = estimate_noise(given_scores)
    deviations = [noise.deviation(score) for score in given_scores]
    residuals = [noise.residual(now, before) for before, now in itertools.pairwise(deviations)]
    for bet, log_mgf in zip(BETS, noise.log_mgf_down, strict=True):
        factors = [-bet * residual - log_mgf for residual in residuals]
        assert np.exp(factors).mean() <= 1.0 + 1e-9


def test_one_different_score_after_many_equal_ones_is_no_change_and_five_are() -> None:
    detector = ChangeDetector(estimate_noise([500.0] * 64))
    detector.update(490.0)
    assert detector.log_down < math.log(10_000)
    for _ in range(4):
        detector.update(490.0)
    assert detector.log_down > math.log(10_000)
    assert detector.log_up < 0.0


def test_a_fall_is_dated_and_its_level_told() -> None:
    values = autoregressive(3, 300, 0.0)
    detector = ChangeDetector(estimate_noise(values[:200]))
    for value in values[200:250]:
        detector.update(value)
    for value in values[250:270]:
        detector.update(value - 40.0)
    assert detector.down is not None
    assert detector.down.count == pytest.approx(20, abs=2)
    assert detector.down.mean == pytest.approx(60.0, abs=10.0)


def test_batches_are_judged_when_they_are_full() -> None:
    detector = ChangeDetector(estimate_noise([1.0, 2.0, 1.5, 0.5, 1.0]), batch=3)
    assert [detector.update(1.0) for _ in range(6)] == [False, False, True, False, False, True]


@settings(max_examples=40)
@given(st.integers(0, 1000), st.integers(0, 60), st.integers(1, 4))
def test_a_detector_that_is_saved_and_restored_goes_on_to_the_bit(seed: int, cut: int, batch: int) -> None:
    values = autoregressive(seed, 124, 0.5)
    detector = ChangeDetector(estimate_noise(values[:64]), batch=batch, slack=0.01)
    for value in values[64 : 64 + cut]:
        detector.update(value)
    other = ChangeDetector.from_state(detector.state_dict())
    for value in values[64 + cut :]:
        assert detector.update(value) == other.update(value)
        assert detector.state_dict() == other.state_dict()


def test_what_is_no_state_is_refused() -> None:
    detector = ChangeDetector(estimate_noise([1.0, 2.0, 3.0, 2.0]))
    before = detector.state_dict()
    with pytest.raises(CheckpointError, match="expected the state of a ChangeDetector"):
        detector.load_state_dict({**before, "noise": 3})
    assert detector.state_dict() == before
    with pytest.raises(ValueError, match="expected at least 4, got 3"):
        estimate_noise([1.0, 2.0, 3.0])
