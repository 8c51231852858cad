"""From a tick's arrival to its action's departure, while an agent learns from every window.

A server in a process of its own sends ticks at a fixed rate over a websocket and notes when each action comes
back. In our process, the time runs from the moment at which a message has been read to the moment at which its
action is handed to the socket. The reference, in the same run, is a client that echoes every message at once. The
two take turns, so that a machine whose speed drifts slows both alike.

    pip install 'optix-stream[all]'
    python tests/benchmarks/tick_to_action.py
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import tempfile
import time
from multiprocessing.connection import Connection as Pipe
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from gymnasium import spaces
from optix_stream_adapters.websockets import JsonCodec, WebSocketFeed
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from optix_stream import FeedAction, LivePipeline, RLOptimizer, every_n_steps

P50_BAR, P99_BAR, ROUND_TRIP_BAR = 0.25e-3, 5e-3, 1.5
SPACE = spaces.Box(-np.inf, np.inf, (4,), np.float32)
ACTIONS = spaces.Discrete(3)


def serve_ticks(rate: float, seconds: float, pipe: Pipe) -> None:
    """Send ticks to one client after the other, and report the round trips of each, in seconds."""

    async def play(socket: ServerConnection) -> None:
        sent: list[float] = []
        back: list[float] = []

        async def take() -> None:
            back.extend([time.perf_counter() async for _ in socket])

        taking = asyncio.create_task(take())
        rng = np.random.default_rng(0)
        start = time.perf_counter()
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, start + number / rate - time.perf_counter()))
            facts = {"observation": rng.normal(size=4).tolist(), "reward": 0.1, "sequence": number}
            sent.append(time.perf_counter())
            await socket.send(json.dumps(facts))
        await asyncio.sleep(0.5)
        await socket.close()
        await taking
        # The first second is the warm-up of both sides.
        pipe.send([b - s for s, b in zip(sent, back, strict=False)][int(rate) :])

    async def main() -> None:
        async with serve(play, "127.0.0.1", 0, compression=None) as server:
            pipe.send(next(iter(server.sockets)).getsockname()[1])
            await asyncio.get_running_loop().run_in_executor(None, pipe.recv)

    asyncio.run(main())


async def echo(url: str) -> None:
    async with connect(url, compression=None) as socket:
        async for message in socket:
            await socket.send(message)


class StampedCodec(JsonCodec):
    """Notes when each message comes in and when its action goes out."""

    def __init__(self) -> None:
        super().__init__(SPACE, ACTIONS)
        self.latencies: list[float] = []
        self.arrived = 0.0

    def encode(self, action: FeedAction) -> str:
        message = super().encode(action)
        self.latencies.append(time.monotonic() - self.arrived)
        return message


async def learn_and_act(url: str, window: int, *, keeps_journal: bool) -> list[float]:
    """Latencies in our process, in seconds."""
    from optix_stream_adapters.tensorflow import TFAgent

    agent = TFAgent.for_spaces(SPACE, ACTIONS, seed=0)
    codec = StampedCodec()
    feed = WebSocketFeed(url, decode=codec.decode, encode=codec.encode, reconnect=None)
    with tempfile.TemporaryDirectory() as directory:
        pipeline = LivePipeline(feed, episode_boundary_fn=every_n_steps(window), clock=feed.clock)
        optimizer = RLOptimizer(agent, pipeline, checkpoint_dir=directory, journal=keeps_journal)
        # The conversation hands over each message with the time at which it was read.
        from optix_stream import feed_session

        handle = feed_session.FeedSession.handle

        async def noting(self: Any, item: Any, answer: Any, arrived: float | None = None) -> None:
            codec.arrived = arrived if arrived is not None else time.monotonic()
            await handle(self, item, answer, arrived)

        feed_session.FeedSession.handle = noting  # type: ignore[method-assign]
        try:
            report = await optimizer.run()
        finally:
            feed_session.FeedSession.handle = handle  # type: ignore[method-assign]
    print(f"windows learned from during the run: {report.windows}, {report.statistics.learned} transitions")
    return codec.latencies


def line(name: str, values: list[float]) -> tuple[float, float]:
    p50, p99 = (float(np.quantile(values, q)) for q in (0.5, 0.99))
    print(f"{name:<32} p50 {p50 * 1e3:7.3f} ms   p99 {p99 * 1e3:7.3f} ms   {len(values)} ticks")
    return p50, p99


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=200.0, help="ticks a second")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each turn; the first of them is not counted")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--window", type=int, default=200)
    parser.add_argument("--journal", action="store_true", help="keep a journal, so that each tick is synced to disk")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=serve_ticks, args=(arguments.rate, arguments.seconds, theirs), daemon=True)
    server.start()
    url = f"ws://127.0.0.1:{ours.recv()}"
    echoed: list[float] = []
    learned: list[float] = []
    latencies: list[float] = []
    for _ in range(arguments.rounds):
        asyncio.run(echo(url))
        echoed += ours.recv()
        turn = learn_and_act(url, arguments.window, keeps_journal=arguments.journal)
        latencies += asyncio.run(turn)[int(arguments.rate) :]
        learned += ours.recv()
    bare, _ = line("round trip, bare echo", echoed)
    full, _ = line("round trip, learning", learned)
    p50, p99 = line("arrival to socket, learning", latencies)
    ours.send(None)
    server.join(10)
    for name, value, bar in (
        ("p50 in ms", p50 * 1e3, P50_BAR * 1e3),
        ("p99 in ms", p99 * 1e3, P99_BAR * 1e3),
        ("RATIO of round trips at p50", full / bare, ROUND_TRIP_BAR),
    ):
        print(f"{name:<28} {value:7.3f}  <= {bar:g}  {'met' if value <= bar else 'MISSED'}")


if __name__ == "__main__":
    main()
