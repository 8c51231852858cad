"""Event fan-out: every subscriber has a bounded buffer of its own, so none can slow the loop."""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable, Collection
from types import TracebackType

import anyio

from optix_stream.clock import Clock
from optix_stream.errors import ConfigurationError
from optix_stream.events import Event, LoopStopped, SubscriberLagging

logger = logging.getLogger(__name__)


class EventBus:
    """Hands each event to every subscription and listener. All calls are made on one event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._subscriptions: list[Subscription] = []
        self._listeners: list[Callable[[Event], None]] = []
        self._numbers = itertools.count(1)

    def emit(self, event: Event) -> None:
        """Deliver one event; never blocks."""
        for listener in self._listeners:
            listener(event)
        for subscription in self._subscriptions:
            subscription._put(event)

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call ``listener`` with every event, at once. It must not raise."""
        self._listeners.append(listener)

    def subscribe(
        self, buffer_size: int = 1024, name: str | None = None, *, kinds: Collection[type[Event]] | None = None
    ) -> Subscription:
        """A subscription, to be used as ``async with``; events are buffered from its entry on.

        Args:
            buffer_size: events held for a subscriber that is busy; older ones give way.
            name: names the subscriber in ``SubscriberLagging``.
            kinds: the types of the events that are wanted, besides ``LoopStopped`` and ``SubscriberLagging``, which
                come in any case; the others take no room. None: all.

        Raises:
            ConfigurationError: a buffer for no events, or kinds that are not types of events.
        """
        if buffer_size < 1:
            raise ConfigurationError(f"buffer_size: expected at least 1 event, got {buffer_size}")
        if kinds is not None and not (isinstance(kinds, Collection) and all(map(_is_kind, kinds))):
            raise ConfigurationError(f"kinds: expected types of events, such as [WindowScored], got {kinds!r}")
        wanted: tuple[type[Event], ...] = (Event,) if kinds is None else (*kinds, LoopStopped)
        return Subscription(self, buffer_size, name or f"subscriber {next(self._numbers)}", self._clock, wanted)

    def _add(self, subscription: Subscription) -> None:
        self._subscriptions.append(subscription)

    def _remove(self, subscription: Subscription) -> None:
        self._subscriptions.remove(subscription)


class Subscription:
    """An async iterator over the events of one run; it ends after ``LoopStopped``."""

    def __init__(
        self, bus: EventBus, buffer_size: int, name: str, clock: Clock, kinds: tuple[type[Event], ...]
    ) -> None:
        self._bus = bus
        self._name = name
        self._clock = clock
        self._kinds = kinds
        self._buffer: deque[Event] = deque(maxlen=buffer_size)
        self._missed = 0
        self._has_warned = False
        self._has_ended = False
        self._arrival: anyio.Event | None = None

    async def __aenter__(self) -> Subscription:
        self._bus._add(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bus._remove(self)
        self._log_missed()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Event:
        while True:
            try:
                return self.next_nowait()
            except anyio.WouldBlock:
                if self._has_ended:
                    raise StopAsyncIteration from None
            self._arrival = anyio.Event()
            await self._arrival.wait()

    def next_nowait(self) -> Event:
        """The next event.

        Raises:
            anyio.WouldBlock: there is none yet.
        """
        if self._missed:
            self._log_missed()
            missed, self._missed = self._missed, 0
            return SubscriberLagging(subscriber=self._name, missed=missed, time=self._clock.now())
        if not self._buffer:
            raise anyio.WouldBlock
        event = self._buffer.popleft()
        if isinstance(event, LoopStopped):
            self._has_ended = True
        return event

    def _log_missed(self) -> None:
        # Not when it begins to miss some: how many they are is known once it asks again, or goes.
        if self._missed:
            logger.warning("%s has missed %d events", self._name, self._missed)

    def _put(self, event: Event) -> None:
        if not isinstance(event, self._kinds):
            return
        if len(self._buffer) == self._buffer.maxlen:
            if not self._has_warned:
                self._has_warned = True
                logger.warning(
                    "%s is too slow for its buffer of %d events, and misses the oldest: give it a larger buffer_size "
                    "or only the kinds that it wants, or let it wait less between events",
                    self._name,
                    self._buffer.maxlen,
                )
            self._missed += 1
        self._buffer.append(event)
        if self._arrival is not None:
            self._arrival.set()
            self._arrival = None


def _is_kind(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Event)
