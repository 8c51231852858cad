"""A feed and a server under uvloop, which is not the plain loop and must not make a difference."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from gymnasium import spaces
from optix_stream_adapters.websockets import ConnectionOptions, JsonCodec, PolicyServer, WebSocketFeed
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from optix_stream import LivePipeline, RLOptimizer
from optix_stream.testing import RecordingAgent, assert_balanced

uvloop = pytest.importorskip("uvloop")

CODEC = JsonCodec(spaces.Box(-np.inf, np.inf, (1,), np.float32), spaces.Box(-np.inf, np.inf, (), np.float32))
ROUNDS = 40


def tick(number: int, reward: float | None) -> str:
    return json.dumps({"observation": [number], "reward": reward, "truncated": number == ROUNDS})


async def play(socket: Any) -> None:
    """A closed loop: the reward is ten times the action before."""
    reward = None
    for number in range(ROUNDS):
        await socket.send(tick(number, reward))
        reward = 10.0 * json.loads(await socket.recv())["action"]
    await socket.send(tick(ROUNDS, reward))


def test_a_feed_learns_from_whole_transitions_under_uvloop(tmp_path: Path) -> None:
    async def main() -> RecordingAgent:
        agent = RecordingAgent(0.0)

        async def converse(socket: ServerConnection) -> None:
            await play(socket)

        async with serve(converse, "127.0.0.1", 0) as server:
            url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
            feed = WebSocketFeed(url, decode=CODEC.decode, encode=CODEC.encode, reconnect=None)
            optimizer = RLOptimizer(agent, LivePipeline(feed), checkpoint_dir=str(tmp_path))
            with anyio.fail_after(30):
                report = await optimizer.run()
        assert report.reason == "source_ended"
        assert_balanced(optimizer.statistics())
        return agent

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        agent = runner.run(main())
    (window,) = agent.windows
    assert window.length == ROUNDS
    assert (window.rewards == 10.0 * window.actions.reshape(-1)).all()


def test_robots_get_their_own_actions_under_uvloop(tmp_path: Path) -> None:
    robots = 5

    async def main() -> RecordingAgent:
        agent = RecordingAgent(0.0)
        server = PolicyServer(decode=CODEC.decode, encode=CODEC.encode, connection=ConnectionOptions())
        pipeline = LivePipeline(server, episode_boundary_fn=LivePipeline.every_n_steps(robots * ROUNDS))
        optimizer = RLOptimizer(agent, pipeline, checkpoint_dir=str(tmp_path), max_episodes=1)

        async def robot() -> None:
            async with connect(f"ws://127.0.0.1:{server.port}") as socket:
                await play(socket)

        with anyio.fail_after(30):
            async with asyncio.TaskGroup() as tasks:
                running = tasks.create_task(optimizer.run())
                await server.started.wait()
                for _ in range(robots):
                    tasks.create_task(robot())
                assert (await running).reason == "max_episodes"
        assert_balanced(optimizer.statistics())
        return agent

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        agent = runner.run(main())
    (window,) = agent.windows
    assert len(window.stream_ids) == robots
    assert (window.rewards == 10.0 * window.actions.reshape(-1)).all()
