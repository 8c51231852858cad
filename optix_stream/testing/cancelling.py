"""Cancellation at every await of a coroutine, one after another."""

from __future__ import annotations

import itertools
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from typing import Any

import anyio


class Canceller:
    """Cancels a scope when the coroutines that it drives have, together, awaited ``at`` times.

    Args:
        at: how often; never, if below 1.

    Attributes:
        scope: to be entered around what is to be cancelled.
        awaits: so far.
    """

    def __init__(self, at: int) -> None:
        self.scope = anyio.CancelScope()
        self.awaits = 0
        self._at = at

    async def drive(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Await ``coroutine`` and count its awaits; use it for every task whose awaits are to count."""
        return await self._drive(coroutine)

    @types.coroutine
    def _drive(self, coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        resume: Callable[[], Any] = partial(coroutine.send, None)
        while True:
            try:
                yielded = resume()
            except StopIteration as stop:
                return stop.value
            self.awaits += 1
            if self.awaits == self._at:
                self.scope.cancel()
            try:
                value = yield yielded
            except BaseException as error:
                resume = partial(coroutine.throw, error)
            else:
                resume = partial(coroutine.send, value)


async def cancel_everywhere(run: Callable[[Canceller], Awaitable[None]]) -> int:
    """Call ``run`` with cancellation at the first await, at the second, … until it ends by itself.

    Args:
        run: enters the canceller's scope, lets it drive what is checked, and asserts what must hold after that.

    Returns:
        How many awaits there were.

    Raises:
        AssertionError: a task was left running.
    """
    for at in itertools.count(1):
        before = {task.id for task in anyio.get_running_tasks()}
        canceller = Canceller(at)
        await run(canceller)
        left = [task.name for task in anyio.get_running_tasks() if task.id not in before]
        assert not left, f"cancelled at await {at}: expected no task to be left, got {left}"
        if not canceller.scope.cancel_called:
            return at - 1
    raise AssertionError("unreachable")
