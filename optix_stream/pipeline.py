"""Producers, queue and assembler as one thing to hand to a controller."""

from __future__ import annotations

import dataclasses
import itertools
from abc import abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import anyio
import msgspec

from optix_stream.assembler import WindowAssembler
from optix_stream.batching import batch_of, batch_rows, count_by_stream, merge
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
from optix_stream.errors import CheckpointError, ConfigurationError, TransitionMismatchError
from optix_stream.events import GapDetected, TransitionsDropped, TransitionsRejected
from optix_stream.feed_session import FeedOptions
from optix_stream.learning_sink import LearningSink
from optix_stream.ledger import Ledger
from optix_stream.producers import DataSource, FeedProducer
from optix_stream.queue import OverflowPolicy, TransitionQueue
from optix_stream.reconnecting import ReconnectPolicy
from optix_stream.screening import is_fit, stretches, unfit_rows
from optix_stream.types import EpisodeData, Statistics, StreamId, Transition, TransitionBatch
from optix_stream.wire import decode_items, decode_window, encode_items, encode_window, pack, unpack

_WORTH_A_BATCH = 16
"""Transitions from which on stacking them first is cheaper than writing each by itself."""
_NOT_FINITE = ("not finite", "expected finite observations, actions and rewards, got NaN or infinity")


class StreamPipeline(BasePipeline, Restful, Stateful):
    """Base of the pipelines that ship: any number of producers into one queue into one assembler.

    Args:
        boundary: where windows end.
        capacity: transitions that the queue may hold.
        overflow: what happens when it is full.
        lockstep: producers wait after each push until it has been dealt with, learning included.
        clock: the run's clock.
    """

    def __init__(
        self,
        *,
        boundary: BoundaryFn,
        capacity: int,
        overflow: OverflowPolicy,
        lockstep: bool,
        clock: Clock | None = None,
    ) -> None:
        if not callable(boundary):
            raise ConfigurationError(f"boundary: expected a function such as every_n_steps(200), got {boundary!r}")
        self.clock: Clock = clock if clock is not None else SystemClock()
        self._boundary = boundary
        self._capacity = capacity
        self._overflow: OverflowPolicy = overflow
        self._lockstep = lockstep
        self._run = _PipelineRun(TransitionQueue(capacity, overflow), WindowAssembler(boundary))
        self._saved: Mapping[str, Any] | None = None

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

    @asynccontextmanager
    async def open(
        self, policy: Policy, events: EventSink, intake: Intake | None = None
    ) -> AsyncIterator[WindowSource]:
        queue = TransitionQueue(self._capacity, self._overflow, Ledger())
        intake = intake if intake is not None else Intake()
        assembler = WindowAssembler(self._boundary, learned_one_by_one=intake.learn_one is not None)
        run = self._run = _PipelineRun(queue, assembler, events, self.clock, intake)
        sink: TransitionSink = _LockstepSink(queue) if self._lockstep else queue
        if intake.learn_one is not None or intake.increment is not None:
            sink = LearningSink(sink, intake, self.clock)
        run.producers = self.producers()
        saved, self._saved = self._saved, None
        if saved is not None:
            run.load_state_dict(saved)
        reason = "cancelled"
        error: Exception | None = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run.produce, policy, sink)
                try:
                    yield run
                except Exception as raised:
                    # Carried past the task group, which would wrap it in an exception group.
                    error = raised
                reason = "stopped"
                tasks.cancel_scope.cancel()
        finally:
            run.abandon(reason)
        if error is not None:
            raise error


class _LockstepSink:
    """Pushes, then waits until the consumer has dealt with it."""

    def __init__(self, queue: TransitionQueue) -> None:
        self._queue = queue

    async def push(self, item: StreamItem) -> None:
        await self._queue.push(item)
        await self._queue.wait_settled()


class _PipelineRun:
    """One run of a pipeline: what ``open`` hands out."""

    def __init__(
        self,
        queue: TransitionQueue,
        assembler: WindowAssembler,
        events: EventSink | None = None,
        clock: Clock | None = None,
        intake: Intake | None = None,
    ) -> None:
        self._queue = queue
        self._intake = intake if intake is not None else Intake()
        self._ledger = queue.ledger
        self._assembler = assembler
        self._events = events
        self._clock = clock
        self.producers: Sequence[Producer] = ()
        self._ready: deque[EpisodeData] = deque()
        self._error: Exception | None = None

    # -- producing ------------------------------------------------------------------------------

    async def produce(self, policy: Policy, sink: TransitionSink) -> None:
        """Run all producers; the first failure ends them all and is raised by ``next_window``."""
        try:
            async with anyio.create_task_group() as tasks:

                async def run_one(producer: Producer) -> None:
                    try:
                        await producer.run(policy, sink)
                    except Exception as error:
                        self._error = self._error or error
                        tasks.cancel_scope.cancel()

                for producer in self.producers:
                    tasks.start_soon(run_one, producer)
        finally:
            self._queue.close()

    # -- stopping in one process and going on in another -----------------------------------------

    def state_dict(self, *, with_producers: bool) -> Mapping[str, Any]:
        producers = [
            producer.state_dict() if with_producers and isinstance(producer, Stateful) else None
            for producer in self.producers
        ]
        return {
            "clock": self._now(),
            "producers": producers,
            "queued": pack(encode_items(self._queue.peek())),
            "assembler": self._assembler.state_dict(),
            "ready": [pack(encode_window(window)) for window in self._ready],
            "ledger": self._ledger.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        try:
            # Monotonic clocks begin anew with each start of the machine.
            shift = self._now() - state["clock"]
            self._ledger.load_state_dict(state["ledger"])
            self._assembler.load_state_dict(state["assembler"], shift)
            for window in map(decode_window, map(unpack, state["ready"])):
                self._ready.append(dataclasses.replace(window, times=window.times + shift))
            items = decode_items(unpack(state["queued"]))
            can_go_on = [
                isinstance(producer, Stateful) and saved is not None
                for producer, saved in zip(self.producers, state["producers"], strict=True)
            ]
            for producer, saved in zip(self.producers, state["producers"], strict=True):
                if isinstance(producer, Stateful) and saved is not None:
                    producer.load_state_dict(saved)
        except (KeyError, TypeError, ValueError, msgspec.MsgspecError, TransitionMismatchError) as error:
            raise CheckpointError(f"pipeline: expected the state of one like it, got another: {error!r}") from error
        for item in items:
            if isinstance(item, TransitionBatch):
                item.times = item.times + shift
        self._take(items)
        if not all(can_go_on):
            for stream in self._assembler.streams:
                gap = GapDetected(stream=stream, reason="the run stopped and went on", time=self._now())
                self._add(self._assembler.mark_gap(gap))
                self._emit(gap)

    # -- consuming ------------------------------------------------------------------------------

    async def next_window(self) -> EpisodeData | None:
        while not self._ready:
            await self._learn_increment()
            items = await self._queue.drain()
            self._take(items)
            if not items:
                self._add(self._assembler.flush())
                if not self._ready:
                    if self._error is not None:
                        raise self._error
                    return None
        window = self._ready.popleft()
        self._ledger.hand_over(window.length)
        return window

    async def _learn_increment(self) -> None:
        intake = self._intake
        if intake.increment is not None and intake.learn_increment is not None:
            part = self._assembler.new_rows(intake.increment)
            if part is not None:
                await intake.learn_increment(part)

    def record_learned(self, window: EpisodeData) -> None:
        self._ledger.learn(window.length)

    def record_dropped(self, window: EpisodeData, reason: str) -> None:
        self._ledger.give_up(window.length, reason)

    def statistics(self) -> Statistics:
        return self._ledger.statistics(
            in_queue=self._queue.size,
            in_window=self._assembler.size + sum(window.length for window in self._ready),
        )

    def abandon(self, reason: str) -> None:
        """Account for everything that was not learned from; the run is over."""
        self._queue.close()
        count = 0
        for item in self._queue.drain_nowait():
            if isinstance(item, Transition):
                count += 1
            elif isinstance(item, TransitionBatch):
                count += len(item)
            else:
                self._emit(item)
        self._add(self._assembler.flush())
        while self._ready:
            count += self._ready.popleft().length
        if count:
            self._ledger.dropped[reason] += count
            self._emit(TransitionsDropped(reason=reason, count=count, time=self._now()))

    def _take(self, items: list[StreamItem]) -> None:
        """Assemble: runs of one kind together, which is what makes small items cheap."""
        if set(map(type, items)) == {Transition}:
            self._take_singles(cast("list[Transition]", items))  # The usual case, without a second look at each.
            return
        for kind, group in itertools.groupby(items, key=type):
            if kind is Transition:
                self._take_singles([item for item in group if isinstance(item, Transition)])
            elif kind is TransitionBatch:
                for batch in merge([item for item in group if isinstance(item, TransitionBatch)]):
                    self._take_batch(batch)
            else:
                for item in group:
                    if isinstance(item, GapDetected):
                        self._add(self._assembler.mark_gap(item))
                    self._emit(item)

    def _take_singles(self, transitions: list[Transition]) -> None:
        if len(transitions) >= _WORTH_A_BATCH:
            try:
                batch = batch_of(transitions)
                if unfit_rows(batch) is None:
                    self._ready.extend(self._assembler.feed_batch(batch))
                    return
            except TransitionMismatchError:
                pass  # One of them does not fit; one at a time, it stands alone.
        for transition in transitions:
            if not is_fit(transition):
                self._reject({transition.stream: 1}, *_NOT_FINITE)
                continue
            try:
                self._add(self._assembler.feed(transition))
            except TransitionMismatchError as error:
                self._reject({transition.stream: 1}, "mismatch", str(error))

    def _take_batch(self, batch: TransitionBatch) -> None:
        unfit = unfit_rows(batch)
        if unfit is None:
            self._feed_batch(batch)
            return
        for start, end, is_unfit in stretches(unfit):
            part = batch_rows(batch, start, end)
            if is_unfit:
                self._reject(count_by_stream(part), *_NOT_FINITE)
            else:
                self._feed_batch(part)

    def _feed_batch(self, batch: TransitionBatch) -> None:
        try:
            self._ready.extend(self._assembler.feed_batch(batch))
        except TransitionMismatchError as error:
            self._reject(count_by_stream(batch), "mismatch", str(error))

    def _reject(self, counts: dict[StreamId, int], reason: str, detail: str) -> None:
        now = self._now()
        for stream, count in counts.items():
            self._ledger.rejected[reason] += count
            self._emit(TransitionsRejected(stream=stream, reason=reason, detail=detail, count=count, time=now))
            gap = GapDetected(stream=stream, reason="rejected transition", missed=count, time=now)
            self._add(self._assembler.mark_gap(gap))
            self._emit(gap)

    def _now(self) -> float:
        return self._clock.now() if self._clock is not None else 0.0

    def _add(self, window: EpisodeData | None) -> None:
        if window is not None:
            self._ready.append(window)

    def _emit(self, item: StreamItem) -> None:
        if self._events is not None and not isinstance(item, Transition | TransitionBatch):
            self._events.emit(item)


class LivePipeline(StreamPipeline):
    """Windows from a live feed: any object with ``stream()`` and, if it has one, ``send(action)``.

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
        data_source: DataSource | Producer | Sequence[Producer],
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
        if not isinstance(data_source, DataSource):
            raise ConfigurationError(f"data_source: expected an object with stream(), got {data_source!r}")
        policy = reconnect if reconnect is not None else ReconnectPolicy()
        self._producers.append(
            FeedProducer(
                data_source,
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
