"""Results of learning runs, and the figures that are made of them.

The interquartile mean and its stratified bootstrap are those of Agarwal et al. 2021 (arXiv 2108.13264).
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from tasks import Task

EVALUATION_SEED, TEST_SEED = 50_000, 90_000
TEST_EPISODES, AT_A_TIME = 100, 20
PEER = "stable-baselines3"

Act: TypeAlias = Callable[[Any], Any]
"""Observations ``[N, …]`` in, ``N`` actions out."""


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


def mean_return(act: Act, env_id: str, episodes: int, seed: int) -> float:
    """Of whole episodes, each with a seed of its own; some at a time, so that one decision serves them all."""
    total = 0.0
    for first in range(0, episodes, AT_A_TIME):
        envs = [gymnasium.make(env_id) for _ in range(min(AT_A_TIME, episodes - first))]
        observations = [env.reset(seed=seed + first + index)[0] for index, env in enumerate(envs)]
        live = list(range(len(envs)))
        while live:
            actions = act(np.stack([observations[index] for index in live]))
            left = []
            for index, action in zip(live, actions, strict=True):
                observations[index], reward, terminated, truncated, _ = envs[index].step(action)
                total += float(reward)
                if not (terminated or truncated):
                    left.append(index)
            live = left
    return total / episodes


def mean_return_side_by_side(act: Act, env_id: str, episodes: int, seed: int) -> float:
    """Of the first episode of each of ``episodes`` environments that are stepped as one."""
    env = gymnasium.make_vec(env_id, num_envs=episodes)
    observations, _ = env.reset(seed=seed)
    total, is_live = 0.0, np.ones(episodes, np.bool_)
    while is_live.any():
        observations, rewards, terminated, truncated, _ = env.step(act(observations))
        total += float(rewards[is_live].sum())
        is_live &= ~(terminated | truncated)
    return total / episodes


class Curve:
    """Evaluates now and then; keeps the scores and the time that they took.

    Args:
        task: says when.
        seed: of the run; evaluations have seeds of their own.
        policy: gives the policy of the moment, without exploration.
    """

    def __init__(self, task: Task, seed: int, policy: Callable[[], Act]) -> None:
        self.points: list[tuple[int, float]] = []
        self.sec = 0.0
        self._task = task
        self._seed = EVALUATION_SEED + 1000 * seed
        self._policy = policy
        is_one = gymnasium.spec(task.env).vector_entry_point is not None
        self._evaluate = mean_return_side_by_side if is_one else mean_return
        self._next = task.evaluate_every

    def point(self, steps: int, *, is_last: bool = False) -> float | None:
        """The score now, where an evaluation is due."""
        if steps < self._next and not is_last:
            return None
        self._next = (steps // self._task.evaluate_every + 1) * self._task.evaluate_every
        start = time.perf_counter()
        score = self._evaluate(self._policy(), self._task.env, self._task.episodes, self._seed)
        self.sec += time.perf_counter() - start
        self.points.append((steps, score))
        return score

    @property
    def level(self) -> float:
        """Mean of the latest three scores: the luck of single ones would choose the policy."""
        return statistics.fmean(score for _, score in self.points[-3:])

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
