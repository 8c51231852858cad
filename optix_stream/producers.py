"""Runs any object with ``stream()`` as a producer, a plain one in a worker thread."""

from __future__ import annotations

import inspect
import random
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import anyio
import anyio.from_thread
import anyio.to_thread

from optix_stream.alignment import UnusableStepError
from optix_stream.clock import Clock
from optix_stream.contracts import Policy, StreamItem, TransitionSink
from optix_stream.errors import ConfigurationError
from optix_stream.feed_session import Answer, FeedAction, FeedOptions, FeedSession
from optix_stream.reconnecting import ReconnectPolicy
from optix_stream.recording import Recorder, message_of, recording

Steps: TypeAlias = Iterable[Any] | AsyncIterable[Any]
"""Steps of a feed, as a plain or an async generator yields them."""


@runtime_checkable
class DataSource(Protocol):
    """Any object with ``stream()``, a plain or an async generator of feed steps."""

    def stream(self) -> Steps: ...


@runtime_checkable
class ActionReceiver(Protocol):
    """A data source that wants the actions: ``send`` may be async."""

    def send(self, action: Any) -> Awaitable[None] | None: ...


class StreamAnswerer(ABC):
    """Mixin for a data source that wants to know which stream an action is for, and which decision it is."""

    @abstractmethod
    def answer(self, action: FeedAction) -> Awaitable[None] | None:
        """Send one action; may be async."""


class _FunctionSource:
    """A generator function as a data source: called at each attempt; it wants no actions."""

    def __init__(self, function: Callable[[], Steps]) -> None:
        self.stream = function
        self.__name__ = getattr(function, "__name__", type(function).__name__)


class FeedProducer:
    """Produces transitions from a data source.

    An async ``stream()`` runs on the event loop. A plain one may block, so it is iterated, and acted
    on, in a worker thread; what it yields crosses over in chunks.

    Args:
        source: the data source, or a generator function, plain or async, that is called at each attempt.
        clock: stamps transitions and times reconnects.
        name: names the source in events.
        reconnect: how to go on when the stream ends or fails; None: the end is the end, and a
            failure fails the run.
        seed: of the jitter.
        options: how steps become transitions.
        record: append what arrives to this file, for ``ReplayFeed``; a step becomes a message that ``JsonCodec`` reads.

    Raises:
        ConfigurationError: neither a data source nor a generator function.
    """

    def __init__(
        self,
        source: DataSource | Callable[[], Steps],
        *,
        clock: Clock,
        name: str | None = None,
        reconnect: ReconnectPolicy | None = None,
        seed: int | None = None,
        options: FeedOptions | None = None,
        record: str | Path | None = None,
    ) -> None:
        self._source = as_data_source(source)
        self._clock = clock
        self._name = name if name is not None else getattr(self._source, "__name__", type(source).__name__)
        self._reconnect = reconnect
        self._rng = random.Random(seed)
        self._answer = _answer_of(self._source)
        self._options = options
        self._record = Path(record) if record is not None else None

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
        session = FeedSession(policy, sink, self._clock, self._name, self._options)
        async with recording(self._record, self._clock) as recorder:
            await session.supervise(lambda: self._run_stream(session, recorder), self._reconnect, self._rng)

    async def _run_stream(self, session: FeedSession, recorder: Recorder | None) -> None:
        try:
            await self._run_steps(session, recorder)
        finally:
            if recorder is not None:
                recorder.mark_gap(self._clock.now(), None, "stream ended")

    async def _run_steps(self, session: FeedSession, recorder: Recorder | None) -> None:
        stream = self._source.stream()
        if isinstance(stream, AsyncIterable):
            try:
                async for item in stream:
                    arrived = session.now()
                    if recorder is not None:
                        recorder.add(arrived, None, message_of(item))
                    await session.handle(item, self._answer, arrived)
            finally:
                if inspect.isasyncgen(stream):
                    with anyio.CancelScope(shield=True):
                        await stream.aclose()
        elif isinstance(stream, Iterable):
            if self._options is not None and self._options.deadline is not None:
                raise ConfigurationError(f"{self._name}.stream(): a deadline needs an async generator, got a plain one")
            await _pull_from_thread(iter(stream), session, self._answer, recorder)
        else:
            raise ConfigurationError(
                f"{self._name}.stream(): expected a plain or async generator, got {type(stream).__name__}"
            )


def as_data_source(source: object) -> DataSource:
    """What was given as an object with ``stream()``, which a generator function becomes.

    Raises:
        ConfigurationError: it is neither.
    """
    if isinstance(source, DataSource):
        return source
    if inspect.isasyncgenfunction(source) or inspect.isgeneratorfunction(source):
        return _FunctionSource(source)
    hint = ""
    if inspect.isasyncgen(source) or inspect.isgenerator(source):
        hint = "; a generator that has ended cannot begin again: pass its function, without calling it"
    raise ConfigurationError(
        f"data_source: expected an object with stream() or a generator function, got {source!r}{hint}"
    )


def _answer_of(source: DataSource) -> Answer | None:
    if isinstance(source, StreamAnswerer):
        return source.answer
    if isinstance(source, ActionReceiver):
        send = source.send
        return lambda action: send(action.action)
    return None


# --- plain generators, in a worker thread --------------------------------------------------------

_CHUNK_STEPS = 1024
_CHUNK_SEC = 0.002


class _Chunk:
    """What one visit to the worker thread brings back; safe to take away while the thread is stuck."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._items: list[StreamItem] = []
        self._taken = False
        self.arrivals: list[tuple[float, bytes]] = []
        """What arrived when, where that is recorded."""

    def add(self, items: Iterable[StreamItem]) -> bool:
        """False if the chunk has been taken away and the items were not added."""
        with self._lock:
            if not self._taken:
                self._items.extend(items)
            return not self._taken

    def take(self) -> list[StreamItem]:
        with self._lock:
            self._taken = True
            return self._items


async def _pull_from_thread(
    iterator: Iterator[Any], session: FeedSession, answer: Answer | None, recorder: Recorder | None
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
            arrived = now()
            if recorder is not None:
                chunk.arrivals.append((arrived, message_of(item)))
            try:
                completed, action = session.step(item, arrived)
            except UnusableStepError as error:
                completed, action = tuple(error.events(arrived)), None
            if completed and not chunk.add(completed):
                return False
            if action is not None and answer is not None:
                sending = answer(action)
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
            if recorder is not None:
                for arrived, message in chunk.arrivals:
                    recorder.add(arrived, None, message)
            await session.push_all(chunk.take())


async def _wait_for(awaitable: Awaitable[None]) -> None:
    await awaitable
