"""What a policy earns in whole episodes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym

from optix_stream.contracts import Policy, act_one_of
from optix_stream.trees import as_tree


class PlayedEpisode(NamedTuple):
    """An episode of an evaluation.

    Attributes:
        total: its undiscounted return, up to where it ended.
        is_whole: the environment ended it, not the limit on its steps.
    """

    total: float
    is_whole: bool


def evaluate_policy(
    policy: Policy, env: gym.Env[Any, Any], episodes: int, *, seed: int | None = None, max_steps: int | None = None
) -> list[float]:
    """Undiscounted returns of ``episodes`` episodes; blocking. Episode ``i`` resets with ``seed + i``.

    Args:
        policy: what acts; nothing is learned.
        env: a single environment.
        episodes: how many.
        seed: of the first episode; None: not seeded.
        max_steps: an episode that is longer is cut off there, and its return counts as it is; None: it is waited for,
            however long.
    """
    played = [
        play_episode(policy, env, seed=None if seed is None else seed + episode, max_steps=max_steps)
        for episode in range(episodes)
    ]
    return [episode.total for episode in played if episode is not None]


def play_episode(
    policy: Policy,
    env: gym.Env[Any, Any],
    *,
    seed: int | None = None,
    max_steps: int | None = None,
    goes_on: Callable[[], bool] = lambda: True,
) -> PlayedEpisode | None:
    """One episode; blocking.

    Args:
        policy: what acts; nothing is learned.
        env: a single environment.
        seed: it is reset with; None: not seeded.
        max_steps: after which it is cut off; None: it is waited for, however long.
        goes_on: asked before each step, in this thread.

    Returns:
        It; None where it did not go on to its end.
    """
    act = act_one_of(policy)
    observation, _ = env.reset(seed=seed)
    total = 0.0
    for step in itertools.count(1):
        if not goes_on():
            break
        action, _ = act(as_tree(observation))
        observation, reward, terminated, truncated, _ = env.step(action)
        total += float(reward)
        is_whole = bool(terminated or truncated)
        if is_whole or step == max_steps:
            return PlayedEpisode(total, is_whole)
    return None
