"""Between the queue and the assembler: what comes is accepted first, which means that it is in the journal."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Sequence

import anyio

from optix_stream.batching import count_transitions
from optix_stream.clock import Clock
from optix_stream.contracts import EventSink, StreamItem
from optix_stream.errors import CheckpointError
from optix_stream.events import GapDetected, JournalFailed, JournalRegained, TransitionsDropped
from optix_stream.journal.journal import Journal
from optix_stream.ledger import Ledger
from optix_stream.queue import TransitionQueue
from optix_stream.types import StreamId, TransitionBatch

logger = logging.getLogger(__name__)

_DAMAGED = "damaged in the journal"


class Acceptance:
    """Takes from the queue, commits to the journal, hands on; whatever has arrived meanwhile is the next batch.

    Producers push to the queue and wait for no disk. What was accepted and waits for the assembler is bounded by the
    queue's capacity; beyond that the queue fills, and its overflow policy decides on what is not accepted yet.

    Args:
        queue: where producers push.
        journal: open.
        events: where it is told that the journal fails.
        clock: times and stamps.
    """

    def __init__(self, queue: TransitionQueue, journal: Journal, events: EventSink, clock: Clock) -> None:
        self._queue = queue
        self._journal = journal
        self._events = events
        self._clock = clock
        self._committing: Sequence[StreamItem] = ()
        self._accepted: deque[tuple[int, list[StreamItem]]] = deque()
        self._waiting: anyio.Event | None = None
        self._space: anyio.Event | None = None
        self._has_ended = False
        self._left = 0
        self._resumed_streams: dict[StreamId, None] | None = None
        self._unkept = 0
        self._is_failing = False

    @property
    def size(self) -> int:
        """Transitions that have come and were not handed on."""
        return self._queue.size + _count(self._committing) + self._accepted_size + self._left

    def ledger_before(self) -> Ledger:
        """The balance without what was not handed on: a later process is to receive that from the journal."""
        accepted = [item for _, items in self._accepted for item in items]
        before = self._queue.ledger.without([*accepted, *self._committing, *self._queue.peek()])
        before.received -= self._left
        return before

    # -- accepting ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Accept until the queue is closed and empty."""
        try:
            while items := await self._queue.drain():
                await self._accept(items)
                while self._accepted_size >= self._queue.capacity:
                    self._space = anyio.Event()
                    await self._space.wait()
        finally:
            self._has_ended = True
            self._wake()

    async def accept_rest(self) -> None:
        """Accept what the closed queue still holds."""
        items = self._queue.drain_nowait()
        if items:
            await self._accept(items)

    async def _accept(self, items: list[StreamItem]) -> None:
        self._committing = items
        journal, now, position = self._journal, self._clock.now(), self._journal.next_position()
        try:
            await journal.append(position, items, now)
        except CheckpointError as error:
            self._unkept += _count(items)
            if not self._is_failing:
                self._is_failing = True
                logger.exception("the journal keeps nothing for now; what comes is learned from all the same")
                self._events.emit(JournalFailed(error=str(error), time=now))
        else:
            if self._is_failing:
                self._events.emit(JournalRegained(unkept=self._unkept, time=now))
                self._is_failing, self._unkept = False, 0
        self._committing = ()
        self._accepted.append((position, items))
        self._wake()

    # -- handing on -----------------------------------------------------------------------------

    def set_time(self, since: float | None) -> float:
        """Let the time of the run go on; returns what it is ahead of the clock, in seconds.

        Args:
            since: the time of the run at its last checkpoint; None: there was none.
        """
        self._journal.set_time(self._clock.now(), since)
        return self._journal.clock_offset

    async def go_on(self, streams: Sequence[StreamId]) -> None:
        """Hand on first what an earlier process accepted.

        Args:
            streams: that are known; each of them has a gap after that.
        """
        self._left = await self._journal.count_earlier()
        self._queue.ledger.received += self._left
        self._resumed_streams = dict.fromkeys(streams)

    async def drain(self) -> list[StreamItem]:
        """Everything that is accepted, oldest first; waits for at least one item.

        An empty list means that there will be no more. As for the queue: who is cancelled while waiting loses nothing.
        """
        if self._resumed_streams is not None:
            earlier = await self._drain_earlier(self._resumed_streams)
            if earlier:
                return earlier
        while not self._accepted:
            if self._has_ended:
                return []
            waiting = self._waiting = anyio.Event()
            await waiting.wait()
        return self.drain_nowait()

    def drain_nowait(self) -> list[StreamItem]:
        """Everything that this process has accepted; may be empty."""
        found: list[StreamItem] = []
        for position, items in self._accepted:
            self._journal.taken = position
            found.extend(items)
        self._accepted.clear()
        if self._space is not None:
            self._space.set()
            self._space = None
        return found

    def give_up(self) -> tuple[int, list[StreamItem]]:
        """Hand over what was not handed on, for good; the journal keeps it.

        Returns:
            How many transitions of an earlier process, and what this one has accepted.
        """
        left, self._left = self._left, 0
        items = [item for _, items in self._accepted for item in items]
        self._accepted.clear()
        return left, items

    async def _drain_earlier(self, streams: dict[StreamId, None]) -> list[StreamItem]:
        batches = await self._journal.read_earlier()
        if not batches:
            self._resumed_streams = None
            return self._gaps(streams, "the run stopped and went on")
        ledger, now, items = self._queue.ledger, self._clock.now(), list[StreamItem]()
        for batch in batches:
            self._journal.taken = batch.position
            self._left -= batch.transitions
            if batch.items is None:
                logger.error("journal: batch %d is damaged; %d transitions are lost", batch.position, batch.transitions)
                ledger.dropped[_DAMAGED] += batch.transitions
                items.append(TransitionsDropped(reason=_DAMAGED, count=batch.transitions, time=now))
                items.extend(self._gaps(streams, _DAMAGED))
                continue
            for item in batch.items:
                if isinstance(item, TransitionBatch):
                    item.times = item.times + (batch.clock_offset - self._journal.clock_offset)
                    streams.update(dict.fromkeys(item.stream_ids))
                else:
                    ledger.receive(item)
                items.append(item)
        return items

    def _gaps(self, streams: Iterable[StreamId], reason: str) -> list[StreamItem]:
        now = self._clock.now()
        return [GapDetected(stream=stream, reason=reason, time=now) for stream in streams]

    @property
    def _accepted_size(self) -> int:
        return sum(_count(items) for _, items in self._accepted)

    def _wake(self) -> None:
        if self._waiting is not None:
            self._waiting.set()
            self._waiting = None


def _count(items: Sequence[StreamItem]) -> int:
    return sum(map(count_transitions, items))
