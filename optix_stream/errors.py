"""Every error that optix_stream raises on purpose.

::

    OptixStreamError
    ├── ConfigurationError          a parameter, a space or a combination that cannot work
    │   └── MissingExtraError       an optional dependency is not installed
    ├── TransitionMismatchError     a transition does not fit the columns of its stream
    ├── QueueClosedError            pushed to a queue that was closed
    ├── QueueFullError              push_nowait on a full queue whose overflow policy is "block"
    ├── ActingFailedError           the policy raised
    ├── SourceFailedError           a source failed too often in a row
    ├── UnusableSourceError         all that a source brought, for long, was rejected
    ├── LearningFailedError         agent.learn failed too often in a row
    ├── AgentFailedError            the agent raised, in a process of its own
    ├── LearnerLostError            the learner's process was lost, and a window or the run with it
    ├── ScoreError                  an evaluator's answer is no score
    ├── CheckpointError             a checkpoint is missing, damaged or cannot be written
    │   └── DirectoryInUseError     another run writes to the checkpoint directory
    └── AlreadyRunningError         run() was called while a run is under way

Errors carry the numbers they speak of as attributes, so that a caller need not parse text.
"""

from __future__ import annotations

import os
import platform
from datetime import datetime


class OptixStreamError(Exception):
    """Base of every error in this module."""


class ConfigurationError(OptixStreamError, ValueError):
    """A parameter, a space or a combination of them cannot work; the text names expected and got."""


class MissingExtraError(ConfigurationError):
    """An optional dependency is missing, or several.

    Attributes:
        extra: name of the extra that brings it, as in ``pip install 'optix-stream[extra]'``; several are separated by
            commas.
    """

    def __init__(self, what: str, *extras: str) -> None:
        self.extra = ",".join(extras)
        needed = "an extra" if len(extras) == 1 else "extras"
        super().__init__(f"{what} needs {needed}: pip install 'optix-stream[{self.extra}]'")


class TransitionMismatchError(OptixStreamError, ValueError):
    """A value does not have the shape or dtype that its column has.

    Attributes:
        field: name of the column, such as ``observation`` or ``action``.
        expected: what the column holds, as text.
        got: what came, as text.
    """

    def __init__(self, field: str, expected: str, got: str) -> None:
        super().__init__(f"{field}: expected {expected}, got {got}")
        self.field = field
        self.expected = expected
        self.got = got


class QueueClosedError(OptixStreamError):
    """The queue was closed; nothing can be pushed any more."""


class QueueFullError(OptixStreamError):
    """The queue is full and its overflow policy is to wait, which ``push_nowait`` cannot.

    Attributes:
        capacity: transitions that the queue may hold.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(f"the queue holds its capacity of {capacity} transitions")
        self.capacity = capacity


class ActingFailedError(OptixStreamError):
    """The policy raised when it was asked for an action; the cause is chained.

    Attributes:
        source: name of the source that asked.
    """

    def __init__(self, source: str, cause: BaseException) -> None:
        super().__init__(f"the policy failed to act for source {source!r}: {cause!r}")
        self.source = source


class SourceFailedError(OptixStreamError):
    """A source failed this many times in a row without delivering anything.

    Attributes:
        source: name of the source.
        attempts: consecutive failures.
    """

    def __init__(self, source: str, attempts: int) -> None:
        super().__init__(f"source {source!r} failed {attempts} times in a row without delivering a step")
        self.source = source
        self.attempts = attempts


class UnusableSourceError(OptixStreamError):
    """A source that can be paused brought this many transitions in a row of which none could be used.

    Attributes:
        rejected: in a row.
        reason: of the last of them, as in ``TransitionsRejected``.
        detail: expected and got, in words.
    """

    def __init__(self, rejected: int, reason: str, detail: str) -> None:
        super().__init__(f"{rejected} transitions in a row were rejected and none accepted, last as {reason}: {detail}")
        self.rejected = rejected
        self.reason = reason
        self.detail = detail


class LearningFailedError(OptixStreamError):
    """The agent raised this many times in a row while it learned; the last cause is chained.

    Attributes:
        failures: consecutive failures.
        window: id of the last window that failed; None: they were single transitions.
    """

    def __init__(self, failures: int, window: int | None, cause: BaseException) -> None:
        what = (
            f"agent.learn_one failed on {failures} transitions in a row"
            if window is None
            else f"agent.learn failed on {failures} windows in a row, last on window {window}"
        )
        super().__init__(f"{what}: {cause!r}")
        self.failures = failures
        self.window = window


class AgentFailedError(OptixStreamError):
    """The agent raised in the learner's process; the text is its error, a note has the traceback."""


class LearnerLostError(OptixStreamError):
    """The learner's process was lost again while it learned from one window, or too often in a row.

    Attributes:
        losses: in a row, without a window learned from between them.
        is_final: it was not started again: nothing will be learned any more.
    """

    def __init__(self, reason: str, losses: int, *, is_final: bool) -> None:
        what = "and was not started again" if is_final else "while it learned from the same window"
        super().__init__(f"the learner's process was lost {losses} times in a row {what}: {reason}")
        self.losses = losses
        self.is_final = is_final


class ScoreError(OptixStreamError, ValueError):
    """What an evaluator answered cannot be compared with anything.

    Attributes:
        window: id of the window.
        got: the answer, in words.
    """

    def __init__(self, window: int, got: str) -> None:
        super().__init__(
            f"evaluator.score of window {window}: expected EvalMetrics with a finite primary_score, or None where "
            f"the window holds no evidence, got {got}"
        )
        self.window = window
        self.got = got


class CheckpointError(OptixStreamError):
    """A checkpoint is missing, damaged or cannot be written; the text names the path."""


class DirectoryInUseError(CheckpointError):
    """Another run, maybe one of this same process, writes to the checkpoint directory or has taken it from this one.

    Attributes:
        directory: the directory.
        pid: of the process that has it; None where that is not known, and so for the others.
        host: that it runs on.
        since: wall-clock seconds since the epoch.
    """

    def __init__(self, directory: os.PathLike[str], pid: int | None, host: str | None, since: float | None) -> None:
        holder = "another writer"
        if pid is not None and since is not None:
            moment = datetime.fromtimestamp(since).astimezone().isoformat(sep=" ", timespec="seconds")
            holder = f"process {pid} on {host}, since {moment}"
            if (pid, host) == (os.getpid(), platform.node()):
                # Two optimizers in one app, most likely, neither of which was told where to write.
                holder = f"another run of this same process, since {moment}: give each a checkpoint_dir of its own"
        super().__init__(f"checkpoint directory {os.fspath(directory)} is in use by {holder}")
        self.directory = directory
        self.pid = pid
        self.host = host
        self.since = since


class AlreadyRunningError(OptixStreamError):
    """One controller runs one loop at a time."""

    def __init__(self) -> None:
        super().__init__("this controller is already running; await its run() before starting another")
