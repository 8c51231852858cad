"""``WebSocketFeed``: the client side of a live feed."""

from __future__ import annotations

import ipaddress
import random
import ssl
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from websockets.asyncio.client import connect

from optix_stream.clock import Clock, SystemClock
from optix_stream.contracts import Policy, TransitionSink
from optix_stream.errors import ConfigurationError
from optix_stream.feed_session import FeedOptions, FeedSession
from optix_stream.reconnecting import ReconnectPolicy
from optix_stream.recording import Recorder, recording
from optix_stream_adapters.websockets.connection import (
    ConnectionOptions,
    Conversation,
    Decode,
    Encode,
    closing,
)


class WebSocketFeed:
    """A producer: connects to a feed, acts on what it sends, sends the actions back, and reconnects.

    An action answers an observation of a running episode; the last one of an episode and a message that is refused get
    none, as with ``PolicyServer``.

    Args:
        url: ``wss://…``, or ``ws://…`` on this machine or a trusted host.
        decode: a message's bytes to a step, a ``DelayedReward``, a list of them, or None.
        encode: an action to a message; None: no actions are sent.
        subscribe: messages to send after connecting.
        headers: called at each attempt, because credentials rotate.
        tls: for ``wss``; by default certificates are verified against the system's authorities.
        trusted_hosts: where ``ws://`` may go besides this machine.
        reconnect: how to go on when the connection ends or fails; None: the end is the end.
        connection: limits of the connection.
        options: reward function, delayed rewards, deadline.
        record: append what arrives to this file, for ``ReplayFeed``.
        name: names the source in events; by default the URL without credentials and query.
        clock: stamps transitions and times reconnects.
        seed: of the reconnect jitter.

    Raises:
        ConfigurationError: a URL that cannot work, or that would send in clear text to a host that is not trusted.
    """

    def __init__(
        self,
        url: str,
        *,
        decode: Decode,
        encode: Encode | None = None,
        subscribe: Sequence[str | bytes] = (),
        headers: Callable[[], Mapping[str, str]] | None = None,
        tls: ssl.SSLContext | None = None,
        trusted_hosts: Collection[str] = (),
        reconnect: ReconnectPolicy | None = ReconnectPolicy(),  # noqa: B008  It is immutable.
        connection: ConnectionOptions | None = None,
        options: FeedOptions | None = None,
        record: str | Path | None = None,
        name: str | None = None,
        clock: Clock | None = None,
        seed: int | None = None,
    ) -> None:
        self._host = _checked_host(url, trusted_hosts)
        self._url = url
        self._decode = decode
        self._encode = encode
        self._subscribe = tuple(subscribe)
        self._headers = headers
        self._tls = tls
        self._reconnect = reconnect
        self._connection = connection if connection is not None else ConnectionOptions()
        self._options = options
        self._record = Path(record) if record is not None else None
        self._name = name if name is not None else _public(url)
        self.clock: Clock = clock if clock is not None else SystemClock()
        self._rng = random.Random(seed)

    @property
    def name(self) -> str:
        return self._name

    async def run(self, policy: Policy, sink: TransitionSink) -> None:
        """Produce until the feed ends for good, or cancelled.

        Raises:
            SourceFailedError: too many attempts in a row delivered nothing.
            Exception: what ended the connection, where there is no reconnecting.
        """
        session = FeedSession(policy, sink, self.clock, self._name, self._options)
        async with recording(self._record, self.clock) as recorder:
            await session.supervise(lambda: self._converse(session, recorder), self._reconnect, self._rng)

    async def _converse(self, session: FeedSession, recorder: Recorder | None) -> None:
        options = self._connection.keywords()
        if self._tls is not None:
            # Left to itself, the library verifies wss:// against the system's authorities; it takes no None for that.
            options["ssl"] = self._tls
        connecting = _Connect(
            self._url,
            additional_headers=dict(self._headers()) if self._headers is not None else None,
            proxy=None if _is_loopback(self._host) else True,
            **options,
        )
        async with closing(await connecting) as socket:
            for message in self._subscribe:
                await socket.send(message)
            await Conversation(
                socket, session, self._decode, self._encode, self._connection, self.clock, recorder
            ).run()


class _Connect(connect):
    def process_redirect(self, exc: Exception) -> Exception | str:
        """Follow no redirect: it would carry the credentials elsewhere."""
        return exc


def _checked_host(url: str, trusted_hosts: Collection[str]) -> str:
    parts = urlsplit(url)
    host = parts.hostname
    if parts.scheme not in ("ws", "wss") or not host:
        raise ConfigurationError(f"url: expected ws://host… or wss://host…, got {_public(url)}")
    if parts.scheme == "ws" and not _is_loopback(host) and host not in trusted_hosts:
        raise ConfigurationError(
            f"url: expected wss:// for {host}; ws:// sends in clear text, unless the host is in trusted_hosts"
        )
    return host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _public(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"
