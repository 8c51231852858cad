"""Network outputs to decisions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from optix_stream.contracts import Decision
from optix_stream.policies.parts import PolicyPart
from optix_stream.types import Array

LOG_PROB = "log_prob"
RAW_ACTION = "raw_action"
_LOG_2PI = math.log(2.0 * math.pi)


class CategoricalSampler(PolicyPart):
    """Logits ``[N, units]`` to one of ``units`` choices and its log-probability.

    Args:
        units: how many choices.
        start: the first action.
        generator: draws; None: the most likely choice, and nothing besides.
    """

    __slots__ = ("_start", "_units", "generator")

    def __init__(self, units: int, start: int, generator: np.random.Generator | None) -> None:
        self._units = units
        self._start = start
        self.generator = generator

    def __call__(self, logits: Array) -> Decision:
        if self.generator is None:
            return Decision(np.argmax(logits, axis=1) + self._start)
        if len(logits) == 1 and self._units <= 32:
            return self._sample_one(logits[0].tolist(), self.generator)
        shifted = logits - logits.max(axis=1, keepdims=True)
        cumulative = np.exp(shifted).cumsum(axis=1)
        total = cumulative[:, -1]
        left = self.generator.random(len(logits)) * total
        choices = np.minimum((cumulative <= left[:, None]).sum(axis=1), self._units - 1)
        log_prob = shifted[np.arange(len(choices)), choices] - np.log(total)
        return Decision(choices + self._start, {LOG_PROB: log_prob})

    def _sample_one(self, row: list[float], generator: np.random.Generator) -> Decision:
        # Plain floats: at this size the overhead of each numpy call would be most of the time.
        exp, last = math.exp, self._units - 1
        top = max(row)
        weights = [exp(value - top) for value in row]
        total = sum(weights)
        left = generator.random() * total
        choice = 0
        for weight in weights:
            left -= weight
            if left < 0.0 or choice == last:
                break
            choice += 1
        log_prob = row[choice] - top - math.log(total)
        return Decision(np.array([choice + self._start]), {LOG_PROB: np.array([log_prob], np.float32)})

    def describe(self) -> tuple[Mapping[str, Any], Mapping[str, Array]]:
        return {"units": self._units, "start": self._start}, {}

    @classmethod
    def restore(
        cls, structure: Mapping[str, Any], arrays: Mapping[str, Array], generator: np.random.Generator | None
    ) -> Self:
        return cls(structure["units"], structure["start"], generator)


class GaussianSampler(PolicyPart):
    """Means ``[N, units]`` to an action within bounds, the raw sample and its log-density.

    In the units of the network, 0 is the middle of a bounded action space and ±1 its bounds; an
    unbounded one is taken as it is. What is executed is the raw sample in the units of the space,
    clipped to it.

    Args:
        low: bounds of the action space, of its shape.
        high: likewise.
        dtype: of executed actions.
        log_std: of each unit, float32 ``[units]``.
        generator: draws; None: the mean, and nothing besides.
    """

    __slots__ = (
        "_bounds",
        "_center",
        "_constant",
        "_dtype",
        "_high",
        "_log_std",
        "_low",
        "_scale",
        "_std",
        "generator",
    )

    def __init__(
        self, low: Array, high: Array, dtype: Any, log_std: Array, generator: np.random.Generator | None
    ) -> None:
        self._bounds = (low, high)
        self._dtype = np.dtype(dtype)
        self._low, self._high, self._center, self._scale = bounds_of(low, high)
        self._log_std = log_std
        self._std = np.exp(log_std)
        self._constant = np.float32(-log_std.sum() - 0.5 * low.size * _LOG_2PI)
        self.generator = generator

    def __call__(self, means: Array) -> Decision:
        if self.generator is None:
            return Decision(self._execute(means))
        noise = self.generator.standard_normal(means.shape, np.float32)
        raw = means + self._std * noise
        log_prob = np.einsum("ij,ij->i", noise, noise) * np.float32(-0.5) + self._constant
        return Decision(self._execute(raw), {LOG_PROB: log_prob, RAW_ACTION: raw})

    def _execute(self, raw: Array) -> Array:
        clipped: Array = np.minimum(np.maximum(raw * self._scale + self._center, self._low), self._high)
        return clipped.astype(self._dtype, copy=False).reshape(len(raw), *self._bounds[0].shape)

    def describe(self) -> tuple[Mapping[str, Any], Mapping[str, Array]]:
        low, high = self._bounds
        return {"low": low, "high": high, "dtype": self._dtype.str}, {"log_std": self._log_std}

    @classmethod
    def restore(
        cls, structure: Mapping[str, Any], arrays: Mapping[str, Array], generator: np.random.Generator | None
    ) -> Self:
        return cls(structure["low"], structure["high"], structure["dtype"], arrays["log_std"], generator)


def bounds_of(low: Array, high: Array) -> tuple[Array, Array, Array, Array]:
    """Lower and upper bounds, middles and half-widths, each float32 ``[units]``; unbounded ones have 0 and 1."""
    flat_low, flat_high = low.ravel().astype(np.float32), high.ravel().astype(np.float32)
    bounded = np.isfinite(flat_low) & np.isfinite(flat_high)
    finite_low, finite_high = np.where(bounded, flat_low, -1.0), np.where(bounded, flat_high, 1.0)
    center = (0.5 * (finite_low + finite_high)).astype(np.float32)
    scale = np.maximum(0.5 * (finite_high - finite_low), 1e-6).astype(np.float32)
    return flat_low, flat_high, center, scale
