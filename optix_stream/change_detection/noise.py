"""What a stretch of scores says about their noise: centre, scale, autocorrelation, tails."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from optix_stream.types import Array

BETS = (0.25, 0.5, 1.0, 2.0)
"""Drifts, in long-run standard deviations, that the detector is a mixture over."""

_MAD_TO_SD = 1.4826
_MEAN_DEVIATION_TO_SD = 1.2533
_MOST_PERSISTENT = 0.9
_LEAST_SCALE = 1e-12
_LEAST_RESIDUAL_VARIANCE = 1e-6
_FEWEST = 4


class Noise(msgspec.Struct, frozen=True, kw_only=True):
    """How scores of one policy in one world scatter.

    Attributes:
        count: scores it was estimated from.
        mean: of them, in score units.
        centre: their median.
        scale: their robust standard deviation.
        clip: deviations from the centre count no further than this many scales.
        offset: mean of the clipped deviations, in scales.
        persistence: autocorrelation from one score to the next, 0 to 0.9.
        residual_scale: long-run standard deviation of what is left once that is taken out.
        memory: long-run over plain variance of the same; above 1 where the noise remembers further back.
        last: the last clipped deviation.
        log_mgf_down: for each bet λ, at least λ²/2 and at least log mean exp(−λe) of the residuals e.
        log_mgf_up: likewise of exp(+λe).
    """

    count: int
    mean: float
    centre: float
    scale: float
    clip: float
    offset: float
    persistence: float
    residual_scale: float
    memory: float
    last: float
    log_mgf_down: tuple[float, ...]
    log_mgf_up: tuple[float, ...]

    @property
    def long_run_sd(self) -> float:
        """Standard deviation that one score would have if scores of equally uncertain means were independent."""
        return self.scale * self.residual_scale / (1.0 - self.persistence)

    @property
    def news_sd(self) -> float:
        """Standard deviation of what is new in one score after the one before it."""
        return self.scale * self.residual_scale / math.sqrt(self.memory)

    def deviation(self, score: float) -> float:
        """Clipped distance from the mean, in scales."""
        clip = self.clip
        return min(clip, max(-clip, (score - self.centre) / self.scale)) - self.offset

    def residual(self, deviation: float, before: float) -> float:
        """The news in a deviation, given the one before it; mean 0 and long-run variance 1."""
        return (deviation - self.persistence * before) / self.residual_scale


def estimate_noise(scores: Sequence[float] | Array, clip: float = 3.0) -> Noise:
    """Robust, prewhitened description of scores whose mean does not change.

    Deviations are clipped, the autocorrelation of lag one (corrected for its bias in short series) is taken out, and
    the variance of what is left is estimated by batch means, which also sees memory beyond one step. Where more than
    half of the scores are equal, the mean deviation stands for the median one, and if there was no outlier, one is
    added: that none has come in ``n`` scores does not say that none will.

    Args:
        scores: at least 4, oldest first.
        clip: in robust standard deviations.
    """
    values = np.asarray(scores, np.float64)
    count = len(values)
    if count < _FEWEST:
        raise ValueError(f"scores: expected at least {_FEWEST}, got {count}")
    centre = float(np.median(values))
    distances = np.abs(values - centre)
    scale = _MAD_TO_SD * float(np.median(distances))
    has_ties = scale <= _LEAST_SCALE * max(1.0, abs(centre))
    if has_ties:
        scale = max(_MEAN_DEVIATION_TO_SD * float(distances.mean()), _LEAST_SCALE * max(1.0, abs(centre)))
    clipped = np.clip((values - centre) / scale, -clip, clip)
    offset = float(clipped.mean())
    deviations = clipped - offset
    persistence = persistence_of(deviations)
    residuals = deviations[1:] - persistence * deviations[:-1]
    variance = max(float(residuals.var()), _LEAST_RESIDUAL_VARIANCE)
    memory = memory_of(residuals, variance)
    residual_scale = math.sqrt(variance * memory)
    residuals = residuals / residual_scale
    surprise = clip / residual_scale if has_ties else None
    return Noise(
        count=count,
        mean=float(values.mean()),
        centre=centre,
        scale=scale,
        clip=clip,
        offset=offset,
        persistence=persistence,
        residual_scale=residual_scale,
        memory=memory,
        last=float(deviations[-1]),
        log_mgf_down=_log_mgf(-residuals, surprise),
        log_mgf_up=_log_mgf(residuals, surprise),
    )


def persistence_of(deviations: Array) -> float:
    """Autocorrelation of lag one, 0 to 0.9, of deviations from a mean."""
    count, variance = len(deviations), float(deviations.var())
    if variance <= 0.0:
        return 0.0
    lag_one = float((deviations[1:] * deviations[:-1]).mean()) / variance
    # The bias of the sample autocorrelation is -(1 + 3ρ)/n: Kendall 1954.
    return min(_MOST_PERSISTENT, max(0.0, lag_one + (1.0 + 3.0 * lag_one) / count))


def memory_of(residuals: Array, variance: float) -> float:
    """Long-run over plain variance of residuals, at least 1, less what the estimate's own scatter could feign."""
    length = max(4, math.isqrt(len(residuals) + 1))
    batches = len(residuals) // length
    if not batches:
        return 1.0
    means = residuals[: batches * length].reshape(batches, length).mean(axis=1)
    return max(1.0, length * float((means**2).mean()) / variance * (1.0 - math.sqrt(2.0 / batches)))


def _log_mgf(residuals: Array, surprise: float | None) -> tuple[float, ...]:
    if surprise is not None and residuals.max() < 0.5 * surprise:
        residuals = np.append(residuals, surprise)
    exponents = np.outer(BETS, residuals)
    top = exponents.max(axis=1)
    logs = top + np.log(np.exp(exponents - top[:, None]).mean(axis=1))
    return tuple(max(bet * bet / 2.0, float(log)) for bet, log in zip(BETS, logs, strict=True))
