"""The compiled update of PPO: all epochs and minibatches of a window in one graph call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from optix_stream.types import Array, FloatArray
from optix_stream_adapters.tensorflow.actions import ActionHead

_NAMES = ("policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction", "grad_norm")


@dataclass(frozen=True, slots=True)
class Rollout:
    """What an update learns from: columns of ``T`` rows.

    Attributes:
        inputs: float32 ``[T, …]``, as the networks take them.
        actions: as the head takes them.
        log_probs: of those actions, by the policy that acted; NaN where it was not the policy that chose.
        advantages: standardised, and 0 there.
        returns: targets of the value network.
    """

    inputs: Array
    actions: Array
    log_probs: Array
    advantages: FloatArray
    returns: FloatArray

    def padded(self, length: int) -> tuple[Any, ...]:
        """The columns as tensors of ``length`` rows."""

        def pad(column: Array, dtype: Any) -> Any:
            rows = np.zeros((length, *column.shape[1:]), dtype)
            rows[: len(column)] = column
            return tf.constant(rows)

        return (
            pad(self.inputs, np.float32),
            pad(self.actions, self.actions.dtype),
            pad(self.log_probs, np.float32),
            pad(self.advantages, np.float32),
            pad(self.returns, np.float32),
        )


class PPOUpdate:
    """Clipped policy gradient. Schulman et al. 2017 (arXiv 1707.06347), equations 7 and 9.

    A window smaller than the largest one so far is padded to its size, and what is padded is never
    read; only a larger one costs another trace.

    Args:
        model: the policy network.
        value_model: the value network.
        head: what the policy's outputs mean.
        optimizer: of ``variables``, built.
        value_optimizer: of ``value_variables``, built.
        variables: of the policy.
        value_variables: of the value network alone.
        epochs: passes over a window.
        minibatch_size: rows a gradient step, at most.
        jit_compile: fuse the graph by XLA.
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
        *,
        epochs: int,
        minibatch_size: int,
        jit_compile: bool,
    ) -> None:
        self.traces = 0
        self._epochs = epochs
        self._minibatch_size = minibatch_size
        self._capacity = 0
        everything = [variable.value for variable in (*variables, *value_variables)]

        def update(rows: Any, indices: Any, weights: Any, updates: Any, coefficients: Any) -> Any:
            self.traces += 1
            clip, max_norm = coefficients["clip_range"], coefficients["max_grad_norm"]

            def losses(index: Any) -> tuple[Any, ...]:
                chosen, weight = indices[index], weights[index]
                inputs, actions, old, advantages, returns = (tf.gather(column, chosen) for column in rows)

                def mean(values: Any) -> Any:
                    return tf.reduce_sum(values * weight)

                # Not in training mode: the ratio compares with how the policy acted.
                outputs = model(inputs, training=False)
                # A choice that was not the policy's counts as one that has not grown likelier: no gradient, no KL.
                own = tf.math.logical_not(tf.math.is_nan(old))
                log_ratio = tf.where(own, head.log_prob(outputs, actions) - tf.where(own, old, 0.0), 0.0)
                ratio = tf.exp(log_ratio)
                clipped = tf.clip_by_value(ratio, 1.0 - clip, 1.0 + clip)
                policy_loss = -mean(tf.minimum(ratio * advantages, clipped * advantages))
                value_loss = mean(tf.square(value_model(inputs, training=False)[:, 0] - returns))
                entropy = mean(head.entropy(outputs))
                # http://joschu.net/blog/kl-approx.html, k3: never negative.
                kl = mean(ratio - 1.0 - log_ratio)
                clip_fraction = mean(tf.cast(tf.abs(ratio - 1.0) > clip, tf.float32))
                return policy_loss, value_loss, entropy, kl, clip_fraction

            def step(index: Any, _: Any, totals: Any) -> Any:
                with tf.GradientTape() as tape:
                    parts = losses(index)
                    policy_loss, value_loss, entropy, kl, _clip_fraction = parts
                    loss = (
                        policy_loss + coefficients["value_coef"] * value_loss - coefficients["entropy_coef"] * entropy
                    )
                gradients = tape.gradient(loss, everything)
                gradients, norm = tf.clip_by_global_norm(gradients, max_norm)
                optimizer.apply(gradients[: len(variables)], variables)
                value_optimizer.apply(gradients[len(variables) :], value_variables)
                return index + 1, kl, totals + tf.stack([*parts, norm])

            def goes_on(index: Any, kl: Any, _: Any) -> Any:
                return tf.logical_and(index < updates, kl <= coefficients["kl_limit"])

            count, _, totals = tf.while_loop(goes_on, step, (0, 0.0, tf.zeros(len(_NAMES))))
            return count, totals / tf.cast(count, tf.float32)

        self._update = tf.function(update, autograph=False, jit_compile=jit_compile)

    def __call__(
        self, rollout: Rollout, rng: np.random.Generator, coefficients: Mapping[str, float]
    ) -> dict[str, float]:
        """Learn from a rollout; means over the gradient steps that were made.

        Args:
            rollout: of at least one row.
            rng: shuffles.
            coefficients: ``clip_range``, ``value_coef``, ``entropy_coef``, ``max_grad_norm``, and
                ``kl_limit``, beyond which no further step is made.
        """
        length = len(rollout.returns)
        self._capacity = max(self._capacity, length)
        indices, weights, updates = self._minibatches(length, rng)
        count, means = self._update(
            rollout.padded(self._capacity),
            tf.constant(indices),
            tf.constant(weights),
            tf.constant(updates, tf.int32),
            {name: tf.constant(value, tf.float32) for name, value in coefficients.items()},
        )
        diagnostics = dict(zip(_NAMES, np.asarray(means).tolist(), strict=True))
        return diagnostics | {"gradient_steps": float(count)}

    def _minibatches(self, length: int, rng: np.random.Generator) -> tuple[Array, Array, int]:
        """Row numbers and weights, ``[steps, minibatch]`` each, and how many steps are real.

        Each epoch is shuffled and split evenly; each minibatch's weights sum to 1.
        """
        size = min(self._minibatch_size, self._capacity)
        most, parts = -(-self._capacity // size), -(-length // size)
        indices = np.zeros((self._epochs * most, size), np.int32)
        weights = np.zeros((self._epochs * most, size), np.float32)
        step = 0
        for _ in range(self._epochs):
            for rows in np.array_split(rng.permutation(length), parts):
                indices[step, : len(rows)] = rows
                weights[step, : len(rows)] = 1.0 / len(rows)
                step += 1
        return indices, weights, step
