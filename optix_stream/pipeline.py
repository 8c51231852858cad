"""Producers, queue and assembler as one thing to hand to a controller."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from optix_stream.assembler import WindowAssembler
from optix_stream.boundaries import BoundaryFn, every_n_seconds, every_n_steps, on_done_signal
from optix_stream.clock import Clock, SystemClock
from optix_stream.contracts import (
    BaseAgent,
    BasePipeline,
    EventSink,
    Intake,
    Policy,
    Producer,
    Restful,
    Stateful,
    StreamItem,
    TransitionSink,
    WindowSource,
)
from optix_stream.errors import ConfigurationError
from optix_stream.events import TransitionsDropped
from optix_stream.feed_session import FeedOptions
from optix_stream.journal import Acceptance, Journal
from optix_stream.learning_sink import LearningSink
from optix_stream.ledger import Ledger
from optix_stream.pipeline_run import PipelineRun
from optix_stream.producers import DataSource, FeedProducer, Steps, as_data_source
from optix_stream.queue import OverflowPolicy, TransitionQueue
from optix_stream.reconnecting import ReconnectPolicy
from optix_stream.types import Statistics

MAX_REJECTED = 10_000
"""50 windows of ``BatchPipeline``'s default size: what brings nothing usable for so long does not mend itself."""


class StreamPipeline(BasePipeline, Restful, Stateful):
    """Base of the pipelines that ship: any number of producers into one queue into one assembler.

    Args:
        boundary: where windows end.
        capacity: transitions that the queue may hold.
        overflow: what happens when it is full.
        lockstep: producers wait after each push until it has been dealt with, learning included.
        clock: the run's clock.
        max_rejected: transitions rejected in a row, none accepted between them, after which the run fails with
            ``UnusableSourceError``; an environment brings nothing else then. A live source is not given up, because
            it may recover.

    Raises:
        ConfigurationError: no boundary, or a limit below 1.
    """

    def __init__(
        self,
        *,
        boundary: BoundaryFn,
        capacity: int,
        overflow: OverflowPolicy,
        lockstep: bool,
        clock: Clock | None = None,
        max_rejected: int = MAX_REJECTED,
    ) -> None:
        if max_rejected < 1:
            raise ConfigurationError(f"max_rejected: expected at least 1 transition, got {max_rejected}")
        if not callable(boundary):
            raise ConfigurationError(f"boundary: expected a function such as every_n_steps(200), got {boundary!r}")
        self.clock: Clock = clock if clock is not None else SystemClock()
        self._boundary = boundary
        self._capacity = capacity
        self._overflow: OverflowPolicy = overflow
        self._lockstep = lockstep
        self._max_rejected = max_rejected
        self._run = PipelineRun(TransitionQueue(capacity, overflow), WindowAssembler(boundary))
        self._saved: Mapping[str, Any] | None = None
        self._journal: Journal | None = None

    @abstractmethod
    def producers(self) -> Sequence[Producer]:
        """The producers of one run."""

    def statistics(self) -> Statistics:
        return self._run.statistics()

    async def rest(self) -> None:
        if self._lockstep:
            for producer in self._run.producers:
                if isinstance(producer, Restful):
                    await producer.rest()

    def state_dict(self) -> Mapping[str, Any]:
        """What is held, the balance, and where the producers are, where these wait while a window is learned from.

        Raises:
            CheckpointError: a producer is in the midst of a step.
        """
        return self._run.state_dict(with_producers=self._lockstep)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The next run goes on from there. The streams of a producer that cannot go on have a gap there."""
        self._saved = state

    def use_journal(self, journal: Journal) -> None:
        """Let the runs to come take nothing that is not in the journal first; it is open while they run.

        Raises:
            ConfigurationError: the source waits for the loop, and so can bring again what was lost.
        """
        if self._lockstep or not self.is_live:
            raise ConfigurationError(f"journal: expected a live pipeline, got a {type(self).__name__} that can wait")
        self._journal = journal

    @asynccontextmanager
    async def open(
        self, policy: Policy, events: EventSink, intake: Intake | None = None
    ) -> AsyncIterator[WindowSource]:
        queue = TransitionQueue(self._capacity, self._overflow, Ledger())
        intake = intake if intake is not None else Intake()
        assembler = WindowAssembler(self._boundary, learned_one_by_one=intake.learn_one is not None)
        acceptance = Acceptance(queue, self._journal, events, self.clock) if self._journal is not None else None
        max_rejected = None if self.is_live else self._max_rejected
        run = self._run = PipelineRun(queue, assembler, events, self.clock, intake, acceptance, max_rejected)
        sink: TransitionSink = _LockstepSink(queue) if self._lockstep else queue
        if acceptance is None and (intake.learn_one is not None or intake.increment is not None):
            sink = LearningSink(sink, intake, self.clock)
        run.producers = self.producers()
        saved, self._saved = self._saved, None
        await run.go_on(saved)
        reason = "cancelled"
        error: Exception | None = None
        try:
            async with anyio.create_task_group() as tasks:
                if acceptance is not None:
                    tasks.start_soon(acceptance.run)
                tasks.start_soon(run.produce, policy, sink)
                try:
                    yield run
                except Exception as raised:
                    # Carried past the task group, which would wrap it in an exception group.
                    error = raised
                reason = "stopped"
                tasks.cancel_scope.cancel()
        finally:
            if acceptance is not None:
                queue.close()
                with anyio.CancelScope(shield=True):
                    await acceptance.accept_rest()
            run.abandon(reason)
        if error is not None:
            raise error


class _LockstepSink:
    """Pushes, then waits until the consumer has dealt with it."""

    def __init__(self, queue: TransitionQueue) -> None:
        self._queue = queue

    async def push(self, item: StreamItem) -> None:
        await self._queue.push(item)
        # A word on what was lost ends no window, and is also said by a producer that is being stopped, when nobody
        # takes anything any more.
        if not isinstance(item, TransitionsDropped):
            await self._queue.wait_settled()


class LivePipeline(StreamPipeline):
    """Windows from a live feed: any object with ``stream()`` and, if it has one, ``send(action)``.

    Where no action is to be sent, a generator function will do, plain or async; it is called as ``stream()`` would be.

    Acting never waits for learning: while the learner is behind, transitions wait in the queue, and
    when that is full the overflow policy decides, by default in favour of what is new. A source that
    can be paused without harm may say ``overflow="block"``.

    Args:
        data_source: yields ``(observation, reward, terminated, truncated, info)``, see ``alignment``; or a
            producer, or several, which bring the settings of their connections themselves.
        agent: may be given as in the original system; must be the controller's agent then.
        episode_boundary_fn: where windows end; by default with each episode.
        buffer_size: transitions that the queue may hold.
        reconnect_on_disconnect: call ``stream()`` again after it ends or fails.
        overflow: ``drop_oldest``, ``drop_newest`` or ``block``.
        reconnect: how to reconnect.
        clock: the run's clock.
        name: names the source in events.
        seed: of the reconnect jitter.
        options: reward function, delayed rewards, deadlines.
        record: append what arrives to this file, for ``ReplayFeed``; a step becomes a message that ``JsonCodec`` reads.
        lockstep: wait after each step until it has been dealt with, learning included: for a replay, which
            then gives the same weights each time.
    """

    every_n_steps = staticmethod(every_n_steps)
    every_n_seconds = staticmethod(every_n_seconds)
    on_done_signal = staticmethod(on_done_signal)

    def __init__(
        self,
        data_source: DataSource | Callable[[], Steps] | Producer | Sequence[Producer],
        agent: BaseAgent | None = None,
        episode_boundary_fn: BoundaryFn | None = None,
        buffer_size: int = 1000,
        reconnect_on_disconnect: bool = True,
        *,
        overflow: OverflowPolicy = "drop_oldest",
        reconnect: ReconnectPolicy | None = None,
        clock: Clock | None = None,
        name: str | None = None,
        seed: int | None = None,
        options: FeedOptions | None = None,
        record: str | Path | None = None,
        lockstep: bool = False,
    ) -> None:
        boundary = episode_boundary_fn if episode_boundary_fn is not None else on_done_signal()
        super().__init__(boundary=boundary, capacity=buffer_size, overflow=overflow, lockstep=lockstep, clock=clock)
        self.agent = agent
        ready = data_source if isinstance(data_source, Sequence) else [data_source]
        self._producers: list[Producer] = [source for source in ready if isinstance(source, Producer)]
        if self._producers:
            given = {"reconnect": reconnect, "name": name, "seed": seed, "options": options, "record": record}
            surplus = [key for key, value in given.items() if value is not None]
            if surplus or len(self._producers) < len(ready):
                raise ConfigurationError(
                    f"data_source: expected only producers, which have their own {surplus or 'kind'}"
                )
            return
        policy = reconnect if reconnect is not None else ReconnectPolicy()
        self._producers.append(
            FeedProducer(
                as_data_source(data_source),
                clock=self.clock,
                name=name,
                reconnect=policy if reconnect_on_disconnect else None,
                seed=seed,
                options=options,
                record=record,
            )
        )

    @property
    def is_live(self) -> bool:
        return True

    def producers(self) -> Sequence[Producer]:
        return self._producers
