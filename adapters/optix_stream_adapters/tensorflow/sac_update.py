"""One gradient step of soft actor-critic."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from optix_stream_adapters.tensorflow.critics import TwinCritics
from optix_stream_adapters.tensorflow.fused_update import Step, Values, adam, as_function, follow
from optix_stream_adapters.tensorflow.squashed import sample_squashed

DIAGNOSTICS = ("critic_loss", "value", "actor_loss", "entropy", "temperature")


def sac_step(actor: Any, critics: TwinCritics) -> Step:
    """Critics, then the actor by the new critics, then the temperature by the new actor's entropy before its step.

    Haarnoja et al. 2018 (arXiv 1812.05905), equations 5, 9 and 18, with the logarithm of the temperature in its loss.

    Args:
        actor: built Keras model from observations to means and log deviations, ``[B, 2 units]``.
        critics: of both.

    Returns:
        A step on ``{"actor": …, "critics": …, "temperature": …}``, whose errors are those of the critics. Rows have
        standard normal ``noise`` and ``next_noise`` ``[B, units]``; coefficients are ``learning_rate``,
        ``temperature_learning_rate``, ``tau`` and ``target_entropy``.
    """
    call = as_function(actor)

    def step(
        values: dict[str, Values], rows: dict[str, Any], coefficients: dict[str, Any]
    ) -> tuple[dict[str, Values], Any, Any]:
        acting, temperature = values["actor"], values["temperature"]
        alpha = tf.exp(temperature.weights[0])
        rate = coefficients["learning_rate"]

        following, log_prob = sample_squashed(call(acting.weights, rows["next_observations"]), rows["next_noise"])
        value = critics.lower(values["critics"].targets, rows["next_observations"], following)
        targets = rows["returns"] + rows["discounts"] * (value - alpha * log_prob)
        judging, critic_loss, mean_value, errors = critics.learn(values["critics"], rows, targets, rate)
        judging = follow(judging, coefficients["tau"])

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(acting.weights)
            actions, log_prob = sample_squashed(call(acting.weights, rows["observations"]), rows["noise"])
            value = critics.lower(judging.weights, rows["observations"], actions)
            actor_loss = tf.reduce_mean(alpha * log_prob - value)
        acting = adam(acting, tape.gradient(actor_loss, acting.weights), rate)

        entropy = -tf.reduce_mean(log_prob)
        # The gradient of log(alpha) * (entropy - target).
        surplus = tf.reshape(entropy - coefficients["target_entropy"], temperature.weights[0].shape)
        temperature = adam(temperature, [surplus], coefficients["temperature_learning_rate"])
        told = tf.stack([critic_loss, mean_value, actor_loss, entropy, alpha])
        return {"actor": acting, "critics": judging, "temperature": temperature}, told, errors

    return step
