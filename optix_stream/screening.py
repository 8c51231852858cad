"""Finds what nothing may learn from: numbers that are not finite, wherever they come from. Pure.

What the policy said of an action (``extras``) may hold NaN, which stands for a choice that was not the policy's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from optix_stream.trees import map_tree
from optix_stream.types import Array, Transition, TransitionBatch


def is_fit(transition: Transition) -> bool:
    """Whether observations, action and reward are finite."""
    if not math.isfinite(transition.reward):
        return False
    found: list[Array] = []
    for part in (transition.observation, transition.action, transition.next_observation):
        map_tree(lambda leaf: _note_unfit(np.asarray(leaf)[None], found), part)
    return not found


def unfit_rows(batch: TransitionBatch) -> Array | None:
    """Which rows hold something that is not finite; None where there are none, which costs next to nothing.

    Also None for a batch whose columns are not of one length, which is for the assembler to refuse.
    """
    found: list[Array] = []
    for column in (batch.rewards, batch.actions, batch.observations, batch.next_observations):
        if isinstance(column, np.ndarray):
            _note_unfit(column, found)
        else:
            map_tree(lambda leaf: _note_unfit(leaf, found), column)
    if not found or any(len(rows) != len(batch) for rows in found):
        return None
    unfit: Array = np.logical_or.reduce(found)
    return unfit


def stretches(flags: Array) -> Iterator[tuple[int, int, bool]]:
    """Runs of equal flags: first row, row after the last, and the flag."""
    edges = [0, *(np.flatnonzero(np.diff(flags)) + 1).tolist(), len(flags)]
    for start, end in itertools.pairwise(edges):
        yield start, end, bool(flags[start])


def _note_unfit(column: Any, found: list[Array]) -> None:
    if column.dtype.kind == "f":
        finite = np.isfinite(column)
        # Counting costs half of what ``all`` does.
        if np.count_nonzero(finite) < finite.size:
            found.append(~finite.reshape(len(column), -1).all(axis=1))
