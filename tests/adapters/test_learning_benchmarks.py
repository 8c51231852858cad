"""Short forms of the learning benchmarks, which can still fail; the slow ones run to their bars."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def results_of(tmp_path: Path, script: str, *arguments: str) -> list[dict[str, Any]]:
    """What a command appends to its raw results."""
    out = tmp_path / "raw.jsonl"
    command = [sys.executable, str(BENCHMARKS / script), *arguments, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_an_actor_critic_is_there_within_three_thousand_steps(tmp_path: Path) -> None:
    (result,) = results_of(tmp_path, "learning.py", "--tasks", "cartpole-stream-ac", "--seeds", "1", "--steps", "4000")
    assert result["reached"] is not None
    assert result["reached"] <= 3000
    assert result["score"] >= 475


def test_ppo_learns_from_what_older_policies_did(tmp_path: Path) -> None:
    (result,) = results_of(
        tmp_path, "learning.py", "--tasks", "cartpole-ppo-lagging", "--seeds", "1", "--steps", "16384"
    )
    # Chance gives 22.
    assert max(score for _, score in result["curve"]) >= 200


def test_an_actor_critic_notices_that_its_actions_have_changed_sides(tmp_path: Path) -> None:
    (result,) = results_of(tmp_path, "drift.py", "--seeds", "1", "--flips", "1", "--every", "6000")
    assert result["frozen"] < 250 <= result["before"]
    assert result["recoveries"][0] is not None


@pytest.mark.slow
@pytest.mark.parametrize("task", ["cartpole-ppo-lagging", "cartpole-ppo"])
def test_five_seeds_of_five_solve_balancing(task: str, tmp_path: Path) -> None:
    results = results_of(tmp_path, "learning.py", "--tasks", task, "--seeds", "5")
    assert min(result["score"] for result in results) >= 475
