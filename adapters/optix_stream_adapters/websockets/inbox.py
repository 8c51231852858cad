"""What stands between a socket, which is always drained, and whoever handles its messages."""

from __future__ import annotations

from collections import deque

import anyio


class Inbox:
    """A bounded buffer of messages with the time of their arrival. One fills it, one empties it.

    Whoever fills it and finds it full may wait for room, but not for long: who does not read from a socket does not
    answer the other side's keepalive either.

    Args:
        capacity: messages it holds.
        max_bytes: their size together.
    """

    def __init__(self, capacity: int, max_bytes: int) -> None:
        self._capacity = capacity
        self._max_bytes = max_bytes
        self._bytes = 0
        self._messages: deque[tuple[float, bytes]] = deque()
        self._arrived = anyio.Event()
        self._is_waiting = False
        self._room: anyio.Event | None = None
        self._is_closed = False
        self._error: Exception | None = None
        self._lost = 0

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def is_losing(self) -> bool:
        """Whether anything has been lost since ``take_lost``."""
        return self._lost > 0

    async def wait_for_room(self) -> None:
        """Wait until it is half empty."""
        self._room = anyio.Event()
        try:
            await self._room.wait()
        finally:
            self._room = None

    def put(self, message: bytes, arrived: float) -> bool:
        """Take a message in, where there is room for it; a large one goes in alone."""
        size = self._bytes + len(message)
        if len(self._messages) >= self._capacity or (size > self._max_bytes and self._messages):
            return False
        self._bytes = size
        self._messages.append((arrived, message))
        if self._is_waiting:
            self._arrived.set()
        return True

    def lose(self) -> None:
        """Count a message that there was no room for."""
        self._lost += 1

    def close(self, error: Exception | None = None) -> None:
        """Nothing more will come, because of this error."""
        self._is_closed = True
        self._error = error
        self._arrived.set()

    async def wait(self) -> bool:
        """Wait for messages; False when there will be no more.

        Raises:
            Exception: what closed the inbox, once it is empty.
        """
        while not self._messages:
            if self._is_closed:
                if self._error is not None:
                    raise self._error
                return False
            self._arrived = anyio.Event()
            self._is_waiting = True
            try:
                await self._arrived.wait()
            finally:
                self._is_waiting = False
        return True

    def take(self, limit: int) -> list[tuple[float, bytes]]:
        """The oldest messages, with when each arrived; empty where there are none."""
        messages = self._messages
        if len(messages) <= limit:
            taken, self._bytes = list(messages), 0
            messages.clear()
        else:
            taken = [messages.popleft() for _ in range(limit)]
            self._bytes -= sum([len(message) for _, message in taken])
        if self._room is not None and len(messages) <= self._capacity // 2 and self._bytes <= self._max_bytes // 2:
            self._room.set()
        return taken

    def take_lost(self) -> int:
        """Messages lost since this was last asked; they came after those that are held."""
        lost, self._lost = self._lost, 0
        return lost
