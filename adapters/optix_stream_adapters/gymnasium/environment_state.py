"""Where an environment is, as plain data, whichever kind it is of."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import SyncVectorEnv, VectorEnv, VectorWrapper

from optix_stream.contracts import Stateful
from optix_stream.errors import CheckpointError, ConfigurationError
from optix_stream.trees import as_tree
from optix_stream.types import Tree
from optix_stream.wire import decode, encode, pack, unpack
from optix_stream_adapters.gymnasium.episode_recorder import EpisodeRecorder

Env: TypeAlias = gym.Env[Any, Any] | VectorEnv[Any, Any, Any]


class StatefulEnvironment(Stateful):
    """An environment that can be put back where it was."""

    @property
    @abstractmethod
    def env(self) -> Env:
        """What to step in its place."""

    @abstractmethod
    def observe(self) -> Tree | None:
        """What it shows after ``load_state_dict``; None where that cannot be asked for."""

    def close(self) -> None:
        """Leave the environment as it was found; it is not closed itself."""


class SingleEnvironment(StatefulEnvironment):
    """One environment, by its present episode."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self._recorder = EpisodeRecorder(env)

    @property
    def env(self) -> Env:
        return self._recorder

    def state_dict(self) -> Mapping[str, Any]:
        return self._recorder.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._recorder.load_state_dict(state)

    def observe(self) -> Tree | None:
        return as_tree(self._recorder.last_observation)


class SequentialEnvironments(StatefulEnvironment):
    """Environments that are stepped one after the other, each by its present episode."""

    def __init__(self, env: VectorEnv[Any, Any, Any], base: SyncVectorEnv) -> None:
        self._env = env
        self._base = base
        self._recorders = [EpisodeRecorder(each) for each in base.envs]
        base.envs[:] = self._recorders

    @property
    def env(self) -> Env:
        return self._env

    def close(self) -> None:
        self._base.envs[:] = [recorder.env for recorder in self._recorders]

    def state_dict(self) -> Mapping[str, Any]:
        return {"environments": [recorder.state_dict() for recorder in self._recorders]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for recorder, saved in zip(self._recorders, state["environments"], strict=True):
            recorder.load_state_dict(saved)

    def observe(self) -> Tree | None:
        # What the vector environment itself remembers, such as which are to be reset, it learns from their answers.
        for recorder in self._recorders:
            recorder.repeat(True)
        try:
            self._env.reset()
            return as_tree(self._env.step(self._env.action_space.sample())[0])
        finally:
            for recorder in self._recorders:
                recorder.repeat(False)


class ArrayEnvironments(StatefulEnvironment):
    """A vector environment that steps all at once: its state is its attributes, which are arrays and numbers."""

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        self._env = env
        self._layers: list[VectorEnv[Any, Any, Any]] = [env]
        while isinstance(layer := self._layers[-1], VectorWrapper):
            self._layers.append(layer.env)

    @property
    def env(self) -> Env:
        return self._env

    def state_dict(self) -> Mapping[str, Any]:
        return {
            "layers": [pack(_attributes(layer)) for layer in self._layers],
            "generator": self._env.unwrapped.np_random.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._env.reset()
        for layer, saved in zip(self._layers, state["layers"], strict=True):
            for name, value in decode(unpack(saved)).items():
                setattr(layer, name, value)
        self._env.unwrapped.np_random.bit_generator.state = state["generator"]

    def observe(self) -> Tree | None:
        return None


class OpaqueEnvironment(StatefulEnvironment):
    """One whose state cannot be had, such as environments in processes of their own."""

    def __init__(self, env: Env, reason: str) -> None:
        self._env = env
        self._reason = reason

    @property
    def env(self) -> Env:
        return self._env

    def state_dict(self) -> Mapping[str, Any]:
        raise CheckpointError(self._reason)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        raise CheckpointError(self._reason)

    def observe(self) -> Tree | None:
        return None


def stateful(env: Env) -> StatefulEnvironment:
    """The environment as one that can be put back where it was, if it is of a kind that can be."""
    if not isinstance(env, VectorEnv):
        return SingleEnvironment(env)
    base = env.unwrapped
    if isinstance(base, SyncVectorEnv):
        return SequentialEnvironments(env, base)
    try:
        ArrayEnvironments(env).state_dict()
    except CheckpointError as error:
        return OpaqueEnvironment(env, str(error))
    return ArrayEnvironments(env)


def _attributes(layer: VectorEnv[Any, Any, Any]) -> bytes:
    """What changes in an object, unless it is of another kind than plain data; what cannot change is left out."""
    constant = (gym.Space, EnvSpec, Enum, np.random.Generator, VectorEnv)
    values = {
        name: value for name, value in vars(layer).items() if name != "metadata" and not isinstance(value, constant)
    }
    try:
        return encode(values)
    except ConfigurationError as error:
        raise CheckpointError(f"{type(layer).__name__} has attributes that are neither numbers nor arrays") from error
