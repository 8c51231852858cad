"""A run as its events tell it: what the display shows and the picture draws. Pure, no I/O, no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from optix_stream.cli.notes import Note, note_of
from optix_stream.events import (
    CheckpointSaved,
    Degraded,
    Event,
    HyperparamsChanged,
    Improved,
    LoopStarted,
    LoopStopped,
    RunResumed,
    StateChanged,
    WindowLearned,
    WindowScored,
)
from optix_stream.types import LoopState

_RATE_WINDOWS = 10


@dataclass(frozen=True, slots=True)
class WindowPoint:
    """One window.

    Attributes:
        window: its number.
        transitions: learned in the run so far, this window included.
        time: seconds on the run's clock.
        score: None where it was not scored.
        state: after it was judged.
    """

    window: int
    transitions: int
    time: float
    score: float | None
    state: LoopState


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened at a window.

    Attributes:
        transitions: learned in the run so far.
        score: of that window.
    """

    transitions: int
    score: float


@dataclass(slots=True)
class RunHistory:
    """Folds events, in order, into series and the latest values.

    Attributes:
        hyperparams: in force.
        smoothing: scores that a smoothed one averages over.
        points: one for each window, oldest first; those scored on another basis are left out of
            the scores, because they are not comparable.
        improvements: new bests.
        degradations: falls below the best.
        tunings: for each change of hyperparameters, the transitions learned by then and the new ones.
        notes: recent lines, oldest first.
    """

    hyperparams: Mapping[str, Any] = field(default_factory=dict)
    smoothing: int = 1
    state: LoopState = LoopState.ACTIVE
    interval: int = 1
    windows: int = 0
    transitions: int = 0
    idle_windows: int = 0
    best_score: float | None = None
    diagnostics: Mapping[str, float] = field(default_factory=dict)
    started: float | None = None
    stop_reason: str | None = None
    points: list[WindowPoint] = field(default_factory=list)
    improvements: list[Mark] = field(default_factory=list)
    degradations: list[Mark] = field(default_factory=list)
    tunings: list[tuple[int, Mapping[str, Any]]] = field(default_factory=list)
    notes: deque[Note] = field(default_factory=lambda: deque(maxlen=100))
    _basis: str | None = None
    _basis_start: int = 0

    def apply(self, event: Event) -> Note | None:
        """Take the next event; returns its line where it is worth one."""
        match event:
            case LoopStarted(time=time):
                self.started = time
            case RunResumed(window=window):
                self.windows = window + 1
            case LoopStopped(reason=reason):
                self.stop_reason = reason
            case WindowLearned(transitions=transitions, diagnostics=diagnostics):
                self.transitions += transitions
                self.diagnostics = diagnostics
            case WindowScored():
                self._take_score(event)
            case StateChanged(new=new):
                self.state = new
            case CheckpointSaved(snapshot=snapshot):
                saved = snapshot.eval_metrics.primary_score
                self.best_score = saved if self.best_score is None else max(saved, self.best_score)
                self.idle_windows = 0
            case Improved(snapshot=snapshot):
                self.improvements.append(Mark(self.transitions, snapshot.eval_metrics.primary_score))
            case Degraded(metrics=metrics):
                self.degradations.append(Mark(self.transitions, metrics.primary_score))
                self.idle_windows = 0
            case HyperparamsChanged(new=new):
                self.hyperparams = new
                self.tunings.append((self.transitions, new))
            case _:
                pass
        note = note_of(event)
        if note is not None:
            self.notes.append(note)
        return note

    def _take_score(self, event: WindowScored) -> None:
        self.windows += 1
        self.state, self.interval = event.state, event.interval
        metrics = event.metrics
        if metrics is not None and metrics.basis != self._basis:
            self._basis, self._basis_start, self.best_score = metrics.basis, len(self.points), None
        if metrics is not None and not event.is_probe:
            self.idle_windows += 1
        score = None if metrics is None else metrics.primary_score
        self.points.append(WindowPoint(event.window, self.transitions, event.time, score, event.state))

    def scored(self) -> list[tuple[int, float]]:
        """Transitions and score of each window that was scored on the present basis."""
        return [(p.transitions, p.score) for p in self.points[self._basis_start :] if p.score is not None]

    def recent_scores(self, count: int) -> list[float]:
        """The latest scores on the present basis, oldest first."""
        recent = self.points[max(self._basis_start, len(self.points) - count) :]
        return [point.score for point in recent if point.score is not None]

    @property
    def last_score(self) -> float | None:
        """The latest score."""
        recent = self.recent_scores(_RATE_WINDOWS)
        return recent[-1] if recent else None

    @property
    def smoothed_score(self) -> float | None:
        """Mean of the latest ``smoothing`` scores."""
        recent = self.recent_scores(self.smoothing)
        return sum(recent) / len(recent) if recent else None

    @property
    def steps_per_sec(self) -> float | None:
        """Transitions learned a second, over the last ten windows."""
        if self.started is None or not self.points:
            return None
        first_time, first_transitions = self.started, 0
        if len(self.points) > _RATE_WINDOWS:
            before = self.points[-_RATE_WINDOWS - 1]
            first_time, first_transitions = before.time, before.transitions
        last = self.points[-1]
        elapsed = last.time - first_time
        return (last.transitions - first_transitions) / elapsed if elapsed > 0.0 else None
