"""The default judge, on scores whose truth is known. How often it errs over many windows: benchmarks/decisions.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optix_stream.contracts import Outcome, Verdict
from optix_stream.errors import CheckpointError, ConfigurationError
from optix_stream.judges import EvidenceConfig, EvidenceJudge
from optix_stream.testing import check_judge
from optix_stream.types import EvalMetrics

SHORT = EvidenceConfig(reference_windows=16, minimal_effect=1.0)


def noise(seed: int, count: int, sd: float = 20.0) -> list[float]:
    return [float(value) for value in np.random.default_rng(seed).normal(0.0, sd, count)]


def judge_all(judge: EvidenceJudge, scores: Sequence[float]) -> list[Verdict]:
    return [judge.update(EvalMetrics(score, {}, window)) for window, score in enumerate(scores)]


def around(levels: Sequence[tuple[float, int]], seed: int = 0) -> list[float]:
    """Noise around one level after another, each for so many windows."""
    means = [level for level, count in levels for _ in range(count)]
    return [mean + value for mean, value in zip(means, noise(seed, len(means)), strict=True)]


def first(verdicts: Sequence[Verdict], outcome: Outcome) -> int | None:
    return next((window for window, verdict in enumerate(verdicts) if verdict.outcome is outcome), None)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([None, 40.0]))
def test_an_evidence_judge_keeps_the_promises_of_a_judge(seed: int, floor: float | None) -> None:
    config = EvidenceConfig(reference_windows=16, minimal_effect=1.0, floor=floor)
    check_judge(lambda: EvidenceJudge(config), around([(100.0, 60), (160.0, 60), (60.0, 40)], seed))


def test_stationary_scores_are_neither_degraded_nor_improved_but_a_plateau() -> None:
    outcomes = [verdict.outcome for verdict in judge_all(EvidenceJudge(), around([(100.0, 2000)], 2))]
    assert outcomes[0] is Outcome.BASELINE
    assert Outcome.DEGRADED not in outcomes
    assert Outcome.IMPROVED not in outcomes
    assert outcomes.count(Outcome.PLATEAU) > 1000


@pytest.mark.parametrize(("drop", "most"), [(20.0, 45), (40.0, 12)])
def test_a_fall_is_seen_soon(drop: float, most: int) -> None:
    delays = []
    for seed in range(9):
        verdicts = judge_all(EvidenceJudge(), around([(100.0, 400), (100.0 - drop, 200)], seed))
        window = first(verdicts, Outcome.DEGRADED)
        assert window is not None
        delays.append(window - 400)
    assert min(delays) >= 0
    assert sorted(delays)[4] <= most


def test_the_evidence_can_be_read() -> None:
    verdicts = judge_all(EvidenceJudge(), around([(100.0, 400), (60.0, 50)]))
    verdict = verdicts[first(verdicts, Outcome.DEGRADED) or 0]
    assert "sd below the reference of 331 windows (from " in verdict.evidence
    assert "; a false alarm this strong: 1 in " in verdict.evidence
    assert verdict.facts["statistic"] > 10_000
    assert verdict.facts["recent_mean"] == pytest.approx(60.0, abs=15.0)
    assert verdict.reference is not None
    assert verdict.reference.windows == 331
    assert verdict.reference.mean == pytest.approx(100.0, abs=3.0)
    assert verdict.reference.long_run_sd == pytest.approx(20.0, rel=0.25)


def test_a_new_best_is_worth_what_its_own_windows_say() -> None:
    """Those by which it was found were picked for being high."""
    verdicts = judge_all(EvidenceJudge(), around([(100.0, 200), (130.0, 200)], 4))
    window = first(verdicts, Outcome.IMPROVED)
    assert window is not None
    assert verdicts[window].promote
    later = [verdict for verdict in verdicts[window + 1 :] if verdict.promote]
    assert later, "it is kept again when there is a reference of its own"
    assert later[0].score == pytest.approx(130.0, abs=5.0)


def test_after_an_improvement_the_old_reference_still_guards_against_a_fall() -> None:
    """A new one takes 64 windows, and a collapse need not wait for it."""
    verdicts = judge_all(EvidenceJudge(), around([(100.0, 200), (140.0, 30), (20.0, 20)], 1))
    improved, degraded = first(verdicts, Outcome.IMPROVED), first(verdicts, Outcome.DEGRADED)
    assert improved is not None
    assert degraded is not None
    assert 200 <= improved < 230 <= degraded < 240


def test_what_has_degraded_is_not_the_best_until_the_loss_is_made_good() -> None:
    judge = EvidenceJudge(SHORT)
    verdicts = judge_all(judge, around([(200.0, 100), (40.0, 60), (100.0, 40), (200.0, 80)], 2))
    degraded = first(verdicts, Outcome.DEGRADED)
    assert degraded is not None
    below, recovered = verdicts[degraded:200], verdicts[200:]
    assert not any(verdict.promote or verdict.is_sound for verdict in below)
    assert any(verdict.outcome is Outcome.ACTIVE and "recovering" in verdict.evidence for verdict in verdicts[160:200])
    assert any(verdict.promote for verdict in recovered)


def test_a_loss_that_lasts_becomes_normal() -> None:
    config = EvidenceConfig(reference_windows=16, longest_reference_windows=128)
    verdicts = judge_all(EvidenceJudge(config), around([(100.0, 100), (40.0, 300)], 2))
    assert not any(verdict.promote for verdict in verdicts[110:200])
    assert any(verdict.promote for verdict in verdicts[200:])


def test_a_reinstated_policy_is_compared_with_its_own_scores_at_once() -> None:
    judge = EvidenceJudge(SHORT)
    before = judge_all(judge, around([(100.0, 100), (20.0, 10)], 3))
    assert before[-1].outcome is not Outcome.BASELINE
    assert first(before, Outcome.DEGRADED) is not None
    judge.reinstate()
    assert judge.reference is not None
    assert judge.reference.mean == pytest.approx(100.0, abs=8.0)
    again = judge_all(judge, around([(20.0, 10)], 4))
    window = first(again, Outcome.DEGRADED)
    assert window is not None
    assert again[window].recurs, "going back has not helped"


def test_a_degradation_long_after_the_last_one_does_not_recur() -> None:
    judge = EvidenceJudge(SHORT)
    judge_all(judge, around([(100.0, 100), (20.0, 6)], 3))
    judge.reinstate()
    verdicts = judge_all(judge, around([(100.0, 60), (20.0, 10)], 5))
    window = first(verdicts, Outcome.DEGRADED)
    assert window is not None
    assert not verdicts[window].recurs


def test_a_floor_acts_at_once_and_once() -> None:
    judge = EvidenceJudge(EvidenceConfig(floor=0.0))
    verdicts = judge_all(judge, [5.0, 5.0, -1.0, -1.0, 5.0, -1.0])
    outcomes = [verdict.outcome for verdict in verdicts]
    assert [window for window, outcome in enumerate(outcomes) if outcome is Outcome.DEGRADED] == [2, 5]
    assert verdicts[2].evidence == "score -1 is below the floor of 0"


def test_a_ramp_is_not_a_plateau_before_its_end() -> None:
    config = EvidenceConfig(minimal_effect=10.0, effect_unit="score")
    ramp = [min(1.0, window / 300) * 100.0 for window in range(800)]
    scores = [level + value for level, value in zip(ramp, noise(6, 800), strict=True)]
    verdicts = judge_all(EvidenceJudge(config), scores)
    window = first(verdicts, Outcome.PLATEAU)
    assert window is not None
    assert 300 <= window < 500
    assert verdicts[window].promote
    assert verdicts[window].score == pytest.approx(100.0, abs=8.0)


def test_a_rise_steeper_than_the_noise_is_not_cut_down_to_it() -> None:
    """Winsorised around a common median, a rise by far more than the noise would look smaller than the effect."""
    config = EvidenceConfig(reference_windows=16, minimal_effect=50.0, effect_unit="score")
    scores = [10.0 * window + value for window, value in enumerate(noise(7, 200, 1.0))]
    outcomes = {verdict.outcome for verdict in judge_all(EvidenceJudge(config), scores)}
    assert outcomes == {Outcome.BASELINE, Outcome.ACTIVE, Outcome.IMPROVED}


@pytest.mark.parametrize("scores", [[500.0] * 300, [500.0] * 20 + [499.0] + [500.0] * 300])
def test_scores_that_are_all_but_equal_are_a_plateau(scores: list[float]) -> None:
    outcomes = [verdict.outcome for verdict in judge_all(EvidenceJudge(SHORT), scores)]
    assert Outcome.DEGRADED not in outcomes
    assert outcomes[-1] is Outcome.PLATEAU


def test_noise_with_a_long_memory_is_judged_in_batches() -> None:
    rng = np.random.default_rng(0)
    slow, scores = 0.0, []
    for fast, news in rng.standard_normal((600, 2)):
        slow = 0.95 * slow + float(news) * math.sqrt(1.0 - 0.95**2)
        scores.append(100.0 + 20.0 * (math.sqrt(0.7) * float(fast) + math.sqrt(0.3) * slow))
    judge = EvidenceJudge(EvidenceConfig(windows_per_false_alarm=10**9, windows_per_false_improvement=10**9))
    judge_all(judge, scores[:256])
    assert judge.batch == 1
    judge_all(judge, scores[256:])
    assert judge.batch == 8
    assert judge.reference is not None
    assert judge.reference.windows >= 256


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 260))
def test_saved_and_restored_it_goes_on_to_the_bit(seed: int, cut: int) -> None:
    scores = around([(100.0, 120), (150.0, 80), (60.0, 60)], seed)
    judge, other = EvidenceJudge(SHORT), EvidenceJudge(SHORT)
    judge_all(judge, scores[:cut])
    other.load_state_dict(judge.state_dict())
    assert judge_all(judge, scores[cut:]) == judge_all(other, scores[cut:])


def test_the_state_is_plain_small_and_bounded() -> None:
    judge = EvidenceJudge()
    judge_all(judge, around([(100.0, 5000)]))
    data = msgspec.msgpack.encode(judge.state_dict(), enc_hook=lambda array: array.tobytes())
    assert len(data) <= 32 * 1024


@pytest.mark.parametrize("key", ["plateau", "segment", "detector", "lost", "is_settled"])
def test_a_state_that_is_none_changes_nothing(key: str) -> None:
    judge = EvidenceJudge(SHORT)
    judge_all(judge, around([(100.0, 50)]))
    state = judge.state_dict()
    broken: dict[str, Any] = {name: value for name, value in state.items() if name != key}
    with pytest.raises(CheckpointError, match="expected"):
        judge.load_state_dict(broken)
    assert judge_all(judge, [100.0]) is not None


@pytest.mark.parametrize(
    "make",
    [
        lambda: EvidenceConfig(windows_per_false_alarm=1),
        lambda: EvidenceConfig(minimal_effect=0.0),
        lambda: EvidenceConfig(minimal_effect=math.nan),
        lambda: EvidenceConfig(alpha=0.6),
        lambda: EvidenceConfig(power=1.0),
        lambda: EvidenceConfig(reference_windows=4),
        lambda: EvidenceConfig(reference_windows=64, longest_reference_windows=32),
        lambda: EvidenceConfig(clip=0.5),
        lambda: EvidenceConfig(floor=math.nan),
    ],
)
def test_what_cannot_work_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError, match="expected"):
        make()
