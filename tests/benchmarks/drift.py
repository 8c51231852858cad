"""What an agent does when the world changes under it and nobody tells: CartPole whose action changes sign.

    OMP_NUM_THREADS=1 python tests/benchmarks/drift.py --seeds 10
    OMP_NUM_THREADS=1 python tests/benchmarks/drift.py --seeds 3 --agent ppo

A run is the loop itself, by the command line's settings. Left becomes right at step 15,000, and again every 15,000
steps, in the middle of an episode; nothing in observations or rewards says so. The agent has recovered where two
evaluations in a row, in the world as it is, are at 475 or above; the first of them is what counts, in steps since the
flip. Beside it: a *frozen* copy from right before the flip, whose fall shows that there is something to recover from;
an agent that is *reset* at the flip and learns from scratch; and an *oracle*, the frozen copy with its actions swapped.
A seed that does not recover before the next flip counts as slower than any other.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import anyio
import gymnasium
import numpy as np
from optix_stream_adapters.gymnasium import BatchPipeline, evaluate_policy

from optix_stream import BaseEvaluator, EpisodeData, EvalMetrics, Policy, RLOptimizer
from optix_stream.cli.loading import make_agent
from optix_stream.learner import deterministic_policy
from optix_stream.presets import preset_for

ENV = "CartPole-v1"
THRESHOLD = 475.0
EVALUATION_SEED, EVALUATION_EPISODES = 50_000, 20
WATCHED, CALM = 250, 2500
"""Steps between evaluations, until the agent has recovered and afterwards."""
FROZEN_BAR, MOST_BAR, MEDIAN_BAR, LAST_BAR = 250.0, 6000, 3500, 1.5


class Flipping(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Swaps the two actions at certain steps.

    Args:
        env: CartPole.
        every: its own steps between two flips; None: never.
        flipped: whether it begins so.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], every: int | None = None, flipped: bool = False) -> None:
        super().__init__(env)
        self._every = every
        self._steps = 0
        self._flipped = flipped

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        if self._every is not None and self._steps and self._steps % self._every == 0:
            self._flipped = not self._flipped
        self._steps += 1
        return self.env.step(1 - action if self._flipped else action)


@dataclass(kw_only=True)
class Result:
    """One seed.

    Attributes:
        before: score right before the first flip.
        frozen: of the copy from then, right after it.
        oracle: of the copy with its actions swapped.
        recoveries: steps from each flip until the agent has recovered; None: not before the next.
        reset: steps that an agent needs which begins from scratch at the first flip; None: more than there are.
        curve: steps and score at each evaluation.
    """

    agent: str
    seed: int
    before: float = math.nan
    frozen: float = math.nan
    oracle: float = math.nan
    recoveries: list[int | None] = field(default_factory=list)
    reset: int | None = None
    wall_sec: float = 0.0
    curve: list[tuple[int, float]] = field(default_factory=list)


class World:
    """Evaluates policies in CartPole as it is or flipped."""

    def __init__(self, seed: int) -> None:
        self._seed = EVALUATION_SEED + 1000 * seed
        self._envs = [Flipping(gymnasium.make(ENV), flipped=flipped) for flipped in (False, True)]

    def score(self, policy: Policy, *, flipped: bool) -> float:
        """Mean return of whole episodes."""
        return float(np.mean(evaluate_policy(policy, self._envs[flipped], EVALUATION_EPISODES, seed=self._seed)))


class Watch(BaseEvaluator):
    """Scores the agent in the world of the moment, often until it has recovered, and tells at each flip.

    Args:
        score: of the agent now, in the flipped world or the other.
        every: steps between flips.
        before_flip: called right before the first one, with the score.
        flipped: whether the world begins so.
    """

    def __init__(
        self,
        score: Callable[[bool], float],
        every: int,
        before_flip: Callable[[float], None] = lambda _: None,
        *,
        flipped: bool = False,
    ) -> None:
        self.curve: list[tuple[int, float]] = []
        self.recoveries: list[int | None] = []
        """Steps since the beginning, and since each flip; see ``Result``."""
        self._score = score
        self._every = every
        self._before_flip = before_flip
        self._flipped = flipped
        self._steps = 0
        self._next = WATCHED
        self._phase: list[tuple[int, float]] = []

    def score(self, episode_data: EpisodeData, train_diagnostics: dict[str, float]) -> EvalMetrics | None:
        self._steps += episode_data.length
        phase, within = divmod(self._steps, self._every)
        is_last = within < episode_data.length
        if self._steps < self._next and not is_last:
            return None
        # The last evaluation before a flip is of the world before it.
        flips = phase - 1 if is_last else phase
        score = self._score(self._flipped ^ bool(flips % 2))
        self.curve.append((self._steps, score))
        self._phase.append((self._steps - flips * self._every, score))
        self._next = self._steps + (WATCHED if self._recovered is None else CALM)
        if is_last:
            self.recoveries.append(self._recovered)
            if flips == 0:
                self._before_flip(score)
            self._phase = []
            self._next = self._steps + WATCHED
        return EvalMetrics(score, {}, episode_data.episode_id)

    @property
    def _recovered(self) -> int | None:
        for (steps, first), (_, second) in zip(self._phase, self._phase[1:], strict=False):
            if min(first, second) >= THRESHOLD:
                return steps
        return None


def run(name: str, seed: int, flips: int, every: int) -> Result:
    """One seed: the run with its flips, and the one from scratch."""
    result, world, start = Result(agent=name, seed=seed), World(seed), time.perf_counter()

    def before_flip(policy: Callable[[], Policy], score: float) -> None:
        result.before = score
        result.frozen = world.score(policy(), flipped=True)
        # Swapping the actions of a policy and those of the world is the same.
        result.oracle = world.score(policy(), flipped=False)

    watch = _run_loop(name, seed, (flips + 1) * every, every, world, before_flip)
    result.recoveries, result.curve = watch.recoveries[1:], watch.curve
    scratch = _run_loop(name, seed + 1000, every, every, world, None)
    result.reset = scratch.recoveries[0]
    result.wall_sec = time.perf_counter() - start
    return result


def _run_loop(
    name: str,
    seed: int,
    steps: int,
    every: int,
    world: World,
    before_flip: Callable[[Callable[[], Policy], float], None] | None,
) -> Watch:
    """The loop; ``before_flip`` None: in a world that is flipped from the start and stays so."""
    preset = preset_for(ENV, name)
    config = dict(preset.agent)
    if "schedule_steps" in config:
        config["schedule_steps"] = steps
    flipped, envs = before_flip is None, preset.num_envs
    wrap = partial(Flipping, every=None if flipped else every // envs, flipped=flipped)
    env: Any
    if envs == 1:
        env = wrap(gymnasium.make(ENV))
        observation_space, action_space = env.observation_space, env.action_space
    else:
        env = gymnasium.make_vec(ENV, num_envs=envs, vectorization_mode="sync", wrappers=[wrap])
        observation_space, action_space = env.single_observation_space, env.single_action_space
    window = min(preset.window_size, WATCHED)
    agent = make_agent(name, observation_space, action_space, seed=seed, config=config)
    policy = partial(deterministic_policy, agent)
    watch = Watch(
        lambda is_flipped: world.score(policy(), flipped=is_flipped),
        every,
        partial(before_flip, policy) if before_flip is not None else lambda _: None,
        flipped=flipped,
    )
    with tempfile.TemporaryDirectory() as directory:
        optimizer = RLOptimizer(
            agent,
            BatchPipeline(env, window_size=window, seed=seed),
            evaluator=watch,
            checkpoint_dir=directory,
            max_episodes=math.ceil(steps / window),
            plateau_threshold=10**9,
            dormant_threshold=10**9 + 1,
        )
        report = anyio.run(optimizer.run)
    assert report.statistics.is_balanced
    return watch


# --- figures -----------------------------------------------------------------------------------


def median_of(recoveries: Sequence[int | None]) -> float:
    """The median, where None is more than any number."""
    return float(statistics.median(math.inf if steps is None else steps for steps in recoveries))


def in_words(steps: float) -> str:
    return "not before the next flip" if math.isinf(steps) else f"{steps:,.0f}"


def report(results: list[Result], *, with_bars: bool) -> None:
    count, flips = len(results), len(results[0].recoveries)
    firsts = [result.recoveries[0] for result in results]
    worst_frozen = max(result.frozen for result in results)
    print(f"{results[0].agent}, {count} seeds, {flips} flips; steps in the median over the seeds")
    print(f"  score before the flip      {statistics.median(result.before for result in results):8.1f}")
    print(f"  frozen copy after it       {statistics.median(r.frozen for r in results):8.1f}   best {worst_frozen:.1f}")
    print(f"  oracle after it            {statistics.median(result.oracle for result in results):8.1f}   at once")
    slowest = math.inf if None in firsts else max(steps for steps in firsts if steps is not None)
    print(f"  back at {THRESHOLD:g}, first flip    {in_words(median_of(firsts))}   slowest {in_words(slowest)}")
    medians = [median_of([result.recoveries[flip] for result in results]) for flip in range(flips)]
    print(f"  back at {THRESHOLD:g}, each flip     {', '.join(map(in_words, medians))}")
    print(f"  reset, from scratch        {in_words(median_of([result.reset for result in results]))}")
    print(f"  wall-clock of a seed       {statistics.median(result.wall_sec for result in results):.1f} s")
    if not with_bars:
        return
    ratio = medians[-1] / medians[0] if math.isfinite(medians[-1]) else math.inf
    verdicts = [
        (f"frozen copy below {FROZEN_BAR:g} in {count} of {count}", worst_frozen < FROZEN_BAR),
        (f"back within {MOST_BAR:,} steps in {count} of {count}", slowest <= MOST_BAR),
        (f"back within {MEDIAN_BAR:,} steps in the median", median_of(firsts) <= MEDIAN_BAR),
    ]
    if flips > 1:
        verdicts.append((f"recovery {flips} / recovery 1 = {ratio:.2f}x <= {LAST_BAR:g}x", ratio <= LAST_BAR))
    for what, is_met in verdicts:
        print(f"{what}  {'MET' if is_met else 'MISSED'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", default="stream-ac", help="the command line's name; bars are for stream-ac")
    parser.add_argument("--seeds", type=int, default=10, help="how many, from 0")
    parser.add_argument("--first", type=int, default=0, help="the first of them that is run")
    parser.add_argument("--flips", type=int, default=5)
    parser.add_argument("--every", type=int, default=15_000, help="steps before the first flip and between two")
    parser.add_argument("--out", type=Path, help="append raw results, a line of JSON each")
    parser.add_argument("--report", type=Path, help="run nothing; report on raw results")
    arguments = parser.parse_args()
    if arguments.report is not None:
        lines = [Result(**json.loads(line)) for line in arguments.report.read_text().splitlines()]
        results = [result for result in lines if result.agent == arguments.agent]
        report(results, with_bars=arguments.agent == "stream-ac")
        return
    results = []
    for seed in range(arguments.first, arguments.seeds):
        result = run(arguments.agent, seed, arguments.flips, arguments.every)
        results.append(result)
        if arguments.out is not None:
            with arguments.out.open("a") as file:
                file.write(json.dumps(dataclasses.asdict(result)) + "\n")
        print(
            f"  seed {seed}: {result.before:.0f}, frozen {result.frozen:.0f}, back after {result.recoveries}, "
            f"from scratch {result.reset}, {result.wall_sec:.0f} s",
            file=sys.stderr,
            flush=True,
        )
    report(results, with_bars=arguments.agent == "stream-ac")


if __name__ == "__main__":
    main()
