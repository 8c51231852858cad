"""What the agents reach, on public environments, by rules that do not flatter; beside a peer in the same run.

    python tests/benchmarks/learning.py --tasks cartpole-stream-ac,cartpole-ppo --seeds 10 --out results.json
    python tests/benchmarks/learning.py --tasks cartpole-ppo --against stable-baselines3

Every seed is a process of its own with one thread for each library. A run is the loop itself: pipeline, agent,
judge and snapshots. Its *shipped* policy is the one at which three evaluations in a row had the best mean; the seeds
of their episodes are disjoint from those of the 100 test episodes that give the final score. A threshold is reached
where two evaluations in a row are at or above it; a seed that never gets there counts as over its budget. Every
environment step of the run counts; those of the evaluations do not, nor does their time. The interquartile mean and its
stratified bootstrap are those of Agarwal et al. 2021 (arXiv 2108.13264). The peer gets the same budget, settings,
evaluations and threads.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TypeAlias

import anyio
from lagging import LaggingAgent
from optix_stream_adapters.gymnasium import BatchPipeline
from peer import run_peer
from scores import PEER, TEST_EPISODES, TEST_SEED, Act, Curve, Result, describe, mean_return
from tasks import TASKS, Task

from optix_stream import BaseAgent, BaseEvaluator, EpisodeData, EvalMetrics, Outcome, RLOptimizer, Verdict
from optix_stream.cli.loading import make_agent, make_envs
from optix_stream.learner import deterministic_policy
from optix_stream.presets import preset_for


class Validation(BaseEvaluator):
    """Scores the agent by evaluation episodes instead of the window."""

    def __init__(self, curve: Curve, steps: int) -> None:
        self._curve = curve
        self._budget = steps
        self._steps = 0

    def score(self, episode_data: EpisodeData, train_diagnostics: dict[str, float]) -> EvalMetrics | None:
        self._steps += episode_data.length
        score = self._curve.point(self._steps, is_last=self._steps >= self._budget)
        return None if score is None else EvalMetrics(self._curve.level, {}, episode_data.episode_id)


class LatestBest:
    """A judge that keeps the best policy, and of several as good the latest, which has learned most."""

    def __init__(self) -> None:
        self._best = -math.inf

    def update(self, metrics: EvalMetrics) -> Verdict:
        score = metrics.primary_score
        if score < self._best:
            return Verdict(outcome=Outcome.UNCHANGED, evidence=f"score {score:.6g} is below {self._best:.6g}")
        self._best = score
        return Verdict(outcome=Outcome.IMPROVED, evidence=f"score {score:.6g} is the best", promote=True)

    def restart(self) -> None:
        self._best = -math.inf

    def reinstate(self) -> None:
        pass


def best_of(agent: BaseAgent) -> Act:
    """What the agent does when it does not explore."""
    policy = deterministic_policy(agent)
    return lambda observations: policy.act(observations).actions


def run_ours(name: str, task: Task, seed: int) -> Result:
    preset = preset_for(task.env, task.agent)
    config = dict(preset.agent)
    if config.get("schedule_steps") is not None:
        config["schedule_steps"] = task.steps
    env, observation_space, action_space = make_envs(task.env, preset.num_envs)
    # So that evaluations fall where they should, also where windows are long.
    window = min(preset.window_size, task.evaluate_every)
    with tempfile.TemporaryDirectory() as directory:
        agent = make_agent(task.agent, observation_space, action_space, seed=seed, config=config)
        curve = Curve(task, seed, lambda: best_of(agent))
        optimizer = RLOptimizer(
            LaggingAgent(agent, window) if task.is_lagging else agent,
            BatchPipeline(env, window_size=window, seed=seed),
            evaluator=Validation(curve, task.steps),
            checkpoint_dir=directory,
            max_episodes=math.ceil(task.steps / window),
            plateau_threshold=10**9,
            dormant_threshold=10**9 + 1,
            judge=LatestBest(),
        )
        start = time.perf_counter()
        report = anyio.run(optimizer.run)
        train_sec = time.perf_counter() - start - curve.sec
    assert report.statistics.is_balanced
    return Result(
        task=name,
        library="optix_stream",
        seed=seed,
        score=mean_return(best_of(agent), task.env, TEST_EPISODES, TEST_SEED),
        steps=report.transitions,
        reached=curve.reached,
        train_sec=train_sec,
        curve=curve.points,
    )


def run_in_a_process(name: str, library: str, seed: int, steps: int) -> Result:
    environment = dict(os.environ, OMP_NUM_THREADS="1", TF_CPP_MIN_LOG_LEVEL="3", TF_ENABLE_ONEDNN_OPTS="0")
    environment |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    command = [sys.executable, __file__, "--one", name, library, str(seed), str(steps)]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name}, {library}, seed {seed} failed:\n{done.stderr[-3000:]}")
    return Result(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(TASKS), help=f"of {', '.join(TASKS)}")
    parser.add_argument("--seeds", type=int, help="how many, from 0")
    parser.add_argument("--first", type=int, default=0, help="the first of them that is run")
    parser.add_argument("--steps", type=int, help="instead of the task's budget, for a try; bars are for the budget")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once; times mean little above 1")
    parser.add_argument("--against", choices=(PEER,), help="run the peer too")
    parser.add_argument("--out", type=Path, help="append raw results, a line of JSON each")
    parser.add_argument("--report", type=Path, help="run nothing; report on raw results")
    parser.add_argument("--one", nargs=4, metavar=("TASK", "LIBRARY", "SEED", "STEPS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        name, library, seed, steps = arguments.one
        run = run_peer if library == PEER else run_ours
        print(json.dumps(dataclasses.asdict(run(name, dataclasses.replace(TASKS[name], steps=int(steps)), int(seed)))))
        return
    if arguments.report is not None:
        stored = [Result(**json.loads(line)) for line in arguments.report.read_text().splitlines()]
        for name in dict.fromkeys(result.task for result in stored):
            report(name, [result for result in stored if result.task == name])
        return
    for name in arguments.tasks.split(","):
        task = TASKS[name]
        libraries = ["optix_stream", *([PEER] if arguments.against and task.peer is not None else [])]
        seeds = range(arguments.first, arguments.seeds if arguments.seeds is not None else task.seeds)
        steps = arguments.steps if arguments.steps is not None else task.steps
        runs = [(name, library, seed, steps) for seed in seeds for library in libraries]
        results = anyio.run(_run_all, runs, arguments.jobs, arguments.out)
        report(name, results)


def report(name: str, results: list[Result]) -> None:
    """Figures, verdicts, and what the same seeds took in both libraries."""
    by_library: dict[str, dict[int, Result]] = {}
    for result in results:
        by_library.setdefault(result.library, {})[result.seed] = result
    for runs in by_library.values():
        print(describe(name, TASKS[name], list(runs.values())), flush=True)
    if len(by_library) == 2:
        ours, peer = by_library["optix_stream"], by_library[PEER]
        ratios = [ours[seed].train_sec / peer[seed].train_sec for seed in ours.keys() & peer.keys()]
        print(f"    wall-clock {statistics.median(ratios):.2f}x the peer's")


_Run: TypeAlias = tuple[str, str, int, int]
"""Task, library, seed and steps."""


async def _run_all(runs: list[_Run], jobs: int, out: Path | None) -> list[Result]:
    results: dict[_Run, Result] = {}
    limiter = anyio.CapacityLimiter(jobs)

    async def run(key: _Run) -> None:
        results[key] = await anyio.to_thread.run_sync(run_in_a_process, *key, limiter=limiter)
        result = results[key]
        if out is not None:
            with out.open("a") as file:
                file.write(json.dumps(dataclasses.asdict(result)) + "\n")
        print(f"  {key[0]} {key[1]} seed {key[2]}: {result.score:.1f} in {result.train_sec:.1f} s", file=sys.stderr)

    async with anyio.create_task_group() as tasks:
        for key in runs:
            tasks.start_soon(run, key)
    return [results[key] for key in runs]


if __name__ == "__main__":
    main()
