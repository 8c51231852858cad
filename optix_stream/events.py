"""What can happen in a run, one frozen type for each thing.

Every event carries ``time``: seconds on the run's monotonic clock. It does not take part in
comparison, so two runs that did the same things compare equal event for event.
``GapDetected``, ``SourceLost``, ``SourceRegained`` and ``TransitionsRejected`` are also what
producers push *into* the stream: they travel in order with the transitions around them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from optix_stream.types import EvalMetrics, LoopState, PolicySnapshot, RunReport, StreamId

_NOT_COMPARED = frozenset({"time", "retry_sec", "age_sec", "report"})
"""What measures time, or holds what does."""


Cause: TypeAlias = Literal["policy", "environment"]
"""Why a score fell."""


class Event(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Base of every event.

    Attributes:
        time: seconds on the run's clock.
    """

    time: float = 0.0

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and all(
            getattr(self, name) == getattr(other, name) for name in self.__struct_fields__ if name not in _NOT_COMPARED
        )

    __hash__ = None  # type: ignore[assignment]  # Some hold mappings.


class LoopStarted(Event, frozen=True, kw_only=True, eq=False):
    """The loop runs; producers start next."""

    is_live: bool


class LoopStopped(Event, frozen=True, kw_only=True, eq=False):
    """The last event of a run.

    Attributes:
        reason: as in the report, or ``cancelled`` or ``failed``.
        report: what ``run()`` returns; None where it raises.
    """

    reason: str
    report: RunReport | None = None


class StateChanged(Event, frozen=True, kw_only=True, eq=False):
    """The loop went from one of its four states to another.

    Attributes:
        evidence: why, in words.
    """

    window: int
    old: LoopState
    new: LoopState
    evidence: str = ""


class WindowAssembled(Event, frozen=True, kw_only=True, eq=False):
    """A window is complete and about to be learned from."""

    window: int
    transitions: int
    streams: int


class WindowLearned(Event, frozen=True, kw_only=True, eq=False):
    """``agent.learn`` took the window; ``diagnostics`` is what it said."""

    window: int
    transitions: int
    diagnostics: Mapping[str, float]


class WindowScored(Event, frozen=True, kw_only=True, eq=False):
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


class Improved(Event, frozen=True, kw_only=True, eq=False):
    """A new best, already saved."""

    window: int
    snapshot: PolicySnapshot
    evidence: str


class PlateauReached(Event, frozen=True, kw_only=True, eq=False):
    """Gains are small: the loop is COOLING, and tuning backs off."""

    window: int
    state: LoopState
    evidence: str


class WentDormant(Event, frozen=True, kw_only=True, eq=False):
    """Trained: the score no longer improves. A pausable run stops."""

    window: int
    evidence: str


class WatchdogStarted(Event, frozen=True, kw_only=True, eq=False):
    """A live run went on after its plateau and now watches for degradation."""

    window: int


class SwitchbackStarted(Event, frozen=True, kw_only=True, eq=False):
    """The score fell, and the best policy and the live one now act by turns to see which of them, or whether the world,
    is to blame. ``Degraded`` follows.

    Attributes:
        windows_each: scores that each is to get; nothing is learned from these windows.
        evidence: of the fall.
    """

    window: int
    windows_each: int
    evidence: str


class Degraded(Event, frozen=True, kw_only=True, eq=False):
    """The score fell below what the best policy earned.

    Attributes:
        cause: ``"policy"``: learning has done damage; ``"environment"``: the world has changed, the best policy fell
            too, nothing is rolled back and scores are compared with new ones from here on; None: not known.
    """

    window: int
    metrics: EvalMetrics
    evidence: str
    cause: Cause | None = None


class RolledBack(Event, frozen=True, kw_only=True, eq=False):
    """Weights, optimizer state and hyperparameters of the best snapshot are back in force."""

    window: int
    snapshot: PolicySnapshot


class HyperparamsChanged(Event, frozen=True, kw_only=True, eq=False):
    """The tuner changed hyperparameters."""

    window: int
    old: Mapping[str, Any]
    new: Mapping[str, Any]


class CheckpointSaved(Event, frozen=True, kw_only=True, eq=False):
    """A snapshot is on disk."""

    window: int
    snapshot: PolicySnapshot


class RunSaved(Event, frozen=True, kw_only=True, eq=False):
    """The state of the run is on disk; ``resume`` goes on from there."""

    window: int
    checkpoint: str


class RunResumed(Event, frozen=True, kw_only=True, eq=False):
    """The run goes on where an earlier one stopped, or was stopped.

    Attributes:
        window: the last one that it had learned from.
        fresh: the parts that start afresh all the same, because they cannot be saved, or were not.
    """

    window: int
    checkpoint: str
    fresh: tuple[str, ...]


class CheckpointFailed(Event, frozen=True, kw_only=True, eq=False):
    """A snapshot could not be written, restored or removed; learning goes on with the ones before it."""

    window: int
    error: str


class JournalFailed(Event, frozen=True, kw_only=True, eq=False):
    """The journal cannot be written: what comes is learned from all the same, but a kill would lose it."""

    error: str


class JournalRegained(Event, frozen=True, kw_only=True, eq=False):
    """The journal can be written again.

    Attributes:
        unkept: transitions that it did not get meanwhile.
    """

    unkept: int


class LearningFailed(Event, frozen=True, kw_only=True, eq=False):
    """The agent raised while it learned; the weights are as before the call and the transitions were given up.

    Attributes:
        window: which one; None: it was one transition, by ``learn_one``.
        failures: how many windows, or transitions, in a row have failed.
    """

    window: int | None
    transitions: int
    failures: int
    error: str


class LearnerLost(Event, frozen=True, kw_only=True, eq=False):
    """The learner's process is gone; acting goes on. ``LearnerRestarted`` follows, or the run fails.

    Attributes:
        reason: how it ended, in words.
        transitions: in what was being learned from, which is tried once more.
        forgotten: transitions of windows that were learned from after the last commit, and so in vain.
        losses: in a row, without a window learned from between them.
    """

    reason: str
    transitions: int
    forgotten: int
    losses: int


class LearnerRestarted(Event, frozen=True, kw_only=True, eq=False):
    """The learner's process runs again, from its last commit.

    Attributes:
        windows: that the commit has learned from in this run.
    """

    windows: int


class SourceLost(Event, frozen=True, kw_only=True, eq=False):
    """A source ended or failed; ``retry_sec`` until the next attempt, None if there is none."""

    source: str
    error: str
    retry_sec: float | None


class CircuitOpened(Event, frozen=True, kw_only=True, eq=False):
    """A source failed so often that it is left alone for a while.

    Attributes:
        failures: how many opened the circuit.
    """

    source: str
    failures: int
    cool_down_sec: float


class SourceRegained(Event, frozen=True, kw_only=True, eq=False):
    """A source that was lost delivers again, after so many attempts."""

    source: str
    attempts: int


class GapDetected(Event, frozen=True, kw_only=True, eq=False):
    """The stream is not continuous here; no return, advantage or window crosses this point.

    Attributes:
        stream: the stream that is broken.
        reason: why, in words.
        missed: steps that never arrived, None where nobody can know.
    """

    stream: StreamId
    reason: str
    missed: int | None = None


class TransitionsDropped(Event, frozen=True, kw_only=True, eq=False):
    """Transitions that had arrived were given up.

    Attributes:
        stream: whose they were; None for several.
    """

    reason: str
    count: int
    stream: StreamId | None = None


class TransitionsRejected(Event, frozen=True, kw_only=True, eq=False):
    """Transitions that arrived were refused as unfit; ``detail`` names expected and got."""

    stream: StreamId
    reason: str
    detail: str
    count: int = 1


class DeadlineMissed(Event, frozen=True, kw_only=True, eq=False):
    """An action was not the policy's, because that would have come too late.

    Attributes:
        stream: whose observation it was.
        reason: which limit, in words.
        age_sec: of the observation when the fallback was executed.
        is_held: nothing was executed at all.
    """

    stream: StreamId
    reason: str
    age_sec: float
    is_held: bool


class RewardMissing(Event, frozen=True, kw_only=True, eq=False):
    """A delayed reward did not come in time, and its transition got the default in its place.

    Attributes:
        stream: whose it is.
        decision_id: of the action that would have earned it.
        default: what the transition got.
    """

    stream: StreamId
    decision_id: int
    default: float


class SubscriberLagging(Event, frozen=True, kw_only=True, eq=False):
    """A subscriber was too slow for its buffer and missed this many events."""

    subscriber: str
    missed: int


class SubscriberFailed(Event, frozen=True, kw_only=True, eq=False):
    """A hook raised; the loop is untouched, the traceback is in the log."""

    subscriber: str
    hook: str
    error: str


StreamEvent: TypeAlias = (
    GapDetected
    | SourceLost
    | SourceRegained
    | CircuitOpened
    | TransitionsRejected
    | DeadlineMissed
    | RewardMissing
    | LearningFailed
)
"""Events that a producer pushes into its stream, in order with the transitions."""
