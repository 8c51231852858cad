"""An agent without TensorFlow: a linear policy that learns CartPole by REINFORCE, in numpy.

You will see the mean return of each window's episodes rise from about 20.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from optix_stream_adapters.gymnasium import BatchPipeline

from optix_stream import BaseAgent, EpisodeData, HyperparamSet, LoopCallback, RLOptimizer, RunReport
from optix_stream.types import EvalMetrics


@dataclass(frozen=True)
class Arguments:
    """What can be set from the command line."""

    windows: int = 60
    seed: int = 0


class LinearAgent(BaseAgent):
    """Goes right with probability ``sigmoid(weights @ observation)``."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._weights = np.zeros(4)
        self._params: dict[str, Any] = {"learning_rate": 0.5, "gamma": 0.99}

    def act(self, observation: Any) -> int:
        return int(self._rng.random() < 1.0 / (1.0 + np.exp(-observation @ self._weights)))

    def learn(self, episode_data: EpisodeData) -> dict[str, float]:
        returns = np.zeros(episode_data.length)
        running = 0.0
        for row in reversed(range(episode_data.length)):
            running = episode_data.rewards[row] + self._params["gamma"] * running * (not episode_data.dones[row])
            returns[row] = running
        advantages = (returns - returns.mean()) / (returns.std() + 1e-8)
        right = 1.0 / (1.0 + np.exp(-episode_data.observations @ self._weights))
        gradient = ((episode_data.actions - right) * advantages) @ episode_data.observations / episode_data.length
        self._weights = self._weights + self._params["learning_rate"] * gradient
        return {"gradient_norm": float(np.linalg.norm(gradient))}

    def get_hyperparams(self) -> HyperparamSet:
        return HyperparamSet(dict(self._params))

    def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        self._params = dict(hyperparams.params)

    def save_weights(self, path: str) -> None:
        with Path(path).open("wb") as file:
            np.save(file, self._weights, allow_pickle=False)

    def load_weights(self, path: str) -> None:
        self._weights = np.load(path, allow_pickle=False)


class PrintScores(LoopCallback):
    """One line a window."""

    def on_episode_end(self, episode_id: int, eval_metrics: EvalMetrics | None) -> None:
        if eval_metrics is not None:
            print(f"window {episode_id}: mean return {eval_metrics.primary_score:.1f}")


def main() -> RunReport:
    """Read the arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=Arguments.windows)
    parser.add_argument("--seed", type=int, default=Arguments.seed)
    arguments = Arguments(**vars(parser.parse_args()))
    optimizer = RLOptimizer(
        LinearAgent(arguments.seed),
        BatchPipeline(gymnasium.make("CartPole-v1"), window_size=1000, seed=arguments.seed),
        checkpoint_dir=tempfile.mkdtemp(),
        max_episodes=arguments.windows,
        callbacks=[PrintScores()],
    )
    report = asyncio.run(optimizer.run())
    print(f"stopped: {report.reason}, best {report.best_snapshot and report.best_snapshot.eval_metrics.primary_score}")
    return report


if __name__ == "__main__":
    main()
