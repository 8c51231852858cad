"""What acting costs: the fast policy beside an eager Keras call, and BatchPipeline beside a bare environment.

Each pair runs in the same process, in alternating rounds, and medians are compared: machines are noisy, ratios
are less so.

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

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import anyio
import gymnasium
import keras
import numpy as np
from optix_stream_adapters.gymnasium import BatchPipeline
from optix_stream_adapters.tensorflow import TFAgent

from optix_stream import HyperparamSet, RLOptimizer
from optix_stream.contracts import act_one_of
from optix_stream.testing import NullAgent

ACT_BAR = 100.0
STEP_BAR = 0.5


def median_sec(call: Callable[[], object], calls: int) -> float:
    """Median time of one call."""
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure_acting(rounds: int) -> tuple[float, float]:
    """Median seconds of an eager Keras call and of one ``act`` of the published policy, sampling included."""
    model = keras.Sequential(
        [
            keras.layers.Input(shape=(4,)),
            keras.layers.Dense(64, activation="tanh"),
            keras.layers.Dense(64, activation="tanh"),
            keras.layers.Dense(2),
        ]
    )
    agent = TFAgent(model=model, optimizer=keras.optimizers.Adam(), hyperparams=HyperparamSet({"learning_rate": 1e-3}))
    act_one = act_one_of(agent.publish_policy())
    observation = np.array([0.1, -0.2, 0.03, 0.4], np.float32)
    batch = observation[None]
    eager, fast = [], []
    for _ in range(rounds):
        eager.append(median_sec(lambda: model(batch), 50))
        fast.append(median_sec(lambda: act_one(observation), 2000))
    return statistics.median(eager), statistics.median(fast)


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
    with tempfile.TemporaryDirectory() as directory:
        pipeline = BatchPipeline(gymnasium.make("CartPole-v1"), window_size=200, seed=0)
        optimizer = RLOptimizer(
            NullAgent(action=0), pipeline, checkpoint_dir=directory, max_episodes=steps // 200, dormant_threshold=10**9
        )
        report = anyio.run(optimizer.run)
    return report.transitions / report.wall_sec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=40_000, help="environment steps in each round")
    arguments = parser.parse_args()
    eager, fast = measure_acting(arguments.rounds)
    print(f"eager Keras call, batch 1    {eager * 1e6:10.1f} µs")
    print(f"act of the fast policy       {fast * 1e6:10.1f} µs")
    print(f"RATIO  {eager / fast:8.1f}x  >= {ACT_BAR:g}x  {'met' if eager / fast >= ACT_BAR else 'MISSED'}")
    bare, ours = [], []
    for _ in range(arguments.rounds):
        bare.append(bare_steps_per_sec(arguments.steps))
        ours.append(pipeline_steps_per_sec(arguments.steps))
    share = statistics.median(ours) / statistics.median(bare)
    print(f"bare env.step loop           {statistics.median(bare):10,.0f} steps/s")
    print(f"BatchPipeline, windows of 200{statistics.median(ours):10,.0f} steps/s")
    print(f"RATIO  {share:8.2f}   >= {STEP_BAR:g}   {'met' if share >= STEP_BAR else 'MISSED'}")


if __name__ == "__main__":
    main()
