"""A training run in its event loop: the loop itself, the display, the signals, the evaluation after it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from optix_stream.bus import Subscription
from optix_stream.cli.evaluation import Evaluation, Examiner
from optix_stream.cli.history import RunHistory
from optix_stream.cli.progress import Display
from optix_stream.cli.record import RunRecord, write_record
from optix_stream.events import CheckpointSaved, RunSaved
from optix_stream.rl_optimizer import RLOptimizer
from optix_stream.types import RunReport

_REFRESH_SEC = 0.125
_INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """What a run is made of.

    Attributes:
        optimizer: the loop.
        history: takes the events.
        display: shows them.
        record: written beside the first snapshot.
        checkpoint_dir: where that is.
        examine: makes what evaluates the policy that the agent holds; blocking.
        episodes: how many to evaluate.
    """

    optimizer: RLOptimizer
    history: RunHistory
    display: Display
    record: RunRecord
    checkpoint_dir: Path
    examine: Callable[[], Examiner]
    episodes: int


@dataclass(frozen=True, slots=True)
class SessionOutcome:
    """How it went.

    Attributes:
        report: of the run.
        evaluation: of fewer episodes than asked for where it was interrupted; None where it was before the first ended.
    """

    report: RunReport
    evaluation: Evaluation | None


async def run_session(session: Session) -> SessionOutcome:
    """Run until the loop ends, or a first SIGINT or SIGTERM ends it cleanly; then evaluate, until another one.

    Raises:
        Exception: what made the run fail.
    """
    result: SessionOutcome | Exception = RuntimeError("the session ended without a result")
    stopper = _Stopper(session)
    with session.display:
        async with session.optimizer.events(name="display") as events, anyio.create_task_group() as tasks:
            await tasks.start(stopper.watch)
            tasks.start_soon(_refresh, session.display)
            try:
                report = await _run_and_follow(session, events)
                result = SessionOutcome(report, await _evaluate(session, stopper))
            except Exception as error:
                # Carried past the task group, which would wrap it.
                result = error
            tasks.cancel_scope.cancel()
    if isinstance(result, Exception):
        raise result
    return result


async def _run_and_follow(session: Session, events: Subscription) -> RunReport:
    """The run, and its last event shown."""
    reports: list[RunReport] = []
    async with anyio.create_task_group() as followers:
        followers.start_soon(_follow, events, session)
        reports.append(await session.optimizer.run())
    return reports[0]


async def _follow(events: Subscription, session: Session) -> None:
    has_record = False
    async for event in events:
        note = session.history.apply(event)
        session.display.show(event, note)
        if isinstance(event, CheckpointSaved | RunSaved) and not has_record:
            # Not before: until then, the directory's best snapshot is that of an earlier run.
            await anyio.to_thread.run_sync(write_record, session.checkpoint_dir, session.record)
            has_record = True


async def _refresh(display: Display) -> None:
    while True:
        display.refresh()
        await anyio.sleep(_REFRESH_SEC)


async def _evaluate(session: Session, stopper: _Stopper) -> Evaluation | None:
    stopper.begin_evaluation()
    with await anyio.to_thread.run_sync(session.examine) as examiner:
        session.display.show_status(f"evaluating the best policy over {session.episodes} episodes")
        while len(examiner.returns) < session.episodes and stopper.lets_evaluate():
            await anyio.to_thread.run_sync(examiner.play, stopper.lets_evaluate)
    return Evaluation.of(examiner.returns, examiner.cut_off) if examiner.returns else None


class _Stopper:
    """What SIGINT and SIGTERM do: the first ends what goes on, the run or its evaluation; one more the process."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._signals = 0
        self._is_evaluating = False

    def begin_evaluation(self) -> None:
        """The run is over: what comes now is no second signal to it."""
        self._signals, self._is_evaluating = 0, True

    def lets_evaluate(self) -> bool:
        """Whether nobody wants the evaluation to end; from any thread."""
        return self._signals == 0

    async def watch(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Take signals until cancelled."""
        if sys.platform == "win32":
            # No receivers there; Ctrl-C cancels the run, which is clean too, but leaves no report.
            task_status.started()
            return
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for _ in signals:
                self._take()

    def _take(self) -> None:
        self._signals += 1
        if self._signals > 1:
            self._session.display.__exit__(None, None, None)
            # A learning step in its thread cannot be interrupted; the snapshots on disk are whole at any moment.
            os._exit(_INTERRUPTED)
        if self._is_evaluating:
            self._session.display.show_status("ending the evaluation; once more to exit at once")
        else:
            self._session.display.show_status("stopping after the present window; once more to exit at once")
            self._session.optimizer.stop()
