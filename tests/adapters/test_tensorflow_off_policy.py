"""Agents that learn from the past: when they learn how much, what they keep, and how they explore."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from gymnasium import spaces
from optix_stream_adapters.tensorflow import DQNAgent, DQNConfig, SACAgent, TD3Agent
from optix_stream_adapters.tensorflow.networks import build_mlp
from optix_stream_adapters.tensorflow.off_policy import OffPolicyAgent
from saved_state import FILE, what_was_learned

from optix_stream.errors import CheckpointError, ConfigurationError, TransitionMismatchError
from optix_stream.learner.host import AgentHost
from optix_stream.testing import check_agent, make_window
from optix_stream.testing.comparing import same_tree
from optix_stream.types import Array, EpisodeData, HyperparamSet

BOX = spaces.Box(-np.inf, np.inf, (2,))
TORQUE = spaces.Box(-2.0, 2.0, (1,))
KINDS = [DQNAgent, SACAgent, TD3Agent]
SMALL: dict[str, Any] = {
    "hidden": (8,), "seed": 0, "batch_size": 8, "increment": 16, "learning_starts": 8, "buffer_size": 100, "n_step": 3,
}  # fmt: skip


def make_agent(kind: type[OffPolicyAgent], **settings: Any) -> Any:
    """A new one, which costs some seconds when it first learns."""
    own: dict[str, Any] = {"priority_exponent": 0.6} if kind is DQNAgent else {}
    return kind.for_spaces(BOX, spaces.Discrete(2) if kind is DQNAgent else TORQUE, **SMALL | own | settings)


@functools.cache
def made(kind: type[OffPolicyAgent]) -> tuple[Any, Path]:
    agent, path = make_agent(kind), Path(tempfile.mkdtemp()) / "weights"
    agent.save_weights(str(path))
    return agent, path


def as_new(kind: type[OffPolicyAgent]) -> Any:
    """The same one each time, as it was made."""
    agent, path = made(kind)
    agent.load_weights(str(path))
    return agent


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"gamma": 2}, "gamma: expected a finite number from 0 to 1, got 2"),
        ({"tau": "x"}, "tau: expected a finite number from 0 to 1, got 'x'"),
        ({"learning_rate": -1}, "learning_rate: expected a finite number of at least 0, got -1"),
        ({"hidden": [8, 0.5]}, r"hidden: expected whole numbers of at least 1, .* got \[8, 0.5\]"),
        ({"buffer_size": "x"}, "buffer_size: expected a whole number, got 'x'"),
        ({"update_ratio": "x"}, "update_ratio: expected a finite number, got 'x'"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(
    kind: type[OffPolicyAgent], settings: dict[str, Any], match: str
) -> None:
    with pytest.raises(ConfigurationError, match=match):
        make_agent(kind, **settings)


def test_an_entropy_may_be_below_0_and_is_a_number() -> None:
    agent = as_new(SACAgent)
    agent.set_hyperparams(HyperparamSet({"target_entropy": -3.0}))
    agent.set_hyperparams(HyperparamSet({"target_entropy": None}))
    with pytest.raises(ConfigurationError, match="target_entropy: expected a finite number, got 'x'"):
        agent.set_hyperparams(HyperparamSet({"target_entropy": "x"}))


def window_for(kind: type[OffPolicyAgent], length: int = 64, seed: int = 0) -> EpisodeData:
    rng = np.random.default_rng(seed)
    window = make_window(rng.normal(size=length).tolist(), seed=seed)
    if kind is DQNAgent:
        return window
    return dataclasses.replace(window, actions=rng.uniform(-2.0, 2.0, (length, 1)).astype(np.float32))


def part_of(window: EpisodeData, start: int, end: int) -> EpisodeData:
    columns = ("observations", "next_observations", "actions", "rewards", "terminated", "truncated", "gaps", "streams")
    picked = {name: getattr(window, name)[start:end] for name in (*columns, "times")}
    return dataclasses.replace(window, **picked, infos=[{}] * (end - start))


def everything(agent: Any, directory: Path) -> list[Any]:
    """All that a checkpoint holds, but for the version, which never goes back."""
    agent.save_weights(str(directory))
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path != directory / FILE)
    return [*what_was_learned(directory), *(path.read_bytes() for path in files)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_contract(kind: type[OffPolicyAgent]) -> None:
    check_agent(lambda: make_agent(kind), window_for(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_one_trace_serves_all_windows(kind: type[OffPolicyAgent]) -> None:
    agent = as_new(kind)
    for seed, length in enumerate((64, 16, 5, 64, 200)):
        agent.learn(window_for(kind, length, seed))
        agent.publish_policy()
    assert agent._update.traces == 1
    assert agent._forward.traces <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_loaded_goes_on_bit_for_bit(kind: type[OffPolicyAgent], tmp_path: Path) -> None:
    agent = as_new(kind)
    # Part of an increment is due, and the buffer has begun to overwrite.
    agent.learn(window_for(kind, 125))
    agent.save_weights(str(tmp_path / "saved"))
    outcomes = []
    for number in range(2):
        told = agent.learn(window_for(kind, 50, seed=9))
        actions = agent.publish_policy().act(window_for(kind).observations).actions
        outcomes.append((told, actions.tolist(), everything(agent, tmp_path / str(number))))
        agent.load_weights(str(tmp_path / "saved"))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_window_leaves_no_trace(kind: type[OffPolicyAgent], tmp_path: Path) -> None:
    outcomes = []
    for fails in (True, False):
        agent = as_new(kind)
        host = AgentHost(agent, lambda policy: None)
        good = window_for(kind)
        host.learn(good)
        if fails:
            with pytest.raises(FloatingPointError, match="diverged"):
                host.learn(dataclasses.replace(good, rewards=np.full(64, 1e38)))
        host.learn(window_for(kind, seed=3))
        outcomes.append(everything(agent, tmp_path / str(fails)))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(("ratio", "updates"), [(1.0, 16), (0.5, 8), (2.0, 32), (0.01, 1)])
def test_gradient_steps_are_those_of_an_increment(ratio: float, updates: int) -> None:
    assert DQNConfig(increment=16, update_ratio=ratio).updates == updates


@pytest.mark.parametrize("ratio", [0.4, 1.5])
def test_gradient_steps_follow_the_transitions(ratio: float) -> None:
    agent = make_agent(DQNAgent, update_ratio=ratio, learning_starts=100)
    assert agent.learn(window_for(DQNAgent, 100)) == {}
    for seed in range(4):
        agent.learn(window_for(DQNAgent, 50, seed))
    steps = float(agent._learned["model"].variables()["count"].value.numpy())
    assert 200 * ratio - agent.config.updates < steps <= 200 * ratio


@pytest.mark.parametrize("kind", KINDS)
def test_increments_and_the_windows_end_are_the_window(kind: type[OffPolicyAgent]) -> None:
    agent, window = as_new(kind), window_for(kind, 56)
    told = [agent.learn_increment(part_of(window, start, start + 16)) for start in (0, 16, 32)]
    assert all(told[1:])
    last = agent.learn(dataclasses.replace(window, rows_learned=48))
    assert last["value" if kind is DQNAgent else "critic_loss"] != 0.0
    assert agent.learn(dataclasses.replace(window, rows_learned=56)) == {}
    in_parts = (agent._counters(), len(agent._buffer))
    agent = as_new(kind)
    agent.learn(window)
    # Minibatches are not those of before, because rows of later increments were not there then.
    assert (agent._counters(), len(agent._buffer)) == in_parts


def test_a_gap_that_is_known_only_at_the_windows_end_cuts_the_stream() -> None:
    for is_lost in (False, True):
        agent = make_agent(DQNAgent, n_step=3, learning_starts=1000, buffer_size=4)
        window = window_for(DQNAgent, 5)
        window = dataclasses.replace(window, terminated=np.zeros(5, np.bool_))
        agent.learn_increment(part_of(window, 0, 2))
        end = part_of(window, 0, 2)
        gaps = np.array([False, is_lost])
        agent.learn(dataclasses.replace(end, gaps=gaps, rows_learned=2))
        agent.learn(part_of(window, 2, 4))
        sample = agent._buffer.draw(64, 0.5, np.random.default_rng(0))
        spans = np.log(sample.discounts[sample.rows == 1][0]) / np.log(0.5)
        assert round(float(spans)) == (1 if is_lost else 3)


def test_what_a_fallback_did_is_learned_from() -> None:
    agent = as_new(SACAgent)
    window = window_for(SACAgent)
    actions = window.actions.copy()
    actions[5:10] = 1.5
    agent.learn(dataclasses.replace(window, actions=actions, extras={"log_prob": np.full(64, np.nan)}))
    np.testing.assert_allclose(agent._buffer._columns["actions"][5:10], 0.75)


# --- exploring -----------------------------------------------------------------------------------


def test_the_share_of_random_actions_falls_with_the_steps() -> None:
    agent = make_agent(DQNAgent, exploration_steps=100, epsilon_end=0.1, learning_starts=1000)
    assert agent.epsilon == 1.0
    observations = np.tile(np.ones((1, 2), np.float32), (4000, 1))
    shares = []
    for _ in range(3):
        best = agent.publish_policy(deterministic=True).act(observations[:1]).actions[0]
        shares.append(2.0 * float(np.mean(agent.publish_policy().act(observations).actions != best)))
        agent.learn(window_for(DQNAgent, 50))
    assert shares == pytest.approx([1.0, 0.55, 0.1], abs=0.05)
    assert agent.epsilon == pytest.approx(0.1)


@pytest.mark.parametrize("kind", [SACAgent, TD3Agent])
def test_actions_before_learning_begins_are_all_over_the_space(kind: type[OffPolicyAgent]) -> None:
    space = spaces.Box(np.array([0.0, -5.0]), np.array([1.0, 5.0]), dtype=np.float64)
    agent = kind.for_spaces(BOX, space, **SMALL)
    decision = agent.publish_policy().act(np.zeros((2000, 2), np.float32))
    assert decision.actions.dtype == space.dtype
    assert not decision.extras
    assert all(space.contains(action) for action in decision.actions)
    quarters = np.quantile((decision.actions - space.low) / (space.high - space.low), [0.25, 0.75], axis=0)
    assert (quarters[0] < 0.3).all()
    assert (quarters[1] > 0.7).all()


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_exploration_noise_is_correlated_in_each_stream(correlation: float) -> None:
    agent = make_agent(SACAgent, noise_correlation=correlation)
    policy = agent.publish_policy()
    observations = np.zeros((50, 2), np.float32)
    noise = np.arctanh(
        np.clip(np.stack([policy.act(observations).actions[:, 0] for _ in range(200)]) / 2.0, -0.999, 0.999)
    )
    assert np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1] == pytest.approx(correlation, abs=0.05)
    assert np.corrcoef(noise[:, 0], noise[:, 1])[0, 1] == pytest.approx(0.0, abs=0.5)
    assert noise.std() == pytest.approx(1.0, abs=0.1)


def test_the_deterministic_policy_takes_the_mean() -> None:
    agent = make_agent(SACAgent)
    observations = window_for(SACAgent).observations
    expected = 2.0 * np.tanh(np.asarray(agent.model(observations))[:, :1])
    decided = agent.publish_policy(deterministic=True).act(observations).actions
    np.testing.assert_allclose(decided, expected, atol=1e-5)


# --- models and spaces ---------------------------------------------------------------------------


def test_models_of_the_users_own() -> None:
    actor = keras.Sequential([keras.Input((2,)), keras.layers.Dense(8, "gelu"), keras.layers.Dense(1)])
    critics = [
        keras.Sequential(
            [keras.Input((3,)), keras.layers.Dense(8), keras.layers.LayerNormalization(), keras.layers.Dense(1)]
        )
        for _ in range(2)
    ]
    agent = TD3Agent(actor, critics, HyperparamSet({"gamma": 0.9}), action_space=TORQUE, seed=0)
    before = actor.get_weights()
    agent.learn(window_for(TD3Agent, 1200))
    assert not same_tree(before, actor.get_weights())
    assert agent.recipe is None
    assert agent.get_hyperparams().params == {"gamma": 0.9}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DQNAgent.for_spaces(BOX, TORQUE), "expected Discrete"),
        (lambda: SACAgent.for_spaces(BOX, spaces.Discrete(2)), "expected a Box of floats"),
        (lambda: SACAgent.for_spaces(BOX, spaces.Box(-np.inf, np.inf, (1,))), "finite bounds"),
        (lambda: TD3Agent.for_spaces(BOX, TORQUE, charm=1), "charm"),
        (lambda: DQNAgent.for_spaces(BOX, spaces.Discrete(2), scale_observations=True, batch_size=0), "batch_size"),
        (lambda: DQNAgent.for_spaces(spaces.Discrete(3), spaces.Discrete(2), scale_observations=True), "Box"),
        (lambda: TD3Agent.for_spaces(BOX, TORQUE, noise_correlation=1.0), "noise_correlation"),
        (lambda: DQNAgent(mlp(2, 3), HyperparamSet({}), action_space=spaces.Discrete(2)), "expected 2 outputs"),
        (lambda: SACAgent(mlp(2, 1), (mlp(3, 1), mlp(3, 1)), HyperparamSet({}), action_space=TORQUE), "2 outputs"),
        (lambda: TD3Agent(mlp(2, 1), (mlp(3, 1),) * 2, HyperparamSet({}), action_space=TORQUE), "two different"),
        (lambda: TD3Agent(mlp(2, 1), (mlp(2, 1), mlp(3, 1)), HyperparamSet({}), action_space=TORQUE), "to 1, got"),
        (lambda: DQNConfig(update_ratio=0.0), "update_ratio"),
    ],
)
def test_what_cannot_work_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make()


def mlp(inputs: int, units: int) -> Any:
    return build_mlp((inputs,), (4,), units, rng=np.random.default_rng(inputs), output_gain=1.0)


@pytest.mark.parametrize(
    ("kind", "actions"),
    [(DQNAgent, np.full(4, 7)), (DQNAgent, np.zeros((4, 2))), (SACAgent, np.zeros((4, 3))), (TD3Agent, np.zeros(4))],
)
def test_actions_of_another_space_are_refused(kind: type[OffPolicyAgent], actions: Array) -> None:
    agent = make_agent(kind)
    with pytest.raises(TransitionMismatchError, match="actions"):
        agent.learn(dataclasses.replace(window_for(kind, 4), actions=actions))
    assert not len(agent._buffer)


@pytest.mark.parametrize("unbounded", [np.inf, np.finfo(np.float32).max])
def test_bounded_observations_are_scaled_and_others_left_alone(unbounded: float) -> None:
    space = spaces.Box(np.array([-1.2, -unbounded], np.float32), np.array([0.6, unbounded], np.float32))
    agent = DQNAgent.for_spaces(space, spaces.Discrete(2), scale_observations=True, **SMALL)
    agent.learn(
        dataclasses.replace(window_for(DQNAgent, 3), observations=np.array([[-1.2, 3.0], [0.6, -4.0], [-0.3, 0.0]]))
    )
    stored = agent._buffer._columns["observations"][:3]
    np.testing.assert_allclose(stored, [[-1.0, 3.0], [1.0, -4.0], [0.0, 0.0]], atol=1e-6)


def test_structured_observations_and_actions_that_do_not_start_at_zero() -> None:
    space = spaces.Dict({"position": spaces.Box(-1, 1, (2,)), "mode": spaces.Discrete(3)})
    agent = DQNAgent.for_spaces(space, spaces.Discrete(2, start=5), **SMALL)
    rng = np.random.default_rng(0)
    observations = {"position": rng.normal(size=(32, 2)).astype(np.float32), "mode": rng.integers(0, 3, 32)}
    window = window_for(DQNAgent, 32)
    window = dataclasses.replace(
        window, observations=observations, next_observations=observations, actions=window.actions + 5
    )
    assert "loss" in agent.learn(window)
    assert agent.act({"position": np.zeros(2, np.float32), "mode": 1}) in (5, 6)


@pytest.mark.parametrize("damage", ["replay", "tensors"])
def test_a_damaged_checkpoint_changes_nothing(damage: str, tmp_path: Path) -> None:
    agent = as_new(TD3Agent)
    agent.learn(window_for(TD3Agent))
    agent.save_weights(str(tmp_path / "saved"))
    agent.learn(window_for(TD3Agent, seed=1))
    broken = tmp_path / "saved" / (f"replay/{FILE}" if damage == "replay" else FILE)
    broken.write_bytes(broken.read_bytes()[:-50])
    before = everything(agent, tmp_path / "before")
    with pytest.raises(CheckpointError):
        agent.load_weights(str(tmp_path / "saved"))
    assert before == everything(agent, tmp_path / "after")
