"""The compiled update of REINFORCE with a value baseline. One graph for every window size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from optix_stream.types import Array, FloatArray
from optix_stream_adapters.tensorflow.actions import ActionHead


class ReinforceUpdate:
    """Gradient steps on a policy and on its baseline.

    Args:
        model: the policy network.
        value_model: the baseline.
        head: what the policy's outputs mean.
        optimizer: of ``variables``, built.
        value_optimizer: of ``value_variables``, built.
        variables: of the policy.
        value_variables: of the baseline alone.
    """

    def __init__(
        self,
        model: Any,
        value_model: Any,
        head: ActionHead,
        optimizer: Any,
        value_optimizer: Any,
        variables: Sequence[Any],
        value_variables: Sequence[Any],
    ) -> None:
        self.traces = 0
        rows = tf.TensorSpec([None, *model.input_shape[1:]], tf.float32)
        column, scalar = tf.TensorSpec([None], tf.float32), tf.TensorSpec([], tf.float32)

        def step_policy(inputs: Any, actions: Any, advantages: Any, entropy_coef: Any) -> Any:
            self.traces += 1
            with tf.GradientTape() as tape:
                outputs = model(inputs, training=True)
                entropy = tf.reduce_mean(head.entropy(outputs))
                policy_loss = -tf.reduce_mean(head.log_prob(outputs, actions) * advantages)
                loss = policy_loss - entropy_coef * entropy
            gradients = tape.gradient(loss, [variable.value for variable in variables])
            optimizer.apply(gradients, variables)
            return {"loss": loss, "entropy": entropy, "grad_norm": tf.linalg.global_norm(gradients)}

        def fit_values(inputs: Any, targets: Any, updates: Any) -> Any:
            self.traces += 1

            def step(index: Any, _: Any) -> Any:
                with tf.GradientTape() as tape:
                    loss = tf.reduce_mean(tf.square(value_model(inputs, training=True)[:, 0] - targets))
                gradients = tape.gradient(loss, [variable.value for variable in value_variables])
                value_optimizer.apply(gradients, value_variables)
                return index + 1, loss

            return tf.while_loop(lambda index, _: index < updates, step, (0, 0.0))[1]

        self._step_policy = tf.function(step_policy, autograph=False, reduce_retracing=True)
        self._fit_values = tf.function(
            fit_values, input_signature=(rows, column, tf.TensorSpec([], tf.int32)), autograph=False
        )
        self._signature = (rows, column, scalar)
        self._graphs: dict[str, Any] = {}

    def step_policy(
        self, inputs: Array, actions: Array, advantages: FloatArray, entropy_coef: float
    ) -> dict[str, float]:
        """One step along ``mean(log π(a|s) · advantage)``; actions of any one rank and dtype."""
        rows, column, scalar = self._signature
        graph = self._graphs.get("policy")
        if graph is None:
            kind = tf.TensorSpec([None, *actions.shape[1:]], actions.dtype)
            graph = self._graphs["policy"] = self._step_policy.get_concrete_function(rows, kind, column, scalar)
        results = graph(
            tf.constant(inputs),
            tf.constant(actions),
            tf.constant(advantages, tf.float32),
            tf.constant(entropy_coef, tf.float32),
        )
        return {name: float(value) for name, value in results.items()}

    def fit_values(self, inputs: Array, targets: FloatArray, updates: int) -> float:
        """``updates`` full-batch steps on the squared error; the error before the last of them."""
        loss = self._fit_values(tf.constant(inputs), tf.constant(targets, tf.float32), tf.constant(updates, tf.int32))
        return float(np.asarray(loss))
