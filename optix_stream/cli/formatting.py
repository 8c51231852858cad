"""Numbers as a person reads them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

_BARS = "▁▂▃▄▅▆▇█"


def number(value: Any) -> str:
    """At most four significant digits: ``0.00025`` is ``2.5e-4``, ``1234567`` is ``1,234,567``."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return str(value)
    if value and abs(value) < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def score(value: float | None) -> str:
    """A score with as many decimals as its size makes sense of, or a dash."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    return f"{value:,.{_decimals(value)}f}"


def score_and_spread(mean: float, spread: float) -> str:
    """Mean ± spread, both with the decimals of the larger."""
    decimals = min(_decimals(mean), _decimals(spread))
    return f"{mean:,.{decimals}f} ± {spread:,.{decimals}f}"


def _decimals(value: float) -> int:
    magnitude = abs(value)
    return 0 if magnitude >= 10_000 else 1 if magnitude >= 100 else 2 if magnitude >= 1 else 4


def pairs(values: Mapping[str, Any]) -> str:
    """``name value`` for each, on one line."""
    return "  ".join(f"{name} {number(value)}" for name, value in values.items())


def counted(count: int, noun: str) -> str:
    """``1 window``, ``2,048 windows``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """``8.2 s``, ``3 min 05 s`` or ``1 h 20 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(count: int) -> str:
    """Bytes in the unit that fits."""
    value, unit = float(count), "B"
    for larger in ("KB", "MB", "GB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def sparkline(values: Sequence[float], width: int) -> str:
    """Values as a row of bars, lowest to highest; the means of neighbours where there are more than ``width``."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite or width < 1:
        return ""
    columns = min(width, len(finite))
    edges = [len(finite) * i // columns for i in range(columns + 1)]
    means = [sum(finite[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, span = min(means), max(means) - min(means)
    if not span:
        return _BARS[0] * columns
    return "".join(_BARS[min(len(_BARS) - 1, int((mean - low) / span * len(_BARS)))] for mean in means)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[int] = ()) -> str:
    """Aligned columns; those whose index is in ``numeric`` to the right."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i in numeric else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
