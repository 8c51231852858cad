"""The settings of ``PairedBlockTuner``."""

from __future__ import annotations

import math
from dataclasses import dataclass

from optix_stream.errors import ConfigurationError
from optix_stream.optimizers.block_effect import EffectKind


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedBlockConfig:
    """How carefully ``PairedBlockTuner`` compares.

    Attributes:
        effect: ``"slope"`` where a value changes how fast the score rises, ``"level"`` where it changes the score.
        first_block: scored windows in each block of a comparison's first four.
        block_growth: by which factor blocks grow while the comparison is undecided.
        max_block: windows in the longest block. An effect ``e`` beside noise of deviation ``sigma`` is seen with
            certainty by blocks of ``(7 z^2 sigma^2 / e^2)^(1/3)`` windows for a slope, ``(z sigma / e)^2`` for a level,
            with ``z = 2.8``; half of that does where many comparisons follow each other.
        max_repeats: fours of blocks after which a comparison is decided in any case.
        decades: how far the value on trial is from the usual one, where distances are ratios.
        share: the same as a share of the range, elsewhere.
        least_scale: the share of that distance to which failures shrink it, by halves.
        keep_z: standard errors by which the value on trial must be the better after the longest blocks.
        win_z: the same after shorter ones.
        lose_z: standard errors by which it must be the worse to be given up after shorter ones; after the longest ones
            it is given up where it is the worse at all.
        windows_per_false_alarm: mean windows on trial until a value that is as good is given up within its block.
        barrier_comparisons: for how many comparisons values beyond one that was given up so are not tried.
        max_rest: at most so many comparisons' time without any, while the score does not rise and nothing helps.
    """

    effect: EffectKind = "slope"
    first_block: int = 4
    block_growth: int = 4
    max_block: int = 64
    max_repeats: int = 5
    decades: float = 0.4
    share: float = 0.15
    least_scale: float = 0.25
    keep_z: float = 1.0
    win_z: float = 3.0
    lose_z: float = 1.0
    windows_per_false_alarm: float = 100.0
    barrier_comparisons: int = 8
    max_rest: int = 4

    def __post_init__(self) -> None:
        if not 2 <= self.first_block <= self.max_block:
            raise ConfigurationError(
                f"expected 2 <= first_block <= max_block, got {self.first_block} and {self.max_block}"
            )
        if self.block_growth < 2 or self.max_repeats < 1:
            raise ConfigurationError(
                "expected block_growth of at least 2 and max_repeats of at least 1, got "
                f"{self.block_growth} and {self.max_repeats}"
            )
        for name in ("decades", "share", "least_scale", "keep_z", "win_z", "lose_z"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise ConfigurationError(f"{name}: expected a finite number above 0, got {getattr(self, name)}")
        if not self.windows_per_false_alarm > 1.0:
            raise ConfigurationError(f"windows_per_false_alarm: expected above 1, got {self.windows_per_false_alarm}")
        if self.barrier_comparisons < 0 or self.max_rest < 0:
            raise ConfigurationError(
                "barrier_comparisons and max_rest: expected at least 0, got "
                f"{self.barrier_comparisons} and {self.max_rest}"
            )
