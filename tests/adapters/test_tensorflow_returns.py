"""Returns and advantages against loops that are obviously right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optix_stream_adapters.tensorflow.normalizers import ObservationNormalizer, RewardScaler, RunningMoments
from optix_stream_adapters.tensorflow.returns import discounted_returns, find_segments, generalized_advantages

from optix_stream import testing
from optix_stream.policies import EncodedInput
from optix_stream.types import EpisodeData, FloatArray

Row: TypeAlias = tuple[int, float, bool, bool, bool]
"""Stream, reward, terminated, truncated, gap."""


def make_window(rows: Sequence[Row]) -> EpisodeData:
    streams, rewards, terminated, truncated, gaps = zip(*rows, strict=True)
    length = len(rows)
    return EpisodeData(
        observations=np.zeros((length, 1), np.float32),
        actions=np.zeros(length, np.int64),
        rewards=np.asarray(rewards),
        terminated=np.asarray(terminated),
        truncated=np.asarray(truncated),
        infos=[{}] * length,
        episode_id=0,
        next_observations=np.zeros((length, 1), np.float32),
        gaps=np.asarray(gaps),
        streams=np.asarray(streams),
        stream_ids=("a", "b", "c"),
    )


def slow_advantages(
    window: EpisodeData, values: FloatArray, bootstraps: FloatArray, gamma: float, lam: float
) -> FloatArray:
    result = np.zeros(window.length)
    for t in range(window.length):
        advantage, weight, row = 0.0, 1.0, t
        while True:
            later = [r for r in range(row + 1, window.length) if window.streams[r] == window.streams[row]]
            is_end = window.terminated[row] or window.truncated[row] or window.gaps[row] or not later
            following = 0.0 if window.terminated[row] else bootstraps[row] if is_end else values[later[0]]
            advantage += weight * (window.rewards[row] + gamma * following - values[row])
            if is_end:
                break
            weight *= gamma * lam
            row = later[0]
        result[t] = advantage
    return result


ROWS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.floats(-5, 5),
        st.sampled_from([False] * 5 + [True]),
        st.sampled_from([False] * 5 + [True]),
        st.sampled_from([False] * 9 + [True]),
    ),
    min_size=1,
    max_size=40,
)


@settings(deadline=None, max_examples=150)
@given(ROWS, st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**31))
def test_advantages_are_those_of_the_slow_reference(rows: list[Row], gamma: float, lam: float, seed: int) -> None:
    window = make_window(rows)
    values, bootstraps = np.random.default_rng(seed).normal(size=(2, window.length))
    fast = generalized_advantages(find_segments(window), window.rewards, values, bootstraps, gamma, lam)
    np.testing.assert_allclose(fast, slow_advantages(window, values, bootstraps, gamma, lam), atol=1e-9)


@settings(deadline=None, max_examples=150)
@given(ROWS, st.floats(0, 1), st.integers(0, 2**31))
def test_returns_are_advantages_over_nothing(rows: list[Row], gamma: float, seed: int) -> None:
    window = make_window(rows)
    bootstraps = np.random.default_rng(seed).normal(size=window.length)
    fast = discounted_returns(find_segments(window), window.rewards, bootstraps, gamma)
    # With lambda 1 and values 0, an advantage is the plain return.
    np.testing.assert_allclose(
        fast, slow_advantages(window, np.zeros(window.length), bootstraps, gamma, 1.0), atol=1e-9
    )


def test_an_empty_window_has_none() -> None:
    none = np.zeros(0)
    segments = find_segments(testing.make_window([]))
    assert discounted_returns(segments, none, none, 0.9).shape == (0,)
    assert generalized_advantages(segments, none, none, none, 0.9, 0.9).shape == (0,)


def test_a_hand_made_window() -> None:
    window = make_window(
        [
            (0, 1.0, False, False, False),
            (1, 10.0, False, False, False),
            (0, 2.0, True, False, False),
            (1, 20.0, False, True, False),
            (0, 4.0, False, False, False),
        ]
    )
    returns = discounted_returns(find_segments(window), window.rewards, np.full(5, 100.0), 0.5)
    # Termination stops; truncation (row 3) and the window's end (row 4) go on with 100.
    np.testing.assert_allclose(returns, [2.0, 45.0, 2.0, 70.0, 54.0])


@settings(deadline=None, max_examples=80)
@given(ROWS, st.floats(0, 1), st.integers(0, 39))
def test_reward_scaling_does_not_depend_on_where_windows_are_cut(rows: list[Row], gamma: float, cut: int) -> None:
    def gathered(parts: Sequence[Sequence[Row]]) -> RewardScaler:
        scaler = RewardScaler()
        for part in parts:
            window = make_window(part)
            scaler.scale(window, find_segments(window), gamma)
        return scaler

    parts = [part for part in (rows[:cut], rows[cut:]) if part]
    whole, halves = gathered([rows]), gathered(parts)
    assert whole.gathered.keys() == halves.gathered.keys()
    for stream, value in whole.gathered.items():
        assert halves.gathered[stream] == pytest.approx(value, abs=1e-9)
    np.testing.assert_allclose(whole.variance, halves.variance, atol=1e-9)
    open_sums: dict[str, float] = {}
    for stream, reward, terminated, truncated, gap in rows:
        name = "abc"[stream]
        total = gamma * open_sums.get(name, 0.0) + reward
        open_sums[name] = 0.0 if terminated or truncated or gap else total
    assert whole.gathered == pytest.approx(open_sums, abs=1e-9)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=5), st.integers(0, 2**31))
def test_moments_merge_exactly(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    batches = [rng.normal(3.0, 2.0, size=(size, 2)) for size in sizes]
    moments = RunningMoments(2)
    for batch in batches:
        moments.update(batch)
    together = np.concatenate(batches)
    np.testing.assert_allclose(moments.mean, together.mean(axis=0))
    np.testing.assert_allclose(moments.variance, together.var(axis=0), atol=1e-12)


def test_no_rows_change_no_moments() -> None:
    moments = RunningMoments(2)
    moments.update(np.zeros((0, 2)))
    assert (float(moments.count), moments.mean.tolist(), moments.variance.tolist()) == (0.0, [0.0, 0.0], [1.0, 1.0])


def test_normalised_observations_are_standard_and_clipped() -> None:
    normalizer = ObservationNormalizer(2)
    rows = np.random.default_rng(0).normal([5.0, -1.0], [3.0, 0.1], (500, 2)).astype(np.float32)
    normalizer.update(rows)
    normalize = EncodedInput((2,), None, *normalizer.standardization())
    standard = normalize(rows)
    np.testing.assert_allclose(standard.mean(axis=0), 0.0, atol=1e-4)
    np.testing.assert_allclose(standard.std(axis=0), 1.0, atol=1e-3)
    assert standard.dtype == np.float32
    np.testing.assert_array_equal(normalize(np.asarray([[1e9, -1e9]], np.float32)), [[10.0, -10.0]])
    normalizer.update(100.0 * rows)
    np.testing.assert_array_equal(normalize(rows), standard, "a frozen one stays as it is")


def test_scaled_rewards_are_clipped_and_keep_their_sign() -> None:
    window = make_window([(0, reward, True, False, False) for reward in [1.0, -1.0] * 500 + [1e6]])
    scaled = RewardScaler().scale(window, find_segments(window), 0.9)
    assert scaled[-1] == 10.0
    assert (np.sign(scaled) == np.sign(window.rewards)).all()
