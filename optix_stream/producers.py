"""Runs any object with ``stream()``: acts, answers, supervises and reconnects. What makes transitions of
its steps is in ``alignment``.
"""

from __future__ import annotations

import inspect
import logging
import random
import threading
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import anyio
import anyio.from_thread
import anyio.to_thread

from optix_stream.alignment import Aligner, MalformedStepError
from optix_stream.clock import Clock
from optix_stream.contracts import Policy, TransitionSink, act_one_of
from optix_stream.errors import ConfigurationError, SourceFailedError
from optix_stream.events import SourceLost, SourceRegained, TransitionsDropped
from optix_stream.reconnecting import ReconnectPolicy
from optix_stream.types import Transition

logger = logging.getLogger(__name__)


class DataSource(Protocol):
    """Any object with ``stream()``, a plain or an async generator of feed steps."""

    def stream(self) -> Iterable[Any] | AsyncIterable[Any]: ...


@runtime_checkable
class ActionReceiver(Protocol):
    """A data source that wants the actions: ``send`` may be async."""

    def send(self, action: Any) -> Awaitable[None] | None: ...


class FeedProducer:
    """Produces transitions from a data source.

    An async ``stream()`` runs on the event loop. A plain one may block, so it is iterated, and acted
    on, in a worker thread; what it yields crosses over in chunks.

    Args:
        source: the data source.
        clock: stamps transitions and times reconnects.
        name: names the source in events.
        reconnect: how to go on when the stream ends or fails; None: the end is the end, and a
            failure fails the run.
        seed: of the jitter.
    """

    def __init__(
        self,
        source: DataSource,
        *,
        clock: Clock,
        name: str | None = None,
        reconnect: ReconnectPolicy | None = None,
        seed: int | None = None,
    ) -> None:
        self._source = source
        self._clock = clock
        self._name = name if name is not None else type(source).__name__
        self._reconnect = reconnect
        self._rng = random.Random(seed)
        self._send = source.send if isinstance(source, ActionReceiver) else None

    @property
    def name(self) -> str:
        return self._name

    async def run(self, policy: Policy, sink: TransitionSink) -> None:
        """Produce until the stream ends for good.

        Raises:
            SourceFailedError: too many attempts in a row delivered nothing.
            ConfigurationError: the source has no stream that can be iterated.
            Exception: what the stream raised, where there is no reconnecting.
        """
        session = _Session(policy, sink, self._clock, self._name)
        while True:
            session.delivered = False
            error: Exception | None = None
            try:
                await self._run_stream(session)
            except ConfigurationError:
                raise  # Trying again would not mend it.
            except Exception as caught:
                if self._reconnect is None:
                    raise
                error = caught
                logger.warning("source %s failed", self._name, exc_info=caught)
            reason = "stream ended" if error is None else repr(error)
            if self._reconnect is None:
                await sink.push(SourceLost(source=self._name, error=reason, retry_sec=None, time=self._clock.now()))
                return
            await self._back_off(session, reason, is_failure=error is not None)

    async def _back_off(self, session: _Session, reason: str, *, is_failure: bool) -> None:
        assert self._reconnect is not None
        attempt = session.begin_attempt()
        limit = self._reconnect.max_attempts
        if limit is not None and attempt > limit:
            raise SourceFailedError(self._name, attempt)
        # A stream that delivered and then ended is one session of a feed that comes in sessions.
        wait = self._reconnect.wait_sec(attempt, self._rng) if is_failure or not session.delivered else 0.0
        await session.lose(reason, wait)
        await self._clock.sleep(wait)

    async def _run_stream(self, session: _Session) -> None:
        stream = self._source.stream()
        if isinstance(stream, AsyncIterable):
            try:
                async for item in stream:
                    await session.handle(item, self._send)
            finally:
                if inspect.isasyncgen(stream):
                    with anyio.CancelScope(shield=True):
                        await stream.aclose()
        elif isinstance(stream, Iterable):
            await _pull_from_thread(iter(stream), session, self._send)
        else:
            raise ConfigurationError(
                f"{self._name}.stream(): expected a plain or async generator, got {type(stream).__name__}"
            )


class _Session:
    """One run of a feed: steps come in, decisions go out, transitions go to the sink."""

    def __init__(self, policy: Policy, sink: TransitionSink, clock: Clock, name: str) -> None:
        self.delivered = False
        self.now = clock.now
        self._act = act_one_of(policy)
        self._aligner = Aligner()
        self._sink = sink
        self._name = name
        self._failed_attempts = 0
        self._is_lost = False

    def step(self, item: Any) -> tuple[Transition | None, Any, bool]:
        """One feed step: the transition that it completes, the action it calls for, and whether it does.

        Raises:
            MalformedStepError: the step is unusable; the stream has a gap here.
        """
        transition, stream, observation = self._aligner.arrive(item, self.now())
        self.delivered = True
        if observation is None:
            return transition, None, False
        action, extras = self._act(observation)
        self._aligner.decide(stream, observation, action, extras)
        return transition, action, True

    async def handle(self, item: Any, send: Callable[[Any], Awaitable[None] | None] | None) -> None:
        """One feed step, from its arrival to the transition in the sink."""
        try:
            transition, action, has_action = self.step(item)
        except MalformedStepError as error:
            await self._reject(error)
            return
        if self._is_lost:
            await self._regain()
        try:
            if has_action and send is not None:
                sending = send(action)
                if sending is not None:
                    await sending
        finally:
            # Also when sending failed or was cancelled: the transition is whole and not to be lost.
            if transition is not None:
                await self._sink.push(transition)

    async def handle_all(self, items: list[Transition | MalformedStepError]) -> None:
        """What a thread has brought, in order."""
        waiting = deque(items)
        try:
            if self.delivered and self._is_lost:
                await self._regain()
            while waiting:
                item = waiting.popleft()
                if isinstance(item, MalformedStepError):
                    await self._reject(item)
                else:
                    await self._sink.push(item)
        except BaseException:
            # push() has accounted for the item it was given; the ones behind it are accounted here.
            left = sum(isinstance(item, Transition) for item in waiting)
            if left:
                with anyio.CancelScope(shield=True):
                    await self._sink.push(TransitionsDropped(reason="cancelled", count=left, time=self.now()))
            raise

    def begin_attempt(self) -> int:
        """How many attempts in a row, with the one that begins, have delivered nothing."""
        self._failed_attempts = 1 if self.delivered else self._failed_attempts + 1
        return self._failed_attempts

    async def lose(self, reason: str, retry_sec: float) -> None:
        """The source is gone."""
        now = self.now()
        self._is_lost = True
        await self._sink.push(SourceLost(source=self._name, error=reason, retry_sec=retry_sec, time=now))
        for gap in self._aligner.interrupt(f"source lost: {reason}", now):
            await self._sink.push(gap)

    async def _regain(self) -> None:
        self._is_lost = False
        attempts, self._failed_attempts = self._failed_attempts, 0
        await self._sink.push(SourceRegained(source=self._name, attempts=attempts, time=self.now()))

    async def _reject(self, error: MalformedStepError) -> None:
        for event in error.events(self.now()):
            await self._sink.push(event)


# --- plain generators, in a worker thread --------------------------------------------------------

_CHUNK_STEPS = 1024
_CHUNK_SEC = 0.002


class _Chunk:
    """What one visit to the worker thread brings back; safe to take away while the thread is stuck."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._items: list[Transition | MalformedStepError] = []
        self._taken = False

    def add(self, item: Transition | MalformedStepError) -> bool:
        """False if the chunk has been taken away and the item was not added."""
        with self._lock:
            if not self._taken:
                self._items.append(item)
            return not self._taken

    def take(self) -> list[Transition | MalformedStepError]:
        with self._lock:
            self._taken = True
            return self._items


async def _pull_from_thread(
    iterator: Iterator[Any], session: _Session, send: Callable[[Any], Awaitable[None] | None] | None
) -> None:
    now = session.now

    def pull(chunk: _Chunk) -> bool:
        # Runs in the thread. A slow stream comes back after each step, a fast one a chunk at a time.
        deadline = now() + _CHUNK_SEC
        for _ in range(_CHUNK_STEPS):
            try:
                item = next(iterator)
            except StopIteration:
                return False
            try:
                transition, action, has_action = session.step(item)
            except MalformedStepError as error:
                if not chunk.add(error):
                    return False
                continue
            if transition is not None and not chunk.add(transition):
                return False
            if has_action and send is not None:
                sending = send(action)
                if sending is not None:
                    anyio.from_thread.run(_wait_for, sending)
            if now() >= deadline:
                break
        return True

    goes_on = True
    while goes_on:
        chunk = _Chunk()
        try:
            # A thread that is stuck in the stream cannot be stopped; it is left behind, its chunk is not.
            goes_on = await anyio.to_thread.run_sync(pull, chunk, abandon_on_cancel=True)
        finally:
            await session.handle_all(chunk.take())


async def _wait_for(awaitable: Awaitable[None]) -> None:
    await awaitable
