"""Producers cancelled at every await there is: what they have handed over is whole, and no task is left."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import anyio
import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from optix_stream_adapters.gymnasium import GymProducer
from optix_stream_adapters.replay import ReplayFeed
from optix_stream_adapters.websockets import JsonCodec, PolicyServer, WebSocketFeed
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException
from websockets.sync.server import ServerConnection, serve

from optix_stream import FeedStep, StreamPipeline, every_n_steps
from optix_stream.contracts import Policy, Producer, TransitionSink, as_policy
from optix_stream.testing import Canceller, NullAgent, RecordingEvents, assert_balanced, cancel_everywhere
from optix_stream.types import EpisodeData

pytestmark = pytest.mark.asyncio

CODEC = JsonCodec(spaces.Box(-np.inf, np.inf, (1,), np.float32), spaces.Discrete(4))
STEPS = 6


class Pipeline(StreamPipeline):
    """One producer of any kind, in a pipeline that is nobody's in particular."""

    def __init__(self, producer: Producer) -> None:
        super().__init__(boundary=every_n_steps(2), capacity=2, overflow="block", lockstep=False)
        self._producer = producer

    @property
    def is_live(self) -> bool:
        return True

    def producers(self) -> Sequence[Producer]:
        return [self._producer]


class Driven:
    """A producer whose awaits count."""

    def __init__(self, producer: Producer, canceller: Canceller) -> None:
        self._producer = producer
        self._canceller = canceller

    @property
    def name(self) -> str:
        return self._producer.name

    async def run(self, policy: Policy, sink: TransitionSink) -> None:
        await self._canceller.drive(self._producer.run(policy, sink))


def message(number: int) -> str:
    return json.dumps({"observation": [number], "reward": float(number), "terminated": number == STEPS})


async def take_all(producer: Producer, canceller: Canceller) -> list[float]:
    """Run it until it ends or is cancelled; the rewards of what came, in order."""
    pipeline = Pipeline(Driven(producer, canceller))
    windows: list[EpisodeData] = []

    async def take() -> None:
        async with pipeline.open(as_policy(NullAgent(1)), RecordingEvents()) as source:
            while (window := await source.next_window()) is not None:
                source.record_learned(window)
                windows.append(window)

    with canceller.scope:
        await take()
    assert_balanced(pipeline.statistics())
    assert pipeline.statistics().held == 0
    return [float(reward) for window in windows for reward in window.rewards]


def check(rewards: list[float], canceller: Canceller) -> None:
    assert rewards == [float(number) for number in range(1, len(rewards) + 1)], "in order, none lost or doubled"
    assert canceller.scope.cancel_called or len(rewards) == STEPS


async def test_a_websocket_feed() -> None:
    def send(socket: ServerConnection) -> None:
        with suppress(WebSocketException):  # The client may go at any moment.
            for number in range(STEPS + 1):
                socket.send(message(number))

    # In threads of its own, so that every task here is ours.
    with serve(send, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"ws://127.0.0.1:{server.socket.getsockname()[1]}"

        async def run(canceller: Canceller) -> None:
            feed = WebSocketFeed(url, decode=CODEC.decode, encode=None, reconnect=None)
            check(await take_all(feed, canceller), canceller)

        try:
            assert await cancel_everywhere(run) > 5
        finally:
            await asyncio.to_thread(server.shutdown)
    thread.join(10)


async def test_a_policy_server() -> None:
    async def run(canceller: Canceller) -> None:
        server = PolicyServer(decode=CODEC.decode, encode=CODEC.encode)

        async def play() -> None:
            await server.started.wait()
            if canceller.scope.cancel_called:
                return  # Python 3.11 forgets a socket that it accepts in the turn in which its server closes.
            # It may be gone already, or go at any moment.
            with suppress(OSError, WebSocketException):
                async with connect(f"ws://127.0.0.1:{server.port}") as socket:
                    for number in range(STEPS + 1):
                        await socket.send(message(number))
                        if number < STEPS:
                            await socket.recv()
            canceller.scope.cancel()  # A server does not end by itself.

        rewards: list[float] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(play)
            rewards += await take_all(server, canceller)
            tasks.cancel_scope.cancel()
        assert rewards == [float(number) for number in range(1, len(rewards) + 1)]

    # It never ends by itself, so that the number of awaits to look at is given; the last is the client's end.
    for at in range(1, 8):
        before = asyncio.all_tasks()
        await run(Canceller(at))
        assert asyncio.all_tasks() == before


async def test_a_replay(tmp_path: Path) -> None:
    path = tmp_path / "ticks.csv"
    path.write_text("\n".join(["time,number", *(f"{number},{number}" for number in range(STEPS + 1))]))

    def make() -> ReplayFeed:
        def decode(row: dict[str, str]) -> FeedStep:
            return FeedStep(np.array([float(row["number"])]), float(row["number"]), False, False)

        return ReplayFeed(path, decode=decode, speed=math.inf, time_column="time")

    async def run(canceller: Canceller) -> None:
        feed = await asyncio.to_thread(make)  # It looks for its file.
        check(await take_all(feed, canceller), canceller)

    assert await cancel_everywhere(run) > 3


class Counting(gym.Env[np.ndarray, np.int64]):
    """Rewards a step with its number."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self) -> None:
        self._steps = 0

    def reset(self, **options: object) -> tuple[np.ndarray, dict[str, object]]:
        return np.zeros(1, np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, object]]:
        self._steps += 1
        return np.zeros(1, np.float32), float(self._steps), False, False, {}


async def test_an_environment() -> None:
    # It never ends by itself, as above.
    for at in range(1, 30):
        before = asyncio.all_tasks()
        canceller = Canceller(at)
        rewards = await take_all(GymProducer(Counting(), chunk_size=2), canceller)
        check(rewards, canceller)
        assert canceller.scope.cancel_called
        assert asyncio.all_tasks() == before
