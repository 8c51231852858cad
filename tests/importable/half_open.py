"""A live run over a link that goes dead without a word, run by ``unshare -n``: a network namespace of its own.

The server is in another one, at the other end of a pair of virtual cables. Prints what was seen, as JSON.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from optix_stream_adapters.websockets import ConnectionOptions, JsonCodec, WebSocketFeed
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from optix_stream import (
    EpisodeData,
    LivePipeline,
    ReconnectPolicy,
    RLOptimizer,
    SourceLost,
    SourceRegained,
    WindowLearned,
    every_n_steps,
)
from optix_stream.testing import NullAgent

SOME_WINDOWS = 5
HERE, THERE, PORT = "10.99.0.1", "10.99.0.2", 8765


class Noting(NullAgent):
    """Notes what it learned from, and whether any window joins what was parted."""

    def __init__(self) -> None:
        super().__init__(1)
        self.numbers: list[float] = []
        self.torn = 0

    def learn(self, episode_data: EpisodeData) -> dict[str, float]:
        numbers = episode_data.observations[:, 0]
        self.torn += int(np.any(np.diff(numbers)[~episode_data.gaps[:-1]] != 1.0))
        self.numbers.extend(numbers.tolist())
        return {}


def run(*command: str) -> None:
    subprocess.run(command, check=True)


async def serve_ticks() -> None:
    connections = 0

    async def send(socket: ServerConnection) -> None:
        nonlocal connections
        connections += 1
        # Far from the last, so that nobody takes one connection for the continuation of another.
        with suppress(ConnectionClosed):
            for number in itertools.count(100_000 * connections):
                await socket.send(json.dumps({"observation": [number], "reward": 0.0}))
                await asyncio.sleep(0.005)

    async with serve(send, THERE, PORT):
        print("ready", flush=True)
        await asyncio.Event().wait()


async def live(there: list[str], options: ConnectionOptions) -> dict[str, Any]:
    codec = JsonCodec(spaces.Box(-np.inf, np.inf, (1,), np.float32), spaces.Discrete(4))
    feed = WebSocketFeed(
        f"ws://{THERE}:{PORT}", decode=codec.decode, encode=codec.encode, trusted_hosts=[THERE], connection=options,
        reconnect=ReconnectPolicy(initial_sec=0.05, max_sec=0.2, max_attempts=None),
    )  # fmt: skip
    agent = Noting()
    with tempfile.TemporaryDirectory() as directory:
        pipeline = LivePipeline(feed, episode_boundary_fn=every_n_steps(8))
        optimizer = RLOptimizer(agent, pipeline, checkpoint_dir=directory)
        async with asyncio.TaskGroup() as tasks, optimizer.events(10_000) as events:
            running = tasks.create_task(optimizer.run())
            windows, died, lost, enough = 0, 0.0, 0.0, sys.maxsize
            async for event in events:
                if isinstance(event, WindowLearned):
                    windows += 1
                    if windows == SOME_WINDOWS:
                        died = time.monotonic()
                        run(*there, "ip", "link", "set", "v1", "down")
                    if windows == enough:
                        optimizer.stop()
                elif isinstance(event, SourceLost) and not lost:
                    lost = time.monotonic() - died
                    run(*there, "ip", "link", "set", "v1", "up")
                elif isinstance(event, SourceRegained):
                    enough = windows + SOME_WINDOWS
            report = await running
    return {
        "lost_after_sec": lost, "torn": agent.torn, "is_balanced": report.statistics.is_balanced,
        "in_order": agent.numbers == sorted(set(agent.numbers)),
    }  # fmt: skip


def main(options: ConnectionOptions) -> None:
    other = subprocess.Popen(["unshare", "-n", "sleep", "120"])
    server = None
    there = ["nsenter", "-t", str(other.pid), "-n"]
    try:
        ours = Path("/proc/self/ns/net").readlink()
        while Path(f"/proc/{other.pid}/ns/net").readlink() == ours:
            time.sleep(0.01)
        run("ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1")
        run("ip", "link", "set", "v1", "netns", str(other.pid))
        for prefix, address, link in (([], HERE, "v0"), (there, THERE, "v1")):
            run(*prefix, "ip", "address", "add", f"{address}/24", "dev", link)
            run(*prefix, "ip", "link", "set", link, "up")
        server = subprocess.Popen([*there, sys.executable, __file__, "serve"], stdout=subprocess.PIPE)
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        print(json.dumps(asyncio.run(live(there, options))))
    finally:
        for process in (server, other):
            if process is not None:
                process.kill()
                process.wait()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve_ticks())
    elif sys.argv[1] == "idle":
        main(ConnectionOptions(idle_timeout_sec=0.5, open_timeout_sec=1.0))
    else:
        main(ConnectionOptions(ping_interval_sec=0.5, open_timeout_sec=1.0))
