"""One run of a pipeline: what its producers bring becomes windows, and nothing of it vanishes."""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, cast

import anyio
import msgspec

from optix_stream.assembler import WindowAssembler
from optix_stream.batching import batch_of, batch_rows, count_by_stream, count_transitions, merge
from optix_stream.clock import Clock
from optix_stream.contracts import EventSink, Intake, Policy, Producer, Stateful, StreamItem, TransitionSink
from optix_stream.errors import CheckpointError, TransitionMismatchError, UnusableSourceError
from optix_stream.events import GapDetected, TransitionsDropped, TransitionsRejected
from optix_stream.journal import Acceptance
from optix_stream.learning_sink import LearningSink
from optix_stream.queue import TransitionQueue
from optix_stream.screening import is_fit, stretches, unfit_rows
from optix_stream.types import EpisodeData, Statistics, StreamId, Transition, TransitionBatch
from optix_stream.wire import decode_items, decode_window, encode_items, encode_window, pack, unpack

_WORTH_A_BATCH = 16
"""Transitions from which on stacking them first is cheaper than writing each by itself."""
_NOT_FINITE = ("not finite", "expected finite observations, actions and rewards, got NaN or infinity")


class PipelineRun:
    """One run of a pipeline: what ``open`` hands out.

    Args:
        queue: where producers push.
        assembler: cuts windows.
        events: where events go.
        clock: the run's.
        intake: what is to be learned from before a window is complete.
        acceptance: stands between the queue and the assembler where there is a journal; what learns from each
            transition then does so when that is accepted.
        max_rejected: transitions rejected in a row, none accepted between them, after which the source is given up;
            None: never.
    """

    def __init__(
        self,
        queue: TransitionQueue,
        assembler: WindowAssembler,
        events: EventSink | None = None,
        clock: Clock | None = None,
        intake: Intake | None = None,
        acceptance: Acceptance | None = None,
        max_rejected: int | None = None,
    ) -> None:
        self._queue = queue
        self._max_rejected = max_rejected
        self._rejected_in_a_row = 0
        self._last_rejection = ("", "")
        self._acceptance = acceptance
        self._source: Acceptance | TransitionQueue = acceptance if acceptance is not None else queue
        self._intake = intake if intake is not None else Intake()
        self._ledger = queue.ledger
        self._assembler = assembler
        self._events = events
        self._clock = clock
        self._clock_offset = 0.0
        self._learning: LearningSink | None = None
        # Transitions that are being learned from one by one.
        self._in_hand = 0
        if acceptance is not None and self._intake.learn_one is not None and clock is not None:
            self._learning = LearningSink(queue, self._intake, clock)
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
        # What is in the journal, or will be, comes from there.
        queued = self._queue.peek() if self._acceptance is None else []
        ledger = self._ledger if self._acceptance is None else self._acceptance.ledger_before()
        return {
            "clock": self._now(),
            "clock_offset": self._clock_offset,
            "producers": producers,
            "queued": pack(encode_items(queued)),
            "assembler": self._assembler.state_dict(),
            "ready": [pack(encode_window(window)) for window in self._ready],
            "ledger": ledger.state_dict(),
        }

    async def go_on(self, state: Mapping[str, Any] | None) -> None:
        """Go on from a state, or begin; what an earlier process accepted comes first.

        Raises:
            CheckpointError: it is not the state of a pipeline like this, or the journal cannot be read.
        """
        acceptance = self._acceptance
        if acceptance is not None:
            since = None if state is None else state["clock"] + state["clock_offset"]
            self._clock_offset = acceptance.set_time(since)
        if state is not None:
            self.load_state_dict(state)
        if acceptance is not None:
            await acceptance.go_on(self._assembler.streams)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        try:
            # Monotonic clocks begin anew with each start of the machine; the time of the run goes on.
            if self._acceptance is None:
                self._clock_offset = state["clock"] + state["clock_offset"] - self._now()
            shift = state["clock_offset"] - self._clock_offset
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
        if not all(can_go_on) and self._acceptance is None:
            for stream in self._assembler.streams:
                gap = GapDetected(stream=stream, reason="the run stopped and went on", time=self._now())
                self._add(self._assembler.mark_gap(gap))
                self._emit(gap)

    # -- consuming ------------------------------------------------------------------------------

    async def next_window(self) -> EpisodeData | None:
        """The next window, or None when the source has ended and nothing is left.

        Raises:
            UnusableSourceError: too many transitions in a row were rejected.
            Exception: what a producer raised.
        """
        while not self._ready:
            if self._max_rejected is not None and self._rejected_in_a_row >= self._max_rejected:
                raise UnusableSourceError(self._rejected_in_a_row, *self._last_rejection)
            await self._learn_increment()
            items = await self._source.drain()
            await self._take_or_learn(items)
            if not items:
                self._add(self._assembler.flush())
                if not self._ready:
                    if self._error is not None:
                        raise self._error
                    return None
        window = self._ready.popleft()
        self._ledger.hand_over(window.length)
        return window

    async def _take_or_learn(self, items: list[StreamItem]) -> None:
        if self._learning is None:
            self._take(items)
            return
        self._in_hand = sum(map(count_transitions, items))
        outcomes, lost = await self._learning.learn_accepted(items)
        self._in_hand = 0
        self._ledger.dropped.update(lost)
        self._take(outcomes)
        await self._learning.hand_on(())

    async def _learn_increment(self) -> None:
        intake = self._intake
        if intake.increment is not None and intake.learn_increment is not None:
            part = self._assembler.new_rows(intake.increment)
            if part is not None:
                with anyio.CancelScope(shield=True):  # The window counts these rows as learned from.
                    await intake.learn_increment(part)

    def record_learned(self, window: EpisodeData) -> None:
        self._ledger.learn(window.length)

    def record_dropped(self, window: EpisodeData, reason: str) -> None:
        self._ledger.give_up(window.length, reason)

    def statistics(self) -> Statistics:
        return self._ledger.statistics(
            in_queue=self._source.size + self._in_hand,
            in_window=self._assembler.size + sum(window.length for window in self._ready),
        )

    def abandon(self, reason: str) -> None:
        """Account for everything that was not learned from; the run is over."""
        self._queue.close()
        count = 0
        items = self._queue.drain_nowait()
        if self._acceptance is not None:
            earlier, accepted = self._acceptance.give_up()
            count, items = earlier, [*accepted, *items]
        for item in items:
            count += count_transitions(item)
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
                    elif isinstance(item, TransitionsRejected):
                        self._count_rejected(item.count, item.reason, item.detail)
                    self._emit(item)

    def _take_singles(self, transitions: list[Transition]) -> None:
        if len(transitions) >= _WORTH_A_BATCH:
            try:
                batch = batch_of(transitions)
                if unfit_rows(batch) is None:
                    self._ready.extend(self._assembler.feed_batch(batch))
                    self._rejected_in_a_row = 0
                    return
            except TransitionMismatchError:
                pass  # One of them does not fit; one at a time, it stands alone.
        for transition in transitions:
            if not is_fit(transition):
                self._reject({transition.stream: 1}, *_NOT_FINITE)
                continue
            try:
                self._add(self._assembler.feed(transition))
                self._rejected_in_a_row = 0
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
            self._rejected_in_a_row = 0
        except TransitionMismatchError as error:
            self._reject(count_by_stream(batch), "mismatch", str(error))

    def _reject(self, counts: dict[StreamId, int], reason: str, detail: str) -> None:
        now = self._now()
        for stream, count in counts.items():
            self._ledger.rejected[reason] += count
            self._count_rejected(count, reason, detail)
            self._emit(TransitionsRejected(stream=stream, reason=reason, detail=detail, count=count, time=now))
            gap = GapDetected(stream=stream, reason="rejected transition", missed=count, time=now)
            self._add(self._assembler.mark_gap(gap))
            self._emit(gap)

    def _count_rejected(self, count: int, reason: str, detail: str) -> None:
        self._rejected_in_a_row += count
        self._last_rejection = (reason, detail)

    def _now(self) -> float:
        return self._clock.now() if self._clock is not None else 0.0

    def _add(self, window: EpisodeData | None) -> None:
        if window is not None:
            self._ready.append(window)

    def _emit(self, item: StreamItem) -> None:
        if self._events is not None and not isinstance(item, Transition | TransitionBatch):
            self._events.emit(item)
