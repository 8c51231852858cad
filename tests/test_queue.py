from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import anyio
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from optix_stream.batching import batch_of, count_transitions
from optix_stream.contracts import StreamItem
from optix_stream.errors import ConfigurationError, QueueClosedError, QueueFullError
from optix_stream.events import GapDetected, SourceLost, TransitionsDropped, TransitionsRejected
from optix_stream.queue import OverflowPolicy, TransitionQueue
from optix_stream.testing import FakeClock, assert_balanced, check_sink, make_transition
from optix_stream.testing.producers import rows_of
from optix_stream.types import StreamId

pytestmark = pytest.mark.anyio


class QueueMachine(RuleBasedStateMachine):
    """A queue beside a slow model of what its documentation says."""

    @initialize(capacity=st.integers(1, 6), overflow=st.sampled_from(get_args(OverflowPolicy)))
    def make(self, capacity: int, overflow: OverflowPolicy) -> None:
        self.queue = TransitionQueue(capacity, overflow)
        self.number = 0
        self.pushed: dict[StreamId, list[int]] = {"a": [], "b": []}
        self.drained: dict[StreamId, list[int | None]] = {"a": [], "b": []}
        self.dropped_markers = 0
        self.events: list[str] = []
        self.events_drained: list[str] = []

    def push(self, stream: str, count: int, is_awaited: bool) -> None:
        rows = []
        for _ in range(count):
            rows.append(make_transition(self.number, stream=stream))
            self.number += 1
        item: StreamItem = rows[0] if count == 1 else batch_of(rows)
        has_room = not self.queue.size or self.queue.size + count <= self.queue.capacity
        try:
            if is_awaited and (has_room or self.queue.overflow != "block"):
                with pytest.raises(StopIteration):  # It had no reason to wait.
                    self.queue.push(item).send(None)
            else:
                self.queue.push_nowait(item)
        except QueueFullError:
            assert self.queue.overflow == "block"
            assert self.queue.size + count > self.queue.capacity
            return
        self.pushed[stream].extend(int(row.observation[0]) for row in rows)

    @rule(stream=st.sampled_from("ab"), is_awaited=st.booleans())
    def push_one(self, stream: str, is_awaited: bool) -> None:
        self.push(stream, 1, is_awaited)

    @rule(stream=st.sampled_from("ab"), count=st.integers(2, 8), is_awaited=st.booleans())
    def push_batch(self, stream: str, count: int, is_awaited: bool) -> None:
        self.push(stream, count, is_awaited)

    @rule()
    def push_event(self) -> None:
        name = f"source {len(self.events)}"
        self.queue.push_nowait(SourceLost(source=name, error="", retry_sec=None))
        self.events.append(name)

    @rule()
    def drain(self) -> None:
        for item in self.queue.drain_nowait():
            for row in rows_of(item):
                self.drained[row.stream].append(int(row.observation[0]))
            if isinstance(item, GapDetected):
                self.drained[item.stream].append(None)
            elif isinstance(item, TransitionsDropped):
                self.dropped_markers += item.count
            elif isinstance(item, SourceLost):
                self.events_drained.append(item.source)
        assert self.queue.size == 0
        assert self.events_drained == self.events
        assert self.dropped_markers == sum(self.queue.ledger.dropped.values())
        for stream, numbers in self.pushed.items():
            self.check_stream(numbers, self.drained[stream])

    @precondition(lambda self: self.queue.size == 0)
    @rule()
    def an_empty_queue_drains_to_nothing_twice(self) -> None:
        self.drain()
        assert self.queue.drain_nowait() == []

    def check_stream(self, pushed: list[int], drained: list[int | None]) -> None:
        """What came out is what went in, in order, with a gap wherever something is missing."""
        position = 0
        had_gap = False
        for number in drained:
            if number is None:
                had_gap = True
                continue
            index = pushed.index(number)
            assert index >= position, "out of order or delivered twice"
            if index > position:
                assert had_gap, f"{pushed[position:index]} are missing before {number} without a gap"
            elif had_gap:
                pytest.fail(f"a gap stands before {number}, where nothing is missing")
            position, had_gap = index + 1, False
        if position < len(pushed):
            assert had_gap, f"{pushed[position:]} are missing at the end without a gap"

    @invariant()
    def nothing_vanishes(self) -> None:
        assert_balanced(self.queue.ledger.statistics(in_queue=self.queue.size, in_window=self.taken()))
        assert self.queue.ledger.received == sum(map(len, self.pushed.values()))

    def taken(self) -> int:
        return sum(number is not None for numbers in self.drained.values() for number in numbers)

    @invariant()
    def the_capacity_is_kept(self) -> None:
        # A batch goes in whole, and so may be larger than an otherwise empty queue.
        held = sum(count_transitions(item) > 0 for item in self.queue.peek())
        assert self.queue.size <= self.queue.capacity or held == 1


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=150, stateful_step_count=30)


def numbers_in(items: list[StreamItem]) -> list[int]:
    return [int(row.observation[0]) for item in items for row in rows_of(item)]


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
def test_an_overflow_is_a_marker_in_the_stream_where_it_was(overflow: OverflowPolicy) -> None:
    queue = TransitionQueue(2, overflow)
    for number in range(4):
        queue.push_nowait(make_transition(number, stream="s"))
    items = queue.drain_nowait()
    markers = [
        TransitionsDropped(reason=f"overflow, {overflow}", count=2, stream="s"),
        GapDetected(stream="s", reason=f"overflow, {overflow}", missed=2),
    ]
    if overflow == "drop_oldest":
        assert items[:2] == markers
        assert numbers_in(items[2:]) == [2, 3]
    else:
        assert numbers_in(items[:2]) == [0, 1]
        assert items[2:] == markers
    assert queue.ledger.dropped == {"overflow": 2}
    assert queue.ledger.received == 4


async def test_push_waits_for_room_where_it_must_not_lose_anything() -> None:
    queue, clock = TransitionQueue(2, "block"), FakeClock()
    seen: list[int] = []
    async with anyio.create_task_group() as tasks:

        async def produce() -> None:
            for number in range(5):
                await queue.push(make_transition(number))
            queue.close()

        tasks.start_soon(produce)
        await clock.settle()
        assert queue.size == 2
        while items := await queue.drain():
            seen += numbers_in(items)
    assert seen == [0, 1, 2, 3, 4]
    assert queue.ledger.dropped == {}


async def test_several_producers_that_wait_all_get_in() -> None:
    queue = TransitionQueue(1, "block")
    seen: list[int] = []
    async with anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(queue.push, make_transition(number))
        while len(seen) < 6:
            seen += numbers_in(await queue.drain())
    assert sorted(seen) == list(range(6))


async def test_a_push_that_is_cancelled_while_it_waits_is_counted() -> None:
    queue, clock = TransitionQueue(1, "block"), FakeClock()
    queue.push_nowait(make_transition(0))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(queue.push, batch_of([make_transition(1), make_transition(2)]))
        await clock.settle()
        tasks.cancel_scope.cancel()
    assert queue.ledger.received == 3
    assert queue.ledger.dropped == {"cancelled": 2}
    assert_balanced(queue.ledger.statistics(in_queue=queue.size, in_window=0))


def test_a_full_queue_names_its_capacity() -> None:
    queue = TransitionQueue(1, "block")
    queue.push_nowait(make_transition(0))
    with pytest.raises(QueueFullError) as caught:
        queue.push_nowait(make_transition(1))
    assert caught.value.capacity == 1
    assert queue.ledger.received == 1


async def test_the_consumer_is_woken_once_for_many_items() -> None:
    queue, clock = TransitionQueue(100), FakeClock()
    drains: list[int] = []
    async with anyio.create_task_group() as tasks:

        async def consume() -> None:
            while items := await queue.drain():
                drains.append(len(items))

        tasks.start_soon(consume)
        await clock.settle()
        for number in range(50):
            queue.push_nowait(make_transition(number))
        await clock.settle()
        queue.close()
    assert drains == [50]


async def test_a_drop_alone_wakes_the_consumer() -> None:
    """Otherwise a queue that was filled by one batch would hide its gap until the next push."""
    queue, clock = TransitionQueue(1, "drop_newest"), FakeClock()
    found: list[StreamItem] = []
    async with anyio.create_task_group() as tasks:

        async def consume() -> None:
            found.extend(await queue.drain())

        queue.push_nowait(make_transition(0))
        queue.push_nowait(make_transition(1))
        tasks.start_soon(consume)
        await clock.settle()
    assert [type(item).__name__ for item in found] == ["Transition", "TransitionsDropped", "GapDetected"]


async def test_a_closed_queue_can_be_drained_and_takes_nothing_more() -> None:
    queue = TransitionQueue(5)
    await queue.push(make_transition(0))
    queue.close()
    with pytest.raises(QueueClosedError):
        await queue.push(make_transition(1))
    assert numbers_in(await queue.drain()) == [0]
    assert await queue.drain() == []
    assert queue.ledger.dropped == {"closed": 1}
    assert_balanced(queue.ledger.statistics(in_queue=0, in_window=1))


async def test_closing_wakes_a_consumer_and_a_waiting_producer() -> None:
    clock = FakeClock()
    empty, full = TransitionQueue(1), TransitionQueue(1, "block")
    full.push_nowait(make_transition(0))
    refused: list[bool] = []
    async with anyio.create_task_group() as tasks:

        async def consume() -> None:
            assert await empty.drain() == []

        async def produce() -> None:
            with pytest.raises(QueueClosedError):
                await full.push(make_transition(1))
            refused.append(True)

        tasks.start_soon(consume)
        tasks.start_soon(produce)
        await clock.settle()
        empty.close()
        full.close()
    assert refused == [True]
    assert full.ledger.dropped == {"closed": 1}


async def test_settled_means_that_the_consumer_has_dealt_with_it_and_asks_for_more() -> None:
    queue, clock = TransitionQueue(10), FakeClock()
    order: list[str] = []
    async with anyio.create_task_group() as tasks:

        async def consume() -> None:
            while await queue.drain():
                order.append("taken")
                await clock.sleep(1.0)
                order.append("learned")

        async def produce() -> None:
            for _ in range(2):
                await queue.push(make_transition(0))
                await queue.wait_settled()
                order.append("settled")
            queue.close()

        tasks.start_soon(consume)
        tasks.start_soon(produce)
        await clock.advance(5.0)
    assert order == ["taken", "learned", "settled"] * 2


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (TransitionsRejected(stream=0, reason="malformed", detail="", count=3), ("rejected", "malformed")),
        (TransitionsDropped(reason="cancelled", count=3), ("dropped", "cancelled")),
    ],
)
def test_what_a_producer_says_it_lost_is_in_the_books(event: StreamItem, expected: tuple[str, str]) -> None:
    queue = TransitionQueue(1)
    queue.push_nowait(event)
    term, reason = expected
    statistics = queue.ledger.statistics(in_queue=0, in_window=0)
    assert getattr(statistics, term) == {reason: 3}
    assert statistics.received == 3
    assert_balanced(statistics)


async def test_a_fast_producer_lets_others_run() -> None:
    queue, turns = TransitionQueue(10_000), [0]

    async def other() -> None:
        while True:
            turns[0] += 1
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        for number in range(4000):
            await queue.push(make_transition(number))
        tasks.cancel_scope.cancel()
    assert turns[0] >= 5


async def test_a_queue_keeps_the_promises_of_a_sink() -> None:
    items: list[StreamItem] = [
        make_transition(0),
        batch_of([make_transition(1), make_transition(2)]),
        GapDetected(stream=0, reason="test"),
    ]
    await check_sink(TransitionQueue(10), items)


@pytest.mark.parametrize(
    "make",
    [lambda: TransitionQueue(0), lambda: TransitionQueue(1, "drop_all")],  # type: ignore[arg-type]
)
def test_a_queue_that_cannot_work_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError, match="expected"):
        make()
