"""What acting costs: the fast policy beside an eager Keras call, and BatchPipeline beside a bare environment.

Each pair runs in the same process, in alternating rounds. What is compared is the median over the rounds of their
ratio: machines are noisy, ratios are less so.

    pip install 'optix-stream[all]'
    python tests/benchmarks/acting.py
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import anyio
import gymnasium
import keras
import numpy as np
from optix_stream_adapters.gymnasium import BatchPipeline
from optix_stream_adapters.tensorflow import PPOAgent, TFAgent

from optix_stream import BaseAgent, HyperparamSet, Policy, RLOptimizer, RunReport
from optix_stream.contracts import act_one_of
from optix_stream.testing import NullAgent

ACT_BAR = 100.0
STEP_BAR = 0.5
WINDOW_SIZE = 200


def make_model() -> Any:
    return keras.Sequential(
        [
            keras.layers.Input(shape=(4,)),
            keras.layers.Dense(64, activation="tanh"),
            keras.layers.Dense(64, activation="tanh"),
            keras.layers.Dense(2),
        ]
    )


def train(agent: BaseAgent, windows: int) -> RunReport:
    """Run the agent in CartPole."""
    with tempfile.TemporaryDirectory() as directory:
        pipeline = BatchPipeline(gymnasium.make("CartPole-v1"), window_size=WINDOW_SIZE, seed=0)
        optimizer = RLOptimizer(
            agent, pipeline, checkpoint_dir=directory, max_episodes=windows, dormant_threshold=10**9
        )
        return anyio.run(optimizer.run)


def tf_policy(model: Any) -> Policy:
    """The published policy of a TFAgent with ``model``."""
    return TFAgent(
        model=model, optimizer=keras.optimizers.Adam(), hyperparams=HyperparamSet({"learning_rate": 1e-3})
    ).publish_policy()


def ppo_policy() -> Policy:
    """The published policy of a PPOAgent; only one that has learned normalises what it sees."""
    env = gymnasium.make("CartPole-v1")
    agent = PPOAgent.for_spaces(env.observation_space, env.action_space, seed=0)
    train(agent, windows=1)
    return agent.publish_policy()


def median_sec(call: Callable[[], object], calls: int) -> float:
    """Median time of one call."""
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def report_acting(rounds: int) -> None:
    """``act`` on one observation, sampling included."""
    model = make_model()
    policies = {"TFAgent": act_one_of(tf_policy(model)), "PPOAgent": act_one_of(ppo_policy())}
    observation = np.array([0.1, -0.2, 0.03, 0.4], np.float32)
    batch = observation[None]
    eager: list[float] = []
    fast: dict[str, list[float]] = {name: [] for name in policies}
    for _ in range(rounds):
        eager.append(median_sec(partial(model, batch), 50))
        for name, act_one in policies.items():
            fast[name].append(median_sec(partial(act_one, observation), 2000))
    print(f"eager Keras call, batch 1   {statistics.median(eager) * 1e6:10.1f} µs")
    for name, times in fast.items():
        print(f"act of {name:<21}{statistics.median(times) * 1e6:10.1f} µs")
        ratio = statistics.median(slow / quick for slow, quick in zip(eager, times, strict=True))
        print(f"RATIO  {ratio:.0f}x  >= {ACT_BAR:g}x  {'met' if ratio >= ACT_BAR else 'MISSED'}")


def bare_steps_per_sec(steps: int) -> float:
    env = gymnasium.make("CartPole-v1")
    env.reset(seed=0)
    start = time.perf_counter()
    for _ in range(steps):
        _, _, terminated, truncated, _ = env.step(0)
        if terminated or truncated:
            env.reset()
    return steps / (time.perf_counter() - start)


def pipeline_steps_per_sec(steps: int) -> float:
    report = train(NullAgent(action=0), windows=steps // WINDOW_SIZE)
    return report.transitions / report.wall_sec


def report_stepping(rounds: int, steps: int) -> None:
    """The whole loop, with an agent that always does the same and learns nothing."""
    bare: list[float] = []
    ours: list[float] = []
    for _ in range(rounds):
        bare.append(bare_steps_per_sec(steps))
        ours.append(pipeline_steps_per_sec(steps))
    print(f"bare env.step loop          {statistics.median(bare):10,.0f} steps/s")
    print(f"BatchPipeline, windows of {WINDOW_SIZE}{statistics.median(ours):9,.0f} steps/s")
    ratio = statistics.median(mine / other for mine, other in zip(ours, bare, strict=True))
    print(f"RATIO  {ratio:.2f}  >= {STEP_BAR:g}  {'met' if ratio >= STEP_BAR else 'MISSED'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=100_000, help="environment steps in each round")
    arguments = parser.parse_args()
    report_acting(arguments.rounds)
    report_stepping(arguments.rounds, arguments.steps)


if __name__ == "__main__":
    main()
