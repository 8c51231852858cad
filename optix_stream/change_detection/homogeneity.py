"""Did the mean change within a stretch of scores that is thought to have one?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from optix_stream.change_detection.noise import memory_of, persistence_of
from optix_stream.types import FloatArray

_SPLITS = 8
_SURE = 6.0
"""Standard errors that two parts must be apart, as the widest of a few splits of noise alone hardly ever is."""
_LEAST_VARIANCE = 1e-6


def begin_of_last_level(scores: Sequence[float], clip: float = 3.0) -> int:
    """Index from which on the scores may share one mean; 0: all of them may.

    Of several splits the one whose parts are the furthest apart, in standard errors that take the autocorrelation
    within the parts into account.

    Args:
        scores: oldest first.
        clip: how far single scores count, in robust standard deviations.
    """
    values = np.asarray(scores, np.float64)
    count = len(values)
    if count < _SPLITS:
        return 0
    distances = np.abs(values - np.median(values))
    scale = max(1.4826 * float(np.median(distances)), 1.2533 * float(distances.mean()))
    if scale <= 0.0:
        return 0
    values = np.clip((values - np.median(values)) / scale, -clip, clip)
    splits = [count * part // _SPLITS for part in range(1, _SPLITS)]
    apart = [_standard_errors_apart(values, split) for split in splits]
    return splits[int(np.argmax(apart))] if max(apart) > _SURE else 0


def _standard_errors_apart(values: FloatArray, split: int) -> float:
    before, after = values[:split], values[split:]
    low, high = float(before.mean()), float(after.mean())
    residuals = np.concatenate((before - low, after - high))
    persistence = persistence_of(residuals)
    news = residuals[1:] - persistence * residuals[:-1]
    variance = max(float(news.var()), _LEAST_VARIANCE)
    long_run_variance = variance * memory_of(news, variance) / (1.0 - persistence) ** 2
    return abs(high - low) / math.sqrt(long_run_variance * (1.0 / split + 1.0 / len(after)))
