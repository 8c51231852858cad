"""Training for what you want and not only for reward: an evaluator that scores each window by its Sharpe ratio.

A trader holds -1, 0 or +1 of something whose price swings around 100, and pays for every change. PPO maximises the
profit; the *loop* keeps, and restores at the end, the policy whose profits were the steadiest for their size. You
will see each new best, and at the end the Sharpe ratio of that policy on fresh days beside doing nothing and acting
at random.

    python demos/custom_evaluator.py
    python demos/custom_evaluator.py --quick

`TF_CPP_MIN_LOG_LEVEL=3` in the environment keeps TensorFlow's own log off the screen.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from optix_stream_adapters.gymnasium import BatchPipeline
from optix_stream_adapters.tensorflow import PPOAgent

from optix_stream import BaseEvaluator, EpisodeData, EvalMetrics, Improved, RLOptimizer


@dataclass(frozen=True)
class Arguments:
    """What can be set from the command line."""

    seed: int = 0
    windows: int = 60
    window: int = 1024
    test_days: int = 20


class Swings(gymnasium.Env[Any, Any]):
    """A price that is drawn back to 100. The reward is the profit of the position since the step before, less costs.

    Observation: how far the price is from 100, and the position held. Actions 0, 1, 2 are the positions -1, 0, +1.
    """

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)
    steps_a_day = 100
    pull, noise, cost = 0.2, 1.0, 0.1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._distance = float(self.np_random.normal(0.0, 1.5))
        self._position = self._step = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        position = int(action) - 1
        change = -self.pull * self._distance + self.noise * float(self.np_random.normal())
        reward = position * change - self.cost * abs(position - self._position)
        self._distance += change
        self._position = position
        self._step += 1
        return self._observe(), reward, False, self._step >= self.steps_a_day, {}

    def _observe(self) -> Any:
        return np.array([self._distance, self._position], np.float32)


def sharpe(profits: Any) -> float:
    """Mean over standard deviation of the profits of single steps, scaled to a day."""
    profits = np.asarray(profits, np.float64)
    spread = float(profits.std())
    return math.sqrt(Swings.steps_a_day) * float(profits.mean()) / spread if spread else 0.0


class SharpeEvaluator(BaseEvaluator):
    """Scores a window by the Sharpe ratio of its rewards."""

    def score(self, episode_data: EpisodeData, train_diagnostics: dict[str, float]) -> EvalMetrics:
        return EvalMetrics(
            sharpe(episode_data.rewards),
            {"profit": episode_data.total_reward},
            episode_data.episode_id,
            basis="sharpe",
        )


def trade(act: Callable[[Any], Any], days: int, seed: int) -> float:
    """The Sharpe ratio over some fresh days."""
    env, profits = Swings(), []
    for day in range(days):
        observation, _ = env.reset(seed=seed + day)
        is_over = False
        while not is_over:
            observation, profit, _, is_over, _ = env.step(act(observation))
            profits.append(profit)
    return sharpe(profits)


async def main(arguments: Arguments) -> None:
    env = gymnasium.vector.SyncVectorEnv([Swings] * 8)
    agent = PPOAgent.for_spaces(Swings.observation_space, Swings.action_space, seed=arguments.seed)
    pipeline = BatchPipeline(env, window_size=arguments.window, seed=arguments.seed)
    with tempfile.TemporaryDirectory() as checkpoints:
        optimizer = RLOptimizer(
            agent,
            pipeline,
            evaluator=SharpeEvaluator(),
            checkpoint_dir=checkpoints,
            max_episodes=arguments.windows,
            dormant_threshold=arguments.windows,
        )

        async def watch() -> None:
            async with optimizer.events() as events:
                async for event in events:
                    if isinstance(event, Improved):
                        print(
                            f"window {event.window:3}: new best, Sharpe {event.snapshot.eval_metrics.primary_score:.2f}"
                        )

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(watch())
            await optimizer.run()
    policy = agent.publish_policy(deterministic=True)
    rng = np.random.default_rng(arguments.seed)
    first_day = 10_000 + arguments.seed
    print("Sharpe ratio on fresh days:")
    print(f"  trained {trade(lambda seen: policy.act(seen[None]).actions[0], arguments.test_days, first_day):6.2f}")
    print(f"  flat    {trade(lambda seen: 1, arguments.test_days, first_day):6.2f}")
    print(f"  random  {trade(lambda seen: rng.integers(3), arguments.test_days, first_day):6.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=Arguments.seed)
    parser.add_argument("--quick", action="store_true", help="a short run")
    options = parser.parse_args()
    asyncio.run(main(Arguments(seed=options.seed, windows=15 if options.quick else Arguments.windows)))
