"""Discounted returns and advantages of a window: numpy only, no loop over rows.

A *segment* is a run of rows of one stream that follow one another. It ends where the episode ended,
before a gap, and with the window. Nothing is discounted across the end of a segment: what comes
after it is a value estimate of the last ``next_observation``, or nothing where the episode terminated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optix_stream.types import Array, BoolArray, EpisodeData, FloatArray


@dataclass(frozen=True, slots=True)
class Segments:
    """Where the segments of a window are.

    Attributes:
        streams: of each window row, as in the window.
        order: window rows sorted by stream, oldest first in each; integers ``[T]``.
        ends: True where a segment's last row is; booleans ``[T]`` in ``order``.
        bootstraps: True where an end is not a termination, so that a value estimate follows;
            booleans ``[T]`` in **window** rows.
    """

    streams: Array
    order: Array
    ends: BoolArray
    bootstraps: BoolArray


def find_segments(window: EpisodeData) -> Segments:
    """The segments of a window whose streams may interleave."""
    order = np.argsort(window.streams, kind="stable")
    streams = window.streams[order]
    ends = (window.terminated | window.truncated | window.gaps)[order]
    if len(ends):
        ends[:-1] |= streams[1:] != streams[:-1]
        ends[-1] = True
    bootstraps = np.zeros(window.length, np.bool_)
    bootstraps[order] = ends & ~window.terminated[order]
    return Segments(window.streams, order, ends, bootstraps)


def discounted_returns(
    segments: Segments, rewards: FloatArray, bootstrap_values: FloatArray, gamma: float
) -> FloatArray:
    """``G_t = r_t + gamma G_{t+1}``, with ``V(next_observation)`` beyond a segment that was only cut off.

    Args:
        segments: of the window.
        rewards: ``[T]``.
        bootstrap_values: ``V(next_observation)``, ``[T]``; read where ``segments.bootstraps`` is True.
        gamma: discount, 0 to 1.

    Returns:
        ``[T]``, in window rows. Sutton & Barto 2018, section 3.3.
    """
    order, ends = segments.order, segments.ends
    followed = np.where(segments.bootstraps, bootstrap_values, 0.0)[order]
    return _unsorted(_scan(rewards[order] + gamma * followed, np.where(ends, 0.0, gamma), ends), order)


def generalized_advantages(
    segments: Segments,
    rewards: FloatArray,
    values: FloatArray,
    bootstrap_values: FloatArray,
    gamma: float,
    gae_lambda: float,
) -> FloatArray:
    """``A_t = d_t + gamma lambda A_{t+1}`` with ``d_t = r_t + gamma V_{t+1} - V_t``, within each segment.

    Args:
        segments: of the window.
        rewards: ``[T]``.
        values: ``V(observation)``, ``[T]``.
        bootstrap_values: ``V(next_observation)``, ``[T]``; read where ``segments.bootstraps`` is True.
        gamma: discount, 0 to 1.
        gae_lambda: 0 (one-step) to 1 (Monte Carlo).

    Returns:
        ``[T]``, in window rows. Schulman et al. 2016 (arXiv 1506.02438), equation 16.
    """
    order, ends = segments.order, segments.ends
    value = values[order]
    following = np.append(value[1:], 0.0)[: len(value)]
    next_value = np.where(ends, np.where(segments.bootstraps, bootstrap_values, 0.0)[order], following)
    delta = rewards[order] + gamma * next_value - value
    return _unsorted(_scan(delta, np.where(ends, 0.0, gamma * gae_lambda), ends), order)


def accumulated_rewards(segments: Segments, rewards: FloatArray, before: FloatArray, gamma: float) -> FloatArray:
    """``H_t = gamma H_{t-1} + r_t``: what each row has gathered since its segment began; ``[T]``.

    Args:
        segments: of the window.
        rewards: ``[T]``.
        before: ``H`` before the window, read at the first row of each stream; ``[T]``.
        gamma: discount, 0 to 1.
    """
    order, ends = segments.order, segments.ends
    streams = segments.streams[order]
    begins = np.append(True, ends[:-1])[: len(ends)]
    is_first = np.append(True, streams[1:] != streams[:-1])[: len(ends)]
    seeded = rewards[order] + np.where(is_first, gamma * before[order], 0.0)
    forward = _scan(seeded[::-1], np.where(begins, 0.0, gamma)[::-1], begins[::-1])
    return _unsorted(forward[::-1], order)


def _scan(addends: FloatArray, factors: FloatArray, ends: BoolArray) -> FloatArray:
    """``y_t = x_t + c_t y_{t+1}`` by doubling: ⌈log2(longest segment)⌉ passes over all rows.

    Blelloch 1990, "Prefix sums and their applications": a linear recurrence is an associative scan.
    ``c`` is 0 at every end, and the last row is an end.
    """
    if not len(addends):
        return np.zeros(0)
    longest = int(np.diff(np.flatnonzero(ends), prepend=-1).max())
    total, factor = addends.astype(np.float64), factors.astype(np.float64)
    step = 1
    while step < longest:
        total[:-step] += factor[:-step] * total[step:]
        factor[:-step] *= factor[step:].copy()
        step *= 2
    return total


def _unsorted(values: FloatArray, order: Array) -> FloatArray:
    result = np.empty_like(values)
    result[order] = values
    return result
