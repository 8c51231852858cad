"""Environments and agents, by name: the only place that knows which module and which extra each is in.

Loaded with ``importlib`` when they are asked for, because the core does without them.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from optix_stream.errors import ConfigurationError, MissingExtraError
from optix_stream.recipes import AgentRecipe

_GYMNASIUM_ADAPTER = "optix_stream_adapters.gymnasium"
_BROUGHT_BY = {"gymnasium": "gymnasium", "tensorflow": "tensorflow", "cli": "matplotlib", "tune": "optuna"}
"""For each extra, a package that tells whether it is installed."""


@dataclass(frozen=True, slots=True)
class AgentSource:
    """Where an agent class is.

    Attributes:
        module: importable name.
        name: of the class in it; it has ``for_spaces``.
        extra: what to install for it; None: nothing.
        summary: for ``--help``.
        learns_each: it learns from each step where it acts, which no process of its own can do.
    """

    module: str
    name: str
    extra: str | None
    summary: str
    learns_each: bool = False


AGENTS: Mapping[str, AgentSource] = {
    "ppo": AgentSource(
        "optix_stream_adapters.tensorflow", "PPOAgent", "tensorflow", "clipped policy gradient with a critic"
    ),
    "dqn": AgentSource(
        "optix_stream_adapters.tensorflow", "DQNAgent", "tensorflow", "double Q-learning from replayed steps"
    ),
    "reinforce": AgentSource(
        "optix_stream_adapters.tensorflow", "TFAgent", "tensorflow", "plain policy gradient on whole returns"
    ),
    "sac": AgentSource(
        "optix_stream_adapters.tensorflow", "SACAgent", "tensorflow", "soft actor-critic, for continuous actions"
    ),
    "td3": AgentSource(
        "optix_stream_adapters.tensorflow", "TD3Agent", "tensorflow", "deterministic actor-critic, likewise"
    ),
    "stream-ac": AgentSource(
        "optix_stream.agents", "StreamACAgent", None, "actor and critic that learn from every step; no TensorFlow", True
    ),
    "stream-q": AgentSource(
        "optix_stream.agents", "StreamQAgent", None, "action values that learn from every step; no TensorFlow", True
    ),
}


@contextlib.contextmanager
def silence_tensorflow() -> Iterator[None]:
    """Keep TensorFlow's own log off the screen while it is imported, unless its level is set.

    The level alone does not do: its first lines go straight to file descriptor 2, before any level applies. An
    import that fails says so by an exception, which this does not touch.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        yield
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def require_extras(what: str, *extras: str | None) -> None:
    """Find out what is not installed, all of it at once; nothing is imported.

    Args:
        what: needs them, for the message.
        *extras: names; None: nothing is needed there.

    Raises:
        MissingExtraError: one or more are not installed.
    """
    missing = [name for name in extras if name is not None and importlib.util.find_spec(_BROUGHT_BY[name]) is None]
    if missing:
        raise MissingExtraError(what, *missing)


def load_module(name: str, what: str, extra: str) -> ModuleType:
    """Import a module that an extra brings.

    Raises:
        MissingExtraError: it, or something it needs, is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingExtraError(what, extra) from error


def make_agent(agent: str, observation_space: Any, action_space: Any, *, seed: int, config: Mapping[str, Any]) -> Any:
    """A new agent for these spaces: a ``BaseAgent``.

    Raises:
        ConfigurationError: no such agent, or one that cannot work with the spaces.
        MissingExtraError: its extra is not installed.
    """
    source = source_of(agent)
    if source.extra is None:
        module = importlib.import_module(source.module)
    else:
        with silence_tensorflow():
            module = load_module(source.module, f"the {agent} agent", source.extra)
    agent_class = getattr(module, source.name)
    try:
        return agent_class.for_spaces(observation_space, action_space, seed=seed, **config)
    except TypeError as error:
        # A run.json may come from another version, with settings that this one does not know.
        raise ConfigurationError(f"the {agent} agent does not take these settings: {error}") from error


def agent_recipe(
    agent: str, observation_space: Any, action_space: Any, *, seed: int, config: Mapping[str, Any]
) -> AgentRecipe:
    """How ``make_agent`` would make it, for another process; nothing of the agent is imported here.

    Raises:
        ConfigurationError: no such agent.
    """
    source = source_of(agent)
    spaces = {"observation_space": observation_space, "action_space": action_space}
    return AgentRecipe(f"{source.module}:{source.name}.for_spaces", {**spaces, "seed": seed, **config})


def source_of(agent: str) -> AgentSource:
    """Where the agent of that name is.

    Raises:
        ConfigurationError: no such agent.
    """
    source = AGENTS.get(agent)
    if source is None:
        raise ConfigurationError(f"unknown agent {agent!r}: expected one of {', '.join(AGENTS)}")
    return source


def make_env(env_id: str) -> Any:
    """A single Gymnasium environment.

    Raises:
        ConfigurationError: there is none of that name, or it cannot be made.
        MissingExtraError: Gymnasium is not installed.
    """
    gymnasium = _gymnasium(env_id)
    return _make(gymnasium, env_id, gymnasium.make, {})


def make_envs(env_id: str, num_envs: int) -> tuple[Any, Any, Any]:
    """One environment, or several side by side in one thread, vectorised where Gymnasium can; raises like ``make_env``.

    Returns:
        It, and the spaces of observations and of actions of one.
    """
    if num_envs == 1:
        env = make_env(env_id)
        return env, env.observation_space, env.action_space
    gymnasium = _gymnasium(env_id)
    env = _make(gymnasium, env_id, gymnasium.make_vec, {"num_envs": num_envs})
    return env, env.single_observation_space, env.single_action_space


def gymnasium_adapter() -> Any:
    """The module with ``BatchPipeline`` and ``evaluate_policy``.

    Raises:
        MissingExtraError: Gymnasium is not installed.
    """
    return load_module(_GYMNASIUM_ADAPTER, "training in an environment", "gymnasium")


def _gymnasium(env_id: str) -> Any:
    return load_module("gymnasium", f"the environment {env_id}", "gymnasium")


def _make(gymnasium: Any, env_id: str, make: Any, arguments: Mapping[str, Any]) -> Any:
    try:
        return make(env_id, **arguments)
    except (gymnasium.error.Error, ImportError) as error:
        raise ConfigurationError(_explain(gymnasium, env_id, error)) from error


def _explain(gymnasium: Any, env_id: str, error: Exception) -> str:
    message = " ".join(str(error).split())
    known = {name.lower(): name for name in gymnasium.registry}
    close = [known[name] for name in difflib.get_close_matches(env_id.lower(), known, n=3, cutoff=0.7)]
    if env_id in gymnasium.registry or not close:
        return f"cannot make {env_id}: {message}"
    return f"cannot make {env_id}: {message.rstrip('.?')}. Close names: {', '.join(close)}"
