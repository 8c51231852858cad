"""The bounded queue between producers and the assembler.

Any number of producers push, one consumer drains. It is measured in transitions, wakes its
consumer once a batch and not once an item, and never loses anything in silence: what an overflow
policy drops is counted, and a marker stands in the stream where it was. All calls are made on one
event loop; nothing here is thread-safe.
"""

from __future__ import annotations

from collections import deque
from collections.abc import MutableSequence
from typing import Literal, TypeAlias

import anyio
import anyio.lowlevel

from optix_stream.batching import count_by_stream, count_transitions
from optix_stream.contracts import StreamItem
from optix_stream.errors import ConfigurationError, QueueClosedError, QueueFullError
from optix_stream.events import GapDetected, TransitionsDropped
from optix_stream.ledger import OVERFLOW, Ledger
from optix_stream.types import StreamId, Transition, TransitionBatch

OverflowPolicy: TypeAlias = Literal["block", "drop_oldest", "drop_newest"]

_PUSHES_BETWEEN_CHECKPOINTS = 512


class TransitionQueue:
    """A bounded queue of transitions, batches and the events between them.

    Args:
        capacity: transitions it may hold. A batch goes in whole, so that it may hold one batch
            more than that while it is otherwise empty. Events do not count.
        overflow: ``block`` makes ``push`` wait; ``drop_oldest`` and ``drop_newest`` never wait.
        ledger: where received and dropped transitions are counted.

    Raises:
        ConfigurationError: capacity below 1 or an unknown policy.
    """

    def __init__(self, capacity: int = 1000, overflow: OverflowPolicy = "block", ledger: Ledger | None = None) -> None:
        if capacity < 1:
            raise ConfigurationError(f"capacity: expected at least 1 transition, got {capacity}")
        if overflow not in ("block", "drop_oldest", "drop_newest"):
            raise ConfigurationError(f"overflow: expected block, drop_oldest or drop_newest, got {overflow!r}")
        self.capacity = capacity
        self.overflow = overflow
        self.ledger = ledger if ledger is not None else Ledger()
        self.size = 0
        """Transitions held now."""
        self._items: deque[StreamItem] = deque()
        self._lost_in_front: dict[StreamId, int] = {}
        self._lost_at_end: dict[StreamId, int] = {}
        self._closed = False
        self._pushes = 0
        # Single transitions that may go in without a second look: there is room, nobody waits, it is open.
        self._credit = 0
        self._waiting: anyio.Event | None = None
        self._space: anyio.Event | None = None
        self._settled: anyio.Event | None = None

    # -- producers ------------------------------------------------------------------------------

    def push_nowait(self, item: StreamItem) -> None:
        """Put one item in, or let the overflow policy decide.

        Raises:
            QueueClosedError: the queue was closed; the item is counted as dropped.
            QueueFullError: there is no room and the policy is ``block``; the item is not counted.
        """
        self._credit = 0
        if type(item) is Transition:
            count = 1
        elif type(item) is TransitionBatch:
            count = len(item)
        else:
            count = 0
            self.ledger.receive(item)  # A producer's word on transitions that never made it here.
        if self._closed:
            self._refuse(count)
        if count and self.size and self.size + count > self.capacity and not self._make_room(item, count):
            return
        self.ledger.received += count
        if self._lost_at_end:
            _add_markers(self._items, self._lost_at_end, self.overflow)
            self._lost_at_end.clear()
        self._items.append(item)
        self.size += count
        if self._waiting is not None:
            self._wake()

    async def push(self, item: StreamItem) -> None:
        """Put one item in, waiting for room where the policy is ``block``.

        If it is cancelled while it waits, the item is counted as received and dropped.

        Raises:
            QueueClosedError: the queue was or became closed; the item is counted as dropped.
        """
        # The usual case of a single transition, which would be twice as dear with all that follows.
        if self._credit and type(item) is Transition:
            self._credit -= 1
            self._items.append(item)
            self.size += 1
            self.ledger.received += 1
            return
        try:
            self.push_nowait(item)
        except QueueFullError:
            await self._wait_for_room(count_transitions(item))
            self.push_nowait(item)
        self._pushes += 1
        if self._pushes >= _PUSHES_BETWEEN_CHECKPOINTS:
            self._pushes = 0
            await anyio.lowlevel.checkpoint()
        if type(item) is Transition and not (self._waiting or self._closed):
            self._credit = max(0, min(_PUSHES_BETWEEN_CHECKPOINTS - self._pushes, self.capacity - self.size))
            self._pushes += self._credit

    async def wait_settled(self) -> None:
        """Wait until the consumer has dealt with everything pushed so far and asks for more.

        This is what makes lockstep: by then every window that was complete has been learned from.
        """
        if self._waiting is not None and not self._items:
            await anyio.lowlevel.checkpoint()
            return
        if self._settled is None:
            self._settled = anyio.Event()
        await self._settled.wait()

    def close(self) -> None:
        """Take nothing more; what is held can still be drained."""
        self._closed = True
        self._credit = 0
        self._wake()
        if self._space is not None:
            self._space.set()
            self._space = None

    # -- the consumer ---------------------------------------------------------------------------

    async def drain(self) -> list[StreamItem]:
        """Everything held, oldest first; waits for at least one item.

        An empty list means that the queue is closed and empty. The caller holds what it was given:
        nothing is lost if it is cancelled while waiting.
        """
        while not self._items and not self._lost_at_end:
            if self._closed:
                return []
            waiting = self._waiting = anyio.Event()
            self._credit = 0
            if self._settled is not None:
                self._settled.set()
                self._settled = None
            try:
                await waiting.wait()
            finally:
                self._waiting = None
        return self.drain_nowait()

    def drain_nowait(self) -> list[StreamItem]:
        """Everything held, oldest first; may be empty."""
        items = self.peek()
        self._lost_in_front.clear()
        self._lost_at_end.clear()
        self._items.clear()
        self.size = 0
        if self._space is not None:
            self._space.set()
            self._space = None
        return items

    def peek(self) -> list[StreamItem]:
        """Everything held, oldest first, which stays held."""
        items: list[StreamItem] = []
        _add_markers(items, self._lost_in_front, self.overflow)
        items.extend(self._items)
        _add_markers(items, self._lost_at_end, self.overflow)
        return items

    # -- inside ---------------------------------------------------------------------------------

    def _make_room(self, item: StreamItem, count: int) -> bool:
        """Whether the item may go in; if not, it has been dropped."""
        if self.overflow == "block":
            raise QueueFullError(self.capacity)
        if self.overflow == "drop_newest":
            self.ledger.received += count
            self._drop(item, self._lost_at_end)
            self._wake()
            return False
        while self.size and self.size + count > self.capacity:
            self._drop_oldest()
        return True

    async def _wait_for_room(self, count: int) -> None:
        try:
            while self.size and self.size + count > self.capacity and not self._closed:
                if self._space is None:
                    self._space = anyio.Event()
                await self._space.wait()
        except BaseException:
            self.ledger.received += count
            self.ledger.dropped["cancelled"] += count
            raise

    def _wake(self) -> None:
        if self._waiting is not None:
            self._waiting.set()
            self._waiting = None

    def _drop_oldest(self) -> None:
        kept: list[StreamItem] = []
        while True:
            item = self._items.popleft()
            if count_transitions(item):
                break
            kept.append(item)
        self._items.extendleft(reversed(kept))
        self.size -= count_transitions(item)
        self._drop(item, self._lost_in_front)

    def _drop(self, item: StreamItem, lost: dict[StreamId, int]) -> None:
        if isinstance(item, Transition):
            lost[item.stream] = lost.get(item.stream, 0) + 1
            self.ledger.dropped[OVERFLOW] += 1
        elif isinstance(item, TransitionBatch):
            for stream, count in count_by_stream(item).items():
                lost[stream] = lost.get(stream, 0) + count
            self.ledger.dropped[OVERFLOW] += len(item)

    def _refuse(self, count: int) -> None:
        self.ledger.received += count
        self.ledger.dropped["closed"] += count
        raise QueueClosedError("the queue is closed; the run that it belongs to is ending")


def _add_markers(items: MutableSequence[StreamItem], lost: dict[StreamId, int], policy: str) -> None:
    for stream, count in lost.items():
        items.append(TransitionsDropped(reason=f"{OVERFLOW}, {policy}", count=count, stream=stream))
        items.append(GapDetected(stream=stream, reason=f"{OVERFLOW}, {policy}", missed=count))
