"""Puts one environment back where it was: by what happened in its present episode, done once more.

That needs nothing of an environment but that the same random generator and the same actions lead to the same place.
Whether they did is checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from optix_stream.contracts import Stateful
from optix_stream.errors import CheckpointError
from optix_stream.types import Tree
from optix_stream.wire import decode, encode, pack, unpack

LONGEST_EPISODE = 100_000
"""Actions that are remembered: an episode that is longer cannot be gone on with."""


class EpisodeRecorder(gym.Wrapper[Any, Any, Any, Any], Stateful):
    """Remembers how the present episode began and what was done in it.

    Args:
        env: the environment; deterministic, but for its random generator.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._seed: int | None = None
        self._generator: Mapping[str, Any] | None = None
        self._actions: list[Any] = []
        self._is_too_long = False
        # Says once more what was said last, to whoever asks next: see ``repeat``.
        self._repeated: tuple[Tree, bool, bool] | None = None
        # What the environment said last, in its own terms.
        self._outcome: tuple[Any, Any, bool, bool, dict[str, Any]] = (None, 0.0, False, False, {})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if self._repeated is not None:
            return self._repeated[0], {}
        self._seed = seed
        self._generator = None if seed is not None else generator_state(self.env)
        self._actions.clear()
        self._is_too_long = False
        observation, info = self.env.reset(seed=seed, options=options)
        self._outcome = (observation, 0.0, False, False, info)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        if self._repeated is not None:
            return self._repeated[0], 0.0, self._repeated[1], self._repeated[2], {}
        actions = self._actions
        if len(actions) < LONGEST_EPISODE:
            # An environment may clip it in place.
            actions.append(action.copy() if isinstance(action, np.ndarray) else action)
        else:
            self._is_too_long = True
        self._outcome = outcome = self.env.step(action)
        return outcome

    def state_dict(self) -> Mapping[str, Any]:
        """The episode as plain data.

        Raises:
            CheckpointError: it has become too long.
        """
        if self._is_too_long:
            raise CheckpointError(f"its episode has more than {LONGEST_EPISODE} steps")
        observation, terminated, truncated = self._last
        return {
            "seed": self._seed,
            "generator": self._generator,
            "actions": np.asarray(self._actions) if self._actions else None,
            "now": generator_state(self.env),
            "observation": pack(encode(observation)),
            "terminated": terminated,
            "truncated": truncated,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Have the episode once more.

        Raises:
            CheckpointError: it did not come to the same end.
        """
        if state["generator"] is not None:
            self.env.unwrapped.np_random.bit_generator.state = state["generator"]
        self.reset(seed=state["seed"])
        for action in () if state["actions"] is None else state["actions"]:
            self.step(action)
        wanted = (decode(unpack(state["observation"])), state["terminated"], state["truncated"])
        if encode(self._last) != encode(wanted) or not _same(generator_state(self.env), state["now"]):
            raise CheckpointError("its episode, had once more, came to another end")

    @property
    def last_observation(self) -> Tree:
        """What it showed last."""
        return self._outcome[0]

    @property
    def _last(self) -> tuple[Tree, bool, bool]:
        observation, _, terminated, truncated, _ = self._outcome
        return observation, bool(terminated), bool(truncated)

    def repeat(self, is_on: bool) -> None:
        """Whether to answer whatever comes with what was the last answer, and do nothing."""
        self._repeated = self._last if is_on else None


def generator_state(env: gym.Env[Any, Any]) -> Mapping[str, Any]:
    """What the environment's randomness goes on from."""
    state: Mapping[str, Any] = env.unwrapped.np_random.bit_generator.state
    return state


def _same(state: Any, other: Any) -> bool:
    if isinstance(state, Mapping):
        return state.keys() == other.keys() and all(_same(value, other[key]) for key, value in state.items())
    return np.array_equal(state, other)
