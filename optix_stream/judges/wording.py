"""The reasons for a verdict, in words a person can read."""

from __future__ import annotations

import math

from optix_stream.change_detection import ChangeDetector, Evidence
from optix_stream.judges.plateau import Gain

_MOST_LOG = 600.0


def describe_change(verb: str, side: str, detector: ChangeDetector, evidence: Evidence) -> tuple[str, dict[str, float]]:
    noise, batch = detector.noise, detector.batch
    distance = abs(evidence.mean - noise.mean)
    rarity = batch * math.exp(min(evidence.log, _MOST_LOG))
    facts = {
        "statistic": rarity,
        "reference_mean": noise.mean,
        "reference_windows": float(noise.count * batch),
        "long_run_sd": noise.long_run_sd * math.sqrt(batch),
        "recent_mean": evidence.mean,
        "recent_windows": float(evidence.count * batch),
    }
    words = (
        f"score {verb} {distance / noise.scale:.3g} sd {side} the reference of {noise.count * batch} windows "
        f"(from {noise.mean:.6g} to {evidence.mean:.6g}, by the last {evidence.count * batch}); "
        f"a false alarm this strong: 1 in {_in_words(rarity)} windows"
    )
    return words, facts


def _in_words(number: float) -> str:
    return f"{number:,.0f}" if number < 1e9 else f"{number:.0e}"


def describe_gain(gain: Gain, alpha: float) -> str:
    over = f"gain of {gain.gain:.3g} over {gain.half} windows"
    if gain.is_plateau:
        sure = f"{1.0 - alpha:.0%} sure of at most {gain.upper:.3g}"
        return f"{over}, {sure}, which is less than the {gain.effect:.3g} that matters"
    if gain.is_small:
        return f"{over}, less than the {gain.effect:.3g} that matters, but it may be {gain.upper:.3g}"
    return f"{over}, and {gain.effect:.3g} matters"
