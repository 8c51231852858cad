from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest

from optix_stream.bus import EventBus, Subscription
from optix_stream.errors import ConfigurationError
from optix_stream.events import Event, GapDetected, LoopStarted, LoopStopped, SubscriberLagging
from optix_stream.testing import FakeClock

pytestmark = pytest.mark.anyio


def gap(number: int) -> GapDetected:
    return GapDetected(stream=number, reason="test")


STOPPED = LoopStopped(reason="test")


async def read_all(subscription: Subscription) -> list[Event]:
    return [event async for event in subscription]


async def test_every_subscriber_sees_every_event_in_order_until_the_run_stops() -> None:
    bus, clock = EventBus(FakeClock()), FakeClock()
    seen: dict[str, list[Event]] = {}

    async def subscribe(name: str) -> None:
        async with bus.subscribe(name=name) as events:
            seen[name] = await read_all(events)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(subscribe, "one")
        tasks.start_soon(subscribe, "two")
        await clock.settle()
        bus.emit(LoopStarted(is_live=False))
        await clock.settle()
        bus.emit(gap(1))
        bus.emit(STOPPED)
    expected = [LoopStarted(is_live=False), gap(1), STOPPED]
    assert seen == {"one": expected, "two": expected}


async def test_a_subscriber_that_is_too_slow_misses_the_oldest_events_and_is_told() -> None:
    """And no one else does: the buffers are separate, and nobody waits."""
    clock = FakeClock(start=7.0)
    bus = EventBus(clock)
    async with bus.subscribe(3, name="slow") as slow, bus.subscribe(100, name="fast") as fast:
        for number in range(9):
            bus.emit(gap(number))
        bus.emit(STOPPED)
        assert await read_all(slow) == [SubscriberLagging(subscriber="slow", missed=7), gap(7), gap(8), STOPPED]
        assert await read_all(fast) == [*(gap(number) for number in range(9)), STOPPED]


async def test_what_was_missed_is_counted_anew_each_time() -> None:
    bus = EventBus(FakeClock())
    async with bus.subscribe(1, name="slow") as slow:
        bus.emit(gap(0))
        bus.emit(gap(1))
        assert slow.next_nowait() == SubscriberLagging(subscriber="slow", missed=1)
        assert slow.next_nowait() == gap(1)
        for number in range(4):
            bus.emit(gap(number))
        assert slow.next_nowait() == SubscriberLagging(subscriber="slow", missed=3)
        assert slow.next_nowait() == gap(3)


async def test_the_log_says_that_events_are_missed_what_to_do_and_how_many_they_were(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus = EventBus(FakeClock())
    with caplog.at_level(logging.WARNING, "optix_stream.bus"):
        async with bus.subscribe(1, name="slow") as events:
            for number in range(5):
                bus.emit(gap(number))
            (advice,) = caplog.messages
            assert advice.startswith("slow is too slow for its buffer of 1 events, and misses the oldest: ")
            assert "a larger buffer_size" in advice
            assert isinstance(events.next_nowait(), SubscriberLagging)
            assert caplog.messages[1:] == ["slow has missed 4 events"]
            for number in range(3):
                bus.emit(gap(number))
        # It has gone without asking again.
        assert caplog.messages[1:] == ["slow has missed 4 events", "slow has missed 3 events"]


async def test_what_a_subscriber_does_not_want_takes_no_room() -> None:
    """Events of each step once pushed out the few that a subscriber was there for."""
    bus = EventBus(FakeClock())
    async with bus.subscribe(3, kinds=[LoopStarted]) as events:
        bus.emit(LoopStarted(is_live=True))
        for number in range(100):
            bus.emit(gap(number))
        bus.emit(STOPPED)
        assert await read_all(events) == [LoopStarted(is_live=True), STOPPED]


@pytest.mark.parametrize("kinds", [LoopStarted, [int], [gap(1)], "LoopStarted"])
def test_kinds_that_are_no_events_are_refused(kinds: Any) -> None:
    with pytest.raises(ConfigurationError, match="kinds: expected types of events, such as "):
        EventBus(FakeClock()).subscribe(kinds=kinds)


async def test_events_are_buffered_from_the_entry_to_the_exit() -> None:
    bus = EventBus(FakeClock())
    subscription = bus.subscribe()
    bus.emit(gap(0))
    async with subscription:
        bus.emit(gap(1))
    bus.emit(gap(2))
    assert subscription.next_nowait() == gap(1)
    with pytest.raises(anyio.WouldBlock):
        subscription.next_nowait()


async def test_a_subscriber_that_fails_is_removed_and_the_others_go_on() -> None:
    bus = EventBus(FakeClock())
    async with bus.subscribe() as healthy:
        with pytest.raises(ZeroDivisionError):
            async with bus.subscribe():
                raise ZeroDivisionError
        bus.emit(STOPPED)
        assert await read_all(healthy) == [STOPPED]


async def test_a_listener_is_called_at_once() -> None:
    bus = EventBus(FakeClock())
    heard: list[Event] = []
    bus.listen(heard.append)
    bus.emit(gap(1))
    assert heard == [gap(1)]


async def test_waiting_for_an_event_can_be_cancelled_and_loses_none() -> None:
    bus, clock = EventBus(FakeClock()), FakeClock()
    async with bus.subscribe() as events:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read_all, events)
            await clock.settle()
            tasks.cancel_scope.cancel()
        bus.emit(gap(1))
        assert events.next_nowait() == gap(1)


async def test_subscribers_without_a_name_get_different_ones() -> None:
    bus = EventBus(FakeClock())
    names = []
    for _ in range(2):
        async with bus.subscribe(1) as events:
            bus.emit(gap(0))
            bus.emit(gap(1))
            lagging = events.next_nowait()
            assert isinstance(lagging, SubscriberLagging)
            names.append(lagging.subscriber)
    assert len(set(names)) == 2


def test_a_buffer_for_no_events_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="buffer_size: expected at least 1 event, got 0"):
        EventBus(FakeClock()).subscribe(0)
