"""Whether a long run stays as large as it is: resident memory over millions of transitions.

    python tests/benchmarks/memory.py
    python tests/benchmarks/memory.py --agent stream-ac --transitions 500000

An environment that costs nothing goes through the whole loop, as a pausable source and as a live one: queue, windows,
learner thread, judge, events with a subscriber, and checkpoints. What counts is by how much the process has grown
since a tenth of the transitions had passed.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import anyio
import anyio.lowlevel
import gymnasium
import numpy as np
from gymnasium import spaces
from optix_stream_adapters.gymnasium import BatchPipeline

from optix_stream import (
    BaseAgent,
    BaseEvaluator,
    BasePipeline,
    EpisodeData,
    EvalMetrics,
    LivePipeline,
    RLOptimizer,
    RunReport,
    StreamACAgent,
    StreamQAgent,
)
from optix_stream.testing import NullAgent
from optix_stream.types import Array

BAR_MB = 20.0
WINDOW_SIZE = 1000
EPISODE = 137
OBSERVATIONS = spaces.Box(-1.0, 1.0, (8,), np.float32)
ACTIONS = spaces.Discrete(2)
AGENTS: Mapping[str, Callable[[], BaseAgent]] = {
    "null": NullAgent,
    "stream-ac": lambda: StreamACAgent.for_spaces(OBSERVATIONS, ACTIONS, seed=0),
    "stream-q": lambda: StreamQAgent.for_spaces(OBSERVATIONS, ACTIONS, seed=0),
}


class NullEnv(gymnasium.Env[Array, np.int64]):
    """Does nothing but count; its episodes end in both ways."""

    def __init__(self) -> None:
        self.observation_space, self.action_space = OBSERVATIONS, ACTIONS
        self._observation = np.zeros(8, np.float32)
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        return self._observation, {}

    def step(self, action: np.int64) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        self._observation[self._steps % 8] = (self._steps % EPISODE) / EPISODE
        is_over = self._steps % EPISODE == 0
        return self._observation, 1.0, is_over and self._steps % 2 == 0, is_over and self._steps % 2 == 1, {}


class NullFeed:
    """The same as a live source."""

    def __init__(self, transitions: int) -> None:
        self._transitions = transitions

    async def stream(self) -> AsyncIterator[tuple[Any, ...]]:
        env = NullEnv()
        for index in range(self._transitions + 1):
            observation, reward, terminated, truncated, info = env.step(np.int64(0))
            yield observation.copy(), reward, terminated, truncated, info
            if index % 100 == 0:
                await anyio.lowlevel.checkpoint()

    async def send(self, action: Any) -> None:
        pass


def resident_mb() -> float:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


class Meter(BaseEvaluator):
    """Notes resident memory now and then; every window scores the same.

    Args:
        every: windows between two notes.
    """

    def __init__(self, every: int) -> None:
        self._every = every
        self._windows = 0
        self.notes_mb: list[float] = []

    def score(self, episode_data: EpisodeData, train_diagnostics: dict[str, float]) -> EvalMetrics:
        self._windows += 1
        if self._windows % self._every == 0:
            self.notes_mb.append(resident_mb())
        return EvalMetrics(1.0, {}, episode_data.episode_id)


async def run(agent: BaseAgent, pipeline: BasePipeline, windows: int) -> tuple[RunReport, list[float]]:
    """The loop with someone who listens; and what the meter noted."""
    outcomes: list[RunReport] = []
    meter = Meter(every=max(1, windows // 20))
    with tempfile.TemporaryDirectory() as directory:
        optimizer = RLOptimizer(
            agent, pipeline, evaluator=meter, checkpoint_dir=directory, max_episodes=windows,
            plateau_threshold=10**9, dormant_threshold=10**9 + 1,
        )  # fmt: skip
        async with optimizer.events() as events, anyio.create_task_group() as tasks:

            async def listen() -> None:
                async for _ in events:
                    pass

            tasks.start_soon(listen)
            outcomes.append(await optimizer.run())
    return outcomes[0], meter.notes_mb


def report(name: str, agent: BaseAgent, pipeline: BasePipeline, windows: int) -> None:
    start = time.perf_counter()
    outcome, notes = anyio.run(run, agent, pipeline, windows)
    sec = time.perf_counter() - start
    assert outcome.statistics.is_balanced
    # Two of twenty are the warm-up.
    grown = notes[-1] - notes[1]
    verdict = "MET" if grown < BAR_MB else "MISSED"
    print(f"{name}: {outcome.transitions:,} transitions in {sec:.0f} s, {notes[1]:.1f} MB, then {grown:+.2f} MB")
    print(f"  every twentieth: {' '.join(f'{note:.1f}' for note in notes)}")
    print(f"  growth < {BAR_MB:g} MB  {verdict}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transitions", type=int, default=5_000_000)
    parser.add_argument("--agent", choices=tuple(AGENTS), default="null")
    parser.add_argument("--source", choices=("pausable", "live", "both"), default="both")
    arguments = parser.parse_args()
    windows = arguments.transitions // WINDOW_SIZE
    if windows < 20:
        parser.error(f"--transitions: expected at least {20 * WINDOW_SIZE}, got {arguments.transitions}")
    make = AGENTS[arguments.agent]
    if arguments.source != "live":
        pipeline = BatchPipeline(NullEnv(), window_size=WINDOW_SIZE, seed=0)
        report(f"pausable, {arguments.agent}", make(), pipeline, windows)
    if arguments.source != "pausable":
        live = LivePipeline(
            NullFeed(windows * WINDOW_SIZE),
            episode_boundary_fn=LivePipeline.every_n_steps(WINDOW_SIZE),
            reconnect_on_disconnect=False,
            lockstep=True,
        )
        report(f"live, {arguments.agent}", make(), live, windows)


if __name__ == "__main__":
    main()
