"""Short forms of benchmarks/decisions.py: how often the default judge errs, and how soon it is right.

A few thousand simulated windows where the benchmark has millions, and limits that leave room for that.
"""

from __future__ import annotations

import math
import runpy
import statistics
from pathlib import Path
from typing import Any

import pytest

from optix_stream.judges import EvidenceConfig

DECISIONS = runpy.run_path(str(Path(__file__).parent / "benchmarks" / "decisions.py"))
CONFIG = EvidenceConfig()
SEED = 7


def simulate(what: str, *arguments: Any) -> dict[str, Any]:
    tally: dict[str, Any] = DECISIONS[what](*arguments)
    return tally


@pytest.mark.parametrize("noise", DECISIONS["BARRED"])
def test_it_is_hardly_ever_fooled_where_nothing_changes(noise: str) -> None:
    # One in 10,000 is what is asked for; they come in clusters. The rule of the original system says it 5,000 times.
    tally = simulate("stationary", "evidence", noise, CONFIG, 15_000, (SEED, 1))
    assert tally["degraded"] <= 10
    assert tally["improved"] <= 15_000 / CONFIG.windows_per_false_improvement + 5


@pytest.mark.parametrize(("noise", "drop", "median"), [("normal", 1.0, 22), ("AR(.5)", 2.0, 17), ("t3", 1.0, 18)])
def test_a_fall_is_seen_soon(noise: str, drop: float, median: float) -> None:
    delays = simulate("fall", "evidence", noise, CONFIG, drop, 25, (SEED, 2))["delays"]
    assert statistics.median(delays) <= median
    assert sum(map(math.isinf, delays)) <= 1


def test_a_learner_is_not_called_trained_while_it_learns() -> None:
    tally = simulate(
        "plateau", "ramp", EvidenceConfig(minimal_effect=DECISIONS["EFFECT"], effect_unit="score"), 12, (SEED, 4)
    )
    assert all(math.isfinite(windows) for windows in tally["windows"])
    assert sum(below > 0.25 for below in tally["below"]) <= 1


def test_a_damaged_policy_is_replaced_before_it_has_cost_much() -> None:
    tally = simulate("closed_loop", "normal", CONFIG, 12, (SEED, 6))
    assert statistics.fmean(tally["earned"]) >= 0.96
    assert tally["spurious"] <= 1
