"""An agent of your own, without TensorFlow: a linear actor-critic with a natural gradient, in numpy.

It learns CartPole in seconds. You will see the mean return of each window's episodes rise from about 20 to 500,
the most there is, then why the run stopped, and what the best policy earns in episodes it has never seen.

    python demos/custom_agent.py
    python demos/custom_agent.py --quick
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
from optix_stream_adapters.gymnasium import BatchPipeline, evaluate_policy

from optix_stream import BaseAgent, EpisodeData, EvalMetrics, HyperparamSet, LoopCallback, RLOptimizer
from optix_stream.contracts import as_policy
from optix_stream.types import Array


@dataclass(frozen=True)
class Arguments:
    """What can be set from the command line."""

    seed: int = 0
    max_windows: int = 60  # of 2,000 transitions each; it may stop before


class LinearAgent(BaseAgent):
    """Goes right with probability ``sigmoid(observation @ weights)``.

    One natural gradient step a window (Kakade 2001; Rajeswaran et al. 2017, arXiv 1703.02660), its length bounded in
    KL divergence. What the rewards are compared with is a value function, quadratic in the observation and fitted by
    least squares.
    """

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.weights = np.zeros(4)
        self.value_weights = np.zeros(15)
        self.params: dict[str, Any] = {"learning_rate": 1.0, "kl_limit": 0.05, "gamma": 0.995, "gae_lambda": 0.95}

    def act(self, observation: Any) -> int:
        return int(self.rng.random() < self.probability_right(observation))

    def learn(self, episode_data: EpisodeData) -> dict[str, float]:
        window = episode_data
        values = features(window.observations) @ self.value_weights
        advantages = self.advantages(window, values)
        self.value_weights = least_squares(features(window.observations), values + advantages)

        standardised = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        right = self.probability_right(window.observations)
        scores = (window.actions - right)[:, None] * window.observations  # gradients of the log-probabilities
        gradient = standardised @ scores / window.length
        fisher = scores.T @ scores / window.length + 1e-6 * np.eye(4)
        direction = np.linalg.solve(fisher, gradient)
        longest = np.sqrt(2.0 * self.params["kl_limit"] / (gradient @ direction + 1e-12))
        self.weights = self.weights + min(self.params["learning_rate"], longest) * direction
        return {"advantage_std": float(advantages.std())}

    def get_hyperparams(self) -> HyperparamSet:
        return HyperparamSet(dict(self.params))

    def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        self.params = dict(hyperparams.params)

    def save_weights(self, path: str) -> None:
        with Path(path).open("wb") as file:
            np.savez(file, weights=self.weights, value_weights=self.value_weights)

    def load_weights(self, path: str) -> None:
        with np.load(path, allow_pickle=False) as arrays:
            self.weights, self.value_weights = arrays["weights"], arrays["value_weights"]

    def probability_right(self, observations: Any) -> Any:
        """Of one observation, or of many."""
        return 1.0 / (1.0 + np.exp(-np.clip(observations @ self.weights, -30.0, 30.0)))

    def advantages(self, window: EpisodeData, values: Array) -> Array:
        """Generalised advantages (Schulman et al. 2016, arXiv 1506.02438)."""
        # Whatever cuts an episode off, a time limit or the window's end, the value of what was seen last stands
        # in for the rest. Only after `terminated` there is no rest.
        next_values = (features(window.next_observations) @ self.value_weights) * ~window.terminated
        errors = window.rewards + self.params["gamma"] * next_values - values
        decay = self.params["gamma"] * self.params["gae_lambda"] * ~(window.dones | window.gaps)
        advantages = np.zeros(window.length)
        running = 0.0
        for row in reversed(range(window.length)):
            running = errors[row] + decay[row] * running
            advantages[row] = running
        return advantages


def features(observations: Array) -> Array:
    """1, each number, and each product of two of them: ``[T, 4]`` to ``[T, 15]``."""
    with_one: Array = np.column_stack([np.ones(len(observations)), observations])
    rows, columns = np.triu_indices(5)
    products: Array = with_one[:, rows] * with_one[:, columns]
    return products


def least_squares(inputs: Array, targets: Array) -> Array:
    """With a little ridge, so that there is always one answer."""
    return np.linalg.solve(inputs.T @ inputs + 1e-3 * np.eye(inputs.shape[1]), inputs.T @ targets)


class PrintScores(LoopCallback):
    """One line a window."""

    def on_episode_end(self, episode_id: int, eval_metrics: EvalMetrics | None) -> None:
        if eval_metrics is not None:
            print(f"window {episode_id:2}: mean return {eval_metrics.primary_score:6.1f}")


async def train(arguments: Arguments) -> None:
    """Train until nothing more is to be gained, then evaluate."""
    agent = LinearAgent(arguments.seed)
    env = gymnasium.make("CartPole-v1")
    with tempfile.TemporaryDirectory() as checkpoint_dir:
        report = await RLOptimizer(
            agent,
            BatchPipeline(env, window_size=2000, seed=arguments.seed),
            checkpoint_dir=checkpoint_dir,
            max_episodes=arguments.max_windows,
            callbacks=[PrintScores()],
        ).run()
    returns = await asyncio.to_thread(evaluate_policy, as_policy(agent), env, 20, seed=10_000)
    print(f"stopped: {report.reason} after {report.transitions} transitions in {report.wall_sec:.1f} s")
    print(f"evaluation: mean return {np.mean(returns):.1f} over {len(returns)} episodes")
    env.close()


def main() -> None:
    """Read the arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=Arguments.seed)
    parser.add_argument("--max-windows", type=int, default=Arguments.max_windows)
    parser.add_argument("--quick", action="store_const", dest="max_windows", const=15, help="a second or two")
    asyncio.run(train(Arguments(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
