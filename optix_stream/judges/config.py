"""What the evidence judge can be told, in the user's terms."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal

from optix_stream.errors import ConfigurationError

_MOST_HALF_WINDOWS = 1024
_FEWEST_HALF_WINDOWS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class EvidenceConfig:
    """How sure the evidence judge has to be, and of what.

    The two that matter are ``windows_per_false_alarm`` and ``minimal_effect``; ``demos/choosing_effect.py`` shows what
    they cost.

    Attributes:
        windows_per_false_alarm: windows of an unchanged policy in an unchanged world until it is called degraded once,
            on average. Ten times as many make a real fall be seen some 30 % later.
        windows_per_false_improvement: likewise until it is called improved.
        minimal_effect: the smallest gain that is worth learning on for. Half of it takes four times as many windows to
            tell from nothing.
        effect_unit: what ``minimal_effect`` is in: ``"score"``, the score's own units; ``"sd"``, long-run standard
            deviations of one window's score; or ``"news"``, standard deviations of what is new in one window's score
            after the one before it. The three part where scores wander: then the long-run deviation is large, and a
            gain may be small beside it that is not small beside a window's news.
        alpha: probability that a plateau is certified while learning still gains ``minimal_effect``.
        power: probability that a window pair is judged a plateau where there is no gain at all.
        reference_windows: windows without a change until scores have something to be compared with. Fewer suit short
            runs and cost false alarms, because the reference's own error counts for more.
        longest_reference_windows: windows after which the reference is exact enough.
        clip: how far a single score counts, in robust standard deviations.
        floor: a score below it is a degradation at once, without statistics, in score units. Clipping makes the
            statistics blind to rare catastrophes; this is for those.

    Raises:
        ConfigurationError: a value that cannot work.
    """

    windows_per_false_alarm: int = 10_000
    windows_per_false_improvement: int = 1_000
    minimal_effect: float = 0.5
    effect_unit: Literal["score", "sd", "news"] = "sd"
    alpha: float = 0.05
    power: float = 0.9
    reference_windows: int = 64
    longest_reference_windows: int = 512
    clip: float = 3.0
    floor: float | None = None

    def __post_init__(self) -> None:
        for name in ("windows_per_false_alarm", "windows_per_false_improvement"):
            if not getattr(self, name) >= 10:
                raise ConfigurationError(f"{name}: expected at least 10, got {getattr(self, name)}")
        if not 0.0 < self.minimal_effect < math.inf:
            raise ConfigurationError(f"minimal_effect: expected a finite number above 0, got {self.minimal_effect}")
        if self.effect_unit not in ("score", "sd", "news"):
            raise ConfigurationError(f"effect_unit: expected 'score', 'sd' or 'news', got {self.effect_unit!r}")
        if not 0.0 < self.alpha < 0.5 <= self.power < 1.0:
            raise ConfigurationError(
                f"expected 0 < alpha < 0.5 <= power < 1, got alpha {self.alpha} and power {self.power}"
            )
        if not 8 <= self.reference_windows <= self.longest_reference_windows <= 2048:
            raise ConfigurationError(
                "expected 8 <= reference_windows <= longest_reference_windows <= 2048, "
                f"got {self.reference_windows} and {self.longest_reference_windows}"
            )
        if not self.clip >= 1.0:
            raise ConfigurationError(f"clip: expected at least 1 standard deviation, got {self.clip}")
        if self.floor is not None and math.isnan(self.floor):
            raise ConfigurationError("floor: expected a score, got nan")

    @property
    def z_alpha(self) -> float:
        """Normal quantile of ``alpha``."""
        return _quantile(1.0 - self.alpha)

    @property
    def most_half_windows(self) -> int:
        """Windows in each half of the longest stretch that is tested for a gain."""
        return max(_MOST_HALF_WINDOWS, self.reference_windows)

    def effect(self, long_run_sd: float, news_sd: float | None = None) -> float:
        """``minimal_effect`` in score units.

        Args:
            long_run_sd: of one window's score.
            news_sd: of what is new in it; None: scores are independent of each other, so that it is the same.
        """
        units = {"score": 1.0, "sd": long_run_sd, "news": long_run_sd if news_sd is None else news_sd}
        return self.minimal_effect * units[self.effect_unit]

    def half_windows(self, long_run_sd: float, news_sd: float | None = None) -> int:
        """Windows in each half of a stretch in which a gain of ``minimal_effect`` shows.

        ``2·((z_α + z_power)·ω/Δ)²``, from the two-sample test of means with known variance.

        Args:
            long_run_sd: as for ``effect``.
            news_sd: likewise.
        """
        effect = self.effect(long_run_sd, news_sd)
        fewest = max(_FEWEST_HALF_WINDOWS, self.reference_windows // 2)
        if effect <= 0.0:
            return fewest
        z = self.z_alpha + _quantile(self.power)
        needed = 2.0 * (z * long_run_sd / effect) ** 2
        return max(fewest, min(self.most_half_windows, math.ceil(needed)))


@functools.cache
def _quantile(probability: float) -> float:
    from statistics import NormalDist  # Slow to import, and most processes that import this package judge nothing.

    return NormalDist().inv_cdf(probability)
