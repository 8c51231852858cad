"""How many ticks a second come through a websocket, all the way to the controller.

A server in a process of its own sends ticks of about 200 bytes as fast as it can. The reference, in the same run,
only counts them: ``async for message in websocket``. Ours decodes each against its space, aligns it, asks a
policy that does nothing, assembles windows and hands them to an agent that does nothing.

    pip install 'optix-stream[websockets]'
    python tests/benchmarks/firehose.py
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import tempfile
import time
from multiprocessing.connection import Connection as Pipe
from typing import Any

import numpy as np
from gymnasium import spaces
from optix_stream_adapters.websockets import JsonCodec, WebSocketFeed
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from optix_stream import EpisodeData, LivePipeline, RLOptimizer, every_n_steps
from optix_stream.testing import NullAgent

BAR = 0.6
SPACE = spaces.Box(-np.inf, np.inf, (4,), np.float32)


def tick(number: int) -> bytes:
    """One message of about 200 bytes."""
    facts: dict[str, Any] = {
        "observation": [1.0850 + number % 100 / 1e4, 1.0852, 0.25, -0.125],
        "reward": 0.0001,
        "sequence": number,
        "stream": "EURUSD",
        "info": {"venue": "loopback", "kind": "quote"},
    }
    text = json.dumps(facts)
    return f"{text[:-1]}{' ' * max(0, 200 - len(text))}}}".encode()


def serve_ticks(count: int, pipe: Pipe) -> None:
    """A server that sends ``count`` ticks to whoever connects, then closes."""
    ticks = [tick(number) for number in range(count)]

    async def send_all(socket: ServerConnection) -> None:
        for message in ticks:
            await socket.send(message, text=True)

    async def main() -> None:
        async with serve(send_all, "127.0.0.1", 0, compression=None) as server:
            pipe.send(next(iter(server.sockets)).getsockname()[1])
            await asyncio.get_running_loop().run_in_executor(None, pipe.recv)

    asyncio.run(main())


async def count_only(url: str) -> float:
    """Messages a second of a loop that only counts."""
    count = 0
    async with connect(url, compression=None) as socket:
        start = time.perf_counter()
        async for _ in socket:
            count += 1
        return count / (time.perf_counter() - start)


class TimedAgent(NullAgent):
    """Learns nothing, and notes how much came and when the last of it did."""

    def __init__(self) -> None:
        super().__init__()
        self.learned = 0
        self.first = self.last = 0.0

    def learn(self, episode_data: EpisodeData) -> dict[str, float]:
        self.last = time.perf_counter()
        if self.first:
            self.learned += episode_data.length
        else:
            # The clock starts when the first window is over: that holds the connecting.
            self.first = self.last
        return {}


async def through_the_line(url: str, window: int) -> float:
    """Ticks a second that an agent learned from."""
    codec = JsonCodec(SPACE, spaces.Discrete(3))
    agent = TimedAgent()
    feed = WebSocketFeed(url, decode=codec.decode, reconnect=None)
    pipeline = LivePipeline(feed, episode_boundary_fn=every_n_steps(window), buffer_size=4 * window, overflow="block")
    with tempfile.TemporaryDirectory() as directory:
        report = await RLOptimizer(agent, pipeline, checkpoint_dir=directory).run()
    assert report.statistics.is_balanced
    assert not report.statistics.dropped, report.statistics
    assert agent.learned > 0, report
    return agent.learned / (agent.last - agent.first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ticks", type=int, default=200_000, help="in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--window", type=int, default=4096)
    parser.add_argument("--uvloop", action="store_true")
    arguments = parser.parse_args()
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    server = multiprocessing.get_context("spawn").Process(
        target=serve_ticks, args=(arguments.ticks, theirs), daemon=True
    )
    server.start()
    url = f"ws://127.0.0.1:{ours.recv()}"
    factory = None
    if arguments.uvloop:
        import uvloop

        factory = uvloop.new_event_loop
    bare, full = [], []
    for _ in range(arguments.rounds):
        with asyncio.Runner(loop_factory=factory) as runner:
            bare.append(runner.run(count_only(url)))
        with asyncio.Runner(loop_factory=factory) as runner:
            full.append(runner.run(through_the_line(url, arguments.window)))
    ours.send(None)
    server.join(10)
    share = statistics.median(full) / statistics.median(bare)
    print(f"bare loop that only counts {statistics.median(bare):12,.0f} messages/s")
    print(f"through the line           {statistics.median(full):12,.0f} messages/s")
    print(f"RATIO  {share:.2f}  >= {BAR:g}  {'met' if share >= BAR else 'MISSED'}")


if __name__ == "__main__":
    main()
