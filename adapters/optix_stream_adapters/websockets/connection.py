"""One websocket connection, whichever side opened it: drained, decoded, acted on, answered."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
from websockets.asyncio.connection import Connection
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK
from websockets.frames import CloseCode

from optix_stream.alignment import name_within
from optix_stream.clock import Clock
from optix_stream.errors import ConfigurationError
from optix_stream.events import TransitionsDropped
from optix_stream.feed_session import Answer, FeedAction, FeedSession
from optix_stream.recording import Recorder
from optix_stream.types import StreamId
from optix_stream_adapters.websockets.inbox import Inbox

_MESSAGES_BETWEEN_CHECKPOINTS = 128
_OVERFLOW = "inbox overflow"
_CLOSE_SEC = 1.0


class ConnectionOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a connection.

    Attributes:
        max_message_bytes: a longer one closes the connection (1009).
        inbox_messages: how many may wait while a full queue or a slow peer holds up their handling.
        inbox_bytes: how large those may be together.
        patience_sec: how long a full inbox may hold up the sender before what arrives is dropped, and counted.
        idle_timeout_sec: a connection that brings nothing for this long is taken for dead; None: never.
        open_timeout_sec: for connecting, the handshake included.
        ping_interval_sec: of the keepalive, and how long its answer may take; None: none is sent.
        max_malformed: messages in a row that cannot be read before the connection is given up as broken.
        compression: ``deflate``, or None, which is faster and cannot be used to send bombs.

    Raises:
        ConfigurationError: a number that is not above 0.
    """

    max_message_bytes: int = 2**20
    inbox_messages: int = 4096
    inbox_bytes: int = 2**24
    patience_sec: float = 1.0
    idle_timeout_sec: float | None = None
    open_timeout_sec: float = 10.0
    ping_interval_sec: float | None = 20.0
    max_malformed: int = 1000
    compression: str | None = None

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, int | float) and not value > 0:
                raise ConfigurationError(f"{name}: expected more than 0, got {value}")

    def keywords(self) -> dict[str, Any]:
        """For ``connect`` and ``serve``."""
        return {
            "max_size": self.max_message_bytes,
            "open_timeout": self.open_timeout_sec,
            "ping_interval": self.ping_interval_sec,
            "ping_timeout": self.ping_interval_sec,
            "compression": self.compression,
            # The inbox is what bounds: the library would stop reading, and so stop answering pings.
            "max_queue": self.inbox_messages,
            "close_timeout": _CLOSE_SEC,
        }


class SourceSilentError(Exception):
    """Nothing arrived for too long."""


class TooManyMalformedError(Exception):
    """Message after message could not be read."""


Decode = Callable[[bytes], Any]
Encode = Callable[[FeedAction], str | bytes]


CONNECTION_ERRORS = (ConnectionClosed, SourceSilentError, TooManyMalformedError, OSError)
"""What ends a connection and nothing else."""


@asynccontextmanager
async def closing(socket: Connection) -> AsyncIterator[Connection]:
    """Say goodbye at the end, also when cancelled: the other side need not find out by silence."""
    try:
        yield socket
    finally:
        with anyio.move_on_after(2 * _CLOSE_SEC, shield=True):
            await socket.close(CloseCode.GOING_AWAY)


class Conversation:
    """Runs one connection from its first message to its end.

    Args:
        socket: the connection, open.
        session: takes the steps.
        decode: reads a message.
        encode: writes an action; None: none is sent.
        options: limits.
        clock: stamps arrivals.
        recorder: writes down what arrives.
        stream: names the connection's stream, and goes before the names of its streams; None where there is but
            one connection.
    """

    def __init__(
        self,
        socket: Connection,
        session: FeedSession,
        decode: Decode,
        encode: Encode | None,
        options: ConnectionOptions,
        clock: Clock,
        recorder: Recorder | None = None,
        stream: str | None = None,
    ) -> None:
        self._socket = socket
        self._session = session
        self._decode = decode
        self._encode = encode
        self._options = options
        self._clock = clock
        self._recorder = recorder
        self._stream = stream
        self._inbox = Inbox(options.inbox_messages, options.inbox_bytes)
        self._malformed = 0
        self._unhandled = 0
        self._answering: StreamId | None = None
        self._last_arrival = clock.now()

    async def run(self) -> None:
        """Until the connection ends by itself.

        Raises:
            Exception: what ended it otherwise.
        """
        answer: Answer | None = self._send if self._encode is not None else None
        error: Exception | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._drain)
            if self._options.idle_timeout_sec is not None:
                tasks.start_soon(self._watch, self._options.idle_timeout_sec)
            try:
                while await self._inbox.wait():
                    await self._handle_all(answer)
            except Exception as raised:
                # Carried past the task group, which would wrap it.
                error = raised
            finally:
                await self._give_up_rest(error)
                tasks.cancel_scope.cancel()
                if self._recorder is not None:
                    is_clean = error is None or isinstance(error, ConnectionClosedOK)
                    reason = "connection ended" if is_clean else repr(error)
                    self._recorder.mark_gap(self._clock.now(), self._stream, reason)
        if error is None or isinstance(error, ConnectionClosedOK):
            return
        if not isinstance(error, ConnectionClosed):
            # Cut, not closed: the other side is silent or does not keep to what was agreed, and would not answer.
            self._socket.transport.abort()
        raise error

    async def _give_up_rest(self, error: Exception | None) -> None:
        """What has arrived and was not dealt with is counted: nobody can be sent an action for it any more."""
        left, inbox = self._unhandled, self._inbox
        if isinstance(error, ConnectionClosed):
            # What the socket still holds is read to its end.
            with suppress(ConnectionClosed):
                while await inbox.wait():
                    left += len(inbox.take(_MESSAGES_BETWEEN_CHECKPOINTS))
        counts = {"connection lost": left + len(inbox), _OVERFLOW: inbox.take_lost()}
        now = self._clock.now()
        dropped = [TransitionsDropped(reason=why, count=count, time=now) for why, count in counts.items() if count]
        with anyio.CancelScope(shield=True):
            await self._session.push_all(dropped)

    async def _drain(self) -> None:
        """Read whatever comes, with at most a short wait for room: who does not read does not answer a ping either."""
        recv, put, now = self._socket.recv, self._inbox.put, self._clock.now
        recorder, count = self._recorder, 0
        try:
            while True:
                message = await recv(decode=False)
                self._last_arrival = arrived = now()
                if recorder is not None:
                    recorder.add(arrived, self._stream, message)
                if not put(message, arrived):
                    await self._put_late(message, arrived)
                count += 1
                if count % _MESSAGES_BETWEEN_CHECKPOINTS == 0:
                    # Messages that are already there are read without a pause.
                    await anyio.lowlevel.checkpoint()
        except ConnectionClosed as error:
            self._inbox.close(error)

    async def _put_late(self, message: bytes, arrived: float) -> None:
        inbox = self._inbox
        try:
            if not inbox.is_losing:
                with anyio.move_on_after(self._options.patience_sec):
                    await inbox.wait_for_room()
                self._last_arrival = self._clock.now()
        finally:
            if not inbox.put(message, arrived):
                inbox.lose()

    async def _watch(self, limit_sec: float) -> None:
        while True:
            left = self._last_arrival + limit_sec - self._clock.now()
            if left <= 0:
                self._inbox.close(SourceSilentError(f"nothing arrived for {limit_sec:g} s"))
                return
            await self._clock.sleep(left)

    async def _handle_all(self, answer: Answer | None) -> None:
        handle, decode, stream = self._session.handle, self._decode, self._stream
        while taken := self._inbox.take(_MESSAGES_BETWEEN_CHECKPOINTS):
            rest = iter(taken)
            try:
                for arrived, message in rest:
                    try:
                        decoded = decode(message)
                    except Exception as error:
                        # Whatever a decoder makes of what a stranger sends: told, counted, and no harm to others.
                        await self._reject(message, error)
                        continue
                    self._malformed = 0
                    if type(decoded) is list:
                        for step in decoded:
                            await handle(self._named(step), answer, arrived)
                    elif decoded is not None:
                        await handle(decoded if stream is None else self._named(decoded), answer, arrived)
            finally:
                self._unhandled = sum(1 for _ in rest)
            if len(taken) == _MESSAGES_BETWEEN_CHECKPOINTS:
                await anyio.lowlevel.checkpoint()
        lost = self._inbox.take_lost()
        if lost:
            now = self._clock.now()
            dropped = TransitionsDropped(reason=_OVERFLOW, count=lost, time=now)
            await self._session.push_all((dropped, *self._session.aligner.interrupt(_OVERFLOW, now)))

    async def _reject(self, message: bytes, error: Exception) -> None:
        self._malformed += 1
        await self._session.reject(f"{type(error).__name__}: {error}; message {_sample(message)}")
        if self._malformed >= self._options.max_malformed:
            raise TooManyMalformedError(f"{self._malformed} messages in a row could not be read") from error

    def _named(self, step: Any) -> Any:
        """Streams of one connection do not meet those of another that has the same names."""
        if self._stream is None:
            return step
        step, self._answering = name_within(self._stream, step)
        return step

    async def _send(self, action: FeedAction) -> None:
        assert self._encode is not None
        if self._answering is not None:
            # The other side knows its stream by the name that it gave it.
            action = action._replace(stream=self._answering)
        await self._socket.send(self._encode(action))


def _sample(message: bytes) -> str:
    text = repr(message[:60])
    return text if len(message) <= 60 else f"{text}… of {len(message)} bytes"
