"""How late a heartbeat of your app is while an agent in the same event loop learns for two seconds at a time.

A task ticks every 10 ms and notes by how much it was late: in an idle loop, beside a learner that repeats real
PPO updates (the bar), and beside one that keeps the interpreter busy with pure Python, which is the worst that a
learner in a thread can do.

    pip install 'optix-stream[all]'
    python tests/benchmarks/heartbeat.py
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import gymnasium
import numpy as np
from optix_stream_adapters.gymnasium import BatchPipeline
from optix_stream_adapters.tensorflow import PPOAgent

from optix_stream import BaseAgent, EpisodeData, RLOptimizer
from optix_stream.testing import NullAgent

PERIOD_SEC = 0.01
BAR_SEC = 0.05


class LongUpdates(PPOAgent):
    """PPO that goes through its update again and again for ``seconds`` on each window."""

    seconds = 2.0

    def learn(self, episode_data: EpisodeData) -> dict[str, float]:
        end = time.perf_counter() + self.seconds
        diagnostics = super().learn(episode_data)
        while time.perf_counter() < end:
            diagnostics = super().learn(episode_data)
        return diagnostics


class BusyPython(NullAgent):
    """Keeps the interpreter busy for ``seconds`` on each window."""

    seconds = 2.0

    def learn(self, episode_data: EpisodeData) -> dict[str, float]:
        end = time.perf_counter() + self.seconds
        while time.perf_counter() < end:
            pass
        return {}


async def lateness(work: Callable[[], Awaitable[object]]) -> list[float]:
    """Seconds by which each tick was late while ``work`` ran."""
    late: list[float] = []

    async def tick() -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + PERIOD_SEC
        while True:
            await asyncio.sleep(max(0.0, due - loop.time()))
            late.append(max(0.0, loop.time() - due))
            # A tick that was late does not make the next ones late as well.
            due = max(due + PERIOD_SEC, loop.time())

    ticker = asyncio.create_task(tick())
    try:
        await work()
    finally:
        ticker.cancel()
    return late


async def run_loop(agent: BaseAgent, windows: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        pipeline = BatchPipeline(gymnasium.make("CartPole-v1"), window_size=256, seed=0)
        await RLOptimizer(agent, pipeline, checkpoint_dir=directory, max_episodes=windows).run()


def report(name: str, late: list[float]) -> float:
    p50, p99, worst = (float(np.quantile(late, q)) for q in (0.5, 0.99, 1.0))
    print(
        f"{name:<20} p50 {p50 * 1e3:6.2f} ms   p99 {p99 * 1e3:6.2f} ms   max {worst * 1e3:6.2f} ms   {len(late)} ticks"
    )
    return p99


async def measure(windows: int) -> None:
    env = gymnasium.make("CartPole-v1")
    agent = LongUpdates.for_spaces(env.observation_space, env.action_space, seed=0)
    # Compilation is no part of learning on a window; it happens once.
    agent.seconds = 0.0
    await run_loop(agent, 1)
    agent.seconds = LongUpdates.seconds
    report("idle", await lateness(lambda: asyncio.sleep(windows * LongUpdates.seconds)))
    p99 = report("beside PPO updates", await lateness(lambda: run_loop(agent, windows)))
    report("beside pure Python", await lateness(lambda: run_loop(BusyPython(), windows)))
    print(f"p99 beside PPO updates: {p99 * 1e3:.1f} ms  < {BAR_SEC * 1e3:g} ms  {'met' if p99 < BAR_SEC else 'MISSED'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=5, help="of two seconds each")
    asyncio.run(measure(parser.parse_args().windows))


if __name__ == "__main__":
    main()
