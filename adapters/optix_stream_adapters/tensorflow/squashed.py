"""Actions within bounds: ``tanh`` of what a network says, sampled in numpy by policies, learned from in TensorFlow."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

from optix_stream.errors import ConfigurationError, TransitionMismatchError
from optix_stream.policies.composed import Sampler
from optix_stream.policies.exploration import LOG_STD_RANGE, SquashedSampler
from optix_stream.policies.samplers import bounds_of
from optix_stream.trees import describe
from optix_stream.types import Array, EpisodeData

_LOG_2 = math.log(2.0)
_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


class SquashedActions:
    """A bounded Box of actions, whose middle is 0 and whose bounds are ±1 to networks.

    Args:
        space: of actions.

    Raises:
        ConfigurationError: not a Box of floats, or not bounded.

    Attributes:
        units: numbers in an action.
    """

    def __init__(self, space: Any) -> None:
        from gymnasium import spaces

        if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
            raise ConfigurationError(f"action space: expected a Box of floats, got {space}")
        if not space.is_bounded():
            raise ConfigurationError(f"action space: expected finite bounds, got {space}")
        self.units = int(space.low.size)
        self._space = space
        _, _, self._center, self._scale = bounds_of(space.low, space.high)

    def sampler(self, noise_std: float | None, correlation: float, rng: np.random.Generator | None) -> Sampler:
        """Decides; see ``SquashedSampler``."""
        space = self._space
        return SquashedSampler(space.low, space.high, space.dtype, noise_std, correlation, rng)

    def learnable(self, window: EpisodeData) -> Array:
        """The window's executed actions as networks take them, float32 ``[T, units]`` from -1 to 1.

        Raises:
            TransitionMismatchError: they are not of this space.
        """
        if window.actions.shape[1:] != self._space.shape:
            raise TransitionMismatchError("actions", f"[T, *{list(self._space.shape)}]", describe(window.actions))
        flat = window.actions.reshape(window.length, self.units).astype(np.float32)
        scaled: Array = np.clip((flat - self._center) / self._scale, -1.0, 1.0)
        return scaled


def sample_squashed(outputs: Any, noise: Any) -> tuple[Any, Any]:
    """Actions that standard normal ``noise`` makes of means and log deviations, and their log-densities.

    Haarnoja et al. 2018 (arXiv 1801.01290), appendix C, with ``log(1 - tanh²)`` written so that it never overflows.

    Args:
        outputs: ``[B, 2 units]``, the means and then the logarithms of the standard deviations.
        noise: ``[B, units]``.

    Returns:
        ``[B, units]`` from -1 to 1, and ``[B]``.
    """
    means, log_std = tf.split(outputs, 2, axis=-1)
    log_std = tf.clip_by_value(log_std, *LOG_STD_RANGE)
    raw = means + tf.exp(log_std) * noise
    gaussian = -0.5 * tf.square(noise) - log_std - _HALF_LOG_2PI
    squashing = 2.0 * (_LOG_2 - raw - tf.nn.softplus(-2.0 * raw))
    return tf.tanh(raw), tf.reduce_sum(gaussian - squashing, axis=-1)
