"""The fast policy: as Keras computes it, immutable, sampled as it says."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from gymnasium import spaces
from optix_stream_adapters.tensorflow import PPOAgent, TFAgent
from optix_stream_adapters.tensorflow.actions import CategoricalHead, GaussianHead
from optix_stream_adapters.tensorflow.activations import ACTIVATIONS
from optix_stream_adapters.tensorflow.forward import ModelForward

from optix_stream.errors import ConfigurationError
from optix_stream.testing import make_window
from optix_stream.types import HyperparamSet

NAMES = sorted(function.__name__ for function in ACTIVATIONS)


def dense(units: int, activation: str | None = None, seed: int = 0) -> Any:
    initializer: Any = keras.initializers.RandomNormal(stddev=0.5, seed=seed)
    return keras.layers.Dense(units, activation, kernel_initializer=initializer, bias_initializer=initializer)


def make_stack(activation: str = "tanh", inputs: int = 4, units: int = 2) -> Any:
    return keras.Sequential([keras.Input((inputs,)), dense(64, activation), dense(64, activation, 1), dense(units)])


def make_agent(model: Any, **options: Any) -> TFAgent:
    return TFAgent(model, keras.optimizers.Adam(3e-4), HyperparamSet({"learning_rate": 3e-4}), seed=0, **options)


@pytest.mark.parametrize("name", NAMES)
def test_every_activation_is_that_of_keras(name: str) -> None:
    model = make_stack(name)
    forward = ModelForward(model).freeze()
    assert type(forward).__name__ == "DenseNetwork"
    inputs = np.random.default_rng(1).normal(0, 3, (64, 4)).astype(np.float32)
    before = inputs.copy()
    expected = np.asarray(model(inputs))
    np.testing.assert_allclose(
        forward(inputs), expected, rtol=1e-5, atol=1e-5 * max(1.0, float(np.abs(expected).max()))
    )
    np.testing.assert_array_equal(inputs, before)


def functional_chain() -> Any:
    inputs = keras.Input((4,))
    hidden = keras.layers.LeakyReLU(negative_slope=0.3)(dense(8)(inputs))
    hidden = keras.layers.ELU(alpha=0.5)(dense(8, seed=1)(keras.layers.Dropout(0.5, seed=1)(hidden)))
    return keras.Model(inputs, keras.layers.Activation("softmax")(dense(3)(hidden)))


def flattened() -> Any:
    return keras.Sequential([keras.Input((2, 3)), keras.layers.Flatten(), dense(8, "gelu"), dense(2)])


def with_skip() -> Any:
    inputs = keras.Input((4,))
    return keras.Model(inputs, dense(2)(keras.layers.Add()([inputs, dense(4, "relu")(inputs)])))


def shared_layer() -> Any:
    inputs = keras.Input((4,))
    layer = dense(4, "tanh")
    return keras.Model(inputs, layer(layer(inputs)))


def convolution() -> Any:
    return keras.Sequential(
        [keras.Input((6, 6, 1)), keras.layers.Conv2D(2, 3), keras.layers.Flatten(), keras.layers.Dense(2)]
    )


def normalised() -> Any:
    return keras.Sequential([keras.Input((4,)), keras.layers.LayerNormalization(), dense(2)])


def normalised_without_parameters() -> Any:
    layer = keras.layers.LayerNormalization(center=False, scale=False)
    return keras.Sequential([keras.Input((4,)), dense(8), layer, keras.layers.Activation("relu"), dense(2)])


def time_distributed() -> Any:
    return keras.Sequential([keras.Input((2, 3)), dense(2), keras.layers.Flatten()])


def other_activation() -> Any:
    return keras.Sequential([keras.Input((4,)), dense(8, "hard_sigmoid"), dense(2)])


def mixed_precision() -> Any:
    half = keras.layers.Dense(8, dtype="mixed_float16", kernel_initializer="zeros")
    return keras.Sequential([keras.Input((4,)), half, dense(2)])


def nested() -> Any:
    inputs = keras.Input((4,))
    return keras.Model(inputs, dense(2)(make_stack(units=3)(inputs)))


def of_a_shared_layer() -> Any:
    """Its last layer was first used elsewhere."""
    last = dense(2)
    with_skip_inputs = keras.Input((4,))
    keras.Model(with_skip_inputs, last(with_skip_inputs))
    inputs = keras.Input((4,))
    return keras.Model(inputs, last(dense(4, "tanh", 1)(inputs)))


class Wrapped(keras.Model):  # type: ignore[misc]
    """Calls its layers in an order that the layers do not tell."""

    def __init__(self) -> None:
        super().__init__()
        self.second, self.first = dense(2), dense(4, "tanh", 1)

    def call(self, inputs: Any) -> Any:
        return self.second(self.first(inputs))


def subclass() -> Any:
    inputs = keras.Input((4,))
    return keras.Model(inputs, Wrapped()(inputs))


class Negated(keras.Sequential):  # type: ignore[misc]
    def call(self, inputs: Any, training: Any = None, mask: Any = None, **kwargs: Any) -> Any:
        outputs: Any = super().call(inputs)
        return -outputs


def subclass_of_a_stack() -> Any:
    return Negated([keras.Input((4,)), dense(2)])


@pytest.mark.parametrize(
    ("make", "is_fast"),
    [
        (functional_chain, True),
        (flattened, True),
        (normalised_without_parameters, True),
        (with_skip, False),
        (shared_layer, False),
        (convolution, False),
        (normalised, False),
        (time_distributed, False),
        (other_activation, False),
        (mixed_precision, False),
        (nested, False),
        (of_a_shared_layer, False),
        (subclass, False),
        (subclass_of_a_stack, False),
    ],
)
def test_a_plain_stack_is_numpy_and_anything_else_a_graph(make: Callable[[], Any], is_fast: bool) -> None:
    model = make()
    frozen = ModelForward(model).freeze()
    assert (type(frozen).__name__ == "DenseNetwork") is is_fast
    inputs = np.random.default_rng(1).normal(size=(5, *model.input_shape[1:])).astype(np.float32)
    np.testing.assert_allclose(frozen(inputs), np.asarray(model(inputs)), rtol=1e-5, atol=1e-5)


def test_one_trace_serves_all_batch_sizes_and_publications() -> None:
    model = with_skip()
    forward = ModelForward(model)
    for _ in range(3):
        frozen = forward.freeze()
        for rows in (1, 2, 5, 8, 33):
            frozen(np.zeros((rows, 4), np.float32))
        model.trainable_variables[0].assign_add(np.ones(model.trainable_variables[0].shape))
    assert forward.traces == 1


class Doubled(keras.layers.Dense):  # type: ignore[misc]
    def call(self, inputs: Any, training: Any = None) -> Any:
        outputs: Any = super().call(inputs)
        return 2.0 * outputs


def test_a_subclass_of_a_layer_is_not_taken_for_the_layer() -> None:
    model = keras.Sequential([keras.Input((4,)), Doubled(2)])
    inputs = np.ones((1, 4), np.float32)
    np.testing.assert_allclose(ModelForward(model).freeze()(inputs), np.asarray(model(inputs)), rtol=1e-5)


def test_a_mismatch_is_reported_and_acted_through_the_graph(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(ACTIVATIONS, keras.activations.tanh, "softsign")
    model = make_stack("tanh")
    forward = ModelForward(model)
    inputs = np.ones((3, 4), np.float32)
    with caplog.at_level(logging.WARNING):
        frozen = forward.freeze()
        forward.freeze()
    assert len(caplog.records) == 1
    np.testing.assert_allclose(frozen(inputs), np.asarray(model(inputs)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [make_stack, with_skip])
def test_a_published_policy_never_changes(make: Callable[[], Any]) -> None:
    model = make()
    agent = make_agent(model)
    policy = agent.publish_policy(deterministic=True)
    observations = np.random.default_rng(2).normal(size=(200, 4)).astype(np.float32)
    before = policy.act(observations).actions
    for variable in model.trainable_variables:
        variable.assign(-np.asarray(variable))
    np.testing.assert_array_equal(policy.act(observations).actions, before)
    later = agent.publish_policy(deterministic=True)
    assert (later.act(observations).actions != before).any()
    assert later.version > policy.version


def test_categorical_samples_have_the_frequencies_and_log_probabilities_of_the_model() -> None:
    logits = np.asarray([[0.0, 1.0, -2.0]], np.float32)
    probabilities = np.exp(logits[0]) / np.exp(logits[0]).sum()
    head = CategoricalHead(3, start=5)
    one = head.sampler(np.random.default_rng(0))
    for decide in (one(np.repeat(logits, 20_000, axis=0)), *[one(logits)]):
        expected = np.log(probabilities)[decide.actions - 5]
        np.testing.assert_allclose(decide.extras["log_prob"], expected, rtol=1e-5)
    singles = np.concatenate([one(logits).actions for _ in range(20_000)])
    many = one(np.repeat(logits, 20_000, axis=0)).actions
    for actions in (singles, many):
        np.testing.assert_allclose(np.bincount(actions - 5, minlength=3) / 20_000, probabilities, atol=0.015)
    assert head.sampler(None)(logits).actions.tolist() == [6]


def test_a_gaussian_keeps_the_raw_action_and_executes_a_clipped_one() -> None:
    head = GaussianHead(np.asarray([-2.0, 0.0]), np.asarray([2.0, 1.0]), np.float32)
    decision = head.sampler(np.random.default_rng(0))(np.zeros((5000, 2), np.float32))
    raw = decision.extras["raw_action"]
    np.testing.assert_allclose(decision.actions, np.clip(raw * [2.0, 0.5] + [0.0, 0.5], [-2, 0], [2, 1]), rtol=1e-6)
    assert decision.actions.dtype == np.float32
    np.testing.assert_allclose(raw.std(axis=0), 1.0, atol=0.05)
    expected = -0.5 * (raw**2).sum(axis=1) - np.log(2 * np.pi)
    np.testing.assert_allclose(decision.extras["log_prob"], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.asarray(head.log_prob(np.zeros((5000, 2), np.float32), raw)), expected, rtol=1e-4)
    mean = np.asarray([[0.0, 3.0]], np.float32)
    np.testing.assert_allclose(head.sampler(None)(mean).actions, [[0.0, 1.0]])


def test_an_action_without_recorded_raw_form_is_taken_back_to_the_network_s_units() -> None:
    head = GaussianHead(np.asarray([[-2.0, 0.0]]), np.asarray([[2.0, 1.0]]), np.float32)
    window = make_window([0.0, 0.0])
    actions = np.asarray([[[-2.0, 0.5]], [[1.0, 1.0]]])
    np.testing.assert_allclose(head.learnable(dataclasses.replace(window, actions=actions)), [[-1.0, 0.0], [0.5, 1.0]])


def test_unbounded_dimensions_are_neither_scaled_nor_clipped() -> None:
    head = GaussianHead(np.asarray([-np.inf, -4.0, 1.0]), np.asarray([np.inf, np.inf, 3.0]), np.float64)
    decision = head.sampler(None)(np.asarray([[50.0, 7.0, 0.5], [-50.0, -7.0, -9.0]], np.float32))
    np.testing.assert_allclose(decision.actions, [[50.0, 7.0, 2.5], [-50.0, -4.0, 1.0]])
    assert decision.actions.dtype == np.float64


@pytest.mark.parametrize("choices", [2, 31, 200], ids=["two", "many", "more than are worth a loop"])
def test_a_single_choice_is_sampled_as_one_of_many(choices: int) -> None:
    logits = np.random.default_rng(0).normal(0.0, 30.0, (1, choices)).astype(np.float32)
    single, many = (CategoricalHead(choices).sampler(np.random.default_rng(1)) for _ in range(2))
    ones = [single(logits) for _ in range(200)]
    together = many(np.repeat(logits, 200, axis=0))
    np.testing.assert_array_equal(np.concatenate([one.actions for one in ones]), together.actions)
    for one, log_prob in zip(ones, together.extras["log_prob"], strict=True):
        np.testing.assert_allclose(one.extras["log_prob"], [log_prob], rtol=1e-4, atol=1e-5)
        assert one.actions.dtype == together.actions.dtype
        assert one.extras["log_prob"].dtype == together.extras["log_prob"].dtype


def two_outputs() -> Any:
    inputs = keras.Input((4,))
    return keras.Model(inputs, [dense(2)(inputs), dense(2)(inputs)])


def two_inputs() -> Any:
    inputs = [keras.Input((4,)), keras.Input((4,))]
    return keras.Model(inputs, dense(2)(keras.layers.Add()(inputs)))


def called_subclass() -> Any:
    model = Wrapped()
    model(np.zeros((1, 4), np.float32))
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: keras.Sequential([keras.layers.Dense(2)]), "expected a built model"),
        (lambda: keras.Sequential([keras.Input((None, 3)), keras.layers.Dense(2)]), "one input of known shape"),
        (lambda: keras.Sequential([keras.Input((2, 3)), keras.layers.Dense(2)]), "one output"),
        (two_outputs, r"expected one output \[N, units\], got \["),
        (two_inputs, r"expected one input of known shape, got \["),
        (called_subclass, r"expected a Sequential or functional model, got Wrapped"),
    ],
)
def test_a_model_that_cannot_work_is_refused(model: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make_agent(model())


@pytest.mark.parametrize("action_space", [spaces.Discrete(3), spaces.Box(-1, 1, (2,))])
def test_all_rows_of_a_batch_are_decided_as_one_by_one(action_space: spaces.Space[Any]) -> None:
    agent = PPOAgent.for_spaces(spaces.Box(-1, 1, (4,)), action_space, seed=0, normalize_observations=True)
    policy = agent.publish_policy(deterministic=True)
    observations = np.random.default_rng(3).normal(size=(6, 4)).astype(np.float32)
    together = policy.act(observations).actions
    single = np.concatenate([policy.act(row[None]).actions for row in observations])
    np.testing.assert_allclose(together, single, rtol=1e-5, atol=1e-6)
