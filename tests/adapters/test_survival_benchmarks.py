"""Short forms of the kills and of the soak, which can still fail; the slow ones run to their bars."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def output_of(script: str, *arguments: str, timeout: float = 120.0) -> str:
    """What a benchmark prints; it has met its bars."""
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("options", [(), ("--each",)], ids=["windows", "each"])
def test_killed_three_times_and_every_accepted_tick_learned_once(options: tuple[str, ...]) -> None:
    assert "0 lost, 0 twice" in output_of("journal.py", "--kills", "3", "--seed", "1", *options)


def test_six_seconds_of_every_fault() -> None:
    # Faults in close succession, so that there are some of most kinds.
    out = output_of("soak.py", "--minutes", "0.1", "--run-sec", "3", "--ticks-between-faults", "10")
    assert "2 runs" in out or "3 runs" in out, out
    for kind in ("SourceLost", "SourceRegained", "GapDetected", "TransitionsRejected", "RunResumed", "WindowLearned"):
        assert kind in out, out


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--each",)], ids=["windows", "each"])
def test_killed_a_hundred_times(options: tuple[str, ...]) -> None:
    assert "0 lost, 0 twice" in output_of("journal.py", "--kills", "100", *options, timeout=1800.0)


@pytest.mark.slow
def test_an_hour_of_every_fault() -> None:
    output_of("soak.py", "--minutes", "60", timeout=4200.0)
