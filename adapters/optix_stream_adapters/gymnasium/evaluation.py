"""What a policy earns in whole episodes."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from optix_stream.contracts import Policy, act_one_of
from optix_stream.trees import as_tree


def evaluate_policy(policy: Policy, env: gym.Env[Any, Any], episodes: int, *, seed: int | None = None) -> list[float]:
    """Undiscounted returns of ``episodes`` whole episodes; blocking. Episode ``i`` resets with ``seed + i``.

    Args:
        policy: what acts; nothing is learned.
        env: a single environment.
        episodes: how many.
        seed: of the first episode; None: not seeded.
    """
    act = act_one_of(policy)
    returns: list[float] = []
    for episode in range(episodes):
        observation, _ = env.reset(seed=None if seed is None else seed + episode)
        total, is_done = 0.0, False
        while not is_done:
            action, _ = act(as_tree(observation))
            observation, reward, terminated, truncated, _ = env.step(action)
            total += float(reward)
            is_done = bool(terminated or truncated)
        returns.append(total)
    return returns
