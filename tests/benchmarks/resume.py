"""Runs that are killed at random moments, and go on: do they end where the run that nothing stopped ends?

Each run is a process of its own, ended by SIGKILL at a random moment after a random checkpoint, also in the midst of
one, and started again with ``resume=True``. Networks, optimizer slots, target networks, replay buffer, normalisers and
random generators are compared bit for bit at the end.

    pip install 'optix-stream[all]'
    python tests/benchmarks/resume.py --agents ppo dqn sac --points 50
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import anyio

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from optix_stream import CheckpointEvery, RLOptimizer
from optix_stream.checkpoints import CheckpointRegistry
from optix_stream.cli.loading import gymnasium_adapter, make_agent, make_envs

_DEADLINE_SEC = 300.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A short run of one agent.

    Attributes:
        env_id: Gymnasium's name of the environment.
        num_envs: side by side.
        window_size: transitions.
        windows: of the run.
        config: of the agent; networks and batches are small.
    """

    env_id: str
    num_envs: int
    window_size: int = 64
    windows: int = 12
    config: Mapping[str, Any]


_REPLAY = {"hidden": (16,), "batch_size": 16, "learning_starts": 96, "increment": 32, "buffer_size": 500}
TASKS = {
    "ppo": Task(
        env_id="CartPole-v1",
        num_envs=2,
        config={
            "hidden": (16,), "epochs": 2, "minibatch_size": 32, "normalize_observations": True,
            "normalize_rewards": True,
        },
    ),
    "dqn": Task(env_id="CartPole-v1", num_envs=1, config={**_REPLAY, "priority_exponent": 0.6, "n_step": 3}),
    "sac": Task(env_id="Pendulum-v1", num_envs=2, config=_REPLAY),
    "td3": Task(env_id="Pendulum-v1", num_envs=1, config=_REPLAY),
    "stream-ac": Task(env_id="CartPole-v1", num_envs=1, config={"hidden": (16,)}),
}  # fmt: skip


def run(agent: str, seed: int, directory: str) -> None:
    """The run, from its last checkpoint, to its end; in a process of its own."""
    task = TASKS[agent]
    env, observation_space, action_space = make_envs(task.env_id, task.num_envs)
    made = make_agent(agent, observation_space, action_space, seed=seed, config=task.config)
    pipeline = gymnasium_adapter().BatchPipeline(env, window_size=task.window_size, seed=seed)
    optimizer = RLOptimizer(
        made,
        pipeline,
        checkpoint_dir=directory,
        max_episodes=task.windows,
        dormant_threshold=10_000,
        plateau_threshold=10_000,
        resume=True,
        checkpoint_every=CheckpointEvery(windows=1),
    )
    anyio.run(optimizer.run)


class Runs:
    """Starts runs of one agent, each in a process of its own."""

    def __init__(self, agent: str, seed: int) -> None:
        self._agent = agent
        self._seed = seed
        # Who forks them has imported everything, and has done nothing else.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["optix_stream_adapters.tensorflow", "optix_stream_adapters.gymnasium"])

    def start(self, directory: Path) -> ForkServerProcess:
        process = self._context.Process(target=run, args=(self._agent, self._seed, str(directory)), daemon=True)
        process.start()
        return process

    def to_the_end(self, directory: Path) -> None:
        process = self.start(directory)
        process.join(_DEADLINE_SEC)
        if process.exitcode != 0:
            raise RuntimeError(f"the run in {directory} ended with {process.exitcode}")

    def kill_after(self, directory: Path, checkpoints: int, delay_sec: float) -> bool:
        """Kill it so long after so many checkpoints; False where it had ended before."""
        process = self.start(directory)
        while checkpoints_in(directory) < checkpoints and process.is_alive():
            time.sleep(0.0005)
        time.sleep(delay_sec)
        process.kill()
        process.join()
        return process.exitcode == -signal.SIGKILL


def checkpoints_in(directory: Path) -> int:
    """How many there have been, whole or not."""
    numbers = [int(path.name.rpartition("-")[2]) for path in directory.glob("checkpoint-*")]
    return max(numbers, default=-1) + 1


def knowledge(directory: Path) -> dict[str, Any]:
    """Everything that the agent was at the end, but for the number of its policy, which goes up with each loading."""
    registry = CheckpointRegistry(directory)
    last = registry.run_checkpoints()[-1]
    registry.verify(last.name)
    weights = directory / last.name / "weights"
    known: dict[str, Any] = {"window": last.window}
    for path in sorted(weights.rglob("*")):
        if path.suffix == ".json":
            state = json.loads(path.read_bytes())
            state.pop("version", None)
            known[str(path.relative_to(weights))] = state
        elif path.is_file():
            known[str(path.relative_to(weights))] = path.read_bytes()
    return known


def compare(agent: str, points: int, seed: int) -> int:
    """How many of so many killed runs end as the unbroken one; prints them."""
    rng, runs = random.Random(seed), Runs(agent, seed)
    equal = 0
    with tempfile.TemporaryDirectory(prefix="optix-stream-resume-") as name:
        folder = Path(name)
        started = time.perf_counter()
        runs.to_the_end(folder / "unbroken")
        expected = knowledge(folder / "unbroken")
        total = checkpoints_in(folder / "unbroken")
        before, last = CheckpointRegistry(folder / "unbroken").run_checkpoints()
        between_sec = last.timestamp - before.timestamp
        for point in range(points):
            directory = folder / f"{point}"
            while True:
                checkpoints, delay_sec = rng.randrange(total), rng.random() * between_sec
                if runs.kill_after(directory, checkpoints, delay_sec):
                    break
                # It was over before; such a run shows nothing.
                directory = folder / f"{point}-{rng.random()}"
            killed_at = checkpoints_in(directory)
            runs.to_the_end(directory)
            got = knowledge(directory)
            is_equal = got == expected
            equal += is_equal
            differs = [key for key in expected.keys() | got.keys() if expected.get(key) != got.get(key)]
            print(f"  {agent} {point + 1:>3}: killed at checkpoint {killed_at:>2}: {differs or 'equal'}", flush=True)
        sec = time.perf_counter() - started
    print(
        f"{agent}: {equal} of {points} killed runs end bit for bit where the unbroken one ends ({sec:.0f} s)",
        flush=True,
    )
    return equal


def main() -> None:
    """Print how many are equal, beside the bar: all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="+", choices=tuple(TASKS), default=["ppo", "dqn", "sac"])
    parser.add_argument("--points", type=int, default=50, help="moments at which to kill, for each agent")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    equal = sum(compare(agent, arguments.points, arguments.seed) for agent in arguments.agents)
    total = arguments.points * len(arguments.agents)
    print(f"{equal} of {total} equal; bar: all of them: {'pass' if equal == total else 'MISS'}")
    sys.exit(equal != total)


if __name__ == "__main__":
    main()
