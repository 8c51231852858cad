from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optix_stream.optimizers.block_effect import Blocks, Effect, EffectKind, paired_effect, pool, trend


def scores_of(
    order: str, length: int, effect: float, kind: EffectKind, parabola: tuple[float, float, float]
) -> list[float]:
    """Without noise: a parabola in time, and the effect of the windows under B."""
    scores, under_b = [], 0
    for window in range(len(order) * length):
        is_trial = order[window // length] == "B"
        share = window / (len(order) * length)
        base = parabola[0] + parabola[1] * share + parabola[2] * share**2
        scores.append(base + effect * (under_b if kind == "slope" else is_trial))
        under_b += is_trial
    return scores


@given(
    st.sampled_from(["ABBA", "BAAB"]),
    st.integers(2, 30),
    st.floats(-5.0, 5.0),
    st.sampled_from(["slope", "level"]),
    st.tuples(*[st.floats(-100.0, 100.0)] * 3),
)
def test_an_effect_is_told_apart_from_a_trend(
    order: str, length: int, effect: float, kind: EffectKind, parabola: tuple[float, float, float]
) -> None:
    if kind == "level":
        parabola = (*parabola[:2], 0.0)
    found = paired_effect(scores_of(order, length, effect, kind, parabola), order, kind)
    assert found.size == pytest.approx(effect, abs=1e-8)


@pytest.mark.parametrize(("kind", "length", "expected"), [("slope", 40, 2.6 * 40**-1.5), ("level", 40, 40**-0.5)])
def test_the_error_is_what_the_docstring_says(kind: EffectKind, length: int, expected: float) -> None:
    rng = np.random.default_rng(0)
    found = [paired_effect(rng.normal(0.0, 1.0, 4 * length).tolist(), "ABBA", kind) for _ in range(400)]
    sizes = np.array([effect.size for effect in found])
    errors = np.array([effect.error for effect in found])
    assert sizes.std() == pytest.approx(expected, rel=0.12)
    # Wider by the allowance for what autocorrelation residuals hide.
    assert expected <= np.median(errors) <= 1.25 * expected


def test_autocorrelated_noise_does_not_feign_effects() -> None:
    rng = np.random.default_rng(1)
    false = 0
    for _ in range(300):
        noise = rng.normal(0.0, 1.0, 200)
        for window in range(1, 200):
            noise[window] += 0.5 * noise[window - 1]
        false += abs(paired_effect(noise.tolist(), "BAAB", "level").z) > 2.0
    assert false <= 30


def test_evidence_is_pooled_by_what_it_knows() -> None:
    pooled = pool([Effect(1.0, 1.0), Effect(4.0, 0.5)])
    assert pooled.size == pytest.approx((1.0 + 16.0) / 5.0)
    assert pooled.error == pytest.approx(5.0**-0.5)


def test_a_trend_is_score_a_window() -> None:
    assert trend([1.0, 3.0, 5.0, 7.0]).size == pytest.approx(2.0)


def test_turns() -> None:
    blocks = Blocks("ABBA", 2)
    seen = []
    while not blocks.is_over:
        seen.append((blocks.letter, len(blocks.since_the_last_change)))
        blocks.add(0.0)
    assert seen == [("A", 0), ("A", 1), ("B", 0), ("B", 1), ("B", 2), ("B", 3), ("A", 0), ("A", 1)]
    assert {Blocks.draw(np.random.default_rng(seed), 3).order for seed in range(9)} == {"ABBA", "BAAB"}
