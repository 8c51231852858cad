"""Gradient steps of the agents that learn from the past, beside a plain, slow reference.

The reference walks the window for each drawn row, differentiates eagerly, and makes the steps of Adam in numpy, one
minibatch after the other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from optix_stream_adapters.tensorflow import DQNAgent, SACAgent, TD3Agent
from optix_stream_adapters.tensorflow.squashed import sample_squashed

from optix_stream.types import Array, EpisodeData

GAMMA, BATCH, UPDATES, RATE = 0.9, 8, 3, 1e-3
BOX = spaces.Box(-np.inf, np.inf, (2,))
TORQUE = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32))
COMMON: dict[str, Any] = {
    "hidden": (6,), "seed": 0, "batch_size": BATCH, "increment": UPDATES, "learning_starts": 1, "gamma": GAMMA,
    "learning_rate": RATE, "buffer_size": 64, "update_ratio": 1.0,
    "layer_norm": False,
}  # fmt: skip
Weights = list[Any]


@st.composite
def windows(draw: st.DrawFn, *, is_discrete: bool) -> EpisodeData:
    """One increment after the first transition: two streams that interleave, and all that can end a segment."""
    length = UPDATES + 1
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    at = rng.normal(size=(2, 2)).astype(np.float32)
    rows: dict[str, list[Any]] = {name: [] for name in ("observations", "next", "streams", "end")}
    for _ in range(length):
        stream = draw(st.integers(0, 1))
        rows["streams"].append(stream)
        rows["observations"].append(at[stream].copy())
        at[stream] = rng.normal(size=2)
        rows["next"].append(at[stream].copy())
        rows["end"].append(draw(st.sampled_from(["", "", "terminated", "truncated", "gap", "both"])))
        if rows["end"][-1] in ("terminated", "truncated", "both"):
            at[stream] = rng.normal(size=2)
    ends = np.asarray(rows["end"])
    low, high = TORQUE.low, TORQUE.high
    return EpisodeData(
        observations=np.asarray(rows["observations"]),
        next_observations=np.asarray(rows["next"]),
        actions=rng.integers(0, 3, length) if is_discrete else rng.uniform(low, high, (length, 2)).astype(np.float32),
        rewards=rng.normal(size=length) * draw(st.sampled_from([0.1, 3.0])),
        terminated=np.isin(ends, ["terminated", "both"]),
        truncated=np.isin(ends, ["truncated", "both"]),
        gaps=ends == "gap",
        infos=[{}] * length,
        episode_id=0,
        streams=np.asarray(rows["streams"]),
        stream_ids=("left", "right"),
    )


def walk(window: EpisodeData, row: int, n_step: int) -> tuple[float, float, Array]:
    """Return and discount of a row, and the observation from which its value goes on."""
    total, discount, last = 0.0, 1.0, row
    for later in range(row, window.length):
        if window.streams[later] != window.streams[row]:
            continue
        total += discount * float(window.rewards[later])
        discount *= GAMMA
        n_step -= 1
        if window.terminated[later]:
            return total, 0.0, window.next_observations[later]
        last = later
        if n_step == 0 or window.truncated[later] or window.gaps[later]:
            break
    return total, discount, window.next_observations[last]


def minibatches(window: EpisodeData, actions: Array, n_step: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """What the agent is to draw."""
    drawn = rng.integers(window.length, size=UPDATES * BATCH).reshape(UPDATES, BATCH)
    batches = []
    for rows in drawn:
        walked = [walk(window, int(row), n_step) for row in rows]
        batches.append(
            {
                "observations": window.observations[rows],
                "actions": actions[rows],
                "returns": np.asarray([each[0] for each in walked], np.float32),
                "discounts": np.asarray([each[1] for each in walked], np.float32),
                "next": np.asarray([each[2] for each in walked]),
            }
        )
    return batches


def mlp(weights: Sequence[Any], inputs: Any) -> Any:
    for layer in range(0, len(weights) - 2, 2):
        inputs = tf.nn.relu(inputs @ weights[layer] + weights[layer + 1])
    return inputs @ weights[-2] + weights[-1]


class Adam:
    """Kingma & Ba 2015, algorithm 1, as it stands there."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[Any] = []
        self.second: list[Any] = []

    def step(self, weights: Weights, gradients: Sequence[Any], rate: float) -> Weights:
        grads = [np.asarray(gradient, np.float64) for gradient in gradients]
        if not self.count:
            self.first = [np.zeros_like(g) for g in grads]
            self.second = [np.zeros_like(g) for g in grads]
        self.count += 1
        self.first = [0.9 * m + 0.1 * g for m, g in zip(self.first, grads, strict=True)]
        self.second = [0.999 * v + 0.001 * g**2 for v, g in zip(self.second, grads, strict=True)]
        stepped = []
        for weight, m, v in zip(weights, self.first, self.second, strict=True):
            corrected = m / (1 - 0.9**self.count), v / (1 - 0.999**self.count)
            stepped.append((weight - rate * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)).astype(np.float32))
        return stepped


def gradients_of(loss_of: Callable[[Weights], Any], weights: Weights) -> tuple[Any, list[Any]]:
    variables = [tf.Variable(weight) for weight in weights]
    with tf.GradientTape() as tape:
        loss = loss_of(variables)
    return float(loss), tape.gradient(loss, variables)


def begin(agent: Any, state: Any) -> np.random.Generator:
    """The agent as it was made, and a generator that draws what its own will."""
    agent.restore_state(state)
    rng = np.random.default_rng()
    rng.bit_generator.state = agent._rng.bit_generator.state
    return rng


def assert_weights(model: Any, expected: Weights) -> None:
    for got, weight in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(got, weight, atol=1e-5)


def follow(targets: Weights, weights: Weights, rate: float) -> Weights:
    return [(1 - rate) * target + rate * weight for target, weight in zip(targets, weights, strict=True)]


@functools.cache
def made(kind: Any, n_step: int, **settings: Any) -> tuple[Any, Any]:
    space = spaces.Discrete(3) if kind is DQNAgent else TORQUE
    agent = kind.for_spaces(BOX, space, **COMMON, n_step=n_step, **settings)
    return agent, agent.capture_state()


@pytest.mark.parametrize("n_step", [1, 3])
@given(window=windows(is_discrete=True))
@settings(max_examples=25, deadline=None)
def test_deep_q_learning(n_step: int, window: EpisodeData) -> None:
    agent, state = made(DQNAgent, n_step, target_interval=2, max_grad_norm=0.5, tau=0.7)
    rng = begin(agent, state)
    weights = agent.model.get_weights()
    targets, adam, losses, norms = weights, Adam(), [], []
    for number, batch in enumerate(minibatches(window, window.actions, n_step, rng), 1):
        best = np.argmax(mlp(weights, batch["next"]), axis=1)
        following = np.asarray(mlp(targets, batch["next"]))[np.arange(BATCH), best]
        target = batch["returns"] + batch["discounts"] * following

        def loss_of(variables: Weights, batch: Any = batch, target: Any = target) -> Any:
            chosen = tf.reduce_sum(mlp(variables, batch["observations"]) * tf.one_hot(batch["actions"], 3), axis=1)
            return tf.keras.losses.Huber(delta=1.0)(target, chosen)

        loss, gradients = gradients_of(loss_of, weights)
        norm = float(np.sqrt(sum(np.square(gradient).sum() for gradient in gradients)))
        weights = adam.step(weights, [np.asarray(g) * min(1.0, 0.5 / norm) for g in gradients], RATE)
        targets = follow(targets, weights, 0.7) if number % 2 == 0 else targets
        losses.append(loss)
        norms.append(norm)
    told = agent.learn(window)
    assert told["loss"] == pytest.approx(np.mean(losses), abs=1e-5)
    assert told["grad_norm"] == pytest.approx(np.mean(norms), rel=1e-4, abs=1e-5)
    assert_weights(agent.model, weights)


def critics_of(agent: Any) -> Weights:
    return [weight for model in agent._critics.models for weight in model.get_weights()]


def both(weights: Weights, observations: Any, actions: Any) -> list[Any]:
    inputs = tf.concat([observations, actions], axis=1)
    return [mlp(half, inputs)[:, 0] for half in (weights[:4], weights[4:])]


def learn_critics(weights: Weights, batch: Any, target: Any, adam: Adam) -> tuple[Weights, float]:
    def loss_of(variables: Weights) -> Any:
        first, second = both(variables, batch["observations"], batch["actions"])
        return 0.5 * (tf.reduce_mean((first - target) ** 2) + tf.reduce_mean((second - target) ** 2))

    loss, gradients = gradients_of(loss_of, weights)
    return adam.step(weights, gradients, RATE), loss


def in_half_widths(window: EpisodeData) -> Array:
    low, high = TORQUE.low, TORQUE.high
    return ((window.actions - (low + high) / 2) / ((high - low) / 2)).astype(np.float32)


def squashed(outputs: Any, noise: Any) -> tuple[Any, Any]:
    """Haarnoja et al. 2018, equation 21, in double precision where nothing overflows."""
    outputs = tf.cast(outputs, tf.float64)
    mean, std = outputs[:, :2], tf.exp(outputs[:, 2:])
    raw = mean + std * noise
    density = tf.exp(-0.5 * ((raw - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))
    actions = tf.tanh(raw)
    log_prob = tf.reduce_sum(tf.math.log(density) - tf.math.log(1 - actions**2), axis=1)
    return tf.cast(actions, tf.float32), tf.cast(log_prob, tf.float32)


@pytest.mark.parametrize("n_step", [1, 3])
@given(window=windows(is_discrete=False))
@settings(max_examples=25, deadline=None)
def test_soft_actor_critic(n_step: int, window: EpisodeData) -> None:
    rates = {"tau": 0.1, "temperature_learning_rate": 3e-3, "target_entropy": -1.5}
    agent, state = made(SACAgent, n_step, **rates)
    rng = begin(agent, state)
    batches = minibatches(window, in_half_widths(window), n_step, rng)
    noises, next_noises = (rng.standard_normal((UPDATES, BATCH, 2), np.float32) for _ in range(2))
    acting, judging, log_alpha = agent.model.get_weights(), critics_of(agent), [np.float32(0.0)]
    targets, adams, entropies = judging, [Adam() for _ in range(3)], []
    for batch, noise, next_noise in zip(batches, noises, next_noises, strict=True):
        alpha = float(np.exp(log_alpha[0]))
        batch["noise"] = noise
        actions, log_prob = squashed(mlp(acting, batch["next"]), next_noise)
        value = np.minimum(*both(targets, batch["next"], actions)) - alpha * np.asarray(log_prob)
        target = batch["returns"] + batch["discounts"] * value
        judging, _ = learn_critics(judging, batch, target, adams[0])
        targets = follow(targets, judging, 0.1)

        def loss_of(variables: Weights, batch: Any = batch, critics: Weights = judging, scale: float = alpha) -> Any:
            actions, log_prob = squashed(mlp(variables, batch["observations"]), batch["noise"])
            return tf.reduce_mean(scale * log_prob - tf.minimum(*both(critics, batch["observations"], actions)))

        entropy = -float(tf.reduce_mean(squashed(mlp(acting, batch["observations"]), noise)[1]))
        acting = adams[1].step(acting, gradients_of(loss_of, acting)[1], RATE)
        log_alpha = adams[2].step(log_alpha, [entropy + 1.5], 3e-3)
        entropies.append(entropy)
    told = agent.learn(window)
    assert told["entropy"] == pytest.approx(np.mean(entropies), abs=1e-4)
    assert agent.temperature == pytest.approx(float(np.exp(log_alpha[0])), abs=1e-5)
    assert_weights(agent.model, acting)
    for got, weight in zip(critics_of(agent), judging, strict=True):
        np.testing.assert_allclose(got, weight, atol=1e-5)


@pytest.mark.parametrize("n_step", [1, 3])
@given(window=windows(is_discrete=False))
@settings(max_examples=25, deadline=None)
def test_twin_delayed_policy_gradient(n_step: int, window: EpisodeData) -> None:
    agent, state = made(TD3Agent, n_step, tau=0.1, smoothing_std=0.4, smoothing_clip=0.3, actor_interval=2)
    rng = begin(agent, state)
    batches = minibatches(window, in_half_widths(window), n_step, rng)
    noises = rng.standard_normal((UPDATES, BATCH, 2), np.float32)
    acting, judging = agent.model.get_weights(), critics_of(agent)
    acting_targets, targets, adams, losses = acting, judging, [Adam(), Adam()], []
    for number, (batch, noise) in enumerate(zip(batches, noises, strict=True), 1):
        smoothed = np.tanh(mlp(acting_targets, batch["next"])) + np.clip(0.4 * noise, -0.3, 0.3)
        value = np.minimum(*both(targets, batch["next"], np.clip(smoothed, -1, 1)))
        target = batch["returns"] + batch["discounts"] * value
        judging, loss = learn_critics(judging, batch, target, adams[0])
        losses.append(loss)
        if number % 2:
            continue

        def loss_of(variables: Weights, batch: Any = batch, critics: Weights = judging) -> Any:
            actions = tf.tanh(mlp(variables, batch["observations"]))
            return -tf.reduce_mean(both(critics, batch["observations"], actions)[0])

        acting = adams[1].step(acting, gradients_of(loss_of, acting)[1], RATE)
        acting_targets, targets = follow(acting_targets, acting, 0.1), follow(targets, judging, 0.1)
    told = agent.learn(window)
    assert told["critic_loss"] == pytest.approx(np.mean(losses), rel=1e-5, abs=1e-5)
    assert_weights(agent.model, acting)
    for got, weight in zip(critics_of(agent), judging, strict=True):
        np.testing.assert_allclose(got, weight, atol=1e-5)


@pytest.mark.parametrize("mean", [-40.0, 0.3, 40.0])
def test_densities_of_squashed_actions_are_finite_where_the_action_is_at_its_bound(mean: float) -> None:
    outputs = tf.constant([[mean, 0.5]])
    actions, log_prob = sample_squashed(outputs, tf.constant([[0.2]]))
    raw = mean + np.exp(0.5) * 0.2
    # log(1 - tanh²) = 2 log 2 - 2|x| - 2 log(1 + exp(-2|x|)).
    squashing = 2 * np.log(2) - 2 * abs(raw) - 2 * np.log1p(np.exp(-2 * abs(raw)))
    expected = -0.5 * 0.2**2 - 0.5 - 0.5 * np.log(2 * np.pi) - squashing
    assert float(actions[0, 0]) == pytest.approx(np.tanh(raw))
    assert float(log_prob[0]) == pytest.approx(expected, rel=1e-5)
