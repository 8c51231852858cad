"""What the agents reach, on public environments, by rules that do not flatter; beside a peer in the same run.

    python tests/benchmarks/learning.py --tasks cartpole-stream-ac,cartpole-ppo --seeds 10 --out results.json
    python tests/benchmarks/learning.py --tasks cartpole-ppo --against stable-baselines3

Every seed is a process of its own with one thread for each library. A run is the loop itself: pipeline, agent,
judge and snapshots. Its *shipped* policy is the best one by 20 evaluation episodes, whose seeds are disjoint from
those of the 100 test episodes that give the final score. A threshold is reached where two evaluations in a row are at
or above it; a seed that never gets there counts as over its budget. Every environment step of the run counts; those of
the evaluations do not, nor does their time. The interquartile mean and its stratified bootstrap are those of Agarwal
et al. 2021 (arXiv 2108.13264). The peer gets the same budget, settings, evaluations and threads.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import gymnasium
import numpy as np
from optix_stream_adapters.gymnasium import BatchPipeline, evaluate_policy

from optix_stream import BaseEvaluator, EpisodeData, EvalMetrics, RLOptimizer
from optix_stream.cli.loading import make_agent, make_envs
from optix_stream.learner import deterministic_policy
from optix_stream.presets import preset_for

EVALUATION_SEED, TEST_SEED = 50_000, 90_000
EVALUATION_EPISODES, TEST_EPISODES = 20, 100
PEER = "stable-baselines3"


@dataclass(frozen=True, kw_only=True)
class Task:
    """One row of the table.

    Attributes:
        env: Gymnasium's name.
        agent: the command line's name.
        steps: budget of environment steps.
        evaluate_every: steps between evaluations.
        threshold: for the steps that it takes; None: none.
        bar: least interquartile mean of the final scores.
        each: least score that ``each_count`` seeds must reach.
        median_steps: most steps to the threshold, in the median.
        low: least lower end of the 95 % interval.
        seeds: how many, where the command does not say.
        peer: name and settings of the peer's algorithm.
    """

    env: str
    agent: str
    steps: int
    evaluate_every: int
    threshold: float | None = None
    bar: float | None = None
    each: float | None = None
    each_count: int = 10
    median_steps: int | None = None
    low: float | None = None
    seeds: int = 10
    peer: tuple[str, Mapping[str, Any]] | None = None


_PPO_CARTPOLE = {
    "n_envs": 8, "n_steps": 32, "batch_size": 256, "n_epochs": 20, "gamma": 0.98, "gae_lambda": 0.8, "ent_coef": 0.0,
    "learning_rate": ("linear", 1e-3), "clip_range": ("linear", 0.2),
}  # fmt: skip
_PPO_ACROBOT = {
    "n_envs": 16, "n_steps": 256, "batch_size": 64, "n_epochs": 4, "gamma": 0.99, "gae_lambda": 0.94, "ent_coef": 0.0,
    "normalize": True,
}  # fmt: skip
_DQN_CARTPOLE = {
    "learning_rate": 2.3e-3, "batch_size": 64, "buffer_size": 100_000, "learning_starts": 1000, "gamma": 0.99,
    "target_update_interval": 10, "train_freq": 256, "gradient_steps": 128, "exploration_fraction": 0.16,
    "exploration_final_eps": 0.04, "policy_kwargs": {"net_arch": [256, 256]},
}  # fmt: skip
_SAC_PENDULUM = {"learning_rate": 1e-3, "policy_kwargs": {"net_arch": [64, 64]}, "batch_size": 128}
_TD3_PENDULUM = {"learning_rate": 1e-3, "gamma": 0.98, "buffer_size": 200_000, "action_noise": 0.1}

TASKS: Mapping[str, Task] = {
    "cartpole-stream-ac": Task(
        env="CartPole-v1", agent="stream-ac", steps=20_000, evaluate_every=500,
        threshold=475, bar=500, each=500, median_steps=3000,
    ),
    "cartpole-ppo": Task(
        env="CartPole-v1", agent="ppo", steps=40_000, evaluate_every=2048, threshold=475, bar=500, each=475,
        peer=("PPO", _PPO_CARTPOLE),
    ),
    "cartpole-ppo-100k": Task(
        env="CartPole-v1", agent="ppo", steps=100_000, evaluate_every=100_000, seeds=3, peer=("PPO", _PPO_CARTPOLE),
    ),
    "cartpole-dqn": Task(
        env="CartPole-v1", agent="dqn", steps=50_000, evaluate_every=2560, threshold=475, bar=495,
        peer=("DQN", _DQN_CARTPOLE),
    ),
    "acrobot-ppo": Task(
        env="Acrobot-v1", agent="ppo", steps=60_000, evaluate_every=2048, threshold=-100, bar=-82,
        median_steps=15_000, peer=("PPO", _PPO_ACROBOT),
    ),
    "pendulum-sac": Task(
        env="Pendulum-v1", agent="sac", steps=6000, evaluate_every=500, threshold=-200, bar=-148,
        peer=("SAC", _SAC_PENDULUM),
    ),
    "pendulum-sac-20k": Task(
        env="Pendulum-v1", agent="sac", steps=20_000, evaluate_every=20_000, seeds=3, peer=("SAC", _SAC_PENDULUM),
    ),
    "pendulum-td3": Task(
        env="Pendulum-v1", agent="td3", steps=8000, evaluate_every=500, threshold=-200, bar=-150,
        peer=("TD3", _TD3_PENDULUM),
    ),
    "mountaincar-continuous-sac": Task(
        env="MountainCarContinuous-v0", agent="sac", steps=15_000, evaluate_every=1000, threshold=90, bar=92, each=90,
    ),
    "mountaincar-dqn": Task(
        env="MountainCar-v0", agent="dqn", steps=120_000, evaluate_every=4000, threshold=-110, bar=-105, seeds=5,
    ),
    "lunarlander-ppo": Task(
        env="LunarLander-v3", agent="ppo", steps=300_000, evaluate_every=16_384, threshold=200, bar=240, low=200,
    ),
    "lunarlander-continuous-ppo": Task(
        env="LunarLanderContinuous-v3", agent="ppo", steps=300_000, evaluate_every=16_384, threshold=200, bar=240,
        seeds=5,
    ),
    "lunarlander-continuous-sac": Task(
        env="LunarLanderContinuous-v3", agent="sac", steps=300_000, evaluate_every=10_000, threshold=200, bar=240,
        seeds=5,
    ),
    "halfcheetah-sac": Task(
        env="HalfCheetah-v5", agent="sac", steps=100_000, evaluate_every=5000, threshold=5000, bar=6000, seeds=3,
    ),
}  # fmt: skip


@dataclass(kw_only=True)
class Result:
    """One seed of one task.

    Attributes:
        score: mean return of the shipped policy over the test episodes.
        reached: steps to the threshold; None: never within the budget.
        train_sec: wall-clock of the run without its evaluations.
        curve: steps and evaluation score, at each evaluation.
    """

    task: str
    library: str
    seed: int
    score: float
    steps: int
    reached: int | None
    train_sec: float
    curve: list[tuple[int, float]] = field(default_factory=list)


class Curve:
    """Evaluates now and then; keeps the scores and the time that they took."""

    def __init__(self, task: Task, seed: int, evaluate: Callable[[gymnasium.Env[Any, Any], int, int], float]) -> None:
        self.points: list[tuple[int, float]] = []
        self.sec = 0.0
        self._task = task
        self._seed = EVALUATION_SEED + 1000 * seed
        self._env = gymnasium.make(task.env)
        self._evaluate = evaluate
        self._next = task.evaluate_every

    def point(self, steps: int, *, is_last: bool = False) -> float | None:
        """The score now, where an evaluation is due."""
        if steps < self._next and not is_last:
            return None
        self._next = (steps // self._task.evaluate_every + 1) * self._task.evaluate_every
        start = time.perf_counter()
        score = self._evaluate(self._env, EVALUATION_EPISODES, self._seed)
        self.sec += time.perf_counter() - start
        self.points.append((steps, score))
        return score

    @property
    def reached(self) -> int | None:
        """Steps at the first of two evaluations in a row at or above the threshold."""
        threshold = self._task.threshold
        if threshold is None:
            return None
        scores = [score >= threshold for _, score in self.points]
        for index in range(len(scores) - 1):
            if scores[index] and scores[index + 1]:
                return self.points[index][0]
        return None


# --- ours --------------------------------------------------------------------------------------


class Validation(BaseEvaluator):
    """Scores the agent by evaluation episodes instead of the window; a later one as good is better."""

    def __init__(self, curve: Curve, steps: int) -> None:
        self._curve = curve
        self._budget = steps
        self._steps = 0

    def score(self, episode_data: EpisodeData, train_diagnostics: dict[str, float]) -> EvalMetrics | None:
        self._steps += episode_data.length
        score = self._curve.point(self._steps, is_last=self._steps >= self._budget)
        return None if score is None else EvalMetrics(score, {}, episode_data.episode_id)

    def compare(self, candidate: EvalMetrics, baseline: EvalMetrics) -> bool:
        return candidate.primary_score >= baseline.primary_score


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
        curve = Curve(
            task,
            seed,
            lambda env, count, first: float(
                np.mean(evaluate_policy(deterministic_policy(agent), env, count, seed=first))
            ),
        )
        optimizer = RLOptimizer(
            agent,
            BatchPipeline(env, window_size=window, seed=seed),
            evaluator=Validation(curve, task.steps),
            checkpoint_dir=directory,
            max_episodes=math.ceil(task.steps / window),
            plateau_threshold=10**9,
            dormant_threshold=10**9 + 1,
        )
        start = time.perf_counter()
        report = anyio.run(optimizer.run)
        train_sec = time.perf_counter() - start - curve.sec
    assert report.statistics.is_balanced
    test = evaluate_policy(deterministic_policy(agent), gymnasium.make(task.env), TEST_EPISODES, seed=TEST_SEED)
    return Result(
        task=name,
        library="optix_stream",
        seed=seed,
        score=float(np.mean(test)),
        steps=report.transitions,
        reached=curve.reached,
        train_sec=train_sec,
        curve=curve.points,
    )


# --- the peer ----------------------------------------------------------------------------------


def run_peer(name: str, task: Task, seed: int) -> Result:
    # By name, so that the types do not depend on what is installed: the peer is no part of the project.
    load: Callable[[str], Any] = importlib.import_module
    sb3, torch = load(PEER.replace("-", "_")), load("torch")
    common = f"{sb3.__name__}.common"
    VecNormalize = load(f"{common}.vec_env").VecNormalize  # noqa: N806
    NormalActionNoise = load(f"{common}.noise").NormalActionNoise  # noqa: N806
    make_vec_env = load(f"{common}.env_util").make_vec_env

    torch.set_num_threads(1)
    assert task.peer is not None
    algorithm, settings = task.peer[0], dict(task.peer[1])
    for key, value in settings.items():
        if isinstance(value, tuple) and value[0] == "linear":
            settings[key] = lambda left, top=value[1]: top * left
    env: Any = make_vec_env(task.env, n_envs=settings.pop("n_envs", 1), seed=seed)
    normalize = VecNormalize(env, gamma=settings["gamma"]) if settings.pop("normalize", False) else None
    if "action_noise" in settings:
        shape = env.action_space.shape
        settings["action_noise"] = NormalActionNoise(np.zeros(shape), settings["action_noise"] * np.ones(shape))
    model = getattr(sb3, algorithm)("MlpPolicy", normalize or env, seed=seed, device="cpu", **settings)

    def evaluate(env: gymnasium.Env[Any, Any], episodes: int, first: int) -> float:
        returns = []
        for episode in range(episodes):
            observation, _ = env.reset(seed=first + episode)
            total, is_done = 0.0, False
            while not is_done:
                if normalize is not None:
                    observation = normalize.normalize_obs(observation)
                action, _ = model.predict(observation, deterministic=True)
                observation, reward, terminated, truncated, _ = env.step(action)
                total += float(reward)
                is_done = terminated or truncated
            returns.append(total)
        return float(np.mean(returns))

    curve = Curve(task, seed, evaluate)
    best: list[Any] = [-math.inf, None, None]

    def watch(_locals: Any, _globals: Any) -> bool:
        score = curve.point(model.num_timesteps, is_last=False)
        if score is not None and score >= best[0]:
            moments = None if normalize is None else (normalize.obs_rms.mean.copy(), normalize.obs_rms.var.copy())
            best[:] = [score, {k: v.clone() for k, v in model.policy.state_dict().items()}, moments]
        return True

    start = time.perf_counter()
    model.learn(task.steps, callback=watch)
    train_sec = time.perf_counter() - start - curve.sec
    if best[1] is not None:
        model.policy.load_state_dict(best[1])
        if normalize is not None:
            normalize.obs_rms.mean, normalize.obs_rms.var = best[2]
    return Result(
        task=name,
        library=PEER,
        seed=seed,
        score=evaluate(gymnasium.make(task.env), TEST_EPISODES, TEST_SEED),
        steps=model.num_timesteps,
        reached=curve.reached,
        train_sec=train_sec,
        curve=curve.points,
    )


# --- figures -----------------------------------------------------------------------------------


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """Mean of the middle half along the last axis, weighting what a quarter cuts through."""
    ordered = np.sort(scores, axis=-1)
    count = ordered.shape[-1]
    weights = np.clip(np.minimum(np.arange(1, count + 1), np.arange(count, 0, -1)) - count / 4, 0.0, 1.0)
    return np.asarray((ordered * weights).sum(axis=-1) / weights.sum())


def interval(scores: np.ndarray, repetitions: int = 5000) -> tuple[float, float]:
    """95 % bootstrap interval of the interquartile mean."""
    rng = np.random.default_rng(0)
    drawn = scores[rng.integers(len(scores), size=(repetitions, len(scores)))]
    low, high = np.percentile(interquartile_mean(drawn), [2.5, 97.5])
    return float(low), float(high)


def describe(name: str, task: Task, results: list[Result]) -> str:
    scores = np.asarray([result.score for result in results])
    middle, (low, high) = float(interquartile_mean(scores)), interval(scores)
    steps = [result.reached if result.reached is not None else math.inf for result in results]
    median = statistics.median(steps)
    reached = "-" if task.threshold is None else f">{task.steps:,}" if math.isinf(median) else f"{median:,.0f}"
    text = (
        f"{name:<28} {results[0].library:<18} {len(results):>2} seeds  IQM {middle:8.1f}  [{low:.1f}, {high:.1f}]  "
        f"worst {scores.min():8.1f}  to {task.threshold}: {reached}  "
        f"{statistics.median(result.train_sec for result in results):.1f} s"
    )
    if results[0].library == PEER:
        return text
    verdicts = []
    if task.bar is not None:
        verdicts.append((f"IQM >= {task.bar:g}", middle >= task.bar - 1e-9))
    if task.each is not None:
        count = int((scores >= task.each - 1e-9).sum())
        verdicts.append((f"{count} of {len(scores)} >= {task.each:g}", count == len(scores)))
    if task.median_steps is not None:
        verdicts.append((f"median <= {task.median_steps:,}", median <= task.median_steps))
    if task.low is not None:
        verdicts.append((f"low end >= {task.low:g}", low >= task.low))
    return text + "".join(f"\n    {what}: {'met' if is_met else 'MISSED'}" for what, is_met in verdicts)


def run_in_a_process(name: str, library: str, seed: int) -> Result:
    environment = dict(os.environ, OMP_NUM_THREADS="1", TF_CPP_MIN_LOG_LEVEL="3", TF_ENABLE_ONEDNN_OPTS="0")
    environment |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    command = [sys.executable, __file__, "--one", name, library, str(seed)]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name}, {library}, seed {seed} failed:\n{done.stderr[-3000:]}")
    return Result(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(TASKS), help=f"of {', '.join(TASKS)}")
    parser.add_argument("--seeds", type=int, help="how many, from 0")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once; times mean little above 1")
    parser.add_argument("--against", choices=(PEER,), help="run the peer too")
    parser.add_argument("--out", type=Path, help="append raw results, a line of JSON each")
    parser.add_argument("--one", nargs=3, metavar=("TASK", "LIBRARY", "SEED"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        name, library, seed = arguments.one
        run = run_peer if library == PEER else run_ours
        print(json.dumps(dataclasses.asdict(run(name, TASKS[name], int(seed)))))
        return
    for name in arguments.tasks.split(","):
        task = TASKS[name]
        libraries = ["optix_stream", *([PEER] if arguments.against and task.peer is not None else [])]
        seeds = range(arguments.seeds if arguments.seeds is not None else task.seeds)
        results = anyio.run(
            _run_all, [(name, library, seed) for seed in seeds for library in libraries], arguments.jobs
        )
        if arguments.out is not None:
            with arguments.out.open("a") as file:
                file.writelines(json.dumps(dataclasses.asdict(result)) + "\n" for result in results)
        for library in libraries:
            print(describe(name, task, [result for result in results if result.library == library]), flush=True)
        if len(libraries) == 2:
            ours, peer = ([r.train_sec for r in results if r.library == library] for library in libraries)
            print(f"    wall-clock {statistics.median(a / b for a, b in zip(ours, peer, strict=True)):.2f}x the peer's")


async def _run_all(runs: list[tuple[str, str, int]], jobs: int) -> list[Result]:
    results: dict[tuple[str, str, int], Result] = {}
    limiter = anyio.CapacityLimiter(jobs)

    async def run(key: tuple[str, str, int]) -> None:
        results[key] = await anyio.to_thread.run_sync(run_in_a_process, *key, limiter=limiter)
        result = results[key]
        print(f"  {key[0]} {key[1]} seed {key[2]}: {result.score:.1f} in {result.train_sec:.1f} s", file=sys.stderr)

    async with anyio.create_task_group() as tasks:
        for key in runs:
            tasks.start_soon(run, key)
    return [results[key] for key in runs]


if __name__ == "__main__":
    main()
