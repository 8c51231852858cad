"""Steps one environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from optix_stream.batching import batch_of
from optix_stream.clock import Clock
from optix_stream.contracts import Policy, StreamItem, act_one_of
from optix_stream.trees import map_tree
from optix_stream.types import Transition, Tree
from optix_stream.wire import decode, encode, pack, unpack
from optix_stream_adapters.gymnasium.stepper import Learn, Stepper, Visit, note_action


class SingleStepper(Stepper):
    """Steps one environment, which is stream 0.

    Args:
        env: reset before the first step.
        policy: what acts.
        seed: of the first reset.
        clock: stamps transitions.
        learn: lets the agent learn from each step; None: it learns from windows.
    """

    def __init__(
        self, env: gym.Env[Any, Any], policy: Policy, seed: int | None, clock: Clock, learn: Learn | None = None
    ) -> None:
        self._env = env
        self._act = act_one_of(policy)
        self._seed = seed
        self._now = clock.now
        self._observation: Tree = None
        self._learn = learn
        self._held: list[Transition] = []
        self._told: list[StreamItem] = []
        """What the agent's failure on the last transition left to be told."""

    def step_until(self, count: int, visit: Visit) -> None:
        held, learn = self._held, self._learn
        act, step, now = self._act, self._env.step, self._now
        if self._observation is None:
            self._observation = self._reset()
        while len(held) < count and visit.goes_on:
            observation = self._observation
            action, extras = act(observation)
            # Before the step, because an environment may clip it in place.
            taken = action.copy() if isinstance(action, np.ndarray) else action
            try:
                given, reward, terminated, truncated, info = step(action)
            except Exception as error:
                note_action(error, self._env.action_space, taken)
                raise
            if visit.is_cancelled:
                return
            # Of our own, because an environment may hand out one buffer again and again.
            following = given.copy() if isinstance(given, np.ndarray) else map_tree(np.array, given)
            transition = Transition(
                observation, taken, float(reward), following, terminated, truncated, info, 0, extras, now()
            )
            self._observation = self._reset() if terminated or truncated else following
            if learn is not None:
                outcome = learn(transition)
                if outcome[0] is not transition:
                    self._told.extend(outcome)
                    return
            held.append(transition)

    def take(self) -> Sequence[StreamItem]:
        held, self._held = self._held, []
        told, self._told = self._told, []
        return [batch_of(held), *told] if held else told

    def state_dict(self) -> Mapping[str, Any]:
        return {"observation": None if self._observation is None else pack(encode(self._observation))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["observation"] is not None:
            self._observation, self._seed = decode(unpack(state["observation"])), None

    def _reset(self) -> Tree:
        seed, self._seed = self._seed, None
        observation, _ = self._env.reset(seed=seed)
        return map_tree(np.array, observation)
