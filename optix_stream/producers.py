"""Runs any object with ``stream()``: aligns rewards, acts, answers, supervises and reconnects.

The rule that matters: *a reward belongs to the action before it*. A feed yields what ``env.step``
returns, ``(observation, reward, terminated, truncated, info)``; its reward answers the action taken
on the observation before, and the first message of an episode carries an observation only (its
other fields are ignored).
"""

from __future__ import annotations

import inspect
import logging
import math
import random
import threading
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import anyio
import anyio.from_thread
import anyio.to_thread
import numpy as np

from optix_stream.clock import Clock
from optix_stream.contracts import Policy, TransitionSink, act_one_of
from optix_stream.errors import ConfigurationError, SourceFailedError
from optix_stream.events import GapDetected, SourceLost, SourceRegained, TransitionsDropped, TransitionsRejected
from optix_stream.trees import as_tree, map_tree
from optix_stream.types import Array, StreamId, Transition, Tree

logger = logging.getLogger(__name__)


class FeedStep(NamedTuple):
    """What a feed yields; a plain tuple of the first five will do.

    Attributes:
        observation: what is seen now.
        reward: what followed from the action before; ignored in the first step of an episode.
        terminated: the episode ended by itself.
        truncated: the episode was cut off.
        info: whatever else there is to say.
        stream: which trajectory this belongs to, where one feed carries several.
    """

    observation: Any
    reward: float | None
    terminated: bool
    truncated: bool
    info: dict[str, Any] | None = None
    stream: StreamId = 0


class DataSource(Protocol):
    """Any object with ``stream()``, a plain or an async generator of feed steps."""

    def stream(self) -> Iterable[Any] | AsyncIterable[Any]: ...


@runtime_checkable
class ActionReceiver(Protocol):
    """A data source that wants the actions: ``send`` may be async."""

    def send(self, action: Any) -> Awaitable[None] | None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ReconnectPolicy:
    """How a lost source is tried again: capped exponential backoff with jitter.

    Attributes:
        initial_sec: wait before the first attempt.
        factor: growth of the wait from attempt to attempt.
        max_sec: cap of the wait.
        jitter: share of the wait that is random, 0 to 1.
        max_attempts: attempts in a row that deliver nothing before the run fails; None for ever.
    """

    initial_sec: float = 0.5
    factor: float = 2.0
    max_sec: float = 30.0
    jitter: float = 0.5
    max_attempts: int | None = 20

    def __post_init__(self) -> None:
        if not (0 <= self.initial_sec <= self.max_sec and self.factor >= 1 and 0 <= self.jitter <= 1):
            raise ConfigurationError(f"expected 0 <= initial_sec <= max_sec, factor >= 1, 0 <= jitter <= 1, got {self}")

    def wait_sec(self, attempt: int, rng: random.Random) -> float:
        """Seconds to wait before this attempt, the first being 1."""
        # The exponent is capped because a float power overflows after a thousand attempts.
        wait = min(self.max_sec, self.initial_sec * self.factor ** min(attempt - 1, 64))
        return wait * (1 - self.jitter * rng.random())


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


_Pending: TypeAlias = tuple[Tree, Any, Mapping[str, Any] | None]
"""Observation, action and extras of a transition whose end is awaited."""


class _Session:
    """Joins feed steps into transitions, stream by stream."""

    def __init__(self, policy: Policy, sink: TransitionSink, clock: Clock, name: str) -> None:
        self.delivered = False
        self._act = act_one_of(policy)
        self._sink = sink
        self._now = clock.now
        self._name = name
        self._pending: dict[StreamId, _Pending | None] = {}
        self._failed_attempts = 0
        self._is_lost = False

    def step(self, item: Any) -> tuple[Transition | None, Any, bool]:
        """One feed step: the transition that it completes, the action it calls for, and whether it does.

        Raises:
            _MalformedStepError: the step is unusable; the stream has a gap here.
        """
        try:
            if len(item) == 5:
                observation, reward, terminated, truncated, info = item
                stream: StreamId = 0
            else:
                observation, reward, terminated, truncated, info, stream = item
        except (TypeError, ValueError):
            expected = "(observation, reward, terminated, truncated, info[, stream])"
            # Any stream may have lost a step here, so none of them goes on.
            raise self._malformed(tuple(self._pending) or (0,), f"expected {expected}, got {_shorten(item)}") from None
        # Nearly always an array of numbers, for which these two look-ups are all there is to check.
        if type(observation) is not np.ndarray or observation.dtype.hasobject:
            observation = self._checked(observation, stream)
        pending = self._pending.get(stream)
        transition = None
        is_done = False
        if pending is not None:
            try:
                reward = float(reward)
            except (TypeError, ValueError):
                raise self._malformed((stream,), f"reward: expected a number, got {_shorten(reward)}") from None
            if not math.isfinite(reward):
                raise self._malformed((stream,), f"reward: expected a finite number, got {reward}")
            terminated, truncated = bool(terminated), bool(truncated)
            is_done = terminated or truncated
            before, action, extras = pending
            transition = Transition(
                before, action, reward, observation, terminated, truncated, info, stream, extras, self._now()
            )
        self.delivered = True
        if is_done:
            self._pending[stream] = None
            return transition, None, False
        action, extras = self._act(observation)
        self._pending[stream] = (observation, action, extras)
        return transition, action, True

    def _checked(self, observation: Any, stream: StreamId) -> Tree:
        try:
            tree = as_tree(observation)
            map_tree(_check_numbers, tree)
        except ValueError as error:
            raise self._malformed((stream,), f"observation: {error}, got {_shorten(observation)}") from None
        return tree

    async def handle(self, item: Any, send: Callable[[Any], Awaitable[None] | None] | None) -> None:
        try:
            transition, action, has_action = self.step(item)
        except _MalformedStepError as error:
            await self.reject(error)
            return
        if self._is_lost:
            await self.regain()
        try:
            if has_action and send is not None:
                sending = send(action)
                if sending is not None:
                    await sending
        finally:
            # Also when sending failed or was cancelled: the transition is whole and not to be lost.
            if transition is not None:
                await self._sink.push(transition)

    async def reject(self, error: _MalformedStepError) -> None:
        now = self._now()
        await self._sink.push(
            TransitionsRejected(stream=error.streams[0], reason="malformed", detail=error.detail, time=now)
        )
        for stream in error.streams:
            await self._sink.push(GapDetected(stream=stream, reason="malformed step", missed=1, time=now))

    def _malformed(self, streams: tuple[StreamId, ...], detail: str) -> _MalformedStepError:
        # At once, in whichever thread this is: the next step must not be joined to what is pending.
        for stream in streams:
            self._pending[stream] = None
        return _MalformedStepError(streams, detail)

    def begin_attempt(self) -> int:
        self._failed_attempts = 1 if self.delivered else self._failed_attempts + 1
        return self._failed_attempts

    async def lose(self, reason: str, retry_sec: float) -> None:
        now = self._now()
        self._is_lost = True
        await self._sink.push(SourceLost(source=self._name, error=reason, retry_sec=retry_sec, time=now))
        for stream, pending in self._pending.items():
            # A stream whose episode has ended has lost nothing: sessions of whole episodes stay whole.
            if pending is not None:
                await self._sink.push(GapDetected(stream=stream, reason=f"source lost: {reason}", time=now))
        self._pending.clear()

    async def regain(self) -> None:
        if self.delivered and self._is_lost:
            self._is_lost = False
            attempts, self._failed_attempts = self._failed_attempts, 0
            await self._sink.push(SourceRegained(source=self._name, attempts=attempts, time=self._now()))

    async def push_all(self, items: list[Transition | _MalformedStepError]) -> None:
        waiting = deque(items)
        try:
            await self.regain()
            while waiting:
                item = waiting.popleft()
                if isinstance(item, _MalformedStepError):
                    await self.reject(item)
                else:
                    await self._sink.push(item)
        except BaseException:
            # push() has accounted for the item it was given; the ones behind it are accounted here.
            left = sum(isinstance(item, Transition) for item in waiting)
            if left:
                with anyio.CancelScope(shield=True):
                    await self._sink.push(TransitionsDropped(reason="cancelled", count=left, time=self._now()))
            raise


class _MalformedStepError(Exception):
    def __init__(self, streams: tuple[StreamId, ...], detail: str) -> None:
        super().__init__(detail)
        self.streams = streams
        self.detail = detail


def _check_numbers(leaf: Array) -> None:
    if leaf.dtype == object:
        raise ValueError("expected numbers")


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


# --- plain generators, in a worker thread --------------------------------------------------------

_CHUNK_STEPS = 1024
_CHUNK_SEC = 0.002


class _Chunk:
    """What one visit to the worker thread brings back; safe to take away while the thread is stuck."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._items: list[Transition | _MalformedStepError] = []
        self._taken = False

    def add(self, item: Transition | _MalformedStepError) -> bool:
        """False if the chunk has been taken away and the item was not added."""
        with self._lock:
            if not self._taken:
                self._items.append(item)
            return not self._taken

    def take(self) -> list[Transition | _MalformedStepError]:
        with self._lock:
            self._taken = True
            return self._items


async def _pull_from_thread(
    iterator: Iterator[Any], session: _Session, send: Callable[[Any], Awaitable[None] | None] | None
) -> None:
    now = session._now

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
            except _MalformedStepError as error:
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
            await session.push_all(chunk.take())


async def _wait_for(awaitable: Awaitable[None]) -> None:
    await awaitable
