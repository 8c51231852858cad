"""One gradient step of twin delayed deep deterministic policy gradient."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from optix_stream_adapters.tensorflow.critics import TwinCritics
from optix_stream_adapters.tensorflow.fused_update import Step, Values, adam, as_function, follow

DIAGNOSTICS = ("critic_loss", "value", "actor_loss")


def td3_step(actor: Any, critics: TwinCritics, *, actor_interval: int) -> Step:
    """Critics by smoothed targets; every ``actor_interval`` steps the actor, by the first critic, and all targets.

    Fujimoto et al. 2018 (arXiv 1802.09477), algorithm 1.

    Args:
        actor: built Keras model from observations to actions before they are squashed, ``[B, units]``.
        critics: of both.
        actor_interval: critics' steps for each of the actor.

    Returns:
        A step on ``{"actor": …, "critics": …}``, whose errors are those of the critics. Rows have standard normal
        ``noise`` ``[B, units]``; coefficients are ``learning_rate``, ``tau``, ``smoothing_std`` and
        ``smoothing_clip``, in half widths of the action space. The actor's loss counts only where it was taken.
    """
    call = as_function(actor)

    def step(
        values: dict[str, Values], rows: dict[str, Any], coefficients: dict[str, Any]
    ) -> tuple[dict[str, Values], Any, Any]:
        acting, rate, tau = values["actor"], coefficients["learning_rate"], coefficients["tau"]

        limit = coefficients["smoothing_clip"]
        noise = tf.clip_by_value(coefficients["smoothing_std"] * rows["noise"], -limit, limit)
        following = tf.tanh(call(acting.targets, rows["next_observations"]))
        following = tf.clip_by_value(following + noise, -1.0, 1.0)
        value = critics.lower(values["critics"].targets, rows["next_observations"], following)
        targets = rows["returns"] + rows["discounts"] * value
        judging, critic_loss, mean_value, errors = critics.learn(values["critics"], rows, targets, rate)

        def improve() -> Any:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(acting.weights)
                actions = tf.tanh(call(acting.weights, rows["observations"]))
                loss = -tf.reduce_mean(critics.both(judging.weights, rows["observations"], actions)[0])
            improved = adam(acting, tape.gradient(loss, acting.weights), rate)
            return follow(improved, tau), follow(judging, tau), loss * actor_interval

        is_due = tf.equal(tf.math.floormod(judging.count, float(actor_interval)), 0.0)
        acting, judging, actor_loss = tf.cond(is_due, improve, lambda: (acting, judging, 0.0))
        return {"actor": acting, "critics": judging}, tf.stack([critic_loss, mean_value, actor_loss]), errors

    return step
