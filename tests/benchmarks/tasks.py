"""What the learning benchmark runs: environments, agents, budgets, bars, and the peer's settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Task:
    """One row of the table.

    Attributes:
        env: Gymnasium's name.
        agent: the command line's name.
        steps: budget of environment steps.
        evaluate_every: steps between evaluations.
        episodes: of an evaluation; more where they cost little.
        threshold: for the steps that it takes; None: none.
        bar: least interquartile mean of the final scores.
        each: least score that every seed must reach.
        median_steps: most steps to the threshold, in the median.
        low: least lower end of the 95 % interval.
        seeds: how many, where the command does not say.
        peer: name and settings of the peer's algorithm.
        is_lagging: what acts is one to two windows older than what has been learned.
    """

    env: str
    agent: str
    steps: int
    evaluate_every: int
    threshold: float | None = None
    bar: float | None = None
    each: float | None = None
    median_steps: int | None = None
    low: float | None = None
    seeds: int = 10
    episodes: int = 20
    peer: tuple[str, Mapping[str, Any]] | None = None
    is_lagging: bool = False


_PPO_CARTPOLE = {
    "n_envs": 8, "n_steps": 32, "batch_size": 256, "n_epochs": 20, "gamma": 0.98, "gae_lambda": 0.8, "ent_coef": 0.0,
    "learning_rate": ("linear", 1e-3), "clip_range": ("linear", 0.2),
}  # fmt: skip
_PPO_ACROBOT = {
    "n_envs": 16, "n_steps": 64, "batch_size": 64, "n_epochs": 4, "gamma": 0.99, "gae_lambda": 0.94, "ent_coef": 0.0,
    "learning_rate": ("linear", 7e-4), "normalize": True,
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
        episodes=300,
        threshold=475, bar=500, each=500, median_steps=3000,
    ),
    "cartpole-ppo": Task(
        env="CartPole-v1", agent="ppo", steps=40_000, evaluate_every=2048, threshold=475, bar=500, each=475,
        episodes=300,
        peer=("PPO", _PPO_CARTPOLE),
    ),
    "cartpole-ppo-lagging": Task(
        env="CartPole-v1", agent="ppo", steps=40_000, evaluate_every=2048, threshold=475, each=475, seeds=5,
        episodes=300,
        is_lagging=True,
    ),
    "cartpole-ppo-100k": Task(
        env="CartPole-v1", agent="ppo", steps=100_000, evaluate_every=100_000, seeds=3, peer=("PPO", _PPO_CARTPOLE),
        episodes=300,
    ),
    "cartpole-dqn": Task(
        env="CartPole-v1", agent="dqn", steps=50_000, evaluate_every=2560, threshold=475, bar=495,
        episodes=300,
        peer=("DQN", _DQN_CARTPOLE),
    ),
    "acrobot-ppo": Task(
        env="Acrobot-v1", agent="ppo", steps=60_000, evaluate_every=2048, threshold=-100, bar=-82,
        episodes=100,
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
