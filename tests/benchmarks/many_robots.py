"""Hundreds of robots on one policy server: how fast each gets its actions, and what a connection costs.

The robots live in a process of their own and send ten observations a second each. Measured are the time from an
observation's departure to its action's arrival there, and the server process's CPU time for each message, with
50 connections and with 500.

    pip install 'optix-stream[websockets]'
    python tests/benchmarks/many_robots.py
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import tempfile
import time
from multiprocessing.connection import Connection as Pipe

import numpy as np
from gymnasium import spaces
from optix_stream_adapters.websockets import JsonCodec, PolicyServer

from optix_stream import LivePipeline, RLOptimizer, every_n_seconds
from optix_stream.testing import NullAgent

P99_BAR, FLATNESS_BAR = 50e-3, 1.3


class Robot(asyncio.Protocol):
    """A client as small as one can be, so that a single process drives hundreds: its frame is made once."""

    def __init__(self, delays: list[float], period: float) -> None:
        self._delays = delays
        self._period = period
        self._sent = 0.0
        self._end = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(
            b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )

    def data_received(self, data: bytes) -> None:
        if not self.opened.done():
            assert data.startswith(b"HTTP/1.1 101"), data
            self.opened.set_result(None)
        elif data[0] & 0x0F == 0x01:  # A text frame: the action.
            self._delays.append(time.perf_counter() - self._sent)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True

    def start(self, due: float, end: float) -> None:
        self._end = end
        self._send(due)

    def _send(self, due: float) -> None:
        now = time.perf_counter()
        if now >= due:
            self._sent = now
            self._transport.write(FRAME)
            due += self._period
        if due < self._end:
            self._timer = asyncio.get_running_loop().call_later(due - now, self._send, due)


def client_frame(text: bytes) -> bytes:
    """A whole masked text frame; with a mask of zeros its payload stays as it is."""
    return b"\x81" + bytes([0x80 | len(text)]) + bytes(4) + text


FRAME = client_frame(json.dumps({"observation": [0.1, 0.2, 0.3, 0.4], "reward": 1.0}).encode())


def run_robots(port: int, count: int, rate: float, seconds: float, pipe: Pipe) -> None:
    """Connect, send, and report each action's delay and how many connections ended early."""
    delays: list[float] = []

    async def main() -> int:
        loop = asyncio.get_running_loop()
        robots = [
            (await loop.create_connection(lambda: Robot(delays, 1 / rate), "127.0.0.1", port))[1] for _ in range(count)
        ]
        await asyncio.gather(*(robot.opened for robot in robots))
        pipe.send("open")
        rng, start = random.Random(0), time.perf_counter() + 0.1
        for robot in robots:
            robot.start(start + rng.random() / rate, start + seconds)
        await asyncio.sleep(seconds + 1.0)
        return sum(robot.is_lost for robot in robots)

    dropped = asyncio.run(main())
    pipe.send((delays, dropped))


async def serve_robots(count: int, rate: float, seconds: float) -> tuple[list[float], int, float]:
    """Delays, connections dropped, CPU seconds of this process for each message."""
    codec = JsonCodec(spaces.Box(-np.inf, np.inf, (4,), np.float32), spaces.Discrete(3))
    server = PolicyServer(decode=codec.decode, encode=codec.encode)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with tempfile.TemporaryDirectory() as directory:
        pipeline = LivePipeline(server, episode_boundary_fn=every_n_seconds(1.0), clock=server.clock)
        optimizer = RLOptimizer(NullAgent(), pipeline, checkpoint_dir=directory)
        running = asyncio.create_task(optimizer.run())
        await server.started.wait()
        robots = context.Process(target=run_robots, args=(server.port, count, rate, seconds, theirs), daemon=True)
        robots.start()
        # Connecting is no part of what a message costs.
        await asyncio.to_thread(ours.recv)
        await asyncio.sleep(1.0)
        messages, cpu = optimizer.statistics().received, time.process_time()
        await asyncio.sleep(seconds - 2.0)
        cost = (time.process_time() - cpu) / (optimizer.statistics().received - messages)
        delays, dropped = await asyncio.to_thread(ours.recv)
        optimizer.stop()
        report = await running
        assert report.statistics.is_balanced
    return delays, dropped, cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--few", type=int, default=50)
    parser.add_argument("--many", type=int, default=500)
    parser.add_argument("--rate", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, default=12.0)
    arguments = parser.parse_args()
    costs = {}
    for count in (arguments.few, arguments.many):
        delays, dropped, costs[count] = asyncio.run(serve_robots(count, arguments.rate, arguments.seconds))
        p50, p99 = (float(np.quantile(delays, q)) for q in (0.5, 0.99))
        print(
            f"{count:4} robots: {len(delays):6} actions, p50 {p50 * 1e3:6.2f} ms, p99 {p99 * 1e3:6.2f} ms, "
            f"{dropped} dropped, {costs[count] * 1e6:6.1f} µs of CPU a message"
        )
    flatness = costs[arguments.many] / costs[arguments.few]
    print(f"action p99  {p99 * 1e3:.1f} ms  <= {P99_BAR * 1e3:g} ms  {'met' if p99 <= P99_BAR else 'MISSED'}")
    print(f"dropped     {dropped}  = 0  {'met' if not dropped else 'MISSED'}")
    print(f"RATIO of cost {flatness:.2f}  <= {FLATNESS_BAR:g}  {'met' if flatness <= FLATNESS_BAR else 'MISSED'}")


if __name__ == "__main__":
    main()
