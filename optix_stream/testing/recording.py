"""An event sink that remembers."""

from __future__ import annotations

from typing import TypeVar

from optix_stream.events import Event

E = TypeVar("E", bound=Event)


class RecordingEvents:
    """An ``EventSink`` that keeps every event, in order.

    Attributes:
        events: what was emitted, oldest first.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        """Keep one event."""
        self.events.append(event)

    def of(self, kind: type[E]) -> list[E]:
        """The events of one type, oldest first."""
        return [event for event in self.events if isinstance(event, kind)]
