"""Two networks that value actions, of which the lower one is believed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from optix_stream.errors import ConfigurationError
from optix_stream_adapters.tensorflow.forward import ModelForward
from optix_stream_adapters.tensorflow.fused_update import Values, adam, as_function
from optix_stream_adapters.tensorflow.networks import SMALL_GAIN, build_mlp


class TwinCritics:
    """Clipped double Q-learning. Fujimoto et al. 2018 (arXiv 1802.09477), section 4.2.

    Args:
        models: two built Keras models from an observation and an action, one after the other, to ``[N, 1]``.
        inputs: numbers in both together.

    Raises:
        ConfigurationError: not two of them, the same twice, or of other inputs or outputs.

    Attributes:
        models: the same.
    """

    def __init__(self, models: Sequence[Any], inputs: int) -> None:
        if len(models) != 2 or models[0] is models[1]:
            raise ConfigurationError(f"critics: expected two different models, got {len(models)}")
        for model in models:
            forward = ModelForward(model)
            if forward.input_shape != (inputs,) or forward.units != 1:
                got = f"{forward.input_shape} to {forward.units}"
                raise ConfigurationError(f"critics: expected models from ({inputs},) to 1, got {got}")
        self.models = tuple(models)
        self._calls: list[Callable[[Sequence[Any], Any], Any]] = [as_function(model) for model in models]
        self._split = len(models[0].trainable_variables)

    @property
    def variables(self) -> list[Any]:
        """Trainable variables of both."""
        return [variable for model in self.models for variable in model.trainable_variables]

    def both(self, weights: Sequence[Any], observations: Any, actions: Any) -> Any:
        """What each says; ``[2, B]``."""
        inputs = tf.concat([observations, actions], axis=-1)
        parts = (weights[: self._split], weights[self._split :])
        return tf.stack([call(part, inputs)[:, 0] for call, part in zip(self._calls, parts, strict=True)])

    def lower(self, weights: Sequence[Any], observations: Any, actions: Any) -> Any:
        """The lower of both; ``[B]``."""
        return tf.reduce_min(self.both(weights, observations, actions), axis=0)

    def learn(self, values: Values, rows: dict[str, Any], targets: Any, rate: Any) -> tuple[Values, Any, Any, Any]:
        """One step of Adam on the squared errors of both.

        Args:
            values: of ``variables``.
            rows: a minibatch.
            targets: ``[B]``, in units of return.
            rate: of learning.

        Returns:
            The new values, the loss, the mean value, and the mean error of both by row, ``[B]``.
        """
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values.weights)
            estimates = self.both(values.weights, rows["observations"], rows["actions"])
            errors = estimates - targets
            loss = tf.reduce_mean(rows["weights"] * tf.square(errors))
        gradients = tape.gradient(loss, values.weights)
        return adam(values, gradients, rate), loss, tf.reduce_mean(estimates), tf.reduce_mean(errors, axis=0)


def build_critics(
    inputs: int, hidden: Sequence[int], rng: np.random.Generator, *, layer_norm: bool = False
) -> tuple[Any, Any]:
    """Two networks of the same form with weights of their own."""
    first, second = (
        build_mlp(
            (inputs,),
            hidden,
            1,
            rng=rng,
            output_gain=1.0,
            activation="relu",
            hidden_gain=SMALL_GAIN,
            layer_norm=layer_norm,
        )
        for _ in range(2)
    )
    return first, second
