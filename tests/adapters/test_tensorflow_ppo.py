"""What PPO computes: its objective, its normalisers, its schedule, and where an update ends."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from optix_stream_adapters.tensorflow import PPOAgent, PPOConfig
from optix_stream_adapters.tensorflow.returns import find_segments, generalized_advantages
from saved_state import read_saved

from optix_stream.errors import ConfigurationError
from optix_stream.testing import make_window
from optix_stream.types import Array, EpisodeData, HyperparamSet

BOX = spaces.Box(-np.inf, np.inf, (2,))
CHOICE = spaces.Discrete(2)


def make_agent(**config: Any) -> PPOAgent:
    return PPOAgent.for_spaces(BOX, CHOICE, hidden=(8,), seed=0, **{"epochs": 2, "minibatch_size": 16} | config)


def random_window(length: int = 32, seed: int = 0) -> EpisodeData:
    return make_window(np.random.default_rng(seed).normal(size=length).tolist(), seed=seed)


def log_probs_of(model: Any, window: EpisodeData) -> Array:
    logits = np.asarray(model(window.observations))
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return np.asarray(log_probs[np.arange(window.length), window.actions])


def weights_of(agent: PPOAgent) -> list[Array]:
    return [np.array(weight) for model in (agent.model, agent.value_model) for weight in model.get_weights()]


def assert_close(first: list[Array], second: list[Array], tolerance: float = 1e-5) -> None:
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance)


@pytest.mark.parametrize("shift", [0.0, -0.5, 0.5], ids=["on policy", "grown likelier", "grown less likely"])
@pytest.mark.parametrize("max_grad_norm", [1e6, 0.01], ids=["", "clipped norm"])
@pytest.mark.parametrize("floor", [0.0, 10.0], ids=["", "little to gain"])
def test_a_step_is_the_gradient_of_the_clipped_objective(shift: float, max_grad_norm: float, floor: float) -> None:
    params = {"learning_rate": 0.1, "gamma": 0.9, "gae_lambda": 0.8, "clip_range": 0.2, "entropy_coef": 0.05}
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(2)])
    agent = PPOAgent(
        model,
        keras.optimizers.SGD(0.1),
        HyperparamSet(params | {"value_coef": 0.7, "max_grad_norm": max_grad_norm}),
        seed=0,
        config=PPOConfig(epochs=1, minibatch_size=100, advantage_floor=floor),
    )
    window = random_window()
    rng = np.random.default_rng(1)
    # Ratios on both sides of the clip, for advantages of both signs.
    old = log_probs_of(model, window) + shift + rng.normal(0, 0.2, window.length).astype(np.float32)
    window = dataclasses.replace(window, extras={"log_prob": old})
    value, following = (
        np.asarray(agent.value_model(rows))[:, 0] for rows in (window.observations, window.next_observations)
    )
    advantages = generalized_advantages(find_segments(window), window.rewards, value, following, 0.9, 0.8)
    targets = (advantages + value).astype(np.float32)
    scale = max(advantages.std(), floor * np.sqrt((window.rewards**2).mean()))
    scaled = ((advantages - advantages.mean()) / scale).astype(np.float32)

    policy_weights = [weight.value for weight in model.trainable_variables]
    value_weights = [weight.value for weight in agent.value_model.trainable_variables]
    with tf.GradientTape() as tape:
        log_probs = tf.nn.log_softmax(model(window.observations))
        ratio = tf.exp(tf.reduce_sum(log_probs * tf.one_hot(window.actions, 2), axis=1) - old)
        surrogate = tf.minimum(ratio * scaled, tf.clip_by_value(ratio, 0.8, 1.2) * scaled)
        entropy = -tf.reduce_mean(tf.reduce_sum(tf.exp(log_probs) * log_probs, axis=1))
        value_loss = tf.reduce_mean((agent.value_model(window.observations)[:, 0] - targets) ** 2)
        loss = -tf.reduce_mean(surrogate) + 0.7 * value_loss - 0.05 * entropy
    gradients = [np.asarray(gradient) for gradient in tape.gradient(loss, policy_weights + value_weights)]
    norm = float(np.sqrt(sum((gradient**2).sum() for gradient in gradients)))
    shrink = min(1.0, max_grad_norm / norm)
    expected = [
        np.asarray(weight) - 0.1 * shrink * gradient
        for weight, gradient in zip(policy_weights, gradients, strict=False)
    ]

    diagnostics = agent.learn(window)

    assert_close([np.asarray(weight) for weight in model.get_weights()], expected)
    ratios = np.asarray(ratio)
    assert diagnostics == pytest.approx(
        {
            "policy_loss": -float(tf.reduce_mean(surrogate)),
            "value_loss": float(value_loss),
            "entropy": float(entropy),
            "approx_kl": float(np.mean(ratios - 1.0 - np.log(ratios))),
            "clip_fraction": float(np.mean(np.abs(ratios - 1.0) > 0.2)),
            "grad_norm": norm,
            "gradient_steps": 1.0,
            "learning_rate": 0.1,
        },
        abs=1e-4,
    )


def test_without_recorded_log_probabilities_the_present_policy_is_taken_to_have_acted() -> None:
    window = random_window()
    told, untold = make_agent(), make_agent()
    told.learn(dataclasses.replace(window, extras={"log_prob": log_probs_of(told.model, window)}))
    untold.learn(window)
    assert_close(weights_of(told), weights_of(untold))


def with_fallbacks(window: EpisodeData, rows: slice, fallback: float, extras: dict[str, Array]) -> EpisodeData:
    """The window as it is recorded where deadlines were missed: other actions, and no word from the policy."""
    actions, told = window.actions.copy(), {name: column.copy() for name, column in extras.items()}
    actions[rows] = fallback
    for column in told.values():
        column[rows] = np.nan
    return dataclasses.replace(window, actions=actions, extras=told)


@pytest.mark.parametrize("normalized", [False, True], ids=["", "first window of a normaliser"])
def test_what_the_policy_did_not_choose_teaches_it_nothing(normalized: bool) -> None:
    window, missed = random_window(), slice(0, None, 3)
    agents = []
    for fallback in (0, 1):
        agent = make_agent(entropy_coef=0.01, normalize_observations=normalized)
        before = weights_of(agent)
        extras = {"log_prob": log_probs_of(agent.model, window)}
        diagnostics = agent.learn(with_fallbacks(window, missed, fallback, extras))
        assert np.isfinite(list(diagnostics.values())).all()
        assert all((old != new).any() for old, new in zip(before, weights_of(agent), strict=True))
        agents.append(agent)
    assert_close(weights_of(agents[0]), weights_of(agents[1]), tolerance=0.0)


def test_a_window_of_nothing_but_fallbacks_moves_the_value_network_alone() -> None:
    agent, window = make_agent(), random_window()
    before = weights_of(agent)
    agent.learn(with_fallbacks(window, slice(None), 1, {"log_prob": log_probs_of(agent.model, window)}))
    policy, size = weights_of(agent), len(agent.model.get_weights())
    assert_close(policy[:size], before[:size], tolerance=0.0)
    assert all((old != new).any() for old, new in zip(before[size:], policy[size:], strict=True))


def test_a_continuous_fallback_has_no_raw_action_and_poisons_nothing() -> None:
    agents = []
    for fallback in (-1.0, 1000.0):  # The second is so unlikely that its ratio would overflow.
        agent = PPOAgent.for_spaces(BOX, spaces.Box(-1.0, 1.0, (1,)), hidden=(8,), seed=0, epochs=4, minibatch_size=16)
        decision = agent.publish_policy().act(random_window().observations)
        window = dataclasses.replace(random_window(), actions=decision.actions)
        agent.learn(with_fallbacks(window, slice(0, None, 3), fallback, dict(decision.extras)))
        agents.append(agent)
    assert all(np.isfinite(weight).all() for weight in weights_of(agents[0]))
    assert_close(weights_of(agents[0]), weights_of(agents[1]), tolerance=0.0)


def test_every_row_is_learned_from_once_an_epoch() -> None:
    agent = make_agent(epochs=3, minibatch_size=16)
    assert [agent.learn(random_window(length))["gradient_steps"] for length in (33, 32, 16, 1)] == [9, 6, 3, 3]


def test_padding_to_the_largest_window_changes_nothing(tmp_path: Path) -> None:
    padded, fresh = make_agent(), make_agent()
    padded.learn(random_window(64))
    padded.save_weights(str(tmp_path / "weights"))
    fresh.load_weights(str(tmp_path / "weights"))
    window = random_window(10, seed=1)
    assert padded.learn(window) == pytest.approx(fresh.learn(window), abs=1e-5)
    assert_close(weights_of(padded), weights_of(fresh))


def test_a_fused_update_is_the_same_update() -> None:
    plain, fused = make_agent(learning_rate=0.01), make_agent(learning_rate=0.01, jit_compile=True)
    for window in (random_window(40), random_window(24, seed=1)):
        assert fused.learn(window) == pytest.approx(plain.learn(window), abs=1e-4)
    assert_close(weights_of(fused), weights_of(plain), 1e-4)


def test_an_update_ends_when_the_policy_has_moved_too_far() -> None:
    window = random_window()
    # Without a clip worth the name, nothing else holds it back.
    settings = {"learning_rate": 0.05, "epochs": 10, "clip_range": 100.0}
    free, bound = make_agent(**settings), make_agent(**settings, target_kl=0.01)
    assert free.learn(window)["gradient_steps"] == 20
    steps = bound.learn(window)["gradient_steps"]
    assert 1 < steps < 20

    def divergence(agent: PPOAgent) -> float:
        log_ratio = log_probs_of(agent.model, window) - log_probs_of(make_agent().model, window)
        return float(np.mean(np.exp(log_ratio) - 1.0 - log_ratio))

    # It ends after the step that went beyond, so the bound is not sharp.
    assert 0.005 < divergence(bound) < 0.1 < divergence(free)


def test_learning_rate_and_clip_range_fall_with_the_steps_taken() -> None:
    agent = make_agent(learning_rate=0.01, schedule_steps=100, schedule_end=0.2)
    rates = [agent.learn(random_window(50, seed=seed))["learning_rate"] for seed in range(4)]
    assert rates == pytest.approx([0.01, 0.006, 0.002, 0.002])
    assert agent.get_hyperparams().params["learning_rate"] == 0.01, "what a tuner reads and sets stays as it is"
    agent.set_hyperparams(HyperparamSet(agent.get_hyperparams().params | {"learning_rate": 0.1}))
    assert agent.learn(random_window(50))["learning_rate"] == pytest.approx(0.02)


def test_a_schedule_that_has_run_out_leaves_the_policy_alone() -> None:
    agent = make_agent(schedule_steps=32)
    agent.learn(random_window(32))
    before = weights_of(agent)
    agent.learn(random_window(32, seed=1))
    assert_close(weights_of(agent), before, 0.0)


def test_the_schedule_goes_on_after_loading(tmp_path: Path) -> None:
    agent, fresh = make_agent(schedule_steps=100), make_agent(schedule_steps=100)
    agent.learn(random_window(50))
    agent.save_weights(str(tmp_path / "weights"))
    fresh.load_weights(str(tmp_path / "weights"))
    assert fresh.learn(random_window(10))["learning_rate"] == pytest.approx(1.5e-4)


def test_normalised_observations_make_their_units_irrelevant() -> None:
    actions = []
    for scale, shift in ((1.0, 0.0), (1000.0, -300.0)):
        agent = make_agent(normalize_observations=True, learning_rate=0.02)
        for seed in range(3):
            window = random_window(seed=seed)
            agent.learn(
                dataclasses.replace(
                    window,
                    observations=(window.observations * scale + shift).astype(np.float32),
                    next_observations=(window.next_observations * scale + shift).astype(np.float32),
                )
            )
        observations = (random_window(100, seed=9).observations * scale + shift).astype(np.float32)
        actions.append(agent.publish_policy(deterministic=True).act(observations).actions)
    assert set(actions[0]) == {0, 1}
    assert np.mean(actions[0] == actions[1]) > 0.98


def test_normalised_rewards_make_their_unit_irrelevant() -> None:
    agents = [make_agent(normalize_rewards=True) for _ in range(2)]
    for seed in range(3):
        window = random_window(seed=seed)
        for scale, agent in zip((1.0, 1000.0), agents, strict=True):
            agent.learn(dataclasses.replace(window, rewards=window.rewards * scale))
    assert_close(weights_of(agents[0]), weights_of(agents[1]), 1e-4)


def test_an_update_is_learned_with_the_moments_it_was_acted_with() -> None:
    agent = make_agent(normalize_observations=True, epochs=1, minibatch_size=100)
    agent.learn(random_window())
    window = random_window(seed=1)
    # Far from what was seen before: with moments that knew of it, the ratio would not be 1.
    window = dataclasses.replace(window, observations=window.observations * 5.0 + 2.0)
    decision = agent.publish_policy().act(window.observations)
    diagnostics = agent.learn(dataclasses.replace(window, actions=decision.actions, extras=decision.extras))
    assert diagnostics["approx_kl"] == pytest.approx(0.0, abs=1e-6)
    after = agent.publish_policy(deterministic=True).act(window.observations)
    assert not after.extras


def test_every_observation_counts_once_for_the_moments(tmp_path: Path) -> None:
    agent = make_agent(normalize_observations=True)
    windows = [random_window(length, seed=length) for length in (10, 30, 20)]
    for window in windows:
        agent.learn(window)
    agent.save_weights(str(tmp_path / "weights"))
    tensors, _ = read_saved(tmp_path / "weights")
    rows = np.concatenate([window.observations for window in windows]).astype(np.float64)
    assert tensors["observations/count"] == 60
    np.testing.assert_allclose(tensors["observations/mean"], rows.mean(axis=0))
    np.testing.assert_allclose(tensors["observations/variance"], rows.var(axis=0))


def test_observations_of_any_shape_are_normalised() -> None:
    def make() -> PPOAgent:
        shaped = keras.Sequential([keras.Input((2, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
        config = PPOConfig(epochs=1, normalize_observations=True)
        return PPOAgent(shaped, keras.optimizers.Adam(0.01), HyperparamSet({}), seed=0, config=config)

    agent = make()
    window = make_window([1.0, 2.0, 3.0, 4.0], observation_shape=(2, 3))
    agent.learn(window)
    rows = window.observations.reshape(4, 6)
    standard = ((rows - rows.mean(axis=0)) / rows.std(axis=0)).reshape(4, 2, 3)
    actions = agent.publish_policy(deterministic=True).act(window.observations).actions
    np.testing.assert_array_equal(actions, np.asarray(agent.model(standard)).argmax(axis=1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "expected epochs and minibatch_size of at least 1, got 0 and 64"),
        ({"minibatch_size": 0}, "expected epochs and minibatch_size of at least 1, got 10 and 0"),
        ({"schedule_steps": 0}, "schedule_steps: expected at least 1, got 0"),
        ({"schedule_end": 1.5}, "schedule_end: expected 0 to 1, got 1.5"),
        ({"advantage_floor": -1.0}, "advantage_floor: expected at least 0, got -1.0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        PPOConfig(**settings)
