"""Checks of what an agent is given: hyperparameters and the fields of its config, by name, expected and got."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from optix_stream.errors import ConfigurationError

T = TypeVar("T")

SHARE, AMOUNT, ANY = (0.0, 1.0), (0.0, math.inf), (-math.inf, math.inf)
"""From where to where a number may be, both ends included."""


def number_of(name: str, value: Any, within: tuple[float, float] = AMOUNT) -> float:
    """A hyperparameter as a number.

    Args:
        name: for the message.
        value: what was given.
        within: where it has to be, both ends included.

    Raises:
        ConfigurationError: it is no finite number, or lies elsewhere.
    """
    low, high = within
    try:
        number = math.nan if isinstance(value, str | bytes | bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and low <= number <= high):
        where = f" from {low:g} to {high:g}" if high < math.inf else f" of at least {low:g}" if low > -math.inf else ""
        raise ConfigurationError(f"{name}: expected a finite number{where}, got {value!r}")
    return number


def widths_of(hidden: Any) -> tuple[int, ...]:
    """Widths of hidden layers.

    Raises:
        ConfigurationError: they are no whole numbers above 0.
    """
    try:
        widths = tuple(operator.index(width) for width in hidden)
    except TypeError:
        widths = (0,)
    if any(width < 1 for width in widths):
        raise ConfigurationError(f"hidden: expected whole numbers of at least 1, such as [64, 64], got {hidden!r}")
    return widths


def config_of(config_type: type[T], settings: Mapping[str, Any]) -> T:
    """A config, a dataclass, whose numbers are numbers; their ranges it checks itself.

    Raises:
        ConfigurationError: a field of the wrong kind or out of its range.
    """
    checked = dict(settings)
    for item in fields(config_type):  # type: ignore[arg-type]
        kind = item.type if isinstance(item.type, str) else getattr(item.type, "__name__", "")
        first, *others = kind.split(" | ")
        if item.name in checked and not (checked[item.name] is None and "None" in others):
            checked[item.name] = _as_kind(item.name, checked[item.name], first)
    return config_type(**checked)


def _as_kind(name: str, value: Any, kind: str) -> Any:
    match kind:
        case "bool" if not isinstance(value, bool):
            raise ConfigurationError(f"{name}: expected true or false, got {value!r}")
        case "float":
            number_of(name, value, ANY)
        case "int":
            try:
                is_whole = number_of(name, value, ANY).is_integer()
            except ConfigurationError:
                is_whole = False
            if not is_whole:
                raise ConfigurationError(f"{name}: expected a whole number, got {value!r}")
            return int(value)  # Files may say 1e5.
        case _:
            pass
    return value
