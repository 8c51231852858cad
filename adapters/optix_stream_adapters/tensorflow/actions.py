"""Action distributions: sampled in numpy by policies, scored in TensorFlow by learning."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from optix_stream.errors import TransitionMismatchError
from optix_stream.policies.composed import Sampler
from optix_stream.policies.exploration import EpsilonGreedySampler
from optix_stream.policies.samplers import LOG_PROB, RAW_ACTION, CategoricalSampler, GaussianSampler, bounds_of
from optix_stream.trees import describe
from optix_stream.types import Array, BoolArray, EpisodeData

_LOG_2PI = math.log(2.0 * math.pi)

__all__ = ["LOG_PROB", "RAW_ACTION", "ActionHead", "CategoricalHead", "GaussianHead", "are_own"]


def are_own(window: EpisodeData) -> BoolArray:
    """Which rows' actions the policy chose: what it did not, such as a fallback, has no log-probability (NaN)."""
    log_probs = window.extras.get(LOG_PROB)
    return np.ones(window.length, np.bool_) if log_probs is None else ~np.isnan(log_probs)


class ActionHead(ABC):
    """What a policy network's outputs mean.

    Attributes:
        units: outputs that the network must have.
        variables: what is learned besides the network.
    """

    units: int
    variables: tuple[Any, ...] = ()

    @abstractmethod
    def sampler(self, rng: np.random.Generator | None) -> Sampler:
        """Decides with this moment's variables, copied; without a generator the most likely action."""

    @abstractmethod
    def learnable(self, window: EpisodeData) -> Array:
        """The window's actions as ``log_prob`` wants them; ``[T]`` or ``[T, units]``.

        Raises:
            TransitionMismatchError: actions that cannot come from this head.
        """

    @abstractmethod
    def log_prob(self, outputs: Any, actions: Any) -> Any:
        """Log-probability (density) of each action; ``[N]``."""

    @abstractmethod
    def entropy(self, outputs: Any) -> Any:
        """Entropy in nats, by row; ``[N]``."""


class CategoricalHead(ActionHead):
    """Outputs are logits of ``units`` choices, the first of which is the action ``start``."""

    def __init__(self, units: int, start: int = 0) -> None:
        self.units = units
        self._start = start

    def sampler(self, rng: np.random.Generator | None) -> Sampler:
        return CategoricalSampler(self.units, self._start, rng)

    def explorer(self, epsilon: float, rng: np.random.Generator | None) -> Sampler:
        """Decides by outputs that are values of actions; any action with a probability of ``epsilon``."""
        return EpsilonGreedySampler(self.units, self._start, epsilon, rng)

    def learnable(self, window: EpisodeData) -> Array:
        actions = window.actions
        if actions.ndim == 2 and actions.shape[1] == 1:
            actions = actions[:, 0]
        if actions.ndim != 1 or not np.issubdtype(actions.dtype, np.integer):
            raise TransitionMismatchError("actions", "integers [T]", describe(window.actions))
        choices = actions.astype(np.int64) - self._start
        if len(choices) and (choices.min() < 0 or choices.max() >= self.units):
            low, high = actions.min(), actions.max()
            expected = f"{self._start} to {self._start + self.units - 1}"
            raise TransitionMismatchError("actions", expected, f"{low} to {high}")
        return choices.astype(np.int32)

    def log_prob(self, outputs: Any, actions: Any) -> Any:
        return -tf.nn.sparse_softmax_cross_entropy_with_logits(labels=actions, logits=outputs)

    def entropy(self, outputs: Any) -> Any:
        log_probs = tf.nn.log_softmax(outputs)
        return -tf.reduce_sum(tf.exp(log_probs) * log_probs, axis=-1)


class GaussianHead(ActionHead):
    """Outputs are the mean of a Gaussian whose log standard deviation does not depend on the state.

    In the units of the network, 0 is the middle of a bounded action space and ±1 its bounds; an
    unbounded one is taken as it is. The sample is the *raw* action, which is what has a density; what
    is executed is the raw action in the units of the space, clipped to it.

    Args:
        low: bounds of the action space, of its shape.
        high: likewise.
        dtype: of executed actions.
        log_std: initial value.
    """

    def __init__(self, low: Array, high: Array, dtype: Any, log_std: float = 0.0) -> None:
        self.units = int(low.size)
        self._bounds = (low, high)
        self._dtype = dtype
        _, _, self._center, self._scale = bounds_of(low, high)
        self.log_std = keras.Variable(np.full(self.units, log_std, np.float32), name="log_std")
        self.variables = (self.log_std,)

    def sampler(self, rng: np.random.Generator | None) -> Sampler:
        return GaussianSampler(*self._bounds, self._dtype, np.array(self.log_std.value.numpy()), rng)

    def learnable(self, window: EpisodeData) -> Array:
        raw = window.extras.get(RAW_ACTION)
        if raw is not None and not np.isnan(raw).any():
            return np.asarray(raw, np.float32)
        executed = window.actions.reshape(window.length, -1)
        if executed.shape[1] != self.units and window.length:
            raise TransitionMismatchError("actions", f"[T, {self.units}]", describe(window.actions))
        executed = (executed - self._center) / self._scale
        return np.asarray(executed if raw is None else np.where(np.isnan(raw), executed, raw), np.float32)

    def log_prob(self, outputs: Any, actions: Any) -> Any:
        log_std = tf.convert_to_tensor(self.log_std.value)
        noise = (actions - outputs) * tf.exp(-log_std)
        return -0.5 * tf.reduce_sum(tf.square(noise) + 2.0 * log_std + _LOG_2PI, axis=-1)

    def entropy(self, outputs: Any) -> Any:
        log_std = tf.convert_to_tensor(self.log_std.value)
        one = tf.reduce_sum(log_std + 0.5 * (_LOG_2PI + 1.0))
        return tf.fill(tf.shape(outputs)[:1], one)
