"""The agent in a process of its own, which may die: acting goes on, and it is started again from its last commit."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import anyio
import anyio.to_thread
import numpy as np

from optix_stream.clock import Clock
from optix_stream.contracts import BaseAgent, Decision, EventSink, Intake, Policy
from optix_stream.errors import AgentFailedError, CheckpointError, ConfigurationError, LearnerLostError
from optix_stream.events import CheckpointFailed, LearnerLost, LearnerRestarted
from optix_stream.learner.child import ChildLostError, ChildProcess, ProcessOptions
from optix_stream.learner.contract import Learner
from optix_stream.learner.host import deterministic_policy
from optix_stream.learner.messages import (
    Done,
    Failed,
    Learn,
    LearnIncrement,
    Load,
    Publish,
    Request,
    Save,
    SetHyperparams,
    Start,
    generator_state,
    make_generator,
    set_generator_state,
)
from optix_stream.learner.published import PublishedPolicy
from optix_stream.learner.shared_weights import SharedWeights
from optix_stream.learner.worker import encode_hyperparams
from optix_stream.recipes import AgentRecipe, find
from optix_stream.types import EpisodeData, HyperparamSet, Tree
from optix_stream.wire import decode, encode, encode_window

logger = logging.getLogger(__name__)

T = TypeVar("T")
_Files: TypeAlias = bytes | dict[str, "_Files"]
"""What is in a file, or in a directory by name."""


class ProcessLearner(Learner):
    """Lets the agent learn in another process; what acts here needs none of its libraries.

    The agent is saved there after each window: a commit. When the process dies, or does not answer in time
    and is killed, another one goes on from the last commit, and what was being learned from is learned from
    again, once. A window that takes the process with it twice is given up.

    Args:
        recipe: how the agent is made there.
        clock: stamps events.
        options: how the process is run.
        agent: that was made by the recipe here, if there is one: what it is when a run begins is where that
            begins, and what was learned is what it holds when the run has ended.

    Raises:
        ConfigurationError: no process can be run like that on this system.
    """

    def __init__(
        self,
        recipe: AgentRecipe,
        clock: Clock,
        options: ProcessOptions | None = None,
        agent: BaseAgent | None = None,
    ) -> None:
        if not can_run_processes():
            raise ConfigurationError("learner='process' needs a POSIX system; use learner='thread'")
        self._recipe = encode({"factory": recipe.factory, "arguments": recipe.arguments})
        self._clock = clock
        self._options = options if options is not None else ProcessOptions()
        self._agent = agent
        self._proxy = _RemoteAgent(self)
        self._policy = PublishedPolicy(_NoPolicyYet())
        self._build: Callable[..., Policy] | None = None
        self._structure: Any = None
        self._weights: SharedWeights | None = None
        self._generator: np.random.Generator | None = None
        self._hyperparams = HyperparamSet({})
        self._increment: int | None = None
        self._child: ChildProcess | None = None
        # Names the run that is under way.
        self._run: object | None = None
        self._events: EventSink | None = None
        self._work: Path | None = None
        self._commit: Path | None = None
        self._is_commit_new = False
        # Of the last run, for the next, where no agent here holds it.
        self._kept: _Files | None = None
        self._commits = 0
        self._windows = self._windows_committed = self._uncommitted = 0
        self._losses = 0
        self._final: LearnerLostError | None = None
        self._has_increments = self._has_lost_increments = False
        # Held by the thread that talks to the child, which may outlive the call that was cancelled.
        self._talking = threading.Lock()
        self._turn: anyio.Lock | None = None

    # -- the contract ---------------------------------------------------------------------------

    @property
    def policy(self) -> PublishedPolicy:
        return self._policy

    @property
    def hyperparams(self) -> HyperparamSet:
        return self._hyperparams.copy()

    @asynccontextmanager
    async def open(self, events: EventSink) -> AsyncIterator[None]:
        self._events = events
        self._turn = anyio.Lock()
        self._run = object()
        self._is_commit_new = False
        self._final = None
        self._losses = self._windows = self._windows_committed = self._uncommitted = 0
        self._has_increments = self._has_lost_increments = False
        error: Exception | None = None
        try:
            await self._in_thread(self._begin)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch)
                try:
                    yield
                except Exception as raised:
                    # Carried past the task group, which would wrap it in an exception group.
                    error = raised
                tasks.cancel_scope.cancel()
        finally:
            # In this order: a thread that is starting one sees the first, or the second meets what it started.
            self._run = None
            if (child := self._child) is not None:
                child.kill()
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._finish)
        if error is not None:
            raise error

    async def learn(self, window: EpisodeData) -> dict[str, float]:
        async with self._take_turn():
            try:
                return await self._learn(window)
            finally:
                self._has_increments = self._has_lost_increments = False

    def intake(self) -> Intake | None:
        if self._increment is None:
            return None
        return Intake(increment=self._increment, learn_increment=self._learn_increment)

    async def call(self, function: Callable[[BaseAgent], T]) -> T:
        async with self._take_turn():
            while True:
                try:
                    return await self._in_thread(function, self._proxy)
                except ChildLostError as lost:
                    await self._recover(lost)

    async def publish(self) -> None:
        await self.call(lambda agent: self._ask(Publish()))

    def deterministic_policy(self) -> Policy:
        if self._agent is not None and self._child is None:
            return deterministic_policy(self._agent)
        assert self._build is not None, "nothing has been published yet"
        return self._build(None)

    # -- learning -------------------------------------------------------------------------------

    async def _learn(self, window: EpisodeData) -> dict[str, float]:
        for attempt in (1, 2):
            if self._has_lost_increments:
                window = dataclasses.replace(window, rows_learned=0)
            is_due = self._windows + 1 - self._windows_committed >= self._options.commit_every
            try:
                done = await self._in_thread(self._ask_to_learn, window, is_due)
            except ChildLostError as lost:
                await self._recover(lost, window.length)
                if attempt == 2:
                    raise LearnerLostError(str(lost), self._losses, is_final=False) from None
                continue
            self._losses = 0
            self._windows += 1
            if is_due and done.commit_error is None:
                self._windows_committed, self._uncommitted = self._windows, 0
            else:
                self._uncommitted += window.length
            if done.commit_error is not None:
                self._emit(CheckpointFailed(window=window.episode_id, error=done.commit_error, time=self._clock.now()))
            return done.diagnostics
        raise AssertionError("unreachable")

    async def _learn_increment(self, part: EpisodeData) -> None:
        async with self._take_turn():
            if self._has_lost_increments:  # The window will be learned from as a whole.
                return
            self._has_increments = True
            try:
                await self._in_thread(self._ask, LearnIncrement(encode_window(part)))
            except ChildLostError as lost:
                await self._recover(lost, part.length)

    # -- losing the child -----------------------------------------------------------------------

    async def _watch(self) -> None:
        """Start the child again also when it dies between two requests."""
        limiter = anyio.CapacityLimiter(1)
        while self._final is None:
            child = self._child
            assert child is not None
            await anyio.to_thread.run_sync(child.wait, abandon_on_cancel=True, limiter=limiter)
            assert self._turn is not None
            async with self._turn:
                if self._child is child and self._final is None:
                    try:
                        await self._recover(await self._in_thread(child.end))
                    except LearnerLostError:
                        logger.exception("acting goes on, learning does not")

    async def _recover(self, lost: ChildLostError, transitions: int = 0) -> None:
        """Start the child again.

        Raises:
            LearnerLostError: it was lost too often in a row.
        """
        self._has_lost_increments |= self._has_increments
        while True:
            self._losses += 1
            logger.warning("the learner's process was lost: %s", lost)
            self._emit(
                LearnerLost(
                    reason=str(lost),
                    transitions=transitions,
                    forgotten=self._uncommitted,
                    losses=self._losses,
                    time=self._clock.now(),
                )
            )
            self._windows, self._uncommitted = self._windows_committed, 0
            if self._losses > self._options.max_restarts:
                self._final = LearnerLostError(str(lost), self._losses, is_final=True)
                raise self._final
            try:
                await self._in_thread(self._restart)
            except ChildLostError as again:
                lost = again
            else:
                self._emit(LearnerRestarted(windows=self._windows, time=self._clock.now()))
                return

    # -- in a worker thread ---------------------------------------------------------------------

    def _begin(self) -> None:
        self._work = Path(tempfile.mkdtemp(prefix="optix-stream-learner-"))
        self._commit = None
        hyperparams = None
        if self._agent is not None:
            self._commit = self._next_commit()
            self._agent.save_weights(str(self._commit))
            hyperparams = encode_hyperparams(self._agent.get_hyperparams())
        elif self._kept is not None:
            self._commit = self._next_commit()
            _write_tree(self._commit, self._kept)
            hyperparams = encode_hyperparams(self._hyperparams)
        try:
            done = self._start(hyperparams, generator=None)
        except (ChildLostError, AgentFailedError, ConfigurationError) as error:
            raise ConfigurationError(f"cannot make the agent in a process of its own: {error}") from error
        self._increment = done.increment
        if self._commit is None:
            # What a loss before the first window goes back to.
            self._commit = self._next_commit()
            self._save(str(self._commit))

    def _restart(self) -> None:
        try:
            self._start(encode_hyperparams(self._hyperparams), self._generator_state())
        except (AgentFailedError, CheckpointError, ConfigurationError, OSError) as error:
            raise ChildLostError(f"cannot be started again: {error}") from error

    def _start(self, hyperparams: bytes | None, generator: str | None) -> Done:
        self._drop_child()
        self._child = ChildProcess(self._options)
        if self._run is None:
            raise ChildLostError("the run has ended")
        weights = None if self._commit is None else str(self._commit)
        return self._ask(Start(self._recipe, weights, hyperparams, generator), self._options.start_deadline_sec)

    def _finish(self) -> None:
        with self._talking:
            self._drop_child()
        if self._work is None:
            return
        try:
            if self._commit is not None and self._agent is None:
                self._kept = _read_tree(self._commit)
            elif self._commit is not None and self._agent is not None and self._is_commit_new:
                self._agent.load_weights(str(self._commit))
                self._agent.set_hyperparams(self._hyperparams.copy())
        finally:
            shutil.rmtree(self._work, ignore_errors=True)
            self._work = self._commit = None

    def _drop_child(self) -> None:
        if self._weights is not None:
            self._weights.close()
            self._weights = None
        if self._child is not None:
            self._child.close()
            self._child = None

    def _ask_to_learn(self, window: EpisodeData, is_due: bool) -> Done:
        commit = self._next_commit() if is_due else None
        done = self._ask(Learn(encode_window(window), None if commit is None else str(commit), self._generator_state()))
        if commit is not None and done.commit_error is None:
            self._replace_commit(commit)
        return done

    def _ask(self, request: Request, deadline_sec: float | None = None) -> Done:
        child = self._child
        if child is None:
            raise ChildLostError("it is not running")
        reply = child.request(request, self._options.learn_deadline_sec if deadline_sec is None else deadline_sec)
        if isinstance(reply, Failed):
            raise _error_of(reply)
        self._hyperparams = HyperparamSet(**decode(reply.hyperparams))
        is_restart = isinstance(request, Start) and request.generator is not None
        if reply.generator is not None and not is_restart:
            self._set_generator(reply.generator)
        if reply.has_published:
            self._take_policy(child, reply)
        return reply

    def _take_policy(self, child: ChildProcess, reply: Done) -> None:
        if reply.structure is not None:
            if self._weights is not None:
                self._weights.close()
            self._weights = child.view(reply.structure.layout)
            self._structure = (find(reply.structure.builder), decode(reply.structure.structure))
        assert self._weights is not None
        builder, structure = self._structure
        _, arrays = self._weights.read()

        def build(generator: np.random.Generator | None) -> Policy:
            policy: Policy = builder(structure, arrays, generator)
            return policy

        self._build = build
        self._policy.publish(build(self._generator))

    def _save(self, path: str) -> None:
        self._ask(Save(path, self._generator_state()))

    def _load(self, path: str) -> None:
        commit = self._next_commit()
        done = self._ask(Load(path, str(commit)))
        if done.commit_error is not None:
            raise CheckpointError(f"cannot keep what was loaded from {path}: {done.commit_error}")
        self._replace_commit(commit)
        self._windows_committed, self._uncommitted = self._windows, 0

    def _set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        self._ask(SetHyperparams(encode_hyperparams(hyperparams)))

    def _next_commit(self) -> Path:
        assert self._work is not None
        self._commits += 1
        return self._work / f"commit-{self._commits:06d}"

    def _replace_commit(self, commit: Path) -> None:
        old, self._commit = self._commit, commit
        self._is_commit_new = True
        if old is not None and old.is_dir():
            shutil.rmtree(old)
        elif old is not None:
            old.unlink()

    def _generator_state(self) -> str | None:
        return None if self._generator is None else generator_state(self._generator)

    def _set_generator(self, state: str) -> None:
        if self._generator is None:
            self._generator = make_generator(state)
        else:
            set_generator_state(self._generator, state)

    # -- small things ---------------------------------------------------------------------------

    @asynccontextmanager
    async def _take_turn(self) -> AsyncIterator[None]:
        if self._turn is None or self._run is None:
            raise ConfigurationError("the learner is not open")
        async with self._turn:
            if self._final is not None:
                raise self._final
            yield

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        run = self._run

        def talk() -> T:
            with self._talking:
                # A call may be cancelled before its thread begins.
                if run is None or run is not self._run:
                    raise ChildLostError("the run has ended")
                return function(*arguments)

        # Cancelled at once: leaving the context kills the child, which ends what it was asked.
        return await anyio.to_thread.run_sync(talk, abandon_on_cancel=True)

    def _emit(self, event: CheckpointFailed | LearnerLost | LearnerRestarted) -> None:
        assert self._events is not None
        self._events.emit(event)


class _RemoteAgent(BaseAgent):
    """Stands for the agent in calls that save, load and tune it; to be used in the learner's thread."""

    def __init__(self, learner: ProcessLearner) -> None:
        self._learner = learner

    def act(self, observation: Tree) -> Any:
        raise NotImplementedError("it acts by its published policy")

    def learn(self, episode_data: EpisodeData) -> dict[str, float]:
        raise NotImplementedError("it learns in its process")

    def get_hyperparams(self) -> HyperparamSet:
        return self._learner.hyperparams

    def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        self._learner._set_hyperparams(hyperparams)

    def save_weights(self, path: str) -> None:
        self._learner._save(path)

    def load_weights(self, path: str) -> None:
        self._learner._load(path)


class _NoPolicyYet:
    """What acts before the agent has been made."""

    version = 0

    def act(self, observations: Tree) -> Decision:
        raise ConfigurationError("the learner is not open: there is no policy yet")


def can_run_processes() -> bool:
    """Whether this system has what a learner's process needs: pipes and descriptors that it inherits."""
    return os.name == "posix"


def _read_tree(path: Path) -> _Files:
    if path.is_dir():
        return {entry.name: _read_tree(entry) for entry in path.iterdir()}
    return path.read_bytes()


def _write_tree(path: Path, files: _Files) -> None:
    if isinstance(files, bytes):
        path.write_bytes(files)
        return
    path.mkdir()
    for name, content in files.items():
        _write_tree(path / name, content)


def _error_of(failed: Failed) -> Exception:
    kinds = {"checkpoint": CheckpointError, "configuration": ConfigurationError}
    error = kinds.get(failed.kind, AgentFailedError)(failed.error)
    error.add_note(f"in the learner's process:\n{failed.trace}")
    return error
