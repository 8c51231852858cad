"""What a policy network's outputs mean: a distribution over actions, with hand-written gradients."""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from optix_stream.agents.encoding import kind_of
from optix_stream.contracts import Decision
from optix_stream.errors import ConfigurationError, TransitionMismatchError
from optix_stream.trees import describe
from optix_stream.types import Array

RAW_ACTION = "raw_action"
_LEAST_DEVIATION = 1e-6
"""So that a density stays finite."""
_LOG_2PI = math.log(2.0 * math.pi)


class ActionHead(ABC):
    """A distribution over actions.

    Attributes:
        units: outputs that the network must have.
    """

    units: int

    @abstractmethod
    def sample(self, outputs: Array, rng: np.random.Generator) -> tuple[Any, Mapping[str, Any]]:
        """An action drawn for the outputs ``[units]``, and the extras that learning will want back."""

    @abstractmethod
    def decide(self, outputs: Array, rng: np.random.Generator | None) -> Decision:
        """An action for each row of ``[N, units]``: drawn, or without a generator the most likely."""

    @abstractmethod
    def learnable(self, action: Any, extras: Mapping[str, Any] | None) -> Any:
        """What was done, as ``differentiate`` wants it.

        Raises:
            TransitionMismatchError: an action that cannot come from this head.
        """

    @abstractmethod
    def differentiate(self, outputs: Array, action: Any, entropy_weight: float, gradient: Array) -> float:
        """Write the gradient of ``log π(action) + entropy_weight · H`` with respect to ``outputs``.

        Args:
            outputs: ``[units]``.
            action: as ``learnable`` gave it.
            entropy_weight: of the entropy.
            gradient: ``[units]``, what is written.

        Returns:
            The entropy ``H`` in nats.
        """


def make_head(space: Any) -> ActionHead:
    """The head for ``Discrete`` or a ``Box`` of floats.

    Raises:
        ConfigurationError: any other space.
    """
    match kind_of(space):
        case "Discrete":
            return CategoricalHead(int(space.n), int(space.start))
        case "Box" if np.issubdtype(space.dtype, np.floating):
            return GaussianHead(space.low, space.high, space.dtype)
    raise ConfigurationError(f"action space: expected Discrete or a Box of floats, got {space}")


class CategoricalHead(ActionHead):
    """Outputs are logits of ``units`` choices, the first of which is the action ``start``."""

    def __init__(self, units: int, start: int = 0) -> None:
        self.units = units
        self.start = start

    def sample(self, outputs: Array, rng: np.random.Generator) -> tuple[int, Mapping[str, Any]]:
        # Plain floats: at this size the overhead of each numpy call would be most of the time.
        probabilities = _softmax(outputs.tolist())
        left = rng.random()
        choice = 0
        for probability in probabilities[:-1]:
            left -= probability
            if left < 0.0:
                break
            choice += 1
        return choice + self.start, {}

    def decide(self, outputs: Array, rng: np.random.Generator | None) -> Decision:
        if rng is None:
            return Decision(outputs.argmax(axis=1) + self.start)
        return Decision(np.asarray([self.sample(row, rng)[0] for row in outputs], np.int64))

    def learnable(self, action: Any, extras: Mapping[str, Any] | None) -> int:
        return choice_of(action, self.start, self.units)

    def differentiate(self, outputs: Array, action: int, entropy_weight: float, gradient: Array) -> float:
        probabilities = _softmax(outputs.tolist())
        logs = [math.log(p) if p > 0.0 else 0.0 for p in probabilities]
        entropy = -sum(p * log for p, log in zip(probabilities, logs, strict=True))
        result = [-p - entropy_weight * p * (log + entropy) for p, log in zip(probabilities, logs, strict=True)]
        result[action] += 1.0
        gradient[:] = result
        return entropy


class GaussianHead(ActionHead):
    """Outputs are the means of a Gaussian, then what softplus makes its standard deviations.

    In the units of the network, 0 is the middle of a bounded action space and ±1 its bounds; an
    unbounded one is taken as it is. The sample is the *raw* action, which is what has a density; what
    is executed is the raw action in the units of the space, clipped to it.

    Args:
        low: bounds of the action space, of its shape.
        high: likewise.
        dtype: of executed actions.
    """

    def __init__(self, low: Array, high: Array, dtype: Any) -> None:
        self._size = int(low.size)
        self.units = 2 * self._size
        self._shape = low.shape
        self._dtype = dtype
        self._low = low.ravel().astype(np.float64)
        self._high = high.ravel().astype(np.float64)
        bounded = np.isfinite(self._low) & np.isfinite(self._high)
        finite_low, finite_high = np.where(bounded, self._low, -1.0), np.where(bounded, self._high, 1.0)
        self._center = 0.5 * (finite_low + finite_high)
        self._scale = np.maximum(0.5 * (finite_high - finite_low), 1e-6)

    def sample(self, outputs: Array, rng: np.random.Generator) -> tuple[Array, Mapping[str, Any]]:
        raw = self._draw(outputs, rng)
        return self._execute(raw).reshape(self._shape), {RAW_ACTION: raw}

    def decide(self, outputs: Array, rng: np.random.Generator | None) -> Decision:
        shape = (len(outputs), *self._shape)
        if rng is None:
            return Decision(self._execute(outputs[:, : self._size]).reshape(shape))
        raw = self._draw(outputs, rng)
        return Decision(self._execute(raw).reshape(shape), {RAW_ACTION: raw})

    def learnable(self, action: Any, extras: Mapping[str, Any] | None) -> Array:
        raw = extras.get(RAW_ACTION) if extras is not None else None
        if raw is not None:
            raw = np.asarray(raw, np.float64).reshape(-1)
            # NaN where something else than the policy's action was executed.
            if len(raw) == self._size and np.isfinite(raw).all():
                return raw
        executed = np.asarray(action, np.float64)
        if executed.shape != self._shape or not np.isfinite(executed).all():
            raise TransitionMismatchError("action", f"finite numbers {list(self._shape)}", describe(action))
        return (executed.reshape(-1) - self._center) / self._scale

    def differentiate(self, outputs: Array, action: Array, entropy_weight: float, gradient: Array) -> float:
        size = self._size
        deviation = _deviations(outputs[size:].astype(np.float64))
        noise = (action - outputs[:size]) / deviation
        gradient[:size] = noise / deviation
        # The derivative of softplus is a sigmoid, here by way of its own value.
        inner = -np.expm1(_LEAST_DEVIATION - deviation)
        gradient[size:] = (noise * noise - 1.0 + entropy_weight) / deviation * inner
        return float(np.log(deviation).sum()) + 0.5 * size * (_LOG_2PI + 1.0)

    def _draw(self, outputs: Array, rng: np.random.Generator) -> Array:
        means, deviations = outputs[..., : self._size], _deviations(outputs[..., self._size :])
        raw: Array = means + deviations * rng.standard_normal(means.shape, np.float32)
        return raw

    def _execute(self, raw: Array) -> Array:
        clipped = np.minimum(np.maximum(raw * self._scale + self._center, self._low), self._high)
        return clipped.astype(self._dtype, copy=False)


def choice_of(action: Any, start: int, units: int) -> int:
    """A discrete action as an index from 0.

    Raises:
        TransitionMismatchError: it is none of the actions.
    """
    try:
        choice = operator.index(action) - start
    except TypeError:
        array = np.asarray(action)
        if array.size != 1 or not np.issubdtype(array.dtype, np.integer):
            raise TransitionMismatchError("action", "one integer", describe(action)) from None
        choice = int(array.item()) - start
    if not 0 <= choice < units:
        raise TransitionMismatchError("action", f"{start} to {start + units - 1}", str(choice + start))
    return choice


def _softmax(logits: list[float]) -> list[float]:
    top = max(logits)
    weights = [math.exp(logit - top) for logit in logits]
    total = sum(weights)
    return [weight / total for weight in weights]


def _deviations(outputs: Array) -> Array:
    zero, least = outputs.dtype.type(0.0), outputs.dtype.type(_LEAST_DEVIATION)
    result: Array = np.logaddexp(outputs, zero) + least
    return result
