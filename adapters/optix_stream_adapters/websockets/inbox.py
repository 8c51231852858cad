"""What stands between a socket, which is always drained, and whoever handles its messages."""

from __future__ import annotations

from collections import deque

import anyio


class Inbox:
    """A bounded buffer of messages with the time of their arrival. One fills it, one empties it.

    A message that finds it full is lost and counted: the socket does not wait, because whoever does not read does
    not answer the other side's keepalive either.

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
        self._is_closed = False
        self._error: Exception | None = None
        self._lost = 0

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: bytes, arrived: float) -> None:
        """Take a message in, or count it as lost."""
        size = self._bytes + len(message)
        if len(self._messages) >= self._capacity or (size > self._max_bytes and self._messages):
            self._lost += 1
            return
        self._bytes = size
        self._messages.append((arrived, message))
        if self._is_waiting:
            self._arrived.set()

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

    def pop(self) -> tuple[float, bytes] | None:
        """The oldest message and when it arrived; None where there is none."""
        if not self._messages:
            return None
        entry = self._messages.popleft()
        self._bytes -= len(entry[1])
        return entry

    def take_lost(self) -> int:
        """Messages lost since this was last asked; they came after those that are held."""
        lost, self._lost = self._lost, 0
        return lost
