"""Virtual time: nothing waits, and tasks wake in the order of their deadlines."""

from __future__ import annotations

import heapq
import itertools

import anyio
import anyio.lowlevel

# anyio looks at asyncio's tasks once every 0.1 s; work that ends within this many turns of the event
# loop is over before it looks.
_TURNS_BEFORE_LOOKING = 25


class FakeClock:
    """A ``Clock`` whose time moves when the test says so, on asyncio and on trio.

    ``advance`` moves it by hand. Where it does not matter when things happen, run ``autojump`` in a
    task: whenever every task is blocked, time jumps to the next deadline.

    Args:
        start: the time it shows at first, in seconds.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._sleepers: list[tuple[float, int, anyio.Event]] = []
        self._numbers = itertools.count()
        self._arrival: anyio.Event | None = None

    def now(self) -> float:
        """Seconds on this clock; may be read from any thread."""
        return self._now

    @property
    def sleeping(self) -> int:
        """How many tasks are asleep on this clock."""
        return len(self._sleepers)

    async def sleep(self, seconds: float) -> None:
        """Wait until this clock has moved by ``seconds``; returns at once for 0 or less."""
        if seconds <= 0:
            await anyio.lowlevel.checkpoint()
            return
        sleeper = (self._now + seconds, next(self._numbers), anyio.Event())
        heapq.heappush(self._sleepers, sleeper)
        if self._arrival is not None:
            self._arrival.set()
        try:
            await sleeper[2].wait()
        finally:
            if sleeper in self._sleepers:
                self._sleepers.remove(sleeper)
                heapq.heapify(self._sleepers)

    async def advance(self, seconds: float) -> None:
        """Move on, waking sleepers one deadline after another and letting each run until it blocks.

        Raises:
            ValueError: ``seconds`` below 0; a monotonic clock never goes back.
        """
        if seconds < 0:
            raise ValueError(f"expected 0 seconds or more, got {seconds}")
        target = self._now + seconds
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= target:
            self._wake_next()
            await self.settle()
        self._now = target

    async def autojump(self) -> None:
        """Jump to the next deadline whenever every other task is blocked; runs until it is cancelled.

        A task that waits for a worker thread counts as blocked.
        """
        while True:
            if not self._sleepers:
                self._arrival = anyio.Event()
                await self._arrival.wait()
                self._arrival = None
            await self.settle()
            if self._sleepers:
                self._wake_next()

    async def settle(self) -> None:
        """Wait until every other task is blocked; time stands still meanwhile."""
        for _ in range(_TURNS_BEFORE_LOOKING):
            await anyio.lowlevel.checkpoint()
        await anyio.wait_all_tasks_blocked()

    def _wake_next(self) -> None:
        deadline = self._sleepers[0][0]
        self._now = deadline
        while self._sleepers and self._sleepers[0][0] <= deadline:
            heapq.heappop(self._sleepers)[2].set()
