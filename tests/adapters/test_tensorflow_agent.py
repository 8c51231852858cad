"""What both agents promise: acting, learning, hyperparameters, state on disk and in memory."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import keras
import numpy as np
import pytest
import tensorflow as tf
from anyio import to_thread
from gymnasium import spaces
from optix_stream_adapters.tensorflow import PPOAgent, TFAgent
from optix_stream_adapters.tensorflow.returns import discounted_returns, find_segments
from saved_state import FILE, read_saved, with_arrays, with_content, with_state, with_text, without_file

from optix_stream.agents.state import write_state
from optix_stream.errors import CheckpointError, ConfigurationError, TransitionMismatchError
from optix_stream.learner import ThreadLearner
from optix_stream.testing import check_agent, make_window
from optix_stream.trees import as_tree, map_tree, stack
from optix_stream.types import Array, EpisodeData, HyperparamSet

BOX = spaces.Box(-1, 1, (4,))
DICT = spaces.Dict(a=spaces.Box(-1, 1, (2, 2)), b=spaces.Discrete(3, start=1))
TUPLE = spaces.Tuple([spaces.MultiBinary(2), spaces.MultiDiscrete([2, 3])])
ACTION_BOX = spaces.Box(np.asarray([-2.0, 0.0], np.float32), np.asarray([2.0, 1.0], np.float32))

Case: TypeAlias = tuple[type[TFAgent], spaces.Space[Any], spaces.Space[Any], dict[str, Any]]
CASES: dict[str, Case] = {
    "reinforce, Discrete": (TFAgent, BOX, spaces.Discrete(3, start=1), {"value_updates": 2}),
    "reinforce, Box": (TFAgent, DICT, ACTION_BOX, {"entropy_coef": 0.01}),
    "ppo, Discrete": (
        PPOAgent,
        BOX,
        spaces.Discrete(3),
        {"normalize_observations": True, "normalize_rewards": True, "epochs": 2, "minibatch_size": 16},
    ),
    "ppo, Box": (
        PPOAgent,
        TUPLE,
        ACTION_BOX,
        {"epochs": 2, "minibatch_size": 8, "schedule_steps": 1000, "target_kl": 0.5, "normalize_observations": True},
    ),
}
every_agent = pytest.mark.parametrize("name", CASES)


@pytest.fixture
def anyio_backend() -> str:
    """One is enough: the learner itself is tested on both."""
    return "asyncio"


def make_agent(name: str, seed: int = 0, **config: Any) -> TFAgent:
    kind, observation_space, action_space, settings = CASES[name]
    return kind.for_spaces(observation_space, action_space, hidden=(8,), seed=seed, **settings | config)


def acted(agent: TFAgent, observation_space: spaces.Space[Any], length: int = 40, seed: int = 0) -> EpisodeData:
    """A window of two interleaved streams that the agent acted in; rewards favour some observations."""
    observation_space.seed(seed)
    rng = np.random.default_rng(seed)
    observations = stack([as_tree(observation_space.sample()) for _ in range(length + 1)])
    now = map_tree(lambda leaf: leaf[:-1], observations)
    decision = agent.publish_policy().act(now)
    return EpisodeData(
        observations=now,
        actions=decision.actions,
        rewards=rng.normal(size=length),
        terminated=rng.random(length) < 0.1,
        truncated=rng.random(length) < 0.1,
        infos=[{}] * length,
        episode_id=seed,
        next_observations=map_tree(lambda leaf: leaf[1:], observations),
        streams=np.arange(length) % 2,
        stream_ids=("even", 1),
        extras=decision.extras,
    )


def window_for(name: str, agent: TFAgent, length: int = 40, seed: int = 0) -> EpisodeData:
    return acted(agent, CASES[name][1], length, seed)


def saved(agent: TFAgent, path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """All that the agent has learned, as its checkpoint tells it."""
    agent.save_weights(str(path))
    arrays, state = read_saved(path)
    del state["version"]
    return arrays, state


def assert_same(first: tuple[dict[str, Array], Any], second: tuple[dict[str, Array], Any]) -> None:
    assert first[0].keys() == second[0].keys()
    for name, tensor in first[0].items():
        np.testing.assert_array_equal(tensor, second[0][name], name)
    assert first[1] == second[1]


def differing(first: dict[str, Array], second: dict[str, Array]) -> set[str]:
    """The parts of an agent, such as ``model``, that are not the same in both."""
    return {name.split("/")[0] for name in first if not np.array_equal(first[name], second[name])}


def weights_of(model: Any) -> list[Array]:
    return [np.array(weight) for weight in model.get_weights()]


# --- the contract --------------------------------------------------------------------------------


@every_agent
def test_conforms(name: str) -> None:
    window = window_for(name, make_agent(name))
    check_agent(lambda: make_agent(name, seed=5), window)


@every_agent
def test_one_seed_fixes_everything(name: str, tmp_path: Path) -> None:
    def live(path: Path) -> tuple[list[Array], tuple[dict[str, Array], Any]]:
        agent, actions = make_agent(name, 3), []
        for number in range(2):
            window = window_for(name, agent, seed=number)
            actions.append(window.actions)
            agent.learn(window)
        return actions, saved(agent, path)

    actions, state = live(tmp_path / "first")
    again, state_again = live(tmp_path / "again")
    np.testing.assert_array_equal(actions, again)
    assert_same(state, state_again)

    new, other = make_agent(name, 3), make_agent(name, 4)
    assert not np.array_equal(actions[0], window_for(name, other, seed=0).actions)
    weights = saved(new, tmp_path / "new")[0], saved(other, tmp_path / "other")[0]
    assert {"model", "value_model"} <= differing(*weights)


@every_agent
def test_a_loaded_agent_goes_on_as_the_saved_one_would_have(name: str, tmp_path: Path) -> None:
    agent, fresh = make_agent(name), make_agent(name, seed=9)
    for number in range(2):
        agent.learn(window_for(name, agent, seed=number))
    state = saved(agent, tmp_path / "saved")
    assert all(state[0][slot].any() for slot in state[0] if slot.startswith("optimizer/")), "every slot is in use"
    fresh.load_weights(str(tmp_path / "saved"))
    assert_same(saved(fresh, tmp_path / "loaded"), state)

    window, window_of_fresh = (window_for(name, each, seed=7) for each in (agent, fresh))
    np.testing.assert_array_equal(window.actions, window_of_fresh.actions)
    assert agent.learn(window) == fresh.learn(window_of_fresh)
    after, after_of_fresh = saved(agent, tmp_path / "after"), saved(fresh, tmp_path / "fresh after")
    assert_same(after, after_of_fresh)
    assert {"model", "value_model", "optimizer", "value_optimizer"} <= differing(state[0], after[0])


@every_agent
def test_the_versions_of_published_policies_only_go_up(name: str, tmp_path: Path) -> None:
    agent = make_agent(name)
    first = agent.publish_policy().version
    agent.save_weights(str(tmp_path / "weights"))
    second = agent.publish_policy().version
    agent.load_weights(str(tmp_path / "weights"))
    assert first < second < agent.publish_policy().version
    fresh = make_agent(name)
    fresh.load_weights(str(tmp_path / "weights"))
    assert fresh.publish_policy().version > first


@every_agent
def test_there_is_nothing_to_learn_from_an_empty_window(name: str, tmp_path: Path) -> None:
    agent = make_agent(name)
    before = saved(agent, tmp_path / "before")
    assert agent.learn(make_window([])) == {}
    assert_same(before, saved(agent, tmp_path / "after"))


# --- acting --------------------------------------------------------------------------------------


@every_agent
def test_actions_are_of_the_space_and_explore(name: str) -> None:
    _, observation_space, action_space, _ = CASES[name]
    agent = make_agent(name)
    observation = observation_space.sample()
    actions = [agent.act(observation) for _ in range(30)]
    assert all(action in action_space for action in actions)
    assert len({np.asarray(action).tobytes() for action in actions}) > 1
    if isinstance(action_space, spaces.Discrete):
        assert all(type(action) is int for action in actions)


@every_agent
def test_the_deterministic_policy_says_the_same_every_time(name: str) -> None:
    agent = make_agent(name)
    window = window_for(name, agent)
    policy = agent.publish_policy(deterministic=True)
    first = policy.act(window.observations)
    agent.publish_policy().act(window.observations)
    np.testing.assert_array_equal(policy.act(window.observations).actions, first.actions)
    assert not first.extras


def test_the_deterministic_choice_is_the_most_likely_one() -> None:
    agent = make_agent("reinforce, Discrete")
    observations = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    logits = np.asarray(agent.model(observations))
    actions = agent.publish_policy(deterministic=True).act(observations).actions
    np.testing.assert_array_equal(actions, logits.argmax(axis=1) + 1)


def test_recorded_log_probabilities_are_those_of_the_recorded_choices() -> None:
    agent = make_agent("reinforce, Discrete")
    for number in range(2):
        window = window_for("reinforce, Discrete", agent, seed=number)
        logits = np.asarray(agent.model(window.observations), np.float64)
        log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        expected = log_probs[np.arange(window.length), window.actions - 1]
        np.testing.assert_allclose(window.extras["log_prob"], expected, atol=1e-5)
        agent.learn(window)


def test_recorded_log_probabilities_are_densities_of_the_raw_actions(tmp_path: Path) -> None:
    agent = TFAgent.for_spaces(BOX, ACTION_BOX, hidden=(8,), seed=0, learning_rate=0.1)
    for number in range(2):
        log_std = saved(agent, tmp_path / str(number))[0]["head/000/log_std"]
        assert log_std.any() == bool(number), "it starts at 0 and is learned"
        window = acted(agent, BOX, seed=number)
        raw = window.extras["raw_action"]
        noise = (raw - np.asarray(agent.model(window.observations))) / np.exp(log_std)
        expected = (-0.5 * noise**2 - log_std - 0.5 * np.log(2 * np.pi)).sum(axis=1)
        np.testing.assert_allclose(window.extras["log_prob"], expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(window.actions, np.clip(raw * [2.0, 0.5] + [0.0, 0.5], [-2, 0], [2, 1]), atol=1e-6)
        agent.learn(window)


def test_a_model_without_spaces_takes_arrays_of_its_input_s_size() -> None:
    model = keras.Sequential([keras.Input((2, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
    agent = TFAgent(model, keras.optimizers.Adam(), HyperparamSet({}), seed=0)
    assert agent.act(np.zeros((2, 3))) in (0, 1)
    assert agent.act(np.zeros(6)) in (0, 1)
    assert agent.learn(make_window([1.0, 2.0], observation_shape=(2, 3)))
    with pytest.raises(TransitionMismatchError, match="observation: expected"):
        agent.act(np.zeros(5))
    with pytest.raises(ConfigurationError, match="observation_space: expected one"):
        agent.act({"a": np.zeros(6)})


# --- what does not fit ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [TFAgent, PPOAgent])
@pytest.mark.parametrize(
    ("observation_space", "action_space", "message"),
    [
        (BOX, spaces.MultiDiscrete([2, 2]), r"action space: expected Discrete or a Box of floats, got MultiDiscrete"),
        (BOX, spaces.Box(0, 5, (1,), np.int64), r"action space: .*got Box"),
        (BOX, spaces.Dict(a=spaces.Discrete(2)), r"action space: .*got Dict"),
        (spaces.Text(3), spaces.Discrete(2), r"observation space: expected Box, .* got Text"),
    ],
)
def test_spaces_that_it_cannot_work_with_are_named(
    kind: type[TFAgent], observation_space: spaces.Space[Any], action_space: spaces.Space[Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        kind.for_spaces(observation_space, action_space)


@pytest.mark.parametrize("kind", [TFAgent, PPOAgent])
def test_an_unknown_setting_is_named_with_the_known_ones(kind: type[TFAgent]) -> None:
    with pytest.raises(ConfigurationError, match=r"expected some of .*'gamma'.*, got \['horizon'\]"):
        kind.for_spaces(BOX, spaces.Discrete(2), horizon=3)


def mlp(inputs: int, units: int) -> Any:
    return keras.Sequential([keras.Input((inputs,)), keras.layers.Dense(units)])


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (
            partial(mlp, 4, 3),
            {"action_space": spaces.Discrete(2)},
            r"model: expected 2 outputs for Discrete\(2\), got 3",
        ),
        (partial(mlp, 5, 2), {"observation_space": BOX}, r"model: expected 4 inputs for its space, got \(5,\)"),
        (partial(mlp, 4, 2), {"value_model": lambda: mlp(4, 2)}, r"value_model: expected \(4,\) to 1, got \(4,\) to 2"),
        (partial(mlp, 4, 2), {"value_model": lambda: mlp(3, 1)}, r"value_model: expected \(4,\) to 1, got \(3,\) to 1"),
    ],
)
def test_models_that_do_not_fit_are_refused(model: Callable[[], Any], options: dict[str, Any], message: str) -> None:
    made: dict[str, Any] = {name: option() if callable(option) else option for name, option in options.items()}
    with pytest.raises(ConfigurationError, match=message):
        TFAgent(model(), keras.optimizers.Adam(), HyperparamSet({}), **made)


def test_a_model_without_an_input_layer_is_built_for_its_space() -> None:
    model = keras.Sequential([keras.layers.Dense(2)])
    agent = TFAgent(model, keras.optimizers.Adam(), HyperparamSet({}), observation_space=DICT)
    assert model.input_shape == (None, 7)
    assert agent.act(DICT.sample()) in (0, 1)


@pytest.mark.parametrize(
    ("action_space", "actions", "message"),
    [
        (spaces.Discrete(2), np.asarray([0, 2]), "expected 0 to 1, got 0 to 2"),
        (spaces.Discrete(2, start=-1), np.asarray([0, 1]), "expected -1 to 0, got 0 to 1"),
        (spaces.Discrete(2), np.asarray([0.0, 1.0]), r"expected integers \[T\], got float64\[2\]"),
        (spaces.Discrete(2), np.asarray([[0, 1], [0, 1]]), r"expected integers \[T\], got int64\[2, 2\]"),
        (ACTION_BOX, np.zeros((2, 3)), r"expected \[T, 2\], got float64\[2, 3\]"),
    ],
)
def test_actions_that_cannot_be_its_own_are_refused(
    action_space: spaces.Space[Any], actions: Array, message: str
) -> None:
    agent = TFAgent.for_spaces(BOX, action_space, hidden=(8,))
    window = dataclasses.replace(make_window([1.0, 2.0], observation_shape=(4,)), actions=actions)
    with pytest.raises(TransitionMismatchError, match=message):
        agent.learn(window)


def test_a_column_of_choices_is_taken_for_choices(tmp_path: Path) -> None:
    states = []
    for shape in ((40,), (40, 1)):
        agent = make_agent("reinforce, Discrete")
        window = window_for("reinforce, Discrete", agent)
        agent.learn(dataclasses.replace(window, actions=window.actions.reshape(shape)))
        states.append(saved(agent, tmp_path / str(len(shape))))
    assert_same(*states)


# --- learning ------------------------------------------------------------------------------------


def standardized(values: Array) -> Array:
    return np.asarray((values - values.mean()) / values.std(), np.float32)


@pytest.mark.parametrize("action_space", [spaces.Discrete(3), ACTION_BOX], ids=["Discrete", "Box"])
def test_the_policy_step_is_the_gradient_of_the_textbook(action_space: spaces.Space[Any], tmp_path: Path) -> None:
    units = 3 if isinstance(action_space, spaces.Discrete) else 2
    model = mlp(4, units)
    params = {"learning_rate": 0.1, "gamma": 0.9, "entropy_coef": 0.01}
    agent = TFAgent(model, keras.optimizers.SGD(0.1), HyperparamSet(params), action_space=action_space, seed=0)
    window = acted(agent, BOX)
    value, following = (
        np.asarray(agent.value_model(rows))[:, 0] for rows in (window.observations, window.next_observations)
    )
    returns = discounted_returns(find_segments(window), window.rewards, following, 0.9)
    advantages = standardized(returns - value)
    log_std = tf.Variable(tf.zeros(2))
    watched = [*(weight.value for weight in model.trainable_variables), log_std]
    with tf.GradientTape() as tape:
        outputs = model(window.observations)
        if units == 3:
            log_probs = tf.nn.log_softmax(outputs)
            log_prob = tf.reduce_sum(log_probs * tf.one_hot(window.actions, 3), axis=1)
            entropy = -tf.reduce_mean(tf.reduce_sum(tf.exp(log_probs) * log_probs, axis=1))
        else:
            noise = (window.extras["raw_action"] - outputs) / tf.exp(log_std)
            log_prob = tf.reduce_sum(-0.5 * noise**2 - log_std - 0.5 * np.log(2 * np.pi), axis=1)
            entropy = tf.reduce_sum(log_std + 0.5 * np.log(2 * np.pi * np.e))
        loss = -tf.reduce_mean(log_prob * advantages) - 0.01 * entropy
    gradients = tape.gradient(loss, watched)
    expected = [
        np.asarray(weight) - 0.1 * np.asarray(g) for weight, g in zip(watched, gradients, strict=True) if g is not None
    ]

    diagnostics = agent.learn(window)

    got = weights_of(model)
    if units == 2:
        got.append(saved(agent, tmp_path / "weights")[0]["head/000/log_std"])
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert diagnostics["loss"] == pytest.approx(float(loss), abs=1e-5)
    assert diagnostics["entropy"] == pytest.approx(float(entropy), abs=1e-5)


def test_the_baseline_comes_to_predict_the_returns() -> None:
    agent = TFAgent.for_spaces(BOX, spaces.Discrete(2), hidden=(16,), seed=0, value_learning_rate=0.01, gamma=0.0)
    window = acted(agent, BOX)
    window = dataclasses.replace(window, rewards=5.0 + window.observations[:, 0])
    losses = [agent.learn(window)["value_loss"] for _ in range(20)]
    assert losses[0] > 10.0
    assert losses[-1] < 0.1
    np.testing.assert_allclose(np.asarray(agent.value_model(window.observations))[:, 0], window.rewards, atol=1.0)


def test_only_what_was_truncated_or_cut_is_bootstrapped() -> None:
    ten: Any = keras.initializers.Constant(10.0)
    value_model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(1, bias_initializer=ten, kernel_initializer="zeros")]
    )
    window = make_window([1.0])
    targets = {}
    for name, ends in {"terminated": (True, False), "truncated": (False, True), "cut": (False, False)}.items():
        terminated, truncated = (np.asarray([end]) for end in ends)
        agent = TFAgent(
            mlp(2, 2),
            keras.optimizers.Adam(),
            HyperparamSet({"gamma": 0.5, "value_learning_rate": 0.0}),
            value_model=value_model,
        )
        loss = agent.learn(dataclasses.replace(window, terminated=terminated, truncated=truncated))["value_loss"]
        targets[name] = 10.0 - np.sqrt(loss)
    assert targets == pytest.approx({"terminated": 1.0, "truncated": 6.0, "cut": 6.0}, abs=1e-4)


@pytest.mark.parametrize("action_space", [spaces.Discrete(2), spaces.Box(-1, 1, (1,))], ids=["Discrete", "Box"])
@pytest.mark.parametrize("kind", [TFAgent, PPOAgent])
def test_it_learns_what_pays(kind: type[TFAgent], action_space: spaces.Space[Any]) -> None:
    agent = kind.for_spaces(BOX, action_space, hidden=(16,), seed=0, learning_rate=0.05, gamma=0.0)
    rates = []
    for number in range(15):
        window = acted(agent, BOX, length=64, seed=number)
        goes_up = window.actions.reshape(-1) > (0.5 if isinstance(action_space, spaces.Discrete) else 0.0)
        is_right = goes_up == (window.observations[:, 0] > 0.0)
        rates.append(is_right.mean())
        agent.learn(dataclasses.replace(window, rewards=is_right))
    assert np.mean(rates[:2]) < 0.65
    assert np.mean(rates[-4:]) > 0.85


class Counting(keras.layers.Layer):  # type: ignore[misc]
    """Passes its input on, and counts how often Python was asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def call(self, inputs: Any) -> Any:
        self.calls += 1
        return inputs


@pytest.mark.parametrize("action_space", [spaces.Discrete(2), spaces.Box(-1, 1, (2,))], ids=["Discrete", "Box"])
@pytest.mark.parametrize("kind", [TFAgent, PPOAgent])
def test_nothing_is_traced_again_after_the_largest_window(kind: type[TFAgent], action_space: spaces.Space[Any]) -> None:
    counters = [Counting(), Counting()]
    model, value_model = (
        keras.Sequential([keras.Input((4,)), counter, keras.layers.Dense(units)])
        for counter, units in zip(counters, (2, 1), strict=True)
    )
    agent = kind(
        model, keras.optimizers.Adam(), HyperparamSet({}), value_model=value_model, action_space=action_space, seed=0
    )
    agent.learn(acted(agent, BOX, length=100))
    after_warm_up = [counter.calls for counter in counters]
    assert min(after_warm_up) > 0
    for length in (99, 1, 64, 17, 100, 2):
        window = acted(agent, BOX, length=length, seed=length)
        agent.learn(window)
        agent.act(window.observations[0])
    assert [counter.calls for counter in counters] == after_warm_up


# --- a loss of the user's own --------------------------------------------------------------------


def test_the_user_s_loss_takes_the_place_of_the_policy_gradient() -> None:
    model = mlp(4, 2)
    seen: list[tuple[Any, EpisodeData, Array]] = []

    def compute_loss(model: Any, window: EpisodeData, returns: Any) -> Any:
        seen.append((model, window, np.asarray(returns)))
        return tf.reduce_sum(model.trainable_variables[0].value * 3.0)

    agent = TFAgent(model, keras.optimizers.SGD(0.1), HyperparamSet({"gamma": 0.9}), compute_loss, seed=0)
    window = acted(agent, BOX)
    kernel, bias = weights_of(model)
    following = np.asarray(agent.value_model(window.next_observations))[:, 0]
    diagnostics = agent.learn(window)
    assert seen[0][0] is model
    assert seen[0][1] is window
    returns = discounted_returns(find_segments(window), window.rewards, following, 0.9)
    np.testing.assert_allclose(seen[0][2], standardized(returns), atol=1e-5)
    assert seen[0][2].dtype == np.float32
    np.testing.assert_allclose(weights_of(model)[0], kernel - 0.3, atol=1e-6)
    np.testing.assert_array_equal(weights_of(model)[1], bias)
    assert diagnostics["loss"] == pytest.approx(3.0 * kernel.sum(), abs=1e-5)
    assert diagnostics["grad_norm"] == pytest.approx(3.0 * np.sqrt(kernel.size))


def test_a_loss_that_does_not_depend_on_the_model_is_refused() -> None:
    agent = TFAgent(
        mlp(4, 2), keras.optimizers.SGD(0.1), HyperparamSet({}), lambda model, window, returns: tf.reduce_sum(returns)
    )
    with pytest.raises(ConfigurationError, match="compute_loss_fn: expected a loss that depends on the model"):
        agent.learn(acted(agent, BOX))


# --- learning that fails -------------------------------------------------------------------------


@pytest.mark.anyio
@every_agent
async def test_a_window_that_breaks_learning_leaves_the_agent_as_it_was(name: str, tmp_path: Path) -> None:
    agent = make_agent(name)
    learner = ThreadLearner(agent)
    for number in range(2):
        await learner.learn(window_for(name, agent, seed=number))
    before, version = await to_thread.run_sync(saved, agent, tmp_path / "before"), learner.policy.version
    window = window_for(name, agent, seed=5)
    rewards = window.rewards.copy()
    rewards[11] = np.nan
    state = agent.capture_state()
    with pytest.raises(FloatingPointError, match="learning diverged: expected finite numbers, got"):
        agent.learn(dataclasses.replace(window, rewards=rewards))
    spoilt = await to_thread.run_sync(saved_if_possible, agent, tmp_path / "spoilt")
    assert spoilt is None or differing(before[0], spoilt[0]), "else there was nothing to put back"
    agent.restore_state(state)
    with pytest.raises(FloatingPointError):
        await learner.learn(dataclasses.replace(window, rewards=rewards))
    after = await to_thread.run_sync(saved, agent, tmp_path / "after")
    # What has been sampled since is all that may differ.
    for _, others in (before, after):
        del others["acting_rng"]
    assert_same(before, after)
    assert learner.policy.version == version
    assert (await learner.learn(window))["grad_norm"] > 0.0


def saved_if_possible(agent: TFAgent, path: Path) -> tuple[dict[str, Array], dict[str, Any]] | None:
    try:
        return saved(agent, path)
    except CheckpointError:
        return None


@pytest.mark.anyio
async def test_a_loss_that_is_not_a_number_leaves_the_agent_as_it_was(tmp_path: Path) -> None:
    def compute_loss(model: Any, window: EpisodeData, returns: Any) -> Any:
        return tf.reduce_sum(model(window.observations)) * float("nan")

    agent = TFAgent(mlp(4, 2), keras.optimizers.Adam(), HyperparamSet({}), compute_loss, seed=0)
    window = acted(agent, BOX)
    before = await to_thread.run_sync(saved, agent, tmp_path / "before")
    with pytest.raises(FloatingPointError, match=r"'loss': nan"):
        await ThreadLearner(agent).learn(window)
    assert_same(before, await to_thread.run_sync(saved, agent, tmp_path / "after"))


# --- hyperparameters -----------------------------------------------------------------------------


@every_agent
def test_the_learning_rate_reaches_the_optimizer(name: str) -> None:
    agent = make_agent(name)
    params = agent.get_hyperparams().params
    agent.set_hyperparams(HyperparamSet(params | {"learning_rate": 0.0125}))
    assert float(agent.optimizer.learning_rate) == pytest.approx(0.0125)
    assert agent.get_hyperparams().params["learning_rate"] == 0.0125
    agent.optimizer.learning_rate = 0.5
    assert agent.get_hyperparams().params["learning_rate"] == 0.5


def test_hyperparameters_that_it_does_not_know_are_carried() -> None:
    agent = make_agent("reinforce, Discrete")
    params = agent.get_hyperparams().params | {"mine": "anything"}
    agent.set_hyperparams(HyperparamSet(params))
    assert agent.get_hyperparams().params == params


def test_without_a_learning_rate_the_optimizer_keeps_its_own() -> None:
    agent = TFAgent(mlp(4, 2), keras.optimizers.Adam(0.25), HyperparamSet({"gamma": 0.9}))
    assert agent.get_hyperparams().params == {"gamma": 0.9, "learning_rate": 0.25}
    agent.set_hyperparams(HyperparamSet({"gamma": 0.8}))
    assert agent.get_hyperparams().params == {"gamma": 0.8, "learning_rate": 0.25}


@every_agent
@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("gamma", 2, "gamma: expected a finite number from 0 to 1, got 2"),
        ("gamma", "x", "gamma: expected a finite number from 0 to 1, got 'x'"),
        ("learning_rate", -1.0, "learning_rate: expected a finite number of at least 0, got -1.0"),
        ("learning_rate", None, "learning_rate: expected a finite number of at least 0, got None"),
        ("entropy_coef", np.inf, "entropy_coef: expected a finite number of at least 0, got inf"),
    ],
)
def test_hyperparameters_that_cannot_be_are_refused(name: str, key: str, value: Any, match: str) -> None:
    agent = make_agent(name)
    before = agent.get_hyperparams().params
    with pytest.raises(ConfigurationError, match=match):
        agent.set_hyperparams(HyperparamSet(before | {"gamma": 0.5, key: value}))
    assert agent.get_hyperparams().params == before
    with pytest.raises(ConfigurationError, match=match):
        make_agent(name, **{key: value})


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"hidden": "x"}, "hidden: expected whole numbers of at least 1, .* got 'x'"),
        ({"gae_lambda": 1.01}, "gae_lambda: expected a finite number from 0 to 1, got 1.01"),
        ({"target_kl": "x"}, "target_kl: expected a finite number of at least 0, got 'x'"),
        ({"epochs": "x"}, "epochs: expected a whole number, got 'x'"),
        ({"schedule_steps": "x"}, "schedule_steps: expected a whole number, got 'x'"),
        ({"schedule_end": "x"}, "schedule_end: expected a finite number, got 'x'"),
        ({"jit_compile": 1}, "jit_compile: expected true or false, got 1"),
    ],
)
def test_settings_of_the_wrong_kind_are_refused_by_name(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        PPOAgent.for_spaces(spaces.Box(-1.0, 1.0, (2,)), spaces.Discrete(2), **settings)


LIVE = [
    ("reinforce, Discrete", "learning_rate", 0.0),
    ("reinforce, Discrete", "value_learning_rate", 0.0),
    ("reinforce, Discrete", "gamma", 0.1),
    ("reinforce, Discrete", "entropy_coef", 1.0),
    ("ppo, Discrete", "learning_rate", 0.0),
    ("ppo, Discrete", "gamma", 0.1),
    ("ppo, Discrete", "gae_lambda", 0.1),
    ("ppo, Discrete", "clip_range", 1e-3),
    ("ppo, Discrete", "entropy_coef", 1.0),
    ("ppo, Discrete", "value_coef", 0.01),
    ("ppo, Discrete", "max_grad_norm", 1e-7),
    ("ppo, Discrete", "target_kl", 1e-9),
]


def test_every_hyperparameter_is_tried() -> None:
    tried = {(CASES[name][0], key) for name, key, _ in LIVE}
    assert tried == {(kind, key) for kind in (TFAgent, PPOAgent) for key in kind.default_hyperparams}


@dataclasses.dataclass(frozen=True)
class Learner:
    """An agent that has learned from two windows, a third one, and what it makes of that."""

    agent: TFAgent
    state: Any
    window: EpisodeData
    before: dict[str, Array]
    after: dict[str, Array]


@pytest.fixture(scope="module")
def learners(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Learner]:
    made = {}
    for name in sorted({name for name, _, _ in LIVE}):
        agent = make_agent(name, learning_rate=0.01)
        for number in range(2):
            agent.learn(window_for(name, agent, seed=number))
        folder = tmp_path_factory.mktemp("learners")
        state, window, (before, _) = agent.capture_state(), window_for(name, agent, seed=3), saved(agent, folder / "1")
        agent.learn(window)
        made[name] = Learner(agent, state, window, before, saved(agent, folder / "2")[0])
    return made


@pytest.mark.parametrize(("name", "key", "value"), LIVE, ids=[f"{name}: {key}" for name, key, _ in LIVE])
def test_every_hyperparameter_is_live(
    name: str, key: str, value: float, learners: dict[str, Learner], tmp_path: Path
) -> None:
    learner = learners[name]
    agent = learner.agent
    agent.restore_state(learner.state)
    agent.set_hyperparams(HyperparamSet(agent.get_hyperparams().params | {key: value}))
    agent.learn(learner.window)
    got, _ = saved(agent, tmp_path / "got")
    assert {"model", "value_model"} & differing(got, learner.after)
    if key == "learning_rate":
        stays = {"model", "head"} if "reinforce" in name else {"model", "head", "value_model"}
        assert not stays & differing(got, learner.before)
    elif key == "value_learning_rate":
        assert "value_model" not in differing(got, learner.before)


@pytest.mark.parametrize("name", sorted({name for name, _, _ in LIVE}))
def test_a_restored_agent_learns_the_same_again(name: str, learners: dict[str, Learner], tmp_path: Path) -> None:
    learner = learners[name]
    learner.agent.restore_state(learner.state)
    learner.agent.learn(learner.window)
    assert not differing(saved(learner.agent, tmp_path / "again")[0], learner.after)


@pytest.mark.parametrize("kind", [TFAgent, PPOAgent])
def test_an_optimizer_with_a_schedule_keeps_it(kind: type[TFAgent]) -> None:
    schedule: Any = keras.optimizers.schedules.ExponentialDecay(0.1, decay_steps=1, decay_rate=0.5)
    agent = kind(mlp(4, 2), keras.optimizers.SGD(schedule), HyperparamSet({"gamma": 0.9}), seed=0)
    assert agent.get_hyperparams().params == {"gamma": 0.9}
    window = acted(agent, BOX)
    agent.learn(window)
    assert agent.get_hyperparams().params == {"gamma": 0.9}
    assert float(agent.optimizer.learning_rate) < 0.1
    with pytest.raises(ConfigurationError, match="learning_rate: expected an optimizer with a plain number"):
        agent.set_hyperparams(HyperparamSet({"learning_rate": 0.1}))
    assert agent.get_hyperparams().params == {"gamma": 0.9}


# --- state on disk -------------------------------------------------------------------------------


def test_the_state_of_layers_that_draw_or_keep_numbers_is_saved(tmp_path: Path) -> None:
    def make(seed: int) -> TFAgent:
        layers = keras.layers
        model = keras.Sequential(
            [
                keras.Input((4,)),
                layers.Dense(8),
                layers.BatchNormalization(),
                layers.Dropout(0.5, seed=seed),
                layers.Dense(2),
            ]
        )
        return TFAgent(model, keras.optimizers.Adam(0.01), HyperparamSet({}), seed=0)

    agent, fresh = make(1), make(2)
    window = acted(agent, BOX)
    agent.learn(window)
    agent.save_weights(str(tmp_path / "weights"))
    fresh.load_weights(str(tmp_path / "weights"))
    assert agent.learn(window) == fresh.learn(window)
    assert_same(saved(agent, tmp_path / "one"), saved(fresh, tmp_path / "other"))


class KeepsNumbers(keras.layers.Layer):  # type: ignore[misc]
    """Has variables of other kinds than weights usually are."""

    def build(self, input_shape: Any) -> None:
        for dtype in ("bool", "uint8", "int32", "int64", "float16", "bfloat16", "float64"):
            for shape in ((), (2, 3)):
                name = f"{dtype}_{len(shape)}"
                self.add_weight(name=name, shape=shape, dtype=dtype, initializer="zeros", trainable=False)

    def call(self, inputs: Any) -> Any:
        return inputs


def test_variables_of_any_kind_are_saved(tmp_path: Path) -> None:
    def make() -> TFAgent:
        model = keras.Sequential([keras.Input((4,)), KeepsNumbers(), keras.layers.Dense(2)])
        return TFAgent(model, keras.optimizers.Adam(0.01), HyperparamSet({}), seed=0)

    agent, fresh = make(), make()
    kept = agent.model.layers[0].variables
    assert len(kept) == 14
    for variable in kept:
        variable.assign(np.ones(variable.shape))
    agent.save_weights(str(tmp_path / "weights"))
    fresh.load_weights(str(tmp_path / "weights"))
    assert all(np.all(np.asarray(variable) == 1) for variable in fresh.model.layers[0].variables)
    assert_same(saved(agent, tmp_path / "one"), saved(fresh, tmp_path / "other"))


def change_weights(change: Callable[[Array], Array]) -> Callable[[Path], None]:
    """What changes the first weights of the model that are a matrix."""

    def change_first(tensors: dict[str, Array]) -> None:
        name = next(name for name in sorted(tensors) if name.startswith("model/") and tensors[name].ndim == 2)
        tensors[name] = change(tensors[name])

    return with_arrays(change_first)


def remove_weights(tensors: dict[str, Array]) -> None:
    del tensors[next(name for name in sorted(tensors) if name.startswith("model/"))]


def change_counters(**changes: Any) -> Callable[[Path], None]:
    return with_state(lambda state: state["counters"].update(changes))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no file": (without_file, "cannot read weights"),
    "a torn file": (with_content(lambda content: content[:-9]), "cannot read weights"),
    "a torn header": (with_content(lambda content: content[:500]), "cannot read weights"),
    "a flipped header": (with_content(lambda content: content[:20] + b"\xff" + content[21:]), "cannot read weights"),
    "a pickle": (with_content(pickle.dumps), "cannot read weights"),
    "no state": (with_text(None), "expected format 3, got None"),
    "torn state": (with_text('{"format": 3'), "cannot read weights"),
    "nested state": (with_text("[" * 100_000), "cannot read weights"),
    "a list": (with_text("[]"), r"expected format 3, got \[\]"),
    "a later format": (with_state(lambda state: state.update(format=4)), "expected format 3, got 4"),
    "no counters": (with_state(lambda state: state.pop("counters")), "cannot read weights.*counters"),
    "endless counters": (change_counters(steps=float("inf")), "cannot read weights"),
    "no version": (with_state(lambda state: state.pop("version")), "cannot read weights.*version"),
    "no generator": (with_state(lambda state: state.update(rng={})), "cannot read weights"),
    "a wrong generator": (with_state(lambda state: state.update(acting_rng=1)), "cannot read weights"),
    "a missing tensor": (with_arrays(remove_weights), r"expected arrays \['model/.*'\] are missing, got \[\]"),
    "another shape": (change_weights(lambda weights: weights.T), r"model/.*: expected F32\[4, 8\], got F32\[8, 4\]"),
    "another dtype": (change_weights(lambda weights: weights.astype(np.float64)), r"model/.*: expected F32.*, got F64"),
    "no numbers": (change_weights(lambda weights: weights * np.nan), r"model/.*: expected finite numbers"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_changes_nothing(damage: str, tmp_path: Path) -> None:
    name = "ppo, Discrete"
    agent, other = make_agent(name), make_agent(name, seed=9)
    folder = tmp_path / "weights"
    other.save_weights(str(folder))
    before = saved(agent, tmp_path / "before")
    do, message = DAMAGES[damage]
    do(folder)
    with pytest.raises(CheckpointError, match=message):
        agent.load_weights(str(folder))
    assert_same(before, saved(agent, tmp_path / "after"))


def test_a_checkpoint_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot save weights"):
        make_agent("reinforce, Discrete").save_weights(str(tmp_path / "file" / "weights"))
    with pytest.raises(CheckpointError, match="cannot save weights"):
        write_state(str(tmp_path / "nan"), {}, {"value": float("nan")})


def test_a_checkpoint_holds_no_code(tmp_path: Path) -> None:
    make_agent("ppo, Box").save_weights(str(tmp_path / "weights"))
    assert sorted(path.name for path in (tmp_path / "weights").iterdir()) == [FILE]
