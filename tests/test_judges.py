from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optix_stream.contracts import Outcome, Verdict
from optix_stream.errors import ConfigurationError
from optix_stream.judges import ThresholdJudge
from optix_stream.testing import check_judge
from optix_stream.types import EvalMetrics


def judge_all(judge: ThresholdJudge, scores: list[float]) -> list[Verdict]:
    return [judge.update(EvalMetrics(score, {}, window)) for window, score in enumerate(scores)]


def outcomes(judge: ThresholdJudge, scores: list[float]) -> list[Outcome]:
    return [verdict.outcome for verdict in judge_all(judge, scores)]


finite = st.floats(-1e6, 1e6)


@given(st.lists(finite, min_size=1, max_size=40), st.floats(0.0, 10.0), st.floats(0.0, 1.0))
def test_every_verdict_means_what_the_margins_say(scores: list[float], margin: float, threshold: float) -> None:
    judge = ThresholdJudge(margin, threshold)
    best: float | None = None
    for window, score in enumerate(scores):
        if best is None:
            expected = Outcome.BASELINE
        elif score > best + margin:
            expected = Outcome.IMPROVED
        elif score < best - abs(best) * (1.0 - threshold):
            expected = Outcome.DEGRADED
        else:
            expected = Outcome.UNCHANGED
        if expected in (Outcome.BASELINE, Outcome.IMPROVED):
            best = score
        assert judge.update(EvalMetrics(score, {}, window)).outcome is expected
        assert judge.best_score == best


@given(st.lists(finite, max_size=60), st.integers(1, 6), st.floats(0.0, 1.0))
def test_a_threshold_judge_keeps_the_promises_of_a_judge(scores: list[float], smoothing: int, threshold: float) -> None:
    check_judge(lambda: ThresholdJudge(1.0, threshold, smoothing=smoothing), scores)


def test_degradation_is_measured_down_also_from_negative_scores() -> None:
    """``best * threshold``, the naive form, is *above* a best of -100."""
    assert outcomes(ThresholdJudge(0.0, 0.5), [-100.0, -120.0, -151.0]) == [
        Outcome.BASELINE,
        Outcome.UNCHANGED,
        Outcome.DEGRADED,
    ]


def test_one_lucky_window_does_not_stay_the_best_for_ever() -> None:
    """In the original system, a single outlier was the score to beat from then on."""
    judge = ThresholdJudge(smoothing=10, degradation_threshold=0.0)
    judge_all(judge, [100.0] * 10 + [1000.0] + [100.0] * 20)
    assert judge.best_score is not None
    assert judge.best_score == pytest.approx(190.0)
    assert ThresholdJudge().update(EvalMetrics(1000.0, {}, 0)).outcome is Outcome.BASELINE


def test_smoothing_takes_stationary_noise_for_what_it_is() -> None:
    """Comparing single windows calls almost every stationary window degraded."""
    scores = list(np.random.default_rng(0).normal(100.0, 20.0, 1000))
    single = outcomes(ThresholdJudge(0.0, 0.95), scores).count(Outcome.DEGRADED)
    smoothed = outcomes(ThresholdJudge(0.0, 0.5, smoothing=25), scores).count(Outcome.DEGRADED)
    assert single > 900
    assert smoothed == 0


def test_smoothing_waits_until_it_has_seen_enough() -> None:
    judge = ThresholdJudge(smoothing=3)
    assert outcomes(judge, [1.0, 5.0, 3.0, 4.0]) == [
        Outcome.BASELINE,
        Outcome.UNCHANGED,
        Outcome.BASELINE,
        Outcome.IMPROVED,
    ]
    assert judge.best_score == 4.0


def test_after_a_degradation_the_scores_before_it_no_longer_count() -> None:
    """Their mean would drag the next ones down, and call the same fall degraded again."""
    judge = ThresholdJudge(0.0, 0.9, smoothing=2)
    assert outcomes(judge, [100.0, 100.0, 0.0, 100.0, 100.0]) == [
        Outcome.BASELINE,
        Outcome.BASELINE,
        Outcome.DEGRADED,
        Outcome.UNCHANGED,
        Outcome.UNCHANGED,
    ]


def test_another_condition_can_veto_an_improvement() -> None:
    judge = ThresholdJudge(compare=lambda candidate, best: candidate.metrics["risk"] <= best.metrics["risk"])
    judge.update(EvalMetrics(1.0, {"risk": 1.0}, 0))
    assert judge.update(EvalMetrics(2.0, {"risk": 5.0}, 1)).outcome is Outcome.UNCHANGED
    assert judge.update(EvalMetrics(2.0, {"risk": 0.5}, 2)).outcome is Outcome.IMPROVED


def test_the_evidence_names_the_numbers() -> None:
    verdict = judge_all(ThresholdJudge(0.0, 0.5), [10.0, 4.0])[-1]
    assert verdict.evidence == "score 4 is below 5, the best being 10"
    assert verdict.facts == {"score": 4.0, "best": 10.0, "floor": 5.0, "margin": 0.0}


@pytest.mark.parametrize(
    "make",
    [
        lambda: ThresholdJudge(-1.0),
        lambda: ThresholdJudge(math.nan),
        lambda: ThresholdJudge(0.0, 1.5),
        lambda: ThresholdJudge(0.0, math.nan),
        lambda: ThresholdJudge(smoothing=0),
    ],
)
def test_margins_that_cannot_work_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError, match="expected"):
        make()
