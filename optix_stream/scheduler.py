"""The four states and the interval between tuning steps. Pure counting: no clock, no scores of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from optix_stream.contracts import Outcome, Stateful, Verdict
from optix_stream.errors import CheckpointError, ConfigurationError
from optix_stream.types import LoopState


class BackoffScheduler(Stateful):
    """Decides when to tune, and which state the loop is in.

    Every window is scored; what backs off is tuning and checkpoint I/O. Each window without
    improvement multiplies the interval by ``backoff_factor`` (by one window at least, where the
    factor is above 1) up to ``max_interval_episodes``; an improvement resets it.

    ACTIVE becomes COOLING after ``plateau_threshold`` windows in a row without improvement, and
    DORMANT after ``dormant_threshold``; improvement and degradation lead back to ACTIVE. A live run
    goes on from DORMANT to WATCHDOG.

    Args:
        base_interval: windows between two tuning steps while learning pays.
        backoff_factor: growth of the interval, 1 or more.
        max_interval_episodes: its cap, in windows.
        plateau_threshold: windows without improvement until COOLING.
        dormant_threshold: windows without improvement until DORMANT.
        degradation_threshold: share of the best score that is still well, for ``check_degradation``.
    """

    def __init__(
        self,
        base_interval: int = 1,
        backoff_factor: float = 2.0,
        max_interval_episodes: int = 100,
        plateau_threshold: int = 5,
        dormant_threshold: int = 20,
        degradation_threshold: float = 0.95,
    ) -> None:
        if not 1 <= base_interval <= max_interval_episodes:
            raise ConfigurationError(
                f"expected 1 <= base_interval <= max_interval_episodes, got {base_interval} and {max_interval_episodes}"
            )
        if not 1.0 <= backoff_factor < math.inf:
            raise ConfigurationError(f"backoff_factor: expected a finite 1 or more, got {backoff_factor}")
        if not 1 <= plateau_threshold <= dormant_threshold:
            raise ConfigurationError(
                f"expected 1 <= plateau_threshold <= dormant_threshold, got {plateau_threshold} and {dormant_threshold}"
            )
        self.degradation_threshold = degradation_threshold
        self._base_interval = base_interval
        self._factor = backoff_factor
        self._max_interval = max_interval_episodes
        self._plateau_threshold = plateau_threshold
        self._dormant_threshold = dormant_threshold
        self._state = LoopState.ACTIVE
        self._interval = base_interval
        self._non_improvements = 0
        self._best_score: float | None = None

    @property
    def current_state(self) -> LoopState:
        return self._state

    @property
    def current_interval(self) -> int:
        """Windows between two tuning steps, now."""
        return self._interval

    @property
    def consecutive_non_improvements(self) -> int:
        return self._non_improvements

    @property
    def best_score(self) -> float | None:
        """The score of the last improvement."""
        return self._best_score

    def record(self, verdict: Verdict, score: float) -> None:
        """Take a judge's verdict on a window."""
        match verdict.outcome:
            case Outcome.BASELINE | Outcome.IMPROVED:
                self.record_improvement(score)
            case Outcome.DEGRADED:
                self.record_degradation()
            case Outcome.UNCHANGED:
                self.record_non_improvement()
            case Outcome.ACTIVE:
                # A loop that is trained wakes on an improvement or a degradation, not on a doubt.
                if self._state is LoopState.COOLING:
                    self._reactivate()
            case Outcome.COOLING:
                self._back_off()
                self._settle(LoopState.COOLING)
            case Outcome.PLATEAU:
                self._back_off()
                self._settle(LoopState.DORMANT)

    def record_improvement(self, score: float) -> None:
        """A new best: reset the interval and be ACTIVE."""
        self._best_score = score
        self._reactivate()

    def record_non_improvement(self) -> None:
        """No new best: back off, and change state where a threshold is reached."""
        self._back_off()
        if self._non_improvements >= self._dormant_threshold:
            self._settle(LoopState.DORMANT)
        elif self._non_improvements >= self._plateau_threshold:
            self._settle(LoopState.COOLING)

    def record_degradation(self) -> None:
        """The score fell: be ACTIVE again."""
        self._reactivate()

    def record_restart(self) -> None:
        """Scores from here on are not comparable with those before."""
        self._best_score = None
        self._reactivate()

    def enter_watchdog(self) -> None:
        """A live run goes on after its plateau."""
        self._state = LoopState.WATCHDOG

    def check_degradation(self, score: float) -> bool:
        """Whether ``score < best - |best| * (1 - degradation_threshold)``; records nothing."""
        if self._best_score is None:
            return False
        return score < self._best_score - abs(self._best_score) * (1.0 - self.degradation_threshold)

    def should_adapt(self, episode_count: int) -> bool:
        """Whether this window, counted from 0, is one for tuning: every ``current_interval``-th is."""
        return episode_count % self._interval == 0

    # --- state

    def state_dict(self) -> Mapping[str, Any]:
        return {
            "state": self._state.value,
            "interval": self._interval,
            "non_improvements": self._non_improvements,
            "best_score": self._best_score,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        try:
            loop_state, interval = LoopState(state["state"]), int(state["interval"])
            non_improvements = int(state["non_improvements"])
            best_score = None if state["best_score"] is None else float(state["best_score"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"expected the state of a BackoffScheduler, got {error!r}") from error
        self._state, self._interval = loop_state, interval
        self._non_improvements, self._best_score = non_improvements, best_score

    def _back_off(self) -> None:
        self._non_improvements += 1
        grown = int(self._interval * self._factor)
        if self._factor > 1.0:
            grown = max(grown, self._interval + 1)
        self._interval = min(grown, self._max_interval)

    def _settle(self, state: LoopState) -> None:
        # WATCHDOG is DORMANT gone on: more of the same leaves it there.
        if self._state is not LoopState.WATCHDOG:
            self._state = state

    def _reactivate(self) -> None:
        self._non_improvements = 0
        self._interval = self._base_interval
        self._state = LoopState.ACTIVE
