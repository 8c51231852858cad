from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optix_stream.contracts import Outcome, Verdict
from optix_stream.errors import ConfigurationError
from optix_stream.scheduler import BackoffScheduler
from optix_stream.types import LoopState


def record(scheduler: BackoffScheduler, outcome: Outcome, score: float = 0.0) -> LoopState:
    scheduler.record(Verdict(outcome=outcome, evidence="test"), score)
    return scheduler.current_state


@given(st.floats(1.0001, 10.0), st.integers(1, 50), st.integers(0, 500))
def test_the_interval_always_grows_up_to_its_cap(factor: float, base: int, room: int) -> None:
    """An interval of 1 times 1.5, truncated to int as in the original system, never grows."""
    scheduler = BackoffScheduler(base, factor, base + room)
    before = scheduler.current_interval
    assert before == base
    for _ in range(room + 3):
        scheduler.record_non_improvement()
        now = scheduler.current_interval
        assert now > before or now == base + room
        assert now <= base + room
        before = now
    assert before == base + room


def test_a_factor_of_one_never_backs_off() -> None:
    scheduler = BackoffScheduler(3, 1.0, 100)
    for _ in range(50):
        scheduler.record_non_improvement()
    assert scheduler.current_interval == 3


@given(
    st.lists(st.sampled_from(list(Outcome)), max_size=80),
    st.integers(1, 6),
    st.integers(0, 6),
)
def test_states_follow_the_windows_without_improvement(outcomes: list[Outcome], plateau: int, more: int) -> None:
    scheduler = BackoffScheduler(1, 2.0, 8, plateau, plateau + more)
    count, expected = 0, LoopState.ACTIVE
    for outcome in outcomes:
        if outcome in (Outcome.BASELINE, Outcome.IMPROVED, Outcome.DEGRADED):
            count, expected = 0, LoopState.ACTIVE
        elif outcome is Outcome.ACTIVE:
            if expected is LoopState.COOLING:
                count, expected = 0, LoopState.ACTIVE
        else:
            count += 1
            if outcome is Outcome.COOLING:
                expected = LoopState.COOLING
            elif outcome is Outcome.PLATEAU or count >= plateau + more:
                expected = LoopState.DORMANT
            elif count >= plateau:
                expected = LoopState.COOLING
        assert record(scheduler, outcome) is expected
        assert scheduler.consecutive_non_improvements == count
        assert (scheduler.current_interval == 1) == (count == 0)


@pytest.mark.parametrize("outcome", [Outcome.UNCHANGED, Outcome.COOLING, Outcome.PLATEAU])
def test_a_watchdog_stays_on_watch_while_nothing_changes(outcome: Outcome) -> None:
    scheduler = BackoffScheduler(plateau_threshold=1, dormant_threshold=1)
    assert record(scheduler, Outcome.UNCHANGED) is LoopState.DORMANT
    scheduler.enter_watchdog()
    for _ in range(5):
        assert record(scheduler, outcome) is LoopState.WATCHDOG


@pytest.mark.parametrize("outcome", [Outcome.IMPROVED, Outcome.DEGRADED])
def test_a_watchdog_wakes_the_loop(outcome: Outcome) -> None:
    """WATCHDOG was never entered in the original system."""
    scheduler = BackoffScheduler(plateau_threshold=1, dormant_threshold=1)
    record(scheduler, Outcome.UNCHANGED)
    scheduler.enter_watchdog()
    assert record(scheduler, outcome) is LoopState.ACTIVE
    assert scheduler.current_interval == 1


def test_every_interval_th_window_is_for_tuning() -> None:
    scheduler = BackoffScheduler(base_interval=3)
    assert [window for window in range(10) if scheduler.should_adapt(window)] == [0, 3, 6, 9]


def test_scores_of_another_basis_start_anew() -> None:
    scheduler = BackoffScheduler(plateau_threshold=1, dormant_threshold=2)
    record(scheduler, Outcome.IMPROVED, 100.0)
    record(scheduler, Outcome.UNCHANGED)
    assert scheduler.check_degradation(1.0)
    scheduler.record_restart()
    assert scheduler.current_state is LoopState.ACTIVE
    assert scheduler.best_score is None
    assert not scheduler.check_degradation(1.0)


@given(st.floats(-1e6, 1e6), st.floats(0.0, 1.0))
def test_no_score_is_below_itself(best: float, threshold: float) -> None:
    """Negative scores included: a threshold that multiplies the best would call -100 degraded at once."""
    scheduler = BackoffScheduler(degradation_threshold=threshold)
    assert not scheduler.check_degradation(best)
    scheduler.record_improvement(best)
    assert not scheduler.check_degradation(best)
    assert scheduler.check_degradation(best - abs(best) - 1.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"base_interval": 0},
        {"base_interval": 5, "max_interval_episodes": 4},
        {"backoff_factor": 0.9},
        {"backoff_factor": math.nan},
        {"backoff_factor": math.inf},
        {"plateau_threshold": 0},
        {"plateau_threshold": 5, "dormant_threshold": 4},
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="expected"):
        BackoffScheduler(**changes)
