"""What a hostile or broken network does to a feed: nothing but gaps, each told and counted.

The servers here are plain TCP, so that they can break off anywhere, also within a handshake or a frame.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import random
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from gymnasium import spaces
from optix_stream_adapters.websockets import ConnectionOptions, JsonCodec, WebSocketFeed

from optix_stream import (
    GapDetected,
    LivePipeline,
    ReconnectPolicy,
    RLOptimizer,
    SourceLost,
    TransitionsDropped,
    TransitionsRejected,
)
from optix_stream.events import Event
from optix_stream.testing import NullAgent, assert_balanced
from optix_stream.types import EpisodeData, Statistics

pytestmark = pytest.mark.asyncio

CODEC = JsonCodec(spaces.Box(-np.inf, np.inf, (1,), np.float32), spaces.Discrete(4))
AT_ONCE = ReconnectPolicy(initial_sec=0.0, max_sec=0.0, max_attempts=None, breaker=None)
MESSAGES = 200
MEGABYTE = 2**20

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


# --- the other side ------------------------------------------------------------------------------


def frame(payload: bytes, first: int = 0x81) -> bytes:
    """A server's frame, RFC 6455, section 5.2; by default a whole text message."""
    size = len(payload)
    if size < 126:
        return bytes([first, size]) + payload
    if size < 2**16:
        return struct.pack("!BBH", first, 126, size) + payload
    return struct.pack("!BBQ", first, 127, size) + payload


def tick(value: float) -> bytes:
    return frame(json.dumps({"observation": [value], "reward": value}).encode())


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """The client's opening handshake; what has to be said to its key."""
    request = await reader.readuntil(b"\r\n\r\n")
    lines = dict(line.split(b": ", 1) for line in request.split(b"\r\n")[1:] if line)
    key = next(value for name, value in lines.items() if name.lower() == b"sec-websocket-key")
    return base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())


def response(accept: bytes, *, more: bytes = b"") -> bytes:
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n" + more + b"\r\n"
    )


@asynccontextmanager
async def listening(handler: Handler) -> AsyncIterator[str]:
    connections, idle = set[asyncio.StreamWriter](), asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(writer)
        try:
            # The client may be gone already, or be cut off in the middle.
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await handler(reader, writer)
        finally:
            writer.transport.abort()
            connections.discard(writer)
            if not connections:
                idle.set()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for writer in connections:
            writer.transport.abort()
        with anyio.fail_after(10):
            while connections:
                idle = asyncio.Event()
                await idle.wait()


# --- our side ------------------------------------------------------------------------------------


@dataclass
class Witness(NullAgent):
    """Learns nothing, and sees to it that no window joins what a gap has parted."""

    transitions: int = 0
    breaks: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(1)

    def learn(self, episode_data: EpisodeData) -> dict[str, float]:
        window = episode_data
        self.transitions += window.length
        follows = window.observations[1:, 0] == window.next_observations[:-1, 0]
        ended = (window.terminated | window.truncated)[:-1]
        if not (follows | ended).all():
            self.breaks.append(f"window {window.episode_id} spans a gap")
        # Ticks are numbered and their reward is their number: whoever mixes two sessions is found out.
        if not (window.rewards == window.next_observations[:, 0]).all():
            self.breaks.append(f"window {window.episode_id} has rewards that answer something else")
        if not (window.next_observations[:, 0] == window.observations[:, 0] + 1).all():
            self.breaks.append(f"window {window.episode_id} joins what was not together")
        return {}


@dataclass
class Outcome:
    """What came of a run."""

    statistics: Statistics
    events: list[Event]
    agent: Witness
    grown_bytes: int

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture(autouse=True)
def _without_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Thousands of tracebacks, each holding on to its frames, would be what memory grows by."""
    caplog.set_level(logging.CRITICAL, "optix_stream.feed_session")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def survive(
    handler: Handler, finished: asyncio.Event, directory: Path, options: ConnectionOptions | None = None
) -> Outcome:
    """Run the whole loop on a feed until the server has done its worst, and check what holds in any case."""
    agent, events = Witness(), list[Event]()
    before = resident_bytes()
    async with listening(handler) as url:
        feed = WebSocketFeed(url, decode=CODEC.decode, encode=CODEC.encode, reconnect=AT_ONCE, connection=options)
        pipeline = LivePipeline(feed, episode_boundary_fn=LivePipeline.every_n_steps(64), buffer_size=100_000)
        optimizer = RLOptimizer(agent, pipeline, checkpoint_dir=str(directory))

        async def listen() -> None:
            async with optimizer.events(buffer_size=1_000_000) as stream:
                async for event in stream:
                    if not type(event).__name__.startswith("Window"):
                        events.append(event)

        with anyio.fail_after(900):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listen)
                await anyio.lowlevel.checkpoint()

                async def stop() -> None:
                    await finished.wait()
                    optimizer.stop()

                tasks.start_soon(stop)
                await optimizer.run()
    statistics = optimizer.statistics()
    assert_balanced(statistics)
    assert agent.breaks == []
    assert agent.transitions == statistics.learned
    outcome = Outcome(statistics, events, agent, resident_bytes() - before)
    assert outcome.grown_bytes < 50 * MEGABYTE
    # Whatever was lost was told with its reason, and the counts agree.
    told = sum(event.count for event in outcome.of(TransitionsDropped))
    assert told == sum(statistics.dropped.values())
    assert sum(event.count for event in outcome.of(TransitionsRejected)) == sum(statistics.rejected.values())
    assert all(event.error for event in outcome.of(SourceLost))
    assert all(event.reason for event in outcome.of(GapDetected))
    return outcome


# --- closed anywhere -----------------------------------------------------------------------------


@pytest.mark.parametrize("step", [149, pytest.param(1, marks=pytest.mark.slow)])
async def test_a_session_may_break_off_at_any_byte(step: int, tmp_path: Path) -> None:
    frames = [tick(float(number)) for number in range(MESSAGES)]
    ends = np.cumsum([len(piece) for piece in frames])
    head = len(response(b"x" * 28))
    size = head + int(ends[-1])
    offsets = iter(range(0, size + 1, step))
    finished, expected, sessions = asyncio.Event(), 0, 0

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal expected, sessions
        accept = await read_request(reader)
        offset = next(offsets, None)
        if offset is None:
            finished.set()
            await reader.read()
            return
        whole = int((ends <= offset - head).sum())
        expected += max(whole - 1, 0)
        sessions += 1
        writer.write((response(accept) + b"".join(frames))[:offset])
        await writer.drain()
        seen = b""
        # Every other session ends at once, with what it sent still on its way.
        while sessions % 2 and _answers(seen) < whole:
            seen += await reader.read(65536)
        writer.write_eof()
        await reader.read()

    outcome = await survive(play, finished, tmp_path)
    assert outcome.statistics.received == expected
    assert outcome.statistics.learned > expected / 5
    assert len(outcome.of(SourceLost)) >= sessions


@pytest.mark.parametrize("disconnects", [60, pytest.param(1000, marks=pytest.mark.slow)])
async def test_random_disconnects_lose_nothing_that_arrived_untold(disconnects: int, tmp_path: Path) -> None:
    rng = random.Random(7)
    finished, left = asyncio.Event(), disconnects

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal left
        accept = await read_request(reader)
        if left == 0:
            finished.set()
            await reader.read()
            return
        left -= 1
        writer.write(response(accept))
        for number in range(rng.randrange(100)):
            writer.write(tick(float(number)))
            if rng.random() < 0.1:
                await writer.drain()
                await anyio.lowlevel.checkpoint()
        if rng.random() < 0.5:
            writer.write(tick(0.0)[: rng.randrange(1, 20)])
        if rng.random() < 0.5:
            await writer.drain()
            writer.write_eof()
            await reader.read()

    outcome = await survive(play, finished, tmp_path)
    assert len(outcome.of(SourceLost)) >= disconnects


# --- nonsense ------------------------------------------------------------------------------------


def _text(payload: str) -> bytes:
    return frame(payload.encode())


# What is wrong with one message, and only with that one.
REJECTED: dict[str, bytes] = {
    "malformed": _text('{"observation": [1.0'),
    "not an object": _text("[1, 2, 3]"),
    "deeply nested": _text("[" * 100_000),
    "NaN": _text('{"observation": [NaN], "reward": 0}'),
    "NaN as a reward": _text('{"observation": [1.0], "reward": NaN}'),
    "infinite": _text('{"observation": [Infinity], "reward": 0}'),
    "too large for a float": _text('{"observation": [1e999], "reward": 0}'),
    "too large for float32": _text('{"observation": [1e300], "reward": 0}'),
    "wrong shape": _text('{"observation": [1.0, 2.0], "reward": 0}'),
    "wrong kind": _text('{"observation": "one", "reward": 0}'),
    "an integer without end": _text('{"observation": [' + "9" * 5000 + '], "reward": 0}'),
    "no text": frame(b"\xff\xfe\xfd", 0x82),
}


@pytest.mark.parametrize("nonsense", REJECTED.values(), ids=REJECTED.keys())
async def test_a_message_that_is_nonsense_is_refused_and_its_neighbours_are_learned(
    nonsense: bytes, tmp_path: Path
) -> None:
    finished, count = asyncio.Event(), 10

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(response(await read_request(reader)))
        for number in range(count):
            writer.write(tick(2.0 * number) + tick(2.0 * number + 1) + nonsense)
        # The last of them is answered when all before it have been dealt with.
        writer.write(tick(98.0) + tick(99.0))
        seen = b""
        while _answers(seen) < 2 * count + 2:
            seen += await reader.read(65536)
        finished.set()
        await reader.read()

    outcome = await survive(play, finished, tmp_path)
    assert outcome.statistics.received == 2 * count + 1
    rejected = outcome.of(TransitionsRejected)
    assert len(rejected) == count
    assert all(event.detail for event in rejected)


def _answers(masked: bytes) -> int:
    """How many whole frames of a client are in what it sent."""
    count, position = 0, 0
    while position + 2 <= len(masked):
        size, head = masked[position + 1] & 0x7F, 6
        if size == 126:
            size, head = int.from_bytes(masked[position + 2 : position + 4], "big"), 8
        position += head + size
        count += position <= len(masked)
    return count


def _bomb() -> bytes:
    """100 MB of zeros, deflated to a hundredth of a thousandth."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = b"".join(deflate.compress(bytes(MEGABYTE)) for _ in range(100)) + deflate.flush(zlib.Z_SYNC_FLUSH)
    return frame(packed[:-4], 0xC1)


# What is wrong with the connection: it is given up, and the next one is as good as any.
FATAL: dict[str, tuple[bytes, str]] = {
    "a huge frame is announced": (struct.pack("!BBQ", 0x81, 127, 2**40), "1009"),
    "a huge frame comes": (frame(b"x" * (2 * MEGABYTE)), "1009"),
    "pieces without end": (frame(b"x" * 1000, 0x01) + frame(b"x" * 1000, 0x00) * 2000, "1009"),
    "an unknown kind of frame": (frame(b"", 0x83), "1002"),
    "a masked frame from a server": (b"\x81\x81\0\0\0\0x", "1002"),
    "a long ping": (frame(b"x" * 200, 0x89), "1002"),
    "compressed, though nobody agreed to it": (_bomb(), "1002"),
    "text that is none": (frame(b"\xff\xfe", 0x81), ""),
}


@pytest.mark.parametrize(("attack", "code"), FATAL.values(), ids=FATAL.keys())
async def test_an_attack_costs_a_connection_and_nothing_else(attack: bytes, code: str, tmp_path: Path) -> None:
    outcome = await _attack(attack, tmp_path, ConnectionOptions())
    if code:
        assert any(code in event.error for event in outcome.of(SourceLost))


async def test_a_compression_bomb_is_not_unpacked(tmp_path: Path) -> None:
    bomb = _bomb()
    assert len(bomb) < 200_000
    agreed = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
    outcome = await _attack(bomb, tmp_path, ConnectionOptions(compression="deflate"), agreed)
    assert any("1009" in event.error for event in outcome.of(SourceLost))


async def _attack(attack: bytes, directory: Path, options: ConnectionOptions, more: bytes = b"") -> Outcome:
    finished, connections = asyncio.Event(), 0

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        accept = await read_request(reader)
        writer.write(response(accept, more=more) + tick(0.0) + tick(1.0))
        if connections <= 3:
            writer.write(attack)
            await writer.drain()
            writer.write_eof()
        elif connections > 4:
            finished.set()
        else:
            await writer.drain()
            writer.write_eof()
        await reader.read()

    outcome = await survive(play, finished, directory, options)
    assert outcome.statistics.received >= 4
    return outcome


# --- silence -------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["before the handshake", "within it", "after it", "within a frame"])
async def test_a_server_that_stalls_is_given_up_in_time(where: str, tmp_path: Path) -> None:
    finished, connections = asyncio.Event(), 0

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        accept = await read_request(reader)
        if connections <= 2:
            said = {
                "before the handshake": b"",
                "within it": response(accept)[:40],
                "after it": response(accept),
                "within a frame": response(accept) + tick(0.0)[:9],
            }
            writer.write(said[where])
        else:
            writer.write(response(accept) + tick(0.0) + tick(1.0))
            await writer.drain()
            finished.set()
        await reader.read()

    options = ConnectionOptions(open_timeout_sec=0.1, idle_timeout_sec=0.1)
    outcome = await survive(play, finished, tmp_path, options)
    assert len(outcome.of(SourceLost)) >= 2
