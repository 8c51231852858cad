"""Every demo runs in its short form, as a user runs it, and shows what its docstring promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

DEMOS = Path(__file__).parent.parent / "demos"


def number_after(text: str, output: str) -> float:
    """The number that follows ``text`` in the output."""
    found = re.search(rf"{text}\s*(-?[\d.]+)", output)
    assert found is not None, f"expected {text!r} and a number in:\n{output}"
    return float(found[1])


def shows_training(output: str) -> None:
    assert "max_episodes" in output
    assert output.count("beats") >= 3


def solves_cart_pole(output: str) -> None:
    assert number_after("evaluation: mean return", output) > 195


def keeps_its_heartbeat(output: str) -> None:
    assert number_after("heartbeat:", output) > 50
    assert re.search(r"learner: stopped after \d+ windows", output)


def beats_flat_and_random(output: str) -> None:
    assert number_after("trained", output) > 1.0 > number_after("flat", output) > number_after("random", output)


def learns_and_accounts_for_everything(output: str) -> None:
    early = number_after("reward a step:", output)
    late = number_after("in the first windows,", output)
    assert late > early + 0.5
    (line,) = [line for line in output.splitlines() if line.startswith("received")]
    received, *terms = map(int, re.findall(r"\d+", line))
    assert received == sum(terms) > 1000


PROMISES: dict[str, Callable[[str], None]] = {
    "train_and_watch": shows_training,
    "custom_agent": solves_cart_pole,
    "embed_in_app": keeps_its_heartbeat,
    "custom_evaluator": beats_flat_and_random,
    "live_feed": learns_and_accounts_for_everything,
}


def test_every_demo_promises_something() -> None:
    assert {path.stem for path in DEMOS.glob("*.py")} == PROMISES.keys()


@pytest.mark.parametrize("name", PROMISES)
def test_a_demo_shows_what_it_promises(name: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, DEMOS / f"{name}.py", "--quick"],
        cwd=tmp_path,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    PROMISES[name](result.stdout)
