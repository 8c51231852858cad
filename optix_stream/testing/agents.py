"""Two small agents, and the check that every agent should pass."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from optix_stream.contracts import (
    BaseAgent,
    Decision,
    Policy,
    PolicyExport,
    PolicyPublisher,
    PortablePolicy,
    Restorable,
)
from optix_stream.testing.comparing import same_tree, same_window
from optix_stream.trees import map_tree, tree_length, with_batch_axis
from optix_stream.types import Array, EpisodeData, HyperparamSet, Tree

Behaviour = Callable[[BaseAgent], Any]


class NullAgent(BaseAgent):
    """Always does the same and learns nothing.

    Args:
        action: what it does.
    """

    def __init__(self, action: Any = 0) -> None:
        self._action = action
        self._params: dict[str, Any] = {}

    def act(self, observation: Tree) -> Any:
        return self._action

    def learn(self, episode_data: EpisodeData) -> dict[str, float]:
        return {}

    def get_hyperparams(self) -> HyperparamSet:
        return HyperparamSet(dict(self._params))

    def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        self._params = dict(hyperparams.params)

    def save_weights(self, path: str) -> None:
        Path(path).mkdir()

    def load_weights(self, path: str) -> None:
        Path(path).stat()


class RecordingAgent(BaseAgent, PolicyPublisher, Restorable):
    """A reference agent: it remembers what it saw, and one weight is all that it learns.

    It acts by ``weight + sum(observation)`` and adds ``learning_rate`` times the mean reward of
    each window to ``weight``.

    Args:
        learning_rate: its one hyperparameter.
        fail_on: windows on which ``learn`` raises, after it has spoilt the weight.

    Attributes:
        weight: what it has learned.
        windows: what it learned from, oldest first.
    """

    def __init__(self, learning_rate: float = 0.5, *, fail_on: frozenset[int] = frozenset()) -> None:
        self.weight = 0.0
        self.windows: list[EpisodeData] = []
        self._fail_on = fail_on
        self._params: dict[str, Any] = {"learning_rate": learning_rate}

    def act(self, observation: Tree) -> Any:
        return _LinearPolicy(self.weight).act(with_batch_axis(observation)).actions[0]

    def learn(self, episode_data: EpisodeData) -> dict[str, float]:
        if episode_data.episode_id in self._fail_on:
            self.weight = float("nan")
            raise RuntimeError(f"told to fail on window {episode_data.episode_id}")
        self.windows.append(episode_data)
        self.weight += float(self._params["learning_rate"]) * float(episode_data.rewards.mean())
        return {"weight": self.weight}

    def get_hyperparams(self) -> HyperparamSet:
        return HyperparamSet(dict(self._params))

    def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        self._params = dict(hyperparams.params)

    def save_weights(self, path: str) -> None:
        Path(path).write_text(json.dumps({"weight": self.weight}))

    def load_weights(self, path: str) -> None:
        self.weight = float(json.loads(Path(path).read_text())["weight"])

    def publish_policy(self, *, deterministic: bool = False) -> Policy:
        return _LinearPolicy(self.weight)

    def capture_state(self) -> Any:
        return self.weight

    def restore_state(self, state: Any) -> None:
        self.weight = state


class _LinearPolicy(PortablePolicy):
    def __init__(self, weight: float) -> None:
        self.version = 0
        self._weight = weight

    @property
    def generator(self) -> np.random.Generator | None:
        return None

    def export(self) -> PolicyExport:
        return PolicyExport(f"{__name__}:linear_policy", None, {"weight": np.asarray(self._weight)})

    def act(self, observations: Tree) -> Decision:
        length = tree_length(observations)
        sums: list[Array] = []
        map_tree(lambda leaf: sums.append(np.asarray(leaf, np.float64).reshape(length, -1).sum(axis=1)), observations)
        return Decision(self._weight + np.sum(sums, axis=0), {"weight": np.full(length, self._weight)})


def linear_policy(structure: Any, arrays: Mapping[str, Array], generator: np.random.Generator | None) -> Policy:
    """The policy of a ``RecordingAgent``, made elsewhere."""
    return _LinearPolicy(float(arrays["weight"]))


def check_agent(
    make_agent: Callable[[], BaseAgent], window: EpisodeData, *, behaviour: Behaviour | None = None
) -> None:
    """Check everything that ``BaseAgent``, ``PolicyPublisher`` and ``Restorable`` promise.

    Args:
        make_agent: makes a fresh agent; called more than once.
        window: something to learn from, with observations and actions as the agent takes them.
        behaviour: what to compare agents by. By default the actions of the deterministic policy of
            a ``PolicyPublisher``, and of ``act`` else: an agent of the second kind that explores at
            random needs a behaviour of its own.

    Raises:
        AssertionError: a promise is broken; the text says which.
    """

    def actions(agent: BaseAgent) -> Any:
        if isinstance(agent, PolicyPublisher):
            return agent.publish_policy(deterministic=True).act(window.observations).actions
        return [agent.act(_row(window.observations, row)) for row in range(window.length)]

    behaviour = behaviour if behaviour is not None else actions
    agent = make_agent()
    assert isinstance(agent, BaseAgent), f"make_agent: expected a BaseAgent, got {type(agent).__name__}"
    _check_hyperparams(agent)
    _check_acting(agent, window)
    _check_learning(agent, window)
    _check_saving(make_agent, agent, window, behaviour)
    if isinstance(agent, Restorable):
        _check_restoring(agent, agent, window, behaviour)
    if isinstance(agent, PolicyPublisher):
        _check_publishing(agent, agent, window)


def _check_hyperparams(agent: BaseAgent) -> None:
    first = agent.get_hyperparams()
    assert isinstance(first, HyperparamSet), f"get_hyperparams: expected a HyperparamSet, got {type(first).__name__}"
    expected = copy.deepcopy(first.params)
    first.params["a key that only the caller knows"] = 1.0
    got = agent.get_hyperparams().params
    assert got == expected, f"get_hyperparams: expected a copy, but changing it changed the agent to {got}"
    given = HyperparamSet(copy.deepcopy(expected))
    agent.set_hyperparams(given)
    got = agent.get_hyperparams().params
    assert got == expected, f"get_hyperparams after set_hyperparams: expected {expected}, got {got}"
    given.params.clear()
    got = agent.get_hyperparams().params
    assert got == expected, f"set_hyperparams: expected a copy to be taken, but clearing the original left {got}"


def _check_acting(agent: BaseAgent, window: EpisodeData) -> None:
    shape = window.actions.shape[1:]
    got = np.asarray(agent.act(_row(window.observations, 0)))
    assert got.shape == shape, f"act: expected an action of shape {list(shape)}, got {list(got.shape)}"
    if isinstance(agent, PolicyPublisher):
        decision = agent.publish_policy().act(window.observations)
        expected = (window.length, *shape)
        assert np.shape(decision.actions) == expected, (
            f"published policy: expected actions of shape {list(expected)}, got {list(np.shape(decision.actions))}"
        )
        for name, column in decision.extras.items():
            assert len(column) == window.length, (
                f"published policy: expected {window.length} rows in extras[{name!r}], got {len(column)}"
            )


def _check_learning(agent: BaseAgent, window: EpisodeData) -> None:
    before = copy.deepcopy(window)
    diagnostics = agent.learn(window)
    assert isinstance(diagnostics, dict), f"learn: expected a dict, got {type(diagnostics).__name__}"
    for name, value in diagnostics.items():
        assert isinstance(value, Real), f"learn: expected a number for {name!r}, got {value!r}"
    changed = same_window(before, window)
    assert changed is None, f"learn: expected the window to be left alone, but it changed {changed}"


def _check_saving(
    make_agent: Callable[[], BaseAgent], agent: BaseAgent, window: EpisodeData, behaviour: Behaviour
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "weights")
        before = copy.deepcopy(behaviour(agent))
        agent.save_weights(path)
        assert _same(before, behaviour(agent)), "save_weights: expected it to change nothing, but the agent differs"
        agent.learn(window)
        fresh = make_agent()
        for name, loaded in (("a fresh agent", fresh), ("the agent that saved", agent)):
            loaded.load_weights(path)
            got = behaviour(loaded)
            assert _same(before, got), f"load_weights into {name}: expected the behaviour {before}, got {got}"


def _check_restoring(agent: BaseAgent, restorable: Restorable, window: EpisodeData, behaviour: Behaviour) -> None:
    before = copy.deepcopy(behaviour(agent))
    state = restorable.capture_state()
    # Twice, because learning after the first restoration must not spoil what was captured.
    for _ in range(2):
        agent.learn(window)
        restorable.restore_state(state)
        got = behaviour(agent)
        assert _same(before, got), f"restore_state: expected the behaviour {before}, got {got}"


def _check_publishing(agent: BaseAgent, publisher: PolicyPublisher, window: EpisodeData) -> None:
    policy = publisher.publish_policy(deterministic=True)
    before = np.array(policy.act(window.observations).actions)
    for _ in range(3):
        agent.learn(window)
    got = policy.act(window.observations).actions
    assert _same(before, got), f"publish_policy: expected a policy that never changes; after learning {before}, {got}"


def _same(first: Any, second: Any) -> bool:
    return same_tree(first, second)


def _row(tree: Tree, row: int) -> Tree:
    return map_tree(lambda leaf: leaf[row], tree)
