"""TensorFlow agents that learn in a process of their own."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import keras
import numpy as np
import pytest
from gymnasium import spaces
from optix_stream_adapters.tensorflow import DQNAgent, PPOAgent, SACAgent, TD3Agent, TFAgent
from optix_stream_adapters.tensorflow.keras_agent import KerasAgent
from saved_state import read_saved

from optix_stream.clock import SystemClock
from optix_stream.contracts import PortablePolicy
from optix_stream.events import LearnerLost, LearnerRestarted
from optix_stream.learner import Learner, ProcessLearner, ThreadLearner, make_learner
from optix_stream.recipes import AgentRecipe, find
from optix_stream.testing import RecordingEvents
from optix_stream.testing.comparing import same_tree
from optix_stream.types import EpisodeData, HyperparamSet
from optix_stream.wire import decode, encode

BOX = spaces.Box(-1.0, 1.0, (3,))
TORQUE = spaces.Box(-2.0, 2.0, (1,))
SETTINGS: dict[str, Any] = {
    "hidden": (16,), "seed": 3, "epochs": 2, "minibatch_size": 16,
    "normalize_observations": True, "normalize_rewards": True, "learning_rate": 1e-3,
}  # fmt: skip

REPLAYING: dict[str, Any] = {
    "hidden": (16,), "seed": 3, "batch_size": 16, "increment": 16, "learning_starts": 40, "noise_correlation": 0.5,
}  # fmt: skip


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def acted(learner: Learner, number: int, length: int = 48) -> EpisodeData:
    """A window that the learner's policy acted in."""
    observations = np.random.default_rng(number).normal(size=(length + 1, 3)).astype(np.float32)
    decision = learner.policy.act(observations[:-1])
    return EpisodeData(
        observations=observations[:-1],
        next_observations=observations[1:],
        actions=decision.actions,
        rewards=-np.square(observations[1:, 0]).astype(np.float64),
        terminated=np.arange(length) % 16 == 15,
        truncated=np.zeros(length, np.bool_),
        infos=[{}] * length,
        episode_id=number,
        extras=decision.extras,
    )


@pytest.mark.anyio
@pytest.mark.parametrize(("kind", "settings"), [(PPOAgent, SETTINGS), (SACAgent, REPLAYING)], ids=["ppo", "sac"])
async def test_an_agent_in_a_process_is_that_in_a_thread_also_when_the_process_is_killed(
    kind: type[KerasAgent], settings: dict[str, Any], tmp_path: Path
) -> None:
    agent, twin = (kind.for_spaces(BOX, TORQUE, **settings) for _ in range(2))  # type: ignore[attr-defined]
    assert agent.recipe is not None
    process, thread = ProcessLearner(agent.recipe, SystemClock(), None, agent), ThreadLearner(twin)
    events = RecordingEvents()
    with anyio.fail_after(120):
        async with process.open(events), thread.open(events):
            for number in range(3):
                windows = [acted(learner, number) for learner in (process, thread)]
                assert same_tree(windows[0].actions, windows[1].actions)
                assert same_tree(windows[0].extras, windows[1].extras)
                assert await process.learn(windows[0]) == await thread.learn(windows[1])
                if number == 1:
                    assert process._child is not None
                    os.kill(process._child.pid, signal.SIGKILL)
    assert len(events.of(LearnerLost)) == len(events.of(LearnerRestarted)) == 1
    for name, each in (("process", agent), ("thread", twin)):
        await anyio.to_thread.run_sync(each.save_weights, str(tmp_path / name))
    first, second = (tmp_path / name for name in ("process", "thread"))
    tensors, _ = read_saved(first)
    assert same_tree(tensors, read_saved(second)[0])
    if kind is SACAgent:
        remembered = [path.relative_to(first) for path in (first / "replay").rglob("*.safetensors")]
        assert len(remembered) > 1
        assert all((first / path).read_bytes() == (second / path).read_bytes() for path in remembered)
    assert all(name.endswith("bias") or np.abs(tensor).sum() > 0.0 for name, tensor in tensors.items())


@pytest.mark.parametrize(
    ("kind", "action_space"),
    [
        (PPOAgent, spaces.Discrete(3, start=1)),
        (PPOAgent, TORQUE),
        (DQNAgent, spaces.Discrete(3, start=1)),
        (SACAgent, TORQUE),
        (TD3Agent, TORQUE),
    ],
    ids=str,
)
@pytest.mark.parametrize("is_exploring", [True, False])
def test_a_policy_acts_elsewhere_as_here(kind: type[KerasAgent], action_space: Any, is_exploring: bool) -> None:
    settings = SETTINGS if kind is PPOAgent else {"hidden": (16,), "seed": 3, "learning_starts": 1000}
    agent, twin = (kind.for_spaces(BOX, action_space, **settings) for _ in range(2))  # type: ignore[attr-defined]
    for each in (agent, twin):
        learner = ThreadLearner(each)
        each.learn(acted(learner, 0))
    here, original = (each.publish_policy(deterministic=not is_exploring) for each in (agent, twin))
    assert isinstance(original, PortablePolicy)
    export = original.export()
    assert export is not None
    structure, arrays = decode(encode([export.structure, dict(export.arrays)]))
    elsewhere = find(export.builder)(structure, arrays, original.generator)
    observations = np.random.default_rng(9).normal(size=(7, 3)).astype(np.float32)
    for _ in range(2):
        one, two = here.act(observations), elsewhere.act(observations)
        assert same_tree([one.actions, one.extras], [two.actions, two.extras])
        assert one.actions.dtype == two.actions.dtype


def test_what_made_an_agent_is_its_recipe() -> None:
    agent = PPOAgent.for_spaces(BOX, TORQUE, **SETTINGS)
    recipe = agent.recipe
    assert recipe is not None
    assert recipe.factory == "optix_stream_adapters.tensorflow.ppo:PPOAgent.for_spaces"
    again = AgentRecipe(recipe.factory, decode(encode(recipe.arguments))).make()
    assert isinstance(again, PPOAgent)
    assert again.config == agent.config
    assert again.get_hyperparams().params == agent.get_hyperparams().params
    weights = [each.model.get_weights() for each in (agent, again)]
    assert same_tree(*weights)


def model(*layers: Any) -> Any:
    return keras.Sequential([keras.layers.Input(shape=(4,)), *layers])


@pytest.mark.parametrize(
    ("make", "placement"),
    [
        (lambda: TFAgent.for_spaces(BOX, TORQUE), ProcessLearner),
        (lambda: TFAgent(model(keras.layers.Dense(2)), keras.optimizers.Adam(), HyperparamSet({})), ThreadLearner),
    ],
    ids=["by its spaces", "around a model"],
)
def test_a_live_agent_that_says_how_it_was_made_gets_a_process(make: Any, placement: type[Learner]) -> None:
    learner = make_learner(make(), None, is_live=True, clock=SystemClock(), max_failures=3)
    assert type(learner) is placement


def test_a_policy_that_acts_through_a_graph_stays_here() -> None:
    layers = (keras.layers.Dense(8), keras.layers.LayerNormalization(), keras.layers.Dense(2))
    agent = TFAgent(model(*layers), keras.optimizers.Adam(), HyperparamSet({}))
    policy = agent.publish_policy()
    assert isinstance(policy, PortablePolicy)
    assert policy.export() is None
