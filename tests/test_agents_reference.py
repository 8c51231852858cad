"""The streaming agents beside a plain, slow reference: float64, one parameter list a network, a derivative a rule."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optix_stream.agents import StreamACAgent, StreamAgent, StreamQAgent
from optix_stream.contracts import SingleActor
from optix_stream.types import FloatArray, HyperparamSet, StreamId, Transition


class Box:
    def __init__(self, low: Any, high: Any) -> None:
        self.low, self.high = np.asarray(low, np.float32), np.asarray(high, np.float32)
        self.shape, self.dtype = self.low.shape, self.low.dtype


@dataclass
class Discrete:
    n: int
    start: int = 0


class SlowMoments:
    """Keeps everything it has seen."""

    def __init__(self) -> None:
        self.seen: list[FloatArray] = []

    def standardise(self, row: FloatArray) -> FloatArray:
        """By the moments of what was seen, as if ``row`` had been too."""
        seen = np.array([*self.seen, row])
        deviation = seen.std(axis=0, ddof=1) if len(seen) > 1 else np.ones(len(row))
        standard: FloatArray = np.clip((row - seen.mean(axis=0)) / np.maximum(deviation, 1e-15), -10.0, 10.0)
        return standard


class SlowNetwork:
    """Affine layers; LayerNorm and LeakyReLU between them. Gradients by the chain rule, a full Jacobian a layer."""

    def __init__(self, flat: FloatArray, widths: Sequence[int]) -> None:
        self.flat, self._widths = flat, widths

    def _layers(self) -> list[tuple[FloatArray, FloatArray]]:
        layers, start = [], 0
        for before, after in itertools.pairwise(self._widths):
            middle, end = start + before * after, start + (before + 1) * after
            layers.append((self.flat[start:middle].reshape(after, before), self.flat[middle:end]))
            start = end
        return layers

    def outputs(self, inputs: FloatArray) -> FloatArray:
        return self._run(inputs)[-1]

    def _run(self, inputs: FloatArray) -> list[FloatArray]:
        values = [inputs]
        for index, (weights, biases) in enumerate(self._layers()):
            affine = weights @ values[-1] + biases
            if index < len(self._widths) - 2:
                normal = (affine - affine.mean()) / math.sqrt(affine.var() + 1e-5)
                affine = np.where(normal > 0.0, normal, 0.01 * normal)
            values.append(affine)
        return values

    def gradient(self, inputs: FloatArray, weights_of_outputs: FloatArray) -> FloatArray:
        """Of ``weights_of_outputs @ outputs`` with respect to ``flat``."""
        values, layers = self._run(inputs), self._layers()
        flowing, parts = weights_of_outputs, []
        for index in reversed(range(len(layers))):
            weights, biases = layers[index]
            if index < len(layers) - 1:
                affine = weights @ values[index] + biases
                size, deviation = len(affine), math.sqrt(affine.var() + 1e-5)
                normal = (affine - affine.mean()) / deviation
                center = np.eye(size) - np.full((size, size), 1.0 / size)
                jacobian = (center - np.outer(normal, normal) / size) / deviation
                jacobian = np.diag(np.where(normal > 0.0, 1.0, 0.01)) @ jacobian
                flowing = flowing @ jacobian
            parts.append(np.concatenate([np.outer(flowing, values[index]).ravel(), flowing]))
            flowing = flowing @ weights
        return np.concatenate(parts[::-1])


@dataclass
class SlowStream:
    traces: list[FloatArray]
    row: FloatArray | None = None
    inputs: FloatArray = field(default_factory=lambda: np.zeros(0))
    discounted: float = 0.0


class SlowAgent:
    """The equations of the paper, one after the other; ``objective`` gives the error and what to follow."""

    def __init__(self, networks: list[SlowNetwork], params: dict[str, float], kappas: list[str]) -> None:
        self.networks = networks
        self.params = params
        self._kappas = kappas
        self._moments = SlowMoments()
        self._sums: list[float] = []
        self._streams: dict[StreamId, SlowStream] = {}

    def learn(self, transition: Transition, objective: Callable[..., tuple[float, list[FloatArray], bool]]) -> float:
        params, at = self.params, transition.stream
        fresh = SlowStream([np.zeros(len(network.flat)) for network in self.networks])
        stream = self._streams.setdefault(at, fresh)
        row = np.asarray(transition.observation, np.float64)
        if stream.row is None or not np.array_equal(stream.row, row):
            stream = self._streams[at] = fresh
            stream.inputs = self._moments.standardise(row)
            self._moments.seen.append(row)
        following_row = np.asarray(transition.next_observation, np.float64)
        following_inputs = self._moments.standardise(following_row)
        self._moments.seen.append(following_row)
        stream.discounted = params["gamma"] * stream.discounted + transition.reward
        self._sums.append(stream.discounted)
        variance = float(np.var(self._sums, ddof=1)) if len(self._sums) > 1 else 0.0
        reward = transition.reward / math.sqrt(variance) if variance > 1e-30 else transition.reward
        outputs = [network.outputs(stream.inputs) for network in self.networks]
        following = [network.outputs(following_inputs) for network in self.networks]
        discount = 0.0 if transition.terminated else params["gamma"]
        delta, directions, goes_on = objective(transition, outputs, following, reward, discount)
        for index, (network, direction) in enumerate(zip(self.networks, directions, strict=True)):
            gradient = network.gradient(stream.inputs, direction)
            decay = params["gamma"] * params["trace_lambda"] if goes_on else 0.0
            stream.traces[index] = decay * stream.traces[index] + gradient
            norm = np.abs(stream.traces[index]).sum()
            alpha = 1.0 / max(1.0, params[self._kappas[index]] * max(abs(delta), 1.0) * norm)
            network.flat = network.flat + alpha * delta * stream.traces[index]
        stream.row, stream.inputs = following_row, following_inputs
        if transition.terminated or transition.truncated:
            del self._streams[at]
        return delta


def numerical_gradient(function: Callable[[FloatArray], float], at: FloatArray) -> FloatArray:
    step = 1e-5
    return np.array(
        [(function(at + step * unit) - function(at - step * unit)) / (2 * step) for unit in np.eye(len(at))]
    )


def actor_critic(params: dict[str, float], log_density: Callable[..., float], entropy: Callable[..., float]) -> Any:
    def objective(
        transition: Transition, outputs: list[FloatArray], following: list[FloatArray], reward: float, discount: float
    ) -> tuple[float, list[FloatArray], bool]:
        policy, value = outputs
        delta = reward + discount * following[1][0] - value[0]
        weight = params["entropy_coef"] * (1.0 if delta >= 0.0 else -1.0)
        followed = numerical_gradient(lambda at: log_density(at, transition) + weight * entropy(at), policy)
        return delta, [followed, np.eye(len(value))[0]], True

    return objective


def categorical_log_density(logits: FloatArray, transition: Transition) -> float:
    return float(logits[transition.action] - np.log(np.exp(logits).sum()))


def categorical_entropy(logits: FloatArray) -> float:
    probabilities = np.exp(logits) / np.exp(logits).sum()
    return float(-(probabilities * np.log(probabilities)).sum())


def gaussian_log_density(outputs: FloatArray, transition: Transition) -> float:
    assert transition.extras is not None
    raw = np.asarray(transition.extras["raw_action"], np.float64)
    means, deviations = outputs[: len(raw)], np.log1p(np.exp(outputs[len(raw) :])) + 1e-6
    return float((-0.5 * ((raw - means) / deviations) ** 2 - np.log(deviations)).sum())


def gaussian_entropy(outputs: FloatArray) -> float:
    return float(np.log(np.log1p(np.exp(outputs[len(outputs) // 2 :])) + 1e-6).sum())


def q_learning(
    transition: Transition, outputs: list[FloatArray], following: list[FloatArray], reward: float, discount: float
) -> tuple[float, list[FloatArray], bool]:
    values = outputs[0]
    value = values[transition.action]
    delta = reward + discount * following[0].max() - value
    return delta, [np.eye(len(values))[transition.action]], bool(value == values.max())


@dataclass
class Scenario:
    kind: str
    seed: int
    steps: list[tuple[int, str]]


def compare(agent: StreamAgent, outputs: int, kappas: list[str], hidden: tuple[int, ...], scenario: Scenario) -> None:
    """Let the agent act and learn, and the reference learn from the same."""
    rng = np.random.default_rng(scenario.seed)
    state = agent.capture_state()
    # Dense, so that every derivative matters; sparse initialisation has tests of its own.
    state.parameters[:] = rng.normal(0.0, 0.4, state.parameters.shape)
    agent.restore_state(state)
    params = dict(agent.get_hyperparams().params)
    networks = [SlowNetwork(row.astype(np.float64), (2, *hidden, outputs)) for row in agent.capture_state().parameters]
    slow = SlowAgent(networks, params, kappas)
    objective = {
        "q": q_learning,
        "discrete": actor_critic(params, categorical_log_density, categorical_entropy),
        "continuous": actor_critic(params, gaussian_log_density, gaussian_entropy),
    }[scenario.kind]
    policy = agent.live_policy()
    assert isinstance(policy, SingleActor)
    at = {stream: rng.normal(size=2) for stream in range(3)}
    for stream, what in scenario.steps:
        observation = at[stream]
        action, extras = policy.act_one(observation)
        following = rng.normal(size=2) * np.array([1.0, 30.0]) + 5.0
        reward = float(rng.normal() * 3.0)
        transition = Transition(
            observation, action, reward, following, what == "terminated", what == "truncated", None, stream, extras
        )
        got = agent.learn_one(transition)["td_error"]
        expected = slow.learn(transition, objective)
        assert got == pytest.approx(expected, rel=1e-4, abs=1e-5)
        at[stream] = following if what == "on" else rng.normal(size=2)
    for row, network in zip(agent.capture_state().parameters, slow.networks, strict=True):
        np.testing.assert_allclose(row, network.flat, rtol=1e-5, atol=1e-5)


def scenarios(kind: str) -> st.SearchStrategy[Scenario]:
    what = st.sampled_from(["on", "on", "on", "terminated", "truncated", "gap"])
    steps = st.lists(st.tuples(st.integers(0, 2), what), min_size=5, max_size=25)
    return st.builds(Scenario, st.just(kind), st.integers(0, 2**16), steps)


SIGHT = Box([-np.inf, -np.inf], [np.inf, np.inf])


@settings(max_examples=40)
@given(scenarios("discrete"))
def test_actor_critic_equals_the_reference(scenario: Scenario) -> None:
    agent = StreamACAgent.for_spaces(SIGHT, Discrete(3), hidden=(8, 6), seed=scenario.seed)
    compare(agent, 3, ["kappa_policy", "kappa_value"], (8, 6), scenario)


@settings(max_examples=40)
@given(scenarios("continuous"))
def test_continuous_actor_critic_equals_the_reference(scenario: Scenario) -> None:
    agent = StreamACAgent.for_spaces(SIGHT, Box([-1.0], [1.0]), hidden=(8, 6), seed=scenario.seed)
    compare(agent, 2, ["kappa_policy", "kappa_value"], (8, 6), scenario)


@settings(max_examples=40)
@given(scenarios("q"))
def test_q_equals_the_reference(scenario: Scenario) -> None:
    agent = StreamQAgent.for_spaces(SIGHT, Discrete(3), hidden=(8,), seed=scenario.seed, epsilon_end=0.3)
    agent.set_hyperparams(HyperparamSet({**agent.get_hyperparams().params, "trace_lambda": 0.9}))
    compare(agent, 3, ["kappa_value"], (8,), scenario)
