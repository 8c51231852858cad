"""What a tuner may set a hyperparameter to: ranges of numbers, and choices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypeAlias

import msgspec
import numpy as np

from optix_stream.errors import ConfigurationError
from optix_stream.types import HyperparamSet

Bounds: TypeAlias = Mapping[str, tuple[float, float] | Sequence[Any]]
"""For each parameter to tune its values: ``(low, high)``, a tuple of two numbers, is a range; anything else the
choices, such as ``["relu", "tanh"]`` or ``[16, 32, 64]``."""

_DECADE = 10.0


class Range(msgspec.Struct, frozen=True):
    """Numbers from ``low`` to ``high``, both included.

    Attributes:
        low: the least.
        high: the greatest.
        is_integer: whole numbers only.
    """

    low: float
    high: float
    is_integer: bool = False

    @property
    def is_log(self) -> bool:
        """Whether distances are ratios: where the range is positive and spans a decade or more."""
        return self.low > 0 and self.high >= _DECADE * self.low

    def position(self, value: Any) -> float:
        """Where ``value`` lies: 0 at ``low``, 1 at ``high``, nothing beyond."""
        inside = min(max(float(value), self.low), self.high)
        if self.is_log:
            return math.log(inside / self.low) / math.log(self.high / self.low)
        return (inside - self.low) / (self.high - self.low)

    def at(self, position: float) -> float | int:
        """The value at a position; those beyond 0 and 1 are taken to the ends."""
        share = min(max(position, 0.0), 1.0)
        if self.is_log:
            return self.clip(self.low * (self.high / self.low) ** share)
        return self.clip(self.low + share * (self.high - self.low))

    def clip(self, value: float) -> float | int:
        """The nearest value of the range."""
        inside = min(max(value, self.low), self.high)
        return round(inside) if self.is_integer else inside

    def move(self, value: Any, direction: int, step: float) -> float | int:
        """The value one step from ``value``; a step on integers is at least 1.

        Args:
            value: where to start.
            direction: 1 or -1.
            step: in decades where distances are ratios, else as a share of the range.
        """
        reach = step / math.log10(self.high / self.low) if self.is_log else step
        moved = self.at(self.position(value) + direction * reach)
        if self.is_integer and moved == round(float(value)):
            return self.clip(round(float(value)) + direction)
        return moved

    def grid(self, points: int) -> list[Any]:
        """Up to ``points`` values at equal distances, both ends among them."""
        return list(dict.fromkeys(self.at(index / (points - 1)) for index in range(points)))

    def takes(self, value: Any) -> bool:
        """Whether a parameter with this value can be tuned by it."""
        return is_number(value)


class Choices(msgspec.Struct, frozen=True):
    """Values without distances between them.

    Attributes:
        values: two or more.
    """

    values: tuple[Any, ...]

    def move(self, value: Any, direction: int, step: float) -> Any:
        """The choice after or before ``value``, around the ends; ``step`` has no meaning here."""
        return self.values[(self.values.index(value) + direction) % len(self.values)]

    def grid(self, points: int) -> list[Any]:
        """Every choice."""
        return list(self.values)

    def pick(self, rng: np.random.Generator) -> Any:
        """One of them, each as likely as the others."""
        return self.values[int(rng.integers(len(self.values)))]

    def takes(self, value: Any) -> bool:
        """Whether a parameter with this value can be tuned by it: it is one of the choices."""
        return value in self.values


ParamSpec: TypeAlias = Range | Choices


def parse_bounds(bounds: Bounds | None) -> dict[str, ParamSpec]:
    """What bounds mean.

    Raises:
        ConfigurationError: an interval that is empty or not finite, or fewer than two choices.
    """
    return {name: _parse(name, given) for name, given in (bounds or {}).items()}


def tunable(hyperparams: HyperparamSet, specs: Mapping[str, ParamSpec]) -> dict[str, ParamSpec]:
    """The parameters that have bounds and a value that fits them, in the order of ``hyperparams``.

    Integers stay integers where the bounds are integers too; in ``(0, 1)`` a fraction stays one.
    """
    found: dict[str, ParamSpec] = {}
    for name, value in hyperparams.params.items():
        spec = specs.get(name)
        if spec is None or not spec.takes(value):
            continue
        if isinstance(spec, Range) and spec.is_integer and not isinstance(value, Integral):
            spec = Range(spec.low, spec.high)
        found[name] = spec
    return found


def is_number(value: object) -> bool:
    """Whether it is a number, numpy's included, which a truth value is not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _parse(name: str, given: Any) -> ParamSpec:
    if isinstance(given, tuple) and len(given) == 2 and all(map(is_number, given)):
        low, high = given
        if not (low < high and math.isfinite(high - low)):
            raise ConfigurationError(f"param_bounds[{name!r}]: expected low < high, both finite, got ({low}, {high})")
        return Range(low, high, isinstance(low, int) and isinstance(high, int))
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ConfigurationError(f"param_bounds[{name!r}]: expected (low, high) or a list of choices, got {given!r}")
    values = tuple(given)
    if len(values) < 2 or any(values.index(value) != index for index, value in enumerate(values)):
        raise ConfigurationError(f"param_bounds[{name!r}]: expected two or more different choices, got {given!r}")
    if not all(value is None or isinstance(value, bool | int | float | str) for value in values):
        raise ConfigurationError(f"param_bounds[{name!r}]: expected numbers, strings or None as choices, got {given!r}")
    return Choices(values)
