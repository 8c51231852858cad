"""Exact comparison of the values that flow through the loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from optix_stream.types import EpisodeData, Tree


def same_tree(first: Tree, second: Tree) -> bool:
    """Whether two trees have the same structure, shapes and values; NaN equals NaN."""
    if isinstance(first, Mapping):
        return (
            isinstance(second, Mapping)
            and first.keys() == second.keys()
            and all(same_tree(first[key], second[key]) for key in first)
        )
    if isinstance(first, tuple | list):
        return len(first) == len(second) and all(map(same_tree, first, second))
    one, other = np.asarray(first), np.asarray(second)
    if one.shape != other.shape:
        return False
    try:
        return bool(np.array_equal(one, other, equal_nan=True))
    except TypeError:  # NaN is a question that only numbers can answer.
        return bool(np.array_equal(one, other))


def same_window(first: EpisodeData, second: EpisodeData) -> str | None:
    """The name of a field in which two windows differ; None if they are the same."""
    for field in fields(EpisodeData):
        if field.name == "timestamp":  # When a window was closed is not what it holds.
            continue
        one: Any = getattr(first, field.name)
        other: Any = getattr(second, field.name)
        if field.name in ("infos", "completed", "stream_ids", "metadata", "episode_id"):
            if one != other:
                return field.name
        elif not (one is None and other is None) and not same_tree(one, other):
            return field.name
    return None
