"""One gradient step of deep Q-learning."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from optix_stream_adapters.tensorflow.fused_update import Step, Values, adam, as_function, follow

DIAGNOSTICS = ("loss", "value", "grad_norm")


def dqn_step(model: Any, *, target_interval: int) -> Step:
    """Double Q-learning with a target network. van Hasselt et al. 2016 (arXiv 1509.06461), equation 4.

    The loss is Huber's, as in Mnih et al. 2015, weighted where rows were not drawn evenly.

    Args:
        model: built Keras model from observations to one value an action.
        target_interval: gradient steps after which the target network comes closer to the model.

    Returns:
        A step on ``{"model": …}``, whose errors are those of the values, in units of return. Coefficients are
        ``learning_rate``, ``max_grad_norm`` and ``tau``.
    """
    call = as_function(model)

    def step(
        values: dict[str, Values], rows: dict[str, Any], coefficients: dict[str, Any]
    ) -> tuple[dict[str, Values], Any, Any]:
        online = values["model"]
        best = tf.argmax(call(online.weights, rows["next_observations"]), axis=1)
        following = tf.gather(call(online.targets, rows["next_observations"]), best, batch_dims=1)
        targets = rows["returns"] + rows["discounts"] * following
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(online.weights)
            chosen = tf.gather(call(online.weights, rows["observations"]), rows["actions"], batch_dims=1)
            errors = chosen - targets
            loss = tf.reduce_mean(rows["weights"] * huber(errors))
        gradients, norm = tf.clip_by_global_norm(tape.gradient(loss, online.weights), coefficients["max_grad_norm"])
        online = adam(online, gradients, coefficients["learning_rate"])
        is_due = tf.equal(tf.math.floormod(online.count, float(target_interval)), 0.0)
        online = follow(online, tf.where(is_due, coefficients["tau"], 0.0))
        return {"model": online}, tf.stack([loss, tf.reduce_mean(chosen), norm]), errors

    return step


def huber(errors: Any) -> Any:
    """Half the square of what is at most 1, and linear beyond. Huber 1964."""
    sizes = tf.abs(errors)
    return tf.where(sizes <= 1.0, 0.5 * tf.square(errors), sizes - 0.5)
