"""Who is spoken to: certificates are verified, and credentials go nowhere but where they were meant to go."""

from __future__ import annotations

import asyncio
import json
import ssl
from typing import Any

import anyio
import numpy as np
import pytest
import trustme
from gymnasium import spaces
from optix_stream_adapters.websockets import JsonCodec, PolicyServer, WebSocketFeed
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import InvalidStatus

from optix_stream.contracts import SingleActor
from optix_stream.testing import RecordingSink
from optix_stream.types import Tree

pytestmark = pytest.mark.asyncio

CODEC = JsonCodec(spaces.Box(-np.inf, np.inf, (1,), np.float32), spaces.Discrete(4))


class One(SingleActor):
    version = 0

    def act(self, observations: Tree) -> Any:
        raise AssertionError("expected to be asked for one action at a time")

    def act_one(self, observation: Tree) -> tuple[Any, dict[str, Any]]:
        return 1, {}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context


@pytest.fixture
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def play(socket: Any) -> None:
    for number in range(3):
        await socket.send(json.dumps({"observation": [number], "reward": 1.0, "truncated": number == 2}))
        if number < 2:
            assert json.loads(await socket.recv())["action"] == 1


async def test_a_certificate_that_nobody_vouches_for_is_refused(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async def converse(socket: ServerConnection) -> None:
        await play(socket)

    async with serve(converse, "127.0.0.1", 0, ssl=server_tls) as server:
        port = next(iter(server.sockets)).getsockname()[1]

        async def attempt(host: str, tls: ssl.SSLContext | None) -> RecordingSink:
            sink = RecordingSink()
            feed = WebSocketFeed(
                f"wss://{host}:{port}", decode=CODEC.decode, encode=CODEC.encode, tls=tls, reconnect=None
            )
            with anyio.fail_after(30):
                await feed.run(One(), sink)
            return sink

        with pytest.raises(ssl.SSLCertVerificationError):
            await attempt("localhost", None)
        with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
            await attempt("127.0.0.1", client_tls)
        assert len((await attempt("localhost", client_tls)).transitions) == 2


async def test_a_server_may_speak_tls(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    server, sink = PolicyServer(decode=CODEC.decode, encode=CODEC.encode, tls=server_tls), RecordingSink()
    with anyio.fail_after(30):
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(server.run(One(), sink))
            await server.started.wait()
            async with connect(f"wss://localhost:{server.port}", ssl=client_tls) as socket:
                await play(socket)
            while len(sink.transitions) < 2:
                await anyio.lowlevel.checkpoint()
            running.cancel()


async def test_a_redirect_is_not_followed() -> None:
    visitors: list[Any] = []

    async def other(socket: ServerConnection) -> None:
        visitors.append(socket)

    async with serve(other, "127.0.0.1", 0) as elsewhere:
        target = f"ws://127.0.0.1:{next(iter(elsewhere.sockets)).getsockname()[1]}"

        async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode())
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(redirect, "127.0.0.1", 0) as server:
            feed = WebSocketFeed(
                f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}",
                decode=CODEC.decode,
                headers=lambda: {"Authorization": "Bearer secret"},
                reconnect=None,
            )
            with anyio.fail_after(30), pytest.raises(InvalidStatus):
                await feed.run(One(), RecordingSink())
    assert visitors == []
