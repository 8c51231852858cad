"""A websocket server, in a process of its own, that does to its client whatever a network and a feed can do."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection as Pipe

import msgspec
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

STREAMS = ("alpha", "beta", "gamma")
HUGE_BYTES = 3 * 2**20
STALL_SEC = 2.0
_EPISODE = 200
_WIDTH = 4

Fault = Callable[["Session"], Awaitable[None]]


class Session:
    """One connection: ticks of three streams, numbered each, with a fault now and then.

    Args:
        socket: the connection.
        rng: decides.
    """

    def __init__(self, socket: ServerConnection, rng: random.Random) -> None:
        self.socket = socket
        self.rng = rng
        self._sequences: dict[str, int] = dict.fromkeys(STREAMS, 0)

    def tick(self, stream: str, *, value: float | None = None, width: int = _WIDTH) -> bytes:
        """The next message of a stream."""
        number = self._sequences[stream]
        self._sequences[stream] += 1
        observation = [self.rng.uniform(-1.0, 1.0) if value is None else value for _ in range(width)]
        is_over = number % _EPISODE == _EPISODE - 1
        return msgspec.msgpack.encode(
            {
                "stream": stream,
                "sequence": number,
                "observation": observation,
                "reward": self.rng.gauss(0.0, 1.0),
                "terminated": is_over and number % 2 == 0,
                "truncated": is_over and number % 2 == 1,
            }
        )

    def any_stream(self) -> str:
        return self.rng.choice(STREAMS)

    def break_off(self) -> None:
        """Without goodbye."""
        self.socket.transport.abort()


async def _cut(session: Session) -> None:
    session.break_off()


async def _cut_in_a_frame(session: Session) -> None:
    # The head of a frame of 1,000 bytes, and a few of them.
    session.socket.transport.write(struct.pack("!BBH", 0x82, 126, 1000) + b"\x00" * session.rng.randrange(1000))
    await asyncio.sleep(0.01)
    session.break_off()


async def _close(session: Session) -> None:
    await session.socket.close()


async def _stall(session: Session) -> None:
    await asyncio.sleep(STALL_SEC)


async def _garbage(session: Session) -> None:
    await session.socket.send(session.rng.randbytes(session.rng.randrange(1, 200)))


async def _not_finite(session: Session) -> None:
    await session.socket.send(
        session.tick(session.any_stream(), value=session.rng.choice([float("nan"), float("inf")]))
    )


async def _wrong_shape(session: Session) -> None:
    await session.socket.send(session.tick(session.any_stream(), width=session.rng.choice([0, 1, 5, 1000])))


async def _huge(session: Session) -> None:
    await session.socket.send(b"\x00" * HUGE_BYTES)


async def _duplicate(session: Session) -> None:
    message = session.tick(session.any_stream())
    await session.socket.send(message)
    await session.socket.send(message)


async def _out_of_order(session: Session) -> None:
    stream = session.any_stream()
    messages = [session.tick(stream) for _ in range(3)]
    session.rng.shuffle(messages)
    for message in messages:
        await session.socket.send(message)


async def _loss(session: Session) -> None:
    session.tick(session.any_stream())


async def _burst(session: Session) -> None:
    for _ in range(2000):
        await session.socket.send(session.tick(session.any_stream()))


# How often each happens, in relation to the others.
FAULTS: dict[Fault, float] = {
    _cut: 2, _cut_in_a_frame: 2, _close: 1, _stall: 0.5, _garbage: 4, _not_finite: 4, _wrong_shape: 4, _huge: 1,
    _duplicate: 6, _out_of_order: 6, _loss: 4, _burst: 1,
}  # fmt: skip


def _serve(pipe: Pipe, seed: int, rate: float, mean_ticks_between_faults: float) -> None:
    rng = random.Random(seed)

    async def send_all(socket: ServerConnection) -> None:
        session = Session(socket, rng)

        async def read() -> None:
            async for _ in socket:
                pass  # What the client does is of no account here, but has to be read.

        reading = asyncio.create_task(read())
        # The client may be gone at any moment.
        with suppress(ConnectionClosed):
            while not reading.done():
                await socket.send(session.tick(session.any_stream()))
                if rng.random() < 1.0 / mean_ticks_between_faults:
                    (fault,) = rng.choices(list(FAULTS), list(FAULTS.values()))
                    await fault(session)
                await asyncio.sleep(rng.expovariate(rate))
        reading.cancel()
        await asyncio.wait([reading])

    async def main() -> None:
        async with serve(send_all, "127.0.0.1", 0, compression=None) as server:
            pipe.send(next(iter(server.sockets)).getsockname()[1])
            await asyncio.get_running_loop().run_in_executor(None, pipe.recv)

    asyncio.run(main())


@contextmanager
def hostile_feed(seed: int, rate: float, mean_ticks_between_faults: float) -> Iterator[str]:
    """Serve for the length of the ``with``; gives the URL.

    Args:
        seed: of the faults.
        rate: ticks a second, bursts aside.
        mean_ticks_between_faults: how rare they are.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=_serve, args=(theirs, seed, rate, mean_ticks_between_faults), daemon=True)
    server.start()
    try:
        yield f"ws://127.0.0.1:{ours.recv()}"
    finally:
        ours.send(None)
        server.join(10)
        if server.is_alive():
            server.kill()
