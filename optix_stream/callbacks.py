"""``LoopCallback``: the original system's eight hooks, on top of the events."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskStatus

from optix_stream.bus import EventBus
from optix_stream.clock import Clock
from optix_stream.events import (
    Degraded,
    Event,
    HyperparamsChanged,
    Improved,
    LoopStarted,
    LoopStopped,
    PlateauReached,
    SubscriberFailed,
    SubscriberLagging,
    WentDormant,
    WindowScored,
)
from optix_stream.types import EvalMetrics, LoopState, PolicySnapshot

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

logger = logging.getLogger(__name__)


class LoopCallback:
    """Override what you need; a hook may be a plain or an ``async`` method.

    A plain hook runs at once, on the event loop, and so must not block. An async hook runs in a
    task of its callback's own, one at a time and in order; the loop does not wait for it. A hook
    that raises is logged and becomes a ``SubscriberFailed`` event.
    """

    def on_loop_start(self) -> Awaitable[None] | None: ...

    def on_loop_stop(self) -> Awaitable[None] | None: ...

    def on_episode_end(self, episode_id: int, eval_metrics: EvalMetrics | None) -> Awaitable[None] | None: ...

    def on_improvement(self, snapshot: PolicySnapshot) -> Awaitable[None] | None: ...

    def on_plateau(self, episode_id: int, state: LoopState) -> Awaitable[None] | None: ...

    def on_dormant(self, episode_id: int) -> Awaitable[None] | None: ...

    def on_degradation(self, episode_id: int, eval_metrics: EvalMetrics) -> Awaitable[None] | None: ...

    def on_hyperparam_update(
        self, old_params: dict[str, Any], new_params: dict[str, Any]
    ) -> Awaitable[None] | None: ...


_PENDING_HOOKS = 256


class CallbackRunner:
    """Turns events into hook calls. Async hooks run inside ``run()``, which ends with the bus's run.

    Args:
        callbacks: whose hooks to call.
        bus: where events come from and failures go.
        clock: stamps those failures.
        grace_sec: how long, after the loop has stopped, unfinished async hooks may still take.
    """

    def __init__(
        self, callbacks: Sequence[LoopCallback], bus: EventBus, clock: Clock, *, grace_sec: float = 5.0
    ) -> None:
        self._callbacks = list(callbacks)
        self._bus = bus
        self._clock = clock
        self._grace_sec = grace_sec
        self._finished: anyio.Event | None = None
        self._senders: dict[int, MemoryObjectSendStream[tuple[str, Awaitable[None]]]] = {}
        if self._callbacks:
            bus.listen(self._on_event)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Await what async hooks return, until ``finish`` and then for the grace period at most."""
        self._finished = anyio.Event()
        async with anyio.create_task_group() as tasks:
            for number, callback in enumerate(self._callbacks):
                sender, receiver = anyio.create_memory_object_stream[tuple[str, Awaitable[None]]](_PENDING_HOOKS)
                self._senders[number] = sender
                tasks.start_soon(self._await_hooks, callback, receiver)
            task_status.started()
            await self._finished.wait()
            tasks.cancel_scope.deadline = anyio.current_time() + self._grace_sec
        if tasks.cancel_scope.cancelled_caught:
            logger.error("async hooks were still running %g s after the loop and were cancelled", self._grace_sec)

    def finish(self) -> None:
        """No more hooks will come: ``run`` returns when those under way are done."""
        for sender in self._senders.values():
            sender.close()
        self._senders.clear()
        if self._finished is not None:
            self._finished.set()

    async def _await_hooks(
        self, callback: LoopCallback, receiver: MemoryObjectReceiveStream[tuple[str, Awaitable[None]]]
    ) -> None:
        with receiver:
            try:
                async for hook, awaitable in receiver:
                    try:
                        await awaitable
                    except Exception as error:
                        self._report(callback, hook, error)
            finally:
                # Cancelled: what is still waiting will not be awaited any more.
                with contextlib.suppress(anyio.WouldBlock, anyio.EndOfStream):
                    while True:
                        self._skip(callback, *receiver.receive_nowait())

    def _on_event(self, event: Event) -> None:
        for number, callback in enumerate(self._callbacks):
            hook_call = _hook_call(event)
            if hook_call is None:
                return
            hook, arguments = hook_call
            try:
                result = getattr(callback, hook)(*arguments)
            except Exception as error:
                self._report(callback, hook, error)
                continue
            if result is not None:
                self._hand_over(number, hook, result)

    def _hand_over(self, number: int, hook: str, awaitable: Awaitable[None]) -> None:
        try:
            self._senders[number].send_nowait((hook, awaitable))
        except (anyio.WouldBlock, anyio.BrokenResourceError, KeyError):
            self._skip(self._callbacks[number], hook, awaitable)

    def _skip(self, callback: LoopCallback, hook: str, awaitable: Awaitable[None]) -> None:
        if isinstance(awaitable, Coroutine):
            awaitable.close()
        name = type(callback).__name__
        logger.warning("%s.%s was skipped: the hooks before it are not done", name, hook)
        self._bus.emit(SubscriberLagging(subscriber=name, missed=1, time=self._clock.now()))

    def _report(self, callback: LoopCallback, hook: str, error: Exception) -> None:
        name = type(callback).__name__
        logger.error("%s.%s failed", name, hook, exc_info=error)
        self._bus.emit(SubscriberFailed(subscriber=name, hook=hook, error=repr(error), time=self._clock.now()))


def _hook_call(event: Event) -> tuple[str, tuple[Any, ...]] | None:
    match event:
        case LoopStarted():
            return "on_loop_start", ()
        case LoopStopped():
            return "on_loop_stop", ()
        case WindowScored(window=window, metrics=metrics):
            return "on_episode_end", (window, metrics)
        case Improved(snapshot=snapshot):
            return "on_improvement", (snapshot,)
        case PlateauReached(window=window, state=state):
            return "on_plateau", (window, state)
        case WentDormant(window=window):
            return "on_dormant", (window,)
        case Degraded(window=window, metrics=metrics):
            return "on_degradation", (window, metrics)
        case HyperparamsChanged(old=old, new=new):
            return "on_hyperparam_update", (dict(old), dict(new))
        case _:
            return None
