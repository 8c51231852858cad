"""What a run saves, when, and how it goes on from there: the loop's side of the checkpoint registry."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread

from optix_stream.checkpoints import CheckpointRegistry, RunCheckpoint
from optix_stream.checkpoints.files import sync_directory
from optix_stream.checkpoints.registry import StagedSnapshot
from optix_stream.clock import Clock
from optix_stream.contracts import BaseAgent, EventSink, Restful
from optix_stream.errors import CheckpointError, ConfigurationError
from optix_stream.events import CheckpointFailed, CheckpointSaved, RunResumed, RunSaved
from optix_stream.journal import Journal
from optix_stream.learner import Learner
from optix_stream.run_state import gather, restore
from optix_stream.types import EvalMetrics, PolicySnapshot

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointEvery:
    """How often a run's state is saved, besides after each window that brought a new best, and when the run ends.

    Whichever comes first. A live run writes it beside the windows that follow, and waits with learning only if another
    one is due before that is done. A run of an environment writes it beside the next window, and tells of it at that
    window's end, however long the disk took: one seed, one sequence of events, unless seconds say when to save.
    ``CheckpointEvery()`` says neither: only new bests and the end.

    Attributes:
        windows: after this many; None: however many.
        sec: after this many seconds; None: however long.
    """

    windows: int | None = None
    sec: float | None = None

    def __post_init__(self) -> None:
        if self.windows is not None and self.windows < 1:
            raise ConfigurationError(f"checkpoint_every: expected at least 1 window, got {self.windows}")
        if self.sec is not None and not 0.0 < self.sec < math.inf:
            raise ConfigurationError(f"checkpoint_every: expected a finite number of seconds above 0, got {self.sec}")


EVERY_MINUTE = CheckpointEvery(sec=60.0)


class Checkpointer:
    """Saves policies and the run's state for the loop, and tells what became of it by events.

    Args:
        registry: where everything goes.
        learner: holds the agent.
        events: where it is told.
        clock: stamps events and times ``every``.
        every: how often the run's state is saved.
        resume: whether to go on from the last checkpoint in the directory, if there is one.
        is_live: whether the source goes on while something is being saved.
        journal: of what comes between two checkpoints, where one is kept.

    Attributes:
        has_resumed: whether there was one.
    """

    def __init__(
        self,
        registry: CheckpointRegistry,
        learner: Learner,
        events: EventSink,
        clock: Clock,
        *,
        every: CheckpointEvery = EVERY_MINUTE,
        resume: bool = False,
        is_live: bool = False,
        journal: Journal | None = None,
    ) -> None:
        self._journal = journal
        self._is_live = is_live
        self._registry = registry
        self._learner = learner
        self._events = events
        self._clock = clock
        self._every = every
        self._resume = resume
        self.has_resumed = False
        self._parts: Mapping[str, object] = {}
        self._tasks: anyio.abc.TaskGroup | None = None
        self._windows = 0
        self._saved_at = 0.0
        self._has_new_best = False
        # Of the commit that is under way; None: there is none.
        self._committed: anyio.Event | None = None
        # What became of it, where that is told by the loop's own next step.
        self._untold: Callable[[], None] | None = None

    @asynccontextmanager
    async def open(self, parts: Mapping[str, object], tasks: anyio.abc.TaskGroup) -> AsyncIterator[None]:
        """Have the directory to oneself for the length of the ``async with``, and be where the last run was.

        Args:
            parts: whose state is saved, by name.
            tasks: in which to write.

        Raises:
            DirectoryInUseError: another run has the directory.
            CheckpointError: it cannot be used, or what is in it does not fit these parts.
        """
        self._parts, self._tasks = parts, tasks
        self._windows, self._saved_at, self._has_new_best = 0, self._clock.now(), False
        try:
            if self._resume:
                await self._go_on()
            else:
                await anyio.to_thread.run_sync(self._registry.begin_run)
                await self._open_journal(keep=False)
            self._tell_reports(0)
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await self._settle()
                if self._journal is not None:
                    await self._journal.close()
                await anyio.to_thread.run_sync(self._registry.end_run)

    # -- policies -------------------------------------------------------------------------------

    async def save_policy(self, metrics: EvalMetrics, evidence: str) -> PolicySnapshot | None:
        """Save the agent as it is, as the best; None if that failed, which has been told.

        Args:
            metrics: what the policy is worth.
            evidence: how that is known, in words.
        """
        await self._settle()

        def save(agent: BaseAgent) -> PolicySnapshot:
            return self._registry.save(agent, metrics, agent.get_hyperparams(), evidence=evidence, is_best=True)

        window = metrics.episode_id
        try:
            snapshot = await self._learner.call(save)
        except CheckpointError as error:
            self.tell_failure(window, error)
            return None
        self._has_new_best = True
        self._events.emit(CheckpointSaved(window=window, snapshot=snapshot, time=self._clock.now()))
        self._tell_reports(window)
        return snapshot

    async def save_aside(self, metrics: EvalMetrics, why: str) -> PolicySnapshot:
        """Save the agent as it is, so that it can be had again; not as the best.

        Raises:
            CheckpointError: it could not be written.
        """
        await self._settle()

        def save(agent: BaseAgent) -> PolicySnapshot:
            return self._registry.save(agent, metrics, agent.get_hyperparams(), evidence=why, is_best=False)

        return await self._learner.call(save)

    async def load(self, snapshot: PolicySnapshot) -> None:
        """Give the agent this policy.

        Raises:
            CheckpointError: it cannot be read.
        """
        await self._learner.call(lambda agent: self._registry.load(agent, snapshot))
        await self._learner.publish()

    async def load_best(self, window: int) -> PolicySnapshot | None:
        """Give the agent the best policy; None if there is none.

        Raises:
            CheckpointError: there is none that can be read.
        """
        await self._settle()
        snapshot = await self._learner.call(self._registry.load_best)
        await self._learner.publish()
        self._tell_reports(window)
        return snapshot

    # -- the state of the run -------------------------------------------------------------------

    async def after_window(self, window: int) -> None:
        """Save where the run is, if it is time to; writing goes on beside the windows that follow."""
        self._windows += 1
        if not self._is_live:
            await self._settle()
        if self._is_due():
            await self._settle()
            staged = await self._stage(window)
            if staged is not None:
                assert self._tasks is not None
                await self._tasks.start(self._commit, staged, window)

    async def at_end(self, window: int) -> None:
        """Save where the run is, and be done when this returns."""
        await self._settle()
        pipeline = self._parts.get("pipeline")
        if isinstance(pipeline, Restful):
            await pipeline.rest()
        staged = await self._stage(window)
        if staged is not None:
            await self._commit(staged, window)
            await self._settle()

    def _is_due(self) -> bool:
        every = self._every
        return (
            self._has_new_best
            or (every.windows is not None and self._windows >= every.windows)
            or (every.sec is not None and self._clock.now() - self._saved_at >= every.sec)
            or (self._journal is not None and self._journal.is_filling)
        )

    async def _stage(self, window: int) -> StagedSnapshot | None:
        # Also when it fails, so that it is not tried again, and told again, after each window.
        self._windows, self._saved_at, self._has_new_best = 0, self._clock.now(), False
        try:
            state = gather(self._parts)
            staged = await self._learner.call(lambda agent: self._registry.stage_run(agent, window, state))
        except CheckpointError as error:
            self.tell_failure(window, error)
            return None
        if self._journal is not None:
            self._journal.remember(staged.folder.name)
        return staged

    async def _commit(
        self,
        staged: StagedSnapshot,
        window: int,
        *,
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        committed = self._committed = anyio.Event()
        task_status.started()
        try:
            checkpoint = await anyio.to_thread.run_sync(self._registry.commit_run, staged)
            outcome = partial(self._tell_saved, window, checkpoint)
            if self._journal is not None:
                await self._journal.trim(each.name for each in self._registry.run_checkpoints())
        except CheckpointError as error:
            outcome = partial(self.tell_failure, window, error)
        finally:
            self._committed = None
            committed.set()
        if self._is_live:
            outcome()
        else:
            self._untold = outcome

    async def _settle(self) -> None:
        """Wait for what is being written, and tell what became of it, if nobody has."""
        if self._committed is not None:
            await self._committed.wait()
        if self._untold is not None:
            tell, self._untold = self._untold, None
            tell()

    async def _go_on(self) -> None:
        found: list[tuple[RunCheckpoint, Mapping[str, Any]]] = []

        def resume(agent: BaseAgent) -> None:
            found.clear()
            self._registry.resume_run(lambda checkpoint, state: found.append((checkpoint, state)), agent)

        await self._learner.call(resume)
        self.has_resumed = bool(found)
        if found:
            checkpoint, state = found[0]
            await self._learner.publish()
            fresh = restore(self._parts, state)
            await self._open_journal(keep="journal" not in fresh)
            if self._journal is not None:
                self._journal.remember(checkpoint.name)
            self._events.emit(
                RunResumed(window=checkpoint.window, checkpoint=checkpoint.name, fresh=fresh, time=self._clock.now())
            )
        else:
            # Nothing has been learned for good of what was accepted.
            await self._open_journal(keep=True)

    async def _open_journal(self, *, keep: bool) -> None:
        if self._journal is not None:
            await self._journal.open(keep=keep)
            await anyio.to_thread.run_sync(sync_directory, self._registry.checkpoint_dir)

    def _tell_saved(self, window: int, checkpoint: RunCheckpoint) -> None:
        self._events.emit(RunSaved(window=window, checkpoint=checkpoint.name, time=self._clock.now()))
        self._tell_reports(window)

    def _tell_reports(self, window: int) -> None:
        for error in self._registry.take_reports():
            self.tell_failure(window, error)

    def tell_failure(self, window: int, error: CheckpointError) -> None:
        """Log it, and make it an event."""
        logger.error("checkpoint failed after window %d", window, exc_info=error)
        self._events.emit(CheckpointFailed(window=window, error=str(error), time=self._clock.now()))
