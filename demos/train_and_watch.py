"""Train CartPole with PPO and print what happens, as it happens.

You will see each improvement and each change of state; at the end, why it stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from dataclasses import dataclass

import gymnasium
from optix_stream_adapters.gymnasium import BatchPipeline
from optix_stream_adapters.tensorflow import PPOAgent

from optix_stream import Improved, RLOptimizer, RunReport, StateChanged, ThresholdJudge


@dataclass(frozen=True)
class Arguments:
    """What can be set from the command line."""

    windows: int = 60
    seed: int = 0


async def train(arguments: Arguments) -> RunReport:
    """Train, with a subscriber beside it."""
    env = gymnasium.make_vec("CartPole-v1", num_envs=8, vectorization_mode="sync")
    agent = PPOAgent.for_spaces(env.single_observation_space, env.single_action_space, seed=arguments.seed)
    optimizer = RLOptimizer(
        agent,
        BatchPipeline(env, window_size=2048, seed=arguments.seed),
        checkpoint_dir=tempfile.mkdtemp(),
        max_episodes=arguments.windows,
        judge=ThresholdJudge(smoothing=5, degradation_threshold=0.5),
    )

    async def watch() -> None:
        async with optimizer.events() as events:
            async for event in events:
                if isinstance(event, Improved):
                    print(f"window {event.window}: {event.evidence}")
                elif isinstance(event, StateChanged):
                    print(f"window {event.window}: {event.old.value} -> {event.new.value}")

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(watch())
        report = await optimizer.run()
    print(f"stopped: {report.reason} after {report.transitions} transitions")
    env.close()
    return report


def main() -> RunReport:
    """Read the arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=Arguments.windows)
    parser.add_argument("--seed", type=int, default=Arguments.seed)
    parser.add_argument("--quick", action="store_const", dest="windows", const=10, help="a short run")
    return asyncio.run(train(Arguments(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
