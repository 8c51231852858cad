"""Which events are worth a line, and what the line says."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from optix_stream.cli.formatting import counted, duration, number, score
from optix_stream.events import (
    CheckpointFailed,
    CircuitOpened,
    Degraded,
    Event,
    GapDetected,
    HyperparamsChanged,
    Improved,
    JournalFailed,
    JournalRegained,
    LearnerLost,
    LearnerRestarted,
    LearningFailed,
    PlateauReached,
    RolledBack,
    RunResumed,
    SourceLost,
    SourceRegained,
    StateChanged,
    SubscriberFailed,
    SubscriberLagging,
    SwitchbackStarted,
    TransitionsDropped,
    TransitionsRejected,
    WatchdogStarted,
    WentDormant,
)
from optix_stream.types import LoopState


class Tone(Enum):
    """How a line is meant; the live display colours it by this."""

    GOOD = "good"
    PLAIN = "plain"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Note:
    """One line about one event.

    Attributes:
        text: the line.
        tone: how it is meant.
        time: of the event, seconds on the run's clock.
    """

    text: str
    tone: Tone
    time: float


def note_of(event: Event) -> Note | None:
    """The line for this event; None for what happens with every window or is said by another event."""
    text, tone = _text_of(event)
    return None if text is None else Note(text, tone, event.time)


def _text_of(event: Event) -> tuple[str | None, Tone]:
    match event:
        case Improved(evidence=evidence):
            return f"improved: {evidence}", Tone.GOOD
        case StateChanged(old=old, new=LoopState.ACTIVE):
            return f"active again after {old.value}", Tone.PLAIN
        case PlateauReached(evidence=evidence):
            return f"cooling: {evidence}", Tone.WARNING
        case WentDormant(evidence=evidence):
            return f"dormant: {evidence}", Tone.GOOD
        case WatchdogStarted():
            return "watchdog: trained, watching for degradation", Tone.PLAIN
        case SwitchbackStarted(evidence=evidence, windows_each=each):
            return f"comparing the live policy with the best over {each} windows each: {evidence}", Tone.WARNING
        case Degraded(evidence=evidence, cause=cause):
            return f"degraded{'' if cause is None else f' ({cause})'}: {evidence}", Tone.BAD
        case RolledBack(snapshot=snapshot):
            best = score(snapshot.eval_metrics.primary_score)
            return f"rolled back to {snapshot.snapshot_id}, score {best}", Tone.WARNING
        case HyperparamsChanged(old=old, new=new):
            changed = [f"{k} {number(old.get(k))} → {number(v)}" for k, v in new.items() if old.get(k) != v]
            return f"tuned: {', '.join(changed)}", Tone.PLAIN
        case RunResumed(window=window, checkpoint=checkpoint, fresh=fresh):
            but = f"; {', '.join(fresh)} begin afresh" if fresh else ""
            return f"goes on after window {window}, from {checkpoint}{but}", Tone.GOOD
        case CheckpointFailed(error=error):
            return f"checkpoint failed: {error}", Tone.BAD
        case JournalFailed(error=error):
            return f"nothing is accepted for good: {error}", Tone.BAD
        case JournalRegained(unkept=unkept):
            return f"the journal is kept again, without {counted(unkept, 'transition')}", Tone.GOOD
        case LearningFailed(window=window, failures=failures, error=error):
            what = "a transition" if window is None else f"window {window}"
            return f"learning failed on {what}, {failures} in a row: {error}", Tone.BAD
        case LearnerLost(reason=reason, losses=losses):
            return f"the learner's process was lost, {losses} in a row: {reason}", Tone.BAD
        case LearnerRestarted(windows=windows):
            return f"the learner's process goes on after {counted(windows, 'window')}", Tone.GOOD
        case _:
            return _text_of_stream_event(event)


def _text_of_stream_event(event: Event) -> tuple[str | None, Tone]:
    match event:
        case SourceLost(source=source, error=error, retry_sec=retry_sec):
            then = "no further attempt" if retry_sec is None else f"next attempt in {duration(retry_sec)}"
            return f"source {source} lost, {then}: {error}", Tone.BAD
        case CircuitOpened(source=source, failures=failures, cool_down_sec=cool_down_sec):
            return f"source {source} failed {failures} times: left alone for {duration(cool_down_sec)}", Tone.BAD
        case SourceRegained(source=source, attempts=attempts):
            return f"source {source} delivers again after {counted(attempts, 'attempt')}", Tone.GOOD
        case GapDetected(stream=stream, reason=reason, missed=missed):
            count = "" if missed is None else f", {counted(missed, 'step')} missed"
            return f"gap in stream {stream}: {reason}{count}", Tone.WARNING
        case TransitionsDropped(reason=reason, count=count):
            return f"{counted(count, 'transition')} given up: {reason}", Tone.PLAIN
        case TransitionsRejected(stream=stream, detail=detail, count=count):
            return f"{counted(count, 'transition')} of stream {stream} refused: {detail}", Tone.BAD
        case SubscriberLagging(subscriber=subscriber, missed=missed):
            return f"{subscriber} missed {counted(missed, 'event')}", Tone.WARNING
        case SubscriberFailed(subscriber=subscriber, hook=hook, error=error):
            return f"{subscriber}.{hook} failed: {error}", Tone.BAD
        case _:
            return None, Tone.PLAIN
