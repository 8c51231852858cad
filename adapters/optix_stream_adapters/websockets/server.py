"""``PolicyServer``: robots and simulators connect to us, each a stream of its own, and get actions back."""

from __future__ import annotations

import hmac
import itertools
import ssl
from collections.abc import Awaitable, Callable, Collection
from http import HTTPStatus
from pathlib import Path

import anyio
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

from optix_stream.clock import Clock, SystemClock
from optix_stream.contracts import Policy, TransitionSink
from optix_stream.errors import ConfigurationError
from optix_stream.feed_session import FeedOptions, FeedSession
from optix_stream.recording import Recorder, recording
from optix_stream_adapters.websockets.connection import (
    CONNECTION_ERRORS,
    ConnectionOptions,
    Conversation,
    Decode,
    Encode,
)

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_CLOSE_SEC = 2.0


class PolicyServer:
    """A producer that listens: each connection sends observations and gets actions, as a stream of its own.

    A connection's end, or its death, ends only its stream. A client must not wait for an answer to each message: an
    action answers an observation of a running episode. The last observation of one (``terminated`` or ``truncated``)
    gets none, nor does a message that is refused, one that carries a reward alone, or an observation that a deadline's
    ``Fallback.HOLD`` holds; the next observation does.

    Args:
        decode: a message's bytes to a step, a ``DelayedReward``, a list of them, or None.
        encode: an action to a message.
        host: where to listen; this machine only, unless told otherwise.
        port: 0 for any that is free; ``port`` says which, once ``started``.
        token: called at each handshake; what the client must send as ``Authorization: Bearer …``.
        allowed_hosts: names under which clients may address the server, besides those of this machine.
        allowed_origins: web pages that may connect; a client that is no browser sends no Origin.
        max_connections: at a time; one more is refused with 503.
        tls: to serve ``wss``.
        connection: limits of each connection.
        options: reward function, delayed rewards, deadline.
        record: append what arrives to this file.
        name: names the source in events.
        clock: stamps transitions.

    Attributes:
        started: set once the server listens.
        port: where it listens then.

    Raises:
        ConfigurationError: it would listen beyond this machine without a token.
    """

    def __init__(
        self,
        *,
        decode: Decode,
        encode: Encode,
        host: str = "127.0.0.1",
        port: int = 0,
        token: Callable[[], str] | None = None,
        allowed_hosts: Collection[str] = (),
        allowed_origins: Collection[str] = (),
        max_connections: int = 1000,
        tls: ssl.SSLContext | None = None,
        connection: ConnectionOptions | None = None,
        options: FeedOptions | None = None,
        record: str | Path | None = None,
        name: str = "policy server",
        clock: Clock | None = None,
    ) -> None:
        if host not in _LOOPBACK and token is None:
            raise ConfigurationError(f"token: expected one, because {host} can be reached from other machines")
        self._decode = decode
        self._encode = encode
        self._host = host
        self.port = port
        self._token = token
        self._allowed_hosts = frozenset(allowed_hosts) | {host, *_LOOPBACK}
        self._allowed_origins = frozenset(allowed_origins)
        self._max_connections = max_connections
        self._tls = tls
        self._connection = connection if connection is not None else ConnectionOptions()
        self._options = options
        self._record = Path(record) if record is not None else None
        self._name = name
        self.clock: Clock = clock if clock is not None else SystemClock()
        self.started = anyio.Event()
        self._numbers = itertools.count(1)
        self._connections = 0

    @property
    def name(self) -> str:
        return self._name

    async def run(self, policy: Policy, sink: TransitionSink) -> None:
        """Serve until cancelled.

        Raises:
            OSError: the port is taken.
            Exception: what the policy or the sink raised.
        """
        failed = anyio.Event()
        errors: list[Exception] = []
        conversations: set[anyio.CancelScope] = set()

        async def converse(socket: ServerConnection) -> None:
            # In a task of the library's, which must not outlive the run.
            with anyio.CancelScope() as scope:
                conversations.add(scope)
                try:
                    await self._converse(socket, policy, sink, recorder)
                except Exception as error:
                    # Not the connection's, which ends in its stream: the policy's, the sink's. It ends the run.
                    errors.append(error)
                    failed.set()
                finally:
                    conversations.discard(scope)

        async with recording(self._record, self.clock) as recorder:
            server = await self._listen(converse)
            try:
                self.port = next(iter(server.sockets)).getsockname()[1]
                self.started.set()
                await failed.wait()
            finally:
                for scope in conversations:
                    scope.cancel()
                server.close()
                with anyio.move_on_after(_CLOSE_SEC, shield=True):
                    await server.wait_closed()
        raise errors[0]

    async def _listen(self, converse: Callable[[ServerConnection], Awaitable[None]]) -> Server:
        # Cancelled within this, asyncio would go on listening.
        with anyio.CancelScope(shield=True):
            return await serve(
                converse,
                self._host,
                self.port,
                process_request=self._check,
                ssl=self._tls,
                **self._connection.keywords(),
            )
        raise AssertionError("unreachable")

    async def _converse(
        self, socket: ServerConnection, policy: Policy, sink: TransitionSink, recorder: Recorder | None
    ) -> None:
        stream = f"connection-{next(self._numbers)}"
        session = FeedSession(policy, sink, self.clock, stream, self._options, stream=stream)
        conversation = Conversation(
            socket, session, self._decode, self._encode, self._connection, self.clock, recorder, stream
        )
        self._connections += 1
        try:
            reason = "connection closed"
            try:
                await conversation.run()
            except CONNECTION_ERRORS as error:
                reason = repr(error)
            await session.end(reason)
        finally:
            self._connections -= 1
            await session.abandon()

    def _check(self, socket: ServerConnection, request: Request) -> Response | None:
        """Refuse who may not connect, before the upgrade."""
        host = request.headers.get("Host", "").rsplit(":", 1)[0].strip("[]")
        if host not in self._allowed_hosts:
            return socket.respond(HTTPStatus.FORBIDDEN, "this host name is not served\n")
        origin = request.headers.get("Origin")
        if origin is not None and origin not in self._allowed_origins:
            return socket.respond(HTTPStatus.FORBIDDEN, "this origin may not connect\n")
        if self._token is not None:
            given = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), self._token().encode()):
                return socket.respond(HTTPStatus.UNAUTHORIZED, "a valid token is needed\n")
        if self._connections >= self._max_connections:
            return socket.respond(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections\n")
        return None
