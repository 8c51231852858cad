"""What can happen in a run, one frozen type for each thing.

Every event carries ``time``: seconds on the run's monotonic clock. It does not take part in
comparison, so two runs that did the same things compare equal event for event.
``GapDetected``, ``SourceLost``, ``SourceRegained`` and ``TransitionsRejected`` are also what
producers push *into* the stream: they travel in order with the transitions around them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from optix_stream.types import EvalMetrics, LoopState, PolicySnapshot, RunReport, StreamId


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Base of every event.

    Attributes:
        time: seconds on the run's clock.
    """

    time: float = field(default=0.0, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopStarted(Event):
    """The loop runs; producers start next."""

    is_live: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopStopped(Event):
    """The last event of a run.

    Attributes:
        reason: as in the report, or ``cancelled`` or ``failed``.
        report: what ``run()`` returns; None where it raises.
    """

    reason: str
    report: RunReport | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class StateChanged(Event):
    """The loop went from one of its four states to another."""

    window: int
    old: LoopState
    new: LoopState


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowAssembled(Event):
    """A window is complete and about to be learned from."""

    window: int
    transitions: int
    streams: int


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowLearned(Event):
    """``agent.learn`` took the window; ``diagnostics`` is what it said."""

    window: int
    transitions: int
    diagnostics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowScored(Event):
    """The window's score. ``metrics`` is None where the window holds no evidence for one.

    Attributes:
        state: the state after this score was judged.
        interval: windows between two tuning steps.
        is_probe: a tuner was trying a value, so this score was not judged.
    """

    window: int
    metrics: EvalMetrics | None
    state: LoopState
    interval: int
    is_probe: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Improved(Event):
    """A new best, already saved."""

    window: int
    snapshot: PolicySnapshot
    evidence: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PlateauReached(Event):
    """Gains are small: the loop is COOLING, and tuning backs off."""

    window: int
    state: LoopState
    evidence: str


@dataclass(frozen=True, kw_only=True, slots=True)
class WentDormant(Event):
    """Trained: the score no longer improves. A pausable run stops."""

    window: int
    evidence: str


@dataclass(frozen=True, kw_only=True, slots=True)
class WatchdogStarted(Event):
    """A live run went on after its plateau and now watches for degradation."""

    window: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Degraded(Event):
    """The score fell below what the best policy earned."""

    window: int
    metrics: EvalMetrics
    evidence: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RolledBack(Event):
    """Weights, optimizer state and hyperparameters of the best snapshot are back in force."""

    window: int
    snapshot: PolicySnapshot


@dataclass(frozen=True, kw_only=True, slots=True)
class HyperparamsChanged(Event):
    """The tuner changed hyperparameters."""

    window: int
    old: Mapping[str, Any]
    new: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointSaved(Event):
    """A snapshot is on disk."""

    window: int
    snapshot: PolicySnapshot


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointFailed(Event):
    """A snapshot could not be written or restored; learning goes on with the ones before it."""

    window: int
    error: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LearningFailed(Event):
    """``agent.learn`` raised; the weights are as before the call and the window was given up.

    Attributes:
        failures: how many windows in a row have failed.
    """

    window: int
    transitions: int
    failures: int
    error: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceLost(Event):
    """A source ended or failed; ``retry_sec`` until the next attempt, None if there is none."""

    source: str
    error: str
    retry_sec: float | None = field(compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceRegained(Event):
    """A source that was lost delivers again, after so many attempts."""

    source: str
    attempts: int


@dataclass(frozen=True, kw_only=True, slots=True)
class GapDetected(Event):
    """The stream is not continuous here; no return, advantage or window crosses this point.

    Attributes:
        stream: the stream that is broken.
        reason: why, in words.
        missed: steps that never arrived, None where nobody can know.
    """

    stream: StreamId
    reason: str
    missed: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TransitionsDropped(Event):
    """Transitions that had arrived were given up.

    Attributes:
        stream: whose they were; None for several.
    """

    reason: str
    count: int
    stream: StreamId | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TransitionsRejected(Event):
    """Transitions that arrived were refused as unfit; ``detail`` names expected and got."""

    stream: StreamId
    reason: str
    detail: str
    count: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class DeadlineMissed(Event):
    """An action was not the policy's, because that would have come too late.

    Attributes:
        stream: whose observation it was.
        reason: which limit, in words.
        age_sec: of the observation when the fallback was executed.
        is_held: nothing was executed at all.
    """

    stream: StreamId
    reason: str
    age_sec: float = field(compare=False)
    is_held: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class SubscriberLagging(Event):
    """A subscriber was too slow for its buffer and missed this many events."""

    subscriber: str
    missed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SubscriberFailed(Event):
    """A hook raised; the loop is untouched, the traceback is in the log."""

    subscriber: str
    hook: str
    error: str


StreamEvent: TypeAlias = GapDetected | SourceLost | SourceRegained | TransitionsRejected | DeadlineMissed
"""Events that a producer pushes into its stream, in order with the transitions."""
