"""Robots over a websocket: pendulums in a process of their own, paced at 50 Hz, that learn to stand up.

The other process plays the robots: it steps a Gymnasium environment at its own pace, waits for nobody, sends what
every robot sees over one socket, and keeps turning with the last torque that it was told. Here, an agent answers each
observation at once and learns from all of them beside it. You will see state events, the mean return of early and late
windows, how long an answer took, and where every transition went.

    pip install '.[all]' && python demos/robot_bridge.py
    python demos/robot_bridge.py --quick
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from optix_stream_adapters.websockets import JsonCodec, WebSocketFeed
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from optix_stream import ActDeadline, Fallback, FeedOptions, LivePipeline, RLOptimizer, StateChanged, WindowScored

ENV = "Pendulum-v1"


@dataclass(frozen=True)
class Arguments:
    """What can be set from the command line."""

    seed: int = 0
    robots: int = 16
    hz: float = 50.0
    seconds: float = 90.0
    window: int = 1600


# --- the robots: in the other process --------------------------------------------------------------


class Robots:
    """``N`` pendulums that turn whether or not anybody tells them how."""

    def __init__(self, arguments: Arguments) -> None:
        self._arguments = arguments
        self._env = gymnasium.make_vec(ENV, arguments.robots)
        self._torques = np.zeros((arguments.robots, 1), np.float32)

    async def converse(self, socket: ServerConnection) -> None:
        listening = asyncio.create_task(self._listen(socket))
        # Whoever has heard enough hangs up; the robots are there for the next one.
        with contextlib.suppress(ConnectionClosed):
            await self._turn(socket)
        listening.cancel()

    async def _listen(self, socket: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in socket:
                order = json.loads(message)
                self._torques[int(order["stream"])] = order["action"]

    async def _turn(self, socket: ServerConnection) -> None:
        loop, period = asyncio.get_running_loop(), 1 / self._arguments.hz
        observations, _ = self._env.reset(seed=self._arguments.seed)
        await self._send(socket, observations, None, np.zeros(len(observations), bool))
        due = end = loop.time()
        end += self._arguments.seconds
        while due < end:
            due += period
            await asyncio.sleep(due - loop.time())
            observations, rewards, _, truncated, _ = self._env.step(self._torques)
            await self._send(socket, observations, rewards, truncated)

    @staticmethod
    async def _send(socket: ServerConnection, observations: Any, rewards: Any, truncated: Any) -> None:
        for robot, observation in enumerate(observations):
            message = {"stream": robot, "observation": observation.tolist(), "truncated": bool(truncated[robot])}
            if rewards is not None:
                message["reward"] = float(rewards[robot])
            await socket.send(json.dumps(message))


async def serve_robots(arguments: Arguments) -> None:
    async with serve(Robots(arguments).converse, "127.0.0.1", 0, compression=None) as server:
        print(next(iter(server.sockets)).getsockname()[1], flush=True)
        await server.serve_forever()


@contextlib.contextmanager
def robots_in_a_process(arguments: Arguments) -> Iterator[str]:
    """The address of robots that another process plays."""
    settings = json.dumps({name: getattr(arguments, name) for name in Arguments.__dataclass_fields__})
    process = subprocess.Popen(  # noqa: S603  It is this file.
        [sys.executable, __file__, "--play", settings], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield f"ws://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait()


# --- the agent: in this one ------------------------------------------------------------------------


@dataclass
class Bridge:
    """An agent at the other end of the robots' socket, ready to run in any app."""

    arguments: Arguments
    url: str
    arrived: float = 0.0
    answers: list[float] = field(default_factory=list)

    def optimizer(self, directory: str) -> RLOptimizer:
        # Here, because the robots' process does without TensorFlow.
        from optix_stream_adapters.tensorflow import PPOAgent

        env = gymnasium.make(ENV)
        agent = PPOAgent.for_spaces(
            env.observation_space,
            env.action_space,
            seed=self.arguments.seed,
            gamma=0.95,
            learning_rate=1e-3,
            epochs=20,
            minibatch_size=160,
            normalize_observations=True,
            normalize_rewards=True,
        )
        codec = JsonCodec(env.observation_space, env.action_space)

        def encode(action: Any) -> str:
            message = codec.encode(action)
            self.answers.append(time.perf_counter() - self.arrived)
            return message

        def decode(message: bytes) -> Any:
            self.arrived = time.perf_counter()
            return codec.decode(message)

        feed = WebSocketFeed(
            self.url,
            decode=decode,
            encode=encode,
            reconnect=None,
            # What is older than a period is not worth an answer: the robot goes on with its last torque.
            options=FeedOptions(deadline=ActDeadline(max_age_sec=1 / self.arguments.hz, fallback=Fallback.LAST)),
        )
        pipeline = LivePipeline(
            feed, episode_boundary_fn=LivePipeline.every_n_steps(self.arguments.window), buffer_size=20_000
        )
        return RLOptimizer(agent, pipeline, checkpoint_dir=directory)


async def scored(optimizer: RLOptimizer) -> AsyncIterator[float]:
    """The mean return of each window's episodes, as it comes; state events are printed."""
    # These kinds alone: on a machine that is behind, each step of each robot may miss its deadline, which is an event.
    async with optimizer.events(kinds=[StateChanged, WindowScored]) as events:
        async for event in events:
            if isinstance(event, StateChanged):
                print(f"window {event.window}: {event.old.value} -> {event.new.value}")
            elif (
                isinstance(event, WindowScored)
                and event.metrics is not None
                and event.metrics.basis == "episode_return"  # Not a mean reward, where no episode ended.
            ):
                yield event.metrics.primary_score


async def main(arguments: Arguments) -> None:
    returns: list[float] = []

    async def watch(optimizer: RLOptimizer) -> None:
        async for score in scored(optimizer):
            returns.append(score)
            print(f"return {score:8.1f}")

    with tempfile.TemporaryDirectory() as directory, robots_in_a_process(arguments) as url:
        bridge = Bridge(arguments, url)
        optimizer = bridge.optimizer(directory)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(watch(optimizer))
            report = await optimizer.run()
    if returns:
        few = max(len(returns) // 4, 1)
        print(f"mean return: {statistics.fmean(returns[:few]):.1f} in the first windows, ", end="")
        print(f"{statistics.fmean(returns[-few:]):.1f} in the last")
    else:
        print("mean return: of no window, because no episode ended in time")
    p50, p99 = np.percentile(bridge.answers, [50, 99]) * 1e3
    print(f"from message to answer: {p50:.2f} ms in the median, {p99:.2f} ms in 99 of 100")
    counts = report.statistics
    lost = sum(counts.dropped.values()) + sum(counts.rejected.values())
    print(f"received {counts.received} = learned {counts.learned} + held {counts.held} + lost {lost}")


def parse() -> Arguments | str:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, item in Arguments.__dataclass_fields__.items():
        parser.add_argument(f"--{name}", type=type(item.default), default=item.default)
    parser.add_argument("--quick", action="store_true", help="a short run, as the tests make it")
    parser.add_argument("--play", help=argparse.SUPPRESS)
    given = vars(parser.parse_args())
    quick, settings = given.pop("quick"), given.pop("play")
    if settings:
        return str(settings)
    if quick:
        given["seconds"] = 20.0
    return Arguments(**given)


if __name__ == "__main__":
    arguments = parse()
    with contextlib.suppress(KeyboardInterrupt):
        if isinstance(arguments, str):
            asyncio.run(serve_robots(Arguments(**json.loads(arguments))))
        else:
            asyncio.run(main(arguments))
