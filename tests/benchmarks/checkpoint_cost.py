"""What saving the state of the run after each window costs: throughput, and lateness of the event loop beside it.

PPO on CartPole with the command line's settings, once without checkpoints and once with one after each window, in
turns in one process, so that both meet the same machine. A task in the same event loop ticks every millisecond and
notes by how much it was late.

    pip install 'optix-stream[all]'
    python tests/benchmarks/checkpoint_cost.py
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from optix_stream import CheckpointEvery, RLOptimizer, RunSaved
from optix_stream.cli.loading import gymnasium_adapter, make_agent, make_envs
from optix_stream.presets import preset_for

PERIOD_SEC = 0.001
BAR_SHARE = 0.10
BAR_LATENESS_SEC = 0.005


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One run.

    Attributes:
        steps_per_sec: transitions learned a second, from the end of the first window on.
        p99_sec: lateness of the ticks.
        saved: checkpoints that were written.
    """

    steps_per_sec: float
    p99_sec: float
    saved: int


class Measurement:
    """Runs of one agent and environment, which learn on from run to run: what is compiled once stays compiled."""

    def __init__(self, windows: int) -> None:
        preset = preset_for("CartPole-v1", "ppo")
        self._env, observations, actions = make_envs("CartPole-v1", preset.num_envs)
        self._agent = make_agent("ppo", observations, actions, seed=0, config=preset.agent)
        self._window_size = preset.window_size
        self._windows = windows

    async def run(self, directory: Path, every: CheckpointEvery) -> Measured:
        optimizer = RLOptimizer(
            self._agent,
            gymnasium_adapter().BatchPipeline(self._env, window_size=self._window_size, seed=0),
            checkpoint_dir=directory,
            max_episodes=self._windows,
            # Nothing improves on this, so that no policy is saved besides.
            improvement_margin=1e9,
            dormant_threshold=10**9,
            plateau_threshold=10**9,
            checkpoint_every=every,
        )
        late: list[float] = []
        ticking = asyncio.create_task(_tick(late))
        started = time.perf_counter()
        async with optimizer.events(buffer_size=100_000) as events:
            report = await optimizer.run()
            sec = time.perf_counter() - started
            saved = sum([isinstance(event, RunSaved) async for event in events])
        ticking.cancel()
        return Measured(steps_per_sec=report.transitions / sec, p99_sec=float(np.quantile(late, 0.99)), saved=saved)


async def _tick(late: list[float]) -> None:
    while True:
        due = time.perf_counter() + PERIOD_SEC
        await asyncio.sleep(PERIOD_SEC)
        late.append(time.perf_counter() - due)


async def measure(windows: int, rounds: int) -> tuple[list[Measured], list[Measured]]:
    """Without and with checkpoints, in turns; the first two are thrown away."""
    measurement = Measurement(windows)
    without: list[Measured] = []
    with_them: list[Measured] = []
    for number in range(rounds + 1):
        for every, found in ((CheckpointEvery(), without), (CheckpointEvery(windows=1), with_them)):
            with tempfile.TemporaryDirectory(prefix="optix-stream-cost-", dir=Path.cwd()) as directory:
                result = await measurement.run(Path(directory), every)
            if number:
                found.append(result)
    return without, with_them


def main() -> None:
    """Print both, beside the bars."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=200, help="a run")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each kind")
    arguments = parser.parse_args()
    without, with_them = asyncio.run(measure(arguments.windows, arguments.rounds))
    for name, runs in (("none, but at the end", without), ("after each window", with_them)):
        speed = statistics.median(run.steps_per_sec for run in runs)
        late = statistics.median(run.p99_sec for run in runs)
        saved = statistics.median(run.saved for run in runs)
        print(f"checkpoints {name:21} {speed:8,.0f} steps/s   {1e3 * late:6.2f} ms late (p99)   {saved:.0f} written")
    # Neighbours are compared, because what else the machine does comes and goes.
    pairs = list(zip(without, with_them, strict=True))
    cost = statistics.median(1.0 - b.steps_per_sec / a.steps_per_sec for a, b in pairs)
    added = statistics.median(b.p99_sec - a.p99_sec for a, b in pairs)
    print(f"throughput lost: {cost:6.1%}; bar: {BAR_SHARE:.0%}: {'pass' if cost <= BAR_SHARE else 'MISS'}")
    verdict = "pass" if added <= BAR_LATENESS_SEC else "MISS"
    print(f"lateness added:  {1e3 * added:.2f} ms; bar: {1e3 * BAR_LATENESS_SEC:.0f} ms: {verdict}")


if __name__ == "__main__":
    main()
