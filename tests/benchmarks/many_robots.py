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
from websockets.asyncio.client import connect

from optix_stream import LivePipeline, RLOptimizer, every_n_seconds
from optix_stream.testing import NullAgent

P99_BAR, FLATNESS_BAR = 50e-3, 1.3


def run_robots(port: int, count: int, rate: float, seconds: float, pipe: Pipe) -> None:
    """Connect, send, and report each action's delay and how many connections ended early."""
    delays: list[float] = []
    dropped = 0

    async def live(number: int, start: float) -> None:
        nonlocal dropped
        rng = random.Random(number)
        message = json.dumps({"observation": [0.1, 0.2, 0.3, 0.4], "reward": 1.0})
        try:
            async with connect(f"ws://127.0.0.1:{port}", compression=None, open_timeout=60) as socket:
                due = start + rng.random() / rate
                while due < start + seconds:
                    await asyncio.sleep(max(0.0, due - time.perf_counter()))
                    sent = time.perf_counter()
                    await socket.send(message)
                    await socket.recv()
                    delays.append(time.perf_counter() - sent)
                    due += 1 / rate
        except Exception as error:
            print(f"robot {number}: {error!r}")
            dropped += 1

    async def main() -> None:
        start = time.perf_counter() + 3.0  # By then all of them are connected.
        await asyncio.gather(*(live(number, start) for number in range(count)))

    asyncio.run(main())
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
        await asyncio.sleep(4.0)
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
