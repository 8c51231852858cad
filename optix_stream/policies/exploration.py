"""Network outputs to decisions, for agents that may learn from whatever was done: what they add explores.

None of these says anything besides the action, because their learning asks nothing of what acted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from optix_stream.contracts import Decision
from optix_stream.policies.parts import PolicyPart
from optix_stream.policies.samplers import bounds_of
from optix_stream.types import Array

LOG_STD_RANGE = (-20.0, 2.0)


class EpsilonGreedySampler(PolicyPart):
    """Action values ``[N, units]`` to the best action or, with a probability of ``epsilon``, any.

    Args:
        units: how many choices.
        start: the first action.
        epsilon: share of random actions, 0 to 1.
        generator: draws; None: always the best one.
    """

    __slots__ = ("_epsilon", "_start", "_units", "generator")

    def __init__(self, units: int, start: int, epsilon: float, generator: np.random.Generator | None) -> None:
        self._units = units
        self._start = start
        self._epsilon = epsilon
        self.generator = generator

    def __call__(self, values: Array) -> Decision:
        best = np.argmax(values, axis=1)
        if self.generator is not None:
            is_random = self.generator.random(len(best)) < self._epsilon
            if is_random.any():
                best = np.where(is_random, self.generator.integers(self._units, size=len(best)), best)
        return Decision(best + self._start)

    def describe(self) -> tuple[Mapping[str, Any], Mapping[str, Array]]:
        return {"units": self._units, "start": self._start}, {"epsilon": np.asarray(self._epsilon)}

    @classmethod
    def restore(
        cls, structure: Mapping[str, Any], arrays: Mapping[str, Array], generator: np.random.Generator | None
    ) -> Self:
        return cls(structure["units"], structure["start"], float(arrays["epsilon"]), generator)


class CorrelatedNoise:
    """Standard normal numbers, each correlated with the one before in its place: an AR(1) process.

    It is the Ornstein-Uhlenbeck process of Lillicrap et al. 2016 (arXiv 1509.02971) at whole steps, started from its
    stationary distribution, so that each number by itself is that of white noise. Where the shape changes, it starts
    anew.

    Args:
        correlation: of a number with the one before it, 0 (white noise) to below 1.
        generator: draws.
    """

    __slots__ = ("_correlation", "_fresh", "_generator", "_last")

    def __init__(self, correlation: float, generator: np.random.Generator) -> None:
        self._correlation = np.float32(correlation)
        self._fresh = np.float32(math.sqrt(1.0 - correlation**2))
        self._generator = generator
        self._last: Array | None = None

    def draw(self, shape: tuple[int, ...]) -> Array:
        """The next numbers, float32; the first axis is that of the streams."""
        noise = self._generator.standard_normal(shape, np.float32)
        if self._correlation and self._last is not None and self._last.shape == shape:
            noise *= self._fresh
            noise += self._correlation * self._last
        self._last = noise
        return noise


class SquashedSampler(PolicyPart):
    """Outputs to an action within bounds: ``tanh`` of their first half, in the units of the space, 0 its middle.

    With a generator, noise is added. Its standard deviation is that which the second half of the outputs
    (logarithms) gives before squashing, as in soft actor-critic, where ``noise_std`` is None; or else ``noise_std``
    after squashing, clipped to the bounds, as in TD3.

    Noise of neighbouring steps may be correlated, which explores where single pushes lead nowhere. Eberhard et al.
    2023 ("Pink noise is all you need"). Each row of a batch is a stream with a noise of its own; it begins anew with
    each published policy.

    Args:
        low: finite bounds of the action space, of its shape.
        high: likewise.
        dtype: of executed actions.
        noise_std: standard deviation of what is added to squashed actions, in half widths of the space.
        correlation: of the noise of a step with that of the one before, 0 to below 1.
        generator: draws; None: no noise.
    """

    __slots__ = (
        "_bounds",
        "_center",
        "_correlation",
        "_dtype",
        "_noise",
        "_noise_std",
        "_scale",
        "_units",
        "generator",
    )

    def __init__(
        self,
        low: Array,
        high: Array,
        dtype: Any,
        noise_std: float | None,
        correlation: float,
        generator: np.random.Generator | None,
    ) -> None:
        self._bounds = (low, high)
        self._dtype = np.dtype(dtype)
        _, _, self._center, self._scale = bounds_of(low, high)
        self._units = int(low.size)
        self._noise_std = noise_std
        self._correlation = correlation
        self.generator = generator
        self._noise = None if generator is None else CorrelatedNoise(correlation, generator)

    def __call__(self, outputs: Array) -> Decision:
        means = outputs[:, : self._units]
        if self._noise is None:
            return Decision(self._execute(np.tanh(means)))
        noise = self._noise.draw(means.shape)
        if self._noise_std is None:
            log_std = np.clip(outputs[:, self._units :], *LOG_STD_RANGE)
            return Decision(self._execute(np.tanh(means + np.exp(log_std) * noise)))
        return Decision(self._execute(np.clip(np.tanh(means) + np.float32(self._noise_std) * noise, -1.0, 1.0)))

    def _execute(self, squashed: Array) -> Array:
        low, high = self._bounds
        actions = (squashed * self._scale + self._center).astype(self._dtype).reshape(len(squashed), *low.shape)
        # What is rounded may be beyond a bound.
        clipped: Array = np.minimum(np.maximum(actions, low), high)
        return clipped

    def describe(self) -> tuple[Mapping[str, Any], Mapping[str, Array]]:
        low, high = self._bounds
        structure = {"low": low, "high": high, "dtype": self._dtype.str, "correlation": self._correlation}
        return structure, {} if self._noise_std is None else {"noise_std": np.asarray(self._noise_std)}

    @classmethod
    def restore(
        cls, structure: Mapping[str, Any], arrays: Mapping[str, Array], generator: np.random.Generator | None
    ) -> Self:
        std = arrays.get("noise_std")
        return cls(
            structure["low"],
            structure["high"],
            structure["dtype"],
            None if std is None else float(std),
            structure["correlation"],
            generator,
        )
