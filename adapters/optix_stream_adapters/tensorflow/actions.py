"""Action distributions: sampled in numpy by policies, scored in TensorFlow by learning."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from optix_stream.contracts import Decision
from optix_stream.errors import TransitionMismatchError
from optix_stream.trees import describe
from optix_stream.types import Array, BoolArray, EpisodeData

LOG_PROB = "log_prob"
RAW_ACTION = "raw_action"
_LOG_2PI = math.log(2.0 * math.pi)

Sampler: TypeAlias = Callable[[Array], Decision]
"""Network outputs ``[N, units]`` in, a decision out."""


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
        start = self._start
        if rng is None:
            return lambda logits: Decision(np.argmax(logits, axis=1) + start)
        random, exp, last = rng.random, math.exp, self.units - 1

        def sample_one(logits: Array) -> Decision:
            # Plain floats: at this size the overhead of each numpy call would be most of the time.
            row = logits[0].tolist()
            top = max(row)
            weights = [exp(value - top) for value in row]
            total = sum(weights)
            left = random() * total
            choice = 0
            for weight in weights:
                left -= weight
                if left < 0.0 or choice == last:
                    break
                choice += 1
            log_prob = row[choice] - top - math.log(total)
            return Decision(np.array([choice + start]), {LOG_PROB: np.array([log_prob], np.float32)})

        def sample(logits: Array) -> Decision:
            if len(logits) == 1 and last < 32:
                return sample_one(logits)
            shifted = logits - logits.max(axis=1, keepdims=True)
            cumulative = np.exp(shifted).cumsum(axis=1)
            total = cumulative[:, -1]
            left = random(len(logits)) * total
            choices = np.minimum((cumulative <= left[:, None]).sum(axis=1), last)
            log_prob = shifted[np.arange(len(choices)), choices] - np.log(total)
            return Decision(choices + start, {LOG_PROB: log_prob})

        return sample

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
        self._shape = low.shape
        self._dtype = dtype
        self._low = low.ravel().astype(np.float32)
        self._high = high.ravel().astype(np.float32)
        bounded = np.isfinite(self._low) & np.isfinite(self._high)
        finite_low, finite_high = np.where(bounded, self._low, -1.0), np.where(bounded, self._high, 1.0)
        self._center = (0.5 * (finite_low + finite_high)).astype(np.float32)
        self._scale = np.maximum(0.5 * (finite_high - finite_low), 1e-6).astype(np.float32)
        self.log_std = keras.Variable(np.full(self.units, log_std, np.float32), name="log_std")
        self.variables = (self.log_std,)

    def sampler(self, rng: np.random.Generator | None) -> Sampler:
        low, high, center, scale = self._low, self._high, self._center, self._scale
        dtype, shape = self._dtype, self._shape

        def execute(raw: Array) -> Array:
            clipped: Array = np.minimum(np.maximum(raw * scale + center, low), high)
            return clipped.astype(dtype, copy=False).reshape(len(raw), *shape)

        if rng is None:
            return lambda means: Decision(execute(means))
        normal = rng.standard_normal
        log_std = np.array(self.log_std.value.numpy())
        std = np.exp(log_std)
        constant = np.float32(-log_std.sum() - 0.5 * self.units * _LOG_2PI)

        def sample(means: Array) -> Decision:
            noise = normal(means.shape, np.float32)
            raw = means + std * noise
            log_prob = np.einsum("ij,ij->i", noise, noise) * np.float32(-0.5) + constant
            return Decision(execute(raw), {LOG_PROB: log_prob, RAW_ACTION: raw})

        return sample

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
