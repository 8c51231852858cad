"""What a tuner is worth on a real environment: PPO on CartPole-v1 from a learning rate ten times too low or too high.

    python tests/benchmarks/tuned_learning.py --seeds 10 --jobs 2
    python tests/benchmarks/tuned_learning.py --seeds 3 --tuners none,paired-block,pbt

Each run is the loop itself with the settings of ``optix-stream train``, but for the learning rate, which is constant.
What is measured is the area under the evaluation curve: the mean return without exploration over the run, evaluated
every eight windows in environments of their own. The interquartile mean over seeds and its bootstrap are those of
Agarwal et al. 2021 (arXiv 2108.13264); the interval is that of the difference between the same seeds with the tuner
and without. The bar: above 0 from one of the two starts, and not below it from the other.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import numpy as np
from optix_stream_adapters.gymnasium import BatchPipeline
from scores import Curve, interquartile_mean, interval
from tasks import Task

from optix_stream import (
    BackoffOptimizer,
    BaseOptimizer,
    EpisodeData,
    EvalMetrics,
    HyperparamsChanged,
    PairedBlockConfig,
    PairedBlockTuner,
    PBTOptimizer,
    RLOptimizer,
)
from optix_stream.cli.loading import make_agent, make_envs
from optix_stream.evaluators import EpisodeReturnEvaluator
from optix_stream.learner import deterministic_policy
from optix_stream.presets import preset_for

RIGHT = 1e-3
STARTS = {"low": RIGHT / 10, "high": RIGHT * 10}
BOUNDS = {"learning_rate": (1e-5, 1e-1)}
_Row = dict[str, Any]


class Watched(EpisodeReturnEvaluator):
    """The default score, and an evaluation curve beside it, of which the loop knows nothing."""

    def __init__(self, curve: Curve) -> None:
        super().__init__()
        self._curve = curve
        self._steps = 0

    def score(self, episode_data: EpisodeData, train_diagnostics: dict[str, float]) -> EvalMetrics | None:
        self._steps += episode_data.length
        self._curve.point(self._steps)
        return super().score(episode_data, train_diagnostics)


def make_tuner(name: str, seed: int, config: Mapping[str, Any]) -> BaseOptimizer:
    match name:
        case "paired-block":
            return PairedBlockTuner(BOUNDS, config=PairedBlockConfig(**config), seed=seed)
        case "pbt":
            return PBTOptimizer(BOUNDS, seed=seed)
        case "backoff":
            return BackoffOptimizer(BOUNDS)
        case "none":
            return BackoffOptimizer()
    raise SystemExit(f"no tuner {name!r}")


def run(start: str, tuner: str, seed: int, steps: int, tuner_config: Mapping[str, Any]) -> _Row:
    preset = preset_for("CartPole-v1", "ppo")
    config: Mapping[str, Any] = {**preset.agent, "learning_rate": STARTS[start], "schedule_steps": None}
    env, observation_space, action_space = make_envs("CartPole-v1", preset.num_envs)
    agent = make_agent("ppo", observation_space, action_space, seed=seed, config=config)
    task = Task(env="CartPole-v1", agent="ppo", steps=steps, evaluate_every=8 * preset.window_size)
    curve = Curve(task, seed, lambda: lambda rows: deterministic_policy(agent).act(rows).actions)
    with tempfile.TemporaryDirectory() as directory:
        optimizer = RLOptimizer(
            agent,
            BatchPipeline(env, window_size=preset.window_size, seed=seed),
            evaluator=Watched(curve),
            optimizer=make_tuner(tuner, seed, tuner_config),
            checkpoint_dir=directory,
            max_episodes=math.ceil(steps / preset.window_size),
            backoff_factor=1.0,  # As while learning pays: tuned every window.
            plateau_threshold=10**9,
            dormant_threshold=10**9 + 1,
            judge="threshold",
        )
        rates = anyio.run(_run_and_follow, optimizer)
    area = statistics.fmean(score for _, score in curve.points)
    return {"start": start, "tuner": tuner, "seed": seed, "area": area, "curve": curve.points, "rates": rates}


async def _run_and_follow(optimizer: RLOptimizer) -> list[tuple[int, float]]:
    """The run, and the learning rates that were set, by window."""
    async with optimizer.events(buffer_size=100_000) as events:
        await optimizer.run()
        changes = [event async for event in events if isinstance(event, HyperparamsChanged)]
    return [(event.window, float(event.new["learning_rate"])) for event in changes]


def run_in_a_process(start: str, tuner: str, seed: int, steps: int, config: str) -> _Row:
    environment = dict(os.environ, OMP_NUM_THREADS="1", TF_CPP_MIN_LOG_LEVEL="3", TF_ENABLE_ONEDNN_OPTS="0")
    environment |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    command = [sys.executable, __file__, "--one", start, tuner, str(seed), str(steps), config]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{start}, {tuner}, seed {seed} failed:\n{done.stderr[-3000:]}")
    row: _Row = json.loads(done.stdout.splitlines()[-1])
    return row


def report(rows: list[_Row]) -> None:
    areas = {(row["start"], row["tuner"], row["seed"]): float(row["area"]) for row in rows}
    tuners = list(dict.fromkeys(row["tuner"] for row in rows))
    gains: dict[tuple[str, str], tuple[float, float]] = {}
    for start in STARTS:
        for tuner in tuners:
            seeds = sorted(seed for one, other, seed in areas if (one, other) == (start, tuner))
            values = np.array([areas[start, tuner, seed] for seed in seeds])
            if not len(values):
                continue
            low, high = interval(values)
            text = f"{start:<5} {tuner:<13} {len(values):>2} seeds  IQM {interquartile_mean(values):6.1f}"
            text += f"  [{low:.1f}, {high:.1f}]"
            paired = [seed for seed in seeds if (start, "none", seed) in areas]
            if tuner != "none" and paired:
                differences = np.array([areas[start, tuner, seed] - areas[start, "none", seed] for seed in paired])
                gains[start, tuner] = interval(differences)
                low, high = gains[start, tuner]
                text += f"  gain {interquartile_mean(differences):+6.1f}  [{low:+.1f}, {high:+.1f}]"
            print(text)
    for tuner in tuners:
        intervals = [gains[start, tuner] for start in STARTS if (start, tuner) in gains]
        if len(intervals) == len(STARTS):
            is_met = any(low > 0 for low, _ in intervals) and all(high >= 0 for _, high in intervals)
            print(f"{tuner}: higher from one start, not lower from the other: {'met' if is_met else 'MISSED'}")


async def _run_all(runs: list[tuple[str, str, int, int, str]], jobs: int, out: Path | None) -> list[_Row]:
    rows: list[_Row] = []
    limiter = anyio.CapacityLimiter(jobs)

    async def one(key: tuple[str, str, int, int, str]) -> None:
        row = await anyio.to_thread.run_sync(run_in_a_process, *key, limiter=limiter)
        rows.append(row)
        if out is not None:
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")
        print(f"  {key[0]} {key[1]} seed {key[2]}: {row['area']:.1f}", file=sys.stderr, flush=True)

    async with anyio.create_task_group() as tasks:
        for key in runs:
            tasks.start_soon(one, key)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--tuners", default="none,paired-block", help="of none, paired-block, pbt, backoff")
    parser.add_argument("--starts", default=",".join(STARTS), help="of low, high")
    parser.add_argument("--config", default="{}", metavar="JSON", help="of paired-block, in place of the defaults")
    parser.add_argument("--steps", type=int, default=100_000, help="environment steps a run")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--out", type=Path, help="append raw results, a line of JSON each")
    parser.add_argument("--report", type=Path, nargs="+", help="run nothing; report on raw results")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        start, tuner, seed, steps, config = arguments.one
        print(json.dumps(run(start, tuner, int(seed), int(steps), json.loads(config))))
        return
    if arguments.report:
        report([json.loads(line) for path in arguments.report for line in path.read_text().splitlines()])
        return
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    runs = [
        (start, tuner, seed, arguments.steps, arguments.config)
        for seed in seeds
        for start in arguments.starts.split(",")
        for tuner in arguments.tuners.split(",")
    ]
    report(anyio.run(_run_all, runs, arguments.jobs, arguments.out))


if __name__ == "__main__":
    main()
