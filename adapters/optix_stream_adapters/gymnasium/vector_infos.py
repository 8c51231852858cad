"""A vector environment's infos, taken apart by sub-environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def info_of_step(infos: Mapping[str, Any], index: int) -> Mapping[str, Any]:
    """What a vector environment's infos say of this step of one sub-environment."""
    if not infos:
        return infos
    row = _share(infos, index)
    # In SAME_STEP mode the top level already speaks of the next episode's reset; wrappers write there too.
    row.pop("final_obs", None)
    final: Mapping[str, Any] = row.pop("final_info", {})
    return {**row, **final}


def _share(infos: Mapping[str, Any], index: int, *, is_nested: bool = False) -> dict[str, Any]:
    """One sub-environment's share: a value ``x`` is its own where the mask ``_x`` says so.

    Wrappers nest dicts without masks under a key that has one.
    """
    row: dict[str, Any] = {}
    for name, values in infos.items():
        mask = infos.get(f"_{name}")
        is_mask = name.startswith("_") and name[1:] in infos
        if is_mask or not (is_nested if mask is None else mask[index]):
            continue
        if isinstance(values, dict):
            row[name] = _share(values, index, is_nested=True)
        elif isinstance(values, np.ndarray):
            row[name] = values[index]
    return row
