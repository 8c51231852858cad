"""What follows from a score: it is judged, the state changes, policies are kept or given up, and all of it is told."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from optix_stream.checkpointing import Checkpointer
from optix_stream.clock import Clock
from optix_stream.contracts import BaseOptimizer, EventSink, Judge, Outcome, Stateful, Verdict
from optix_stream.errors import CheckpointError
from optix_stream.events import Cause, Degraded, Improved, PlateauReached, StateChanged, WentDormant
from optix_stream.recovery import NextWindow, Recovery
from optix_stream.run_state import Progress
from optix_stream.scheduler import BackoffScheduler
from optix_stream.types import EvalMetrics, LoopState, PolicySnapshot

_NEWS = (Outcome.BASELINE, Outcome.IMPROVED, Outcome.PLATEAU)


class Decisions(Stateful):
    """Asks the judge, and does what it says.

    Args:
        judge: decides what a score means.
        scheduler: states and intervals.
        optimizer: is told of improvements and plateaus.
        progress: of the run.
        checkpoints: save and load policies.
        events: where it is told.
        clock: stamps events.
        recovery: finds causes and rolls back.
        rolls_back: go back to the best policy when the score falls.
    """

    def __init__(
        self,
        *,
        judge: Judge,
        scheduler: BackoffScheduler,
        optimizer: BaseOptimizer,
        progress: Progress,
        checkpoints: Checkpointer,
        events: EventSink,
        clock: Clock,
        recovery: Recovery,
        rolls_back: bool,
    ) -> None:
        self._judge = judge
        self._scheduler = scheduler
        self._optimizer = optimizer
        self._progress = progress
        self._checkpoints = checkpoints
        self._events = events
        self._clock = clock
        self._recovery = recovery
        self._rolls_back = rolls_back
        self.restart()

    def restart(self) -> None:
        """A run begins."""
        self._judge.restart()
        self._scheduler.record_restart()
        self._sound: EvalMetrics | None = None
        self._is_unsaved = False
        self._since_saved = 0

    def judge(self, metrics: EvalMetrics) -> Verdict:
        """What this score means; the state is that after it."""
        progress = self._progress
        if progress.basis is not None and metrics.basis != progress.basis:
            self._judge.restart()
            self._scheduler.record_restart()
        progress.basis = metrics.basis
        verdict = self._judge.update(metrics)
        self._scheduler.record(verdict, metrics.primary_score)
        return verdict

    async def act_on(self, verdict: Verdict, metrics: EvalMetrics, old: LoopState, next_window: NextWindow) -> None:
        """Save, roll back and tell.

        Args:
            verdict: on these metrics.
            metrics: of the latest window.
            old: the state before it.
            next_window: a further one to compare policies in.
        """
        window, state = metrics.episode_id, self._scheduler.current_state
        worth = metrics if verdict.score is None else dataclasses.replace(metrics, primary_score=verdict.score)
        self._sound = worth if verdict.is_sound else None
        if state is not old:
            self._events.emit(
                StateChanged(window=window, old=old, new=state, evidence=verdict.evidence, time=self._clock.now())
            )
        snapshot = await self._save_if_due(verdict, worth)
        match verdict.outcome:
            case Outcome.IMPROVED:
                self._optimizer.on_improvement(metrics)
                if snapshot is not None:
                    self._events.emit(
                        Improved(window=window, snapshot=snapshot, evidence=verdict.evidence, time=self._clock.now())
                    )
            case Outcome.DEGRADED:
                await self._face_degradation(verdict, metrics, next_window)
            case _ if state is LoopState.DORMANT:
                self._optimizer.on_plateau(tuple(self._progress.history))
                self._events.emit(WentDormant(window=window, evidence=verdict.evidence, time=self._clock.now()))
            case _ if state is LoopState.COOLING and old is not state:
                self._optimizer.on_plateau(tuple(self._progress.history))
                self._events.emit(
                    PlateauReached(window=window, state=state, evidence=verdict.evidence, time=self._clock.now())
                )

    async def at_end(self) -> None:
        """Of two policies between which nothing decides, the later one has learned more: let it be the best."""
        if self._sound is not None:
            await self._checkpoints.save_policy(
                self._sound, "the policy at the end of the run; nothing speaks against it"
            )
            self._sound = None

    async def _save_if_due(self, verdict: Verdict, worth: EvalMetrics) -> PolicySnapshot | None:
        """Save news at once, and what merely goes on no more often than the loop tunes."""
        is_news = verdict.outcome in _NEWS
        promotes = verdict.promote or verdict.outcome in (Outcome.BASELINE, Outcome.IMPROVED)
        self._is_unsaved = (self._is_unsaved and verdict.is_sound) or promotes
        self._since_saved += 1
        is_due = (promotes and is_news) or self._since_saved >= self._scheduler.current_interval
        if not (self._is_unsaved and is_due):
            return None
        self._is_unsaved, self._since_saved, self._sound = False, 0, None
        return await self._checkpoints.save_policy(worth, verdict.evidence)

    async def _face_degradation(self, verdict: Verdict, metrics: EvalMetrics, next_window: NextWindow) -> None:
        window, evidence = metrics.episode_id, verdict.evidence
        cause: Cause | None = None
        if self._rolls_back:
            comparison = await self._recovery.find_cause(verdict, metrics, next_window)
            if comparison is not None:
                cause, evidence = comparison.cause, f"{evidence}; {comparison.evidence}"
            elif verdict.recurs:
                cause, evidence = "environment", f"{evidence}; going back to the best policy has not helped"
        self._events.emit(
            Degraded(window=window, metrics=metrics, evidence=evidence, cause=cause, time=self._clock.now())
        )
        if cause == "environment":
            # Nobody knows what can be earned in this world: its own scores will tell.
            self._judge.restart()
        elif self._rolls_back and await self._recovery.roll_back(window):
            self._judge.reinstate()

    # --- state

    def state_dict(self) -> Mapping[str, Any]:
        sound = None if self._sound is None else self._sound.primary_score
        return {"sound": sound, "is_unsaved": self._is_unsaved, "since_saved": self._since_saved}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        sound, history = state["sound"], self._progress.history
        is_unsaved, since_saved = bool(state["is_unsaved"]), int(state["since_saved"])
        if sound is not None and not history:
            raise CheckpointError("expected the scores of a run of which one is sound, got none")
        self._sound = None if sound is None else dataclasses.replace(history[-1], primary_score=float(sound))
        self._is_unsaved, self._since_saved = is_unsaved, since_saved
