"""Learning that is slower than the feed: bounded memory, a connection that stays up, and every loss counted."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from gymnasium import spaces
from optix_stream_adapters.websockets import ConnectionOptions, JsonCodec, WebSocketFeed
from websockets.asyncio.server import ServerConnection, serve

from optix_stream import GapDetected, LivePipeline, RLOptimizer, SourceLost, TransitionsDropped
from optix_stream.queue import OverflowPolicy
from optix_stream.testing import NullAgent, assert_balanced
from optix_stream.types import EpisodeData

pytestmark = pytest.mark.asyncio

CODEC = JsonCodec(spaces.Box(-np.inf, np.inf, (1,), np.float32), spaces.Discrete(4))
MEGABYTE = 2**20


class SlowLearner(NullAgent):
    """Holds each window until it is released, or for a second.

    Attributes:
        numbers: of the ticks that it learned from.
    """

    def __init__(self, hold_sec: float) -> None:
        super().__init__(1)
        self.released = threading.Event()
        self.numbers: list[float] = []
        self._hold_sec = hold_sec

    def learn(self, episode_data: EpisodeData) -> dict[str, float]:
        self.released.wait(self._hold_sec)
        self.numbers += episode_data.observations[:, 0].tolist()
        return {}


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest", "block"])
@pytest.mark.parametrize("seconds", [0.5, pytest.param(60.0, marks=pytest.mark.slow)])
async def test_a_learner_that_is_too_slow_costs_what_is_declared_and_counted(
    seconds: float, overflow: OverflowPolicy, tmp_path: Path
) -> None:
    agent = SlowLearner(hold_sec=60.0 if seconds < 1 else 1.0)
    sent = connections = 0

    async def play(socket: ServerConnection) -> None:
        nonlocal sent, connections
        connections += 1
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for _ in range(50):
                await socket.send(json.dumps({"observation": [sent], "reward": float(sent)}))
                sent += 1
            # Answered only by who reads: the connection is alive, however far behind the learner is.
            answered = await socket.ping()
            with anyio.fail_after(10):
                await answered
        agent.released.set()

    async def forget(socket: ServerConnection) -> None:
        async def read() -> None:
            async for _ in socket:
                pass

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await play(socket)
            tasks.cancel_scope.cancel()

    counted, gaps, lost = Counter[str](), Counter[str](), list[Any]()
    async with serve(forget, "127.0.0.1", 0, compression=None) as server:
        options = ConnectionOptions(inbox_messages=256, patience_sec=0.05)
        feed = WebSocketFeed(
            f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}",
            decode=CODEC.decode,
            encode=CODEC.encode,
            connection=options,
            reconnect=None,
        )
        pipeline = LivePipeline(
            feed, episode_boundary_fn=LivePipeline.every_n_steps(16), buffer_size=128, overflow=overflow
        )
        optimizer = RLOptimizer(agent, pipeline, checkpoint_dir=str(tmp_path))
        before = resident_bytes()

        async def watch() -> None:
            async with optimizer.events(buffer_size=1_000_000) as events:
                async for event in events:
                    if isinstance(event, TransitionsDropped):
                        counted[event.reason] += event.count
                    elif isinstance(event, GapDetected):
                        gaps[event.reason] += 1
                    elif isinstance(event, SourceLost):
                        lost.append(event)

        reason = ""
        with anyio.fail_after(seconds + 60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(watch)
                reason = (await optimizer.run()).reason
    statistics = optimizer.statistics()
    assert_balanced(statistics)
    assert connections == 1
    assert reason == "source_ended"
    assert [event.retry_sec for event in lost] == [None]
    assert resident_bytes() - before < 50 * MEGABYTE
    assert counted.total() == sum(statistics.dropped.values())
    assert any("overflow" in reason for reason in counted)
    # Each message opened a stretch without gaps, or completed a transition, or was lost in the inbox, which is counted.
    assert sent == statistics.received + 1 + gaps["inbox overflow"]
    # In order, and none of them twice.
    assert agent.numbers == sorted(set(agent.numbers))
    assert len(agent.numbers) == statistics.learned
