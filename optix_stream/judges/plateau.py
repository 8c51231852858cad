"""Does the score still rise? A test of two halves of the latest scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from optix_stream.errors import CheckpointError
from optix_stream.judges.config import EvidenceConfig
from optix_stream.types import FloatArray

_CHECKS_PER_HALF = 32
_MAD_TO_SD = 1.4826


class Gain(msgspec.Struct, frozen=True, kw_only=True):
    """By how much the later half of some scores is above the earlier half.

    Attributes:
        gain: in score units.
        upper: upper confidence bound of the gain that learning brings in so many windows.
        effect: the smallest gain that matters.
        half: windows in each half.
        level: mean of the later half, in score units.
    """

    gain: float
    upper: float
    effect: float
    half: int
    level: float

    @property
    def is_plateau(self) -> bool:
        """Whether a gain that matters is ruled out."""
        return self.upper < self.effect

    @property
    def is_small(self) -> bool:
        """Whether the gain seen is smaller than one that matters."""
        return self.gain < self.effect


class PlateauTest:
    """Keeps the latest scores in a ring, and compares their halves now and then.

    Checked thirty-two times in the length of a half, so that the cost of a window does not grow with that length.
    """

    def __init__(self, config: EvidenceConfig) -> None:
        self._config = config
        self._ring: FloatArray = np.zeros(2 * config.most_half_windows)
        self._count = 0
        self._since_check = 0
        self._latest: Gain | None = None

    def add(self, score: float) -> None:
        """Take the next score."""
        self._ring[self._count % len(self._ring)] = score
        self._count += 1
        self._since_check += 1

    def clear(self) -> None:
        """What comes next has nothing to do with what came before."""
        self._count = self._since_check = 0
        self._latest = None

    def check(self, long_run_sd: float, news_sd: float) -> Gain | None:
        """The latest comparison; None while there are too few scores for one.

        Args:
            long_run_sd: of one window's score.
            news_sd: of what is new in one window's score.
        """
        half = self._config.half_windows(long_run_sd, news_sd)
        if self._count < 2 * half:
            return None
        if self._latest is None or self._latest.half != half or self._since_check * _CHECKS_PER_HALF >= half:
            self._since_check = 0
            self._latest = self._compare(half, long_run_sd, news_sd)
        return self._latest

    def _compare(self, half: int, long_run_sd: float, news_sd: float) -> Gain:
        scores = self._last(2 * half)
        # Differences know nothing of a trend, which is not noise.
        steps = np.abs(scores[1:] - scores[:-1])
        steps.sort()
        reach = self._config.clip * _MAD_TO_SD * float(steps[len(steps) // 2]) / math.sqrt(2.0)
        gain = _winsorised_mean(scores[half:], reach) - _winsorised_mean(scores[:half], reach)
        level = float(scores[half:].sum()) / half
        upper = gain + self._config.z_alpha * long_run_sd * math.sqrt(2.0 / half)
        return Gain(gain=gain, upper=upper, effect=self._config.effect(long_run_sd, news_sd), half=half, level=level)

    def _last(self, count: int) -> FloatArray:
        end = self._count % len(self._ring)
        if count <= end:
            return self._ring[end - count : end]
        return np.concatenate((self._ring[end - count :], self._ring[:end]))

    # --- state

    def state_dict(self) -> Mapping[str, Any]:
        """As of ``Stateful``."""
        kept = min(self._count, len(self._ring))
        return {
            "count": self._count,
            "since_check": self._since_check,
            "scores": self._ring[:kept].copy(),
            "latest": None if self._latest is None else msgspec.to_builtins(self._latest),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As of ``Stateful``.

        Raises:
            CheckpointError: it is not the state of such a test.
        """
        try:
            count, since_check = int(state["count"]), int(state["since_check"])
            scores = np.asarray(state["scores"], np.float64)
            latest = msgspec.convert(state["latest"], Gain | None)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"expected the state of a PlateauTest, got {error!r}") from error
        if scores.shape != (min(count, len(self._ring)),):
            raise CheckpointError(
                f"expected {min(count, len(self._ring))} scores of {count} and a ring of {len(self._ring)}, "
                f"got shape {scores.shape}"
            )
        self._ring[: len(scores)] = scores
        self._count, self._since_check, self._latest = count, since_check, latest


def _winsorised_mean(scores: FloatArray, reach: float) -> float:
    """Mean of the scores, where those further than ``reach`` from the median count as just that far.

    Around each half's own median: around a common one, a steep rise would itself be cut down to noise.
    """
    ordered = np.sort(scores)
    middle = float(ordered[len(ordered) // 2])
    return float(np.minimum(np.maximum(scores, middle - reach), middle + reach).sum()) / len(scores)
