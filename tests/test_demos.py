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


def stands_up_and_answers_at_once(output: str) -> None:
    assert number_after("in the first windows,", output) > number_after("mean return:", output) + 50
    assert number_after("from message to answer:", output) < 20
    accounts_for_everything(output)


def compares_itself_honestly(output: str) -> None:
    assert output.count("its turnover is") == 2
    for name in ("agent", "flat", "buy and hold", "random"):
        assert re.search(rf"^  {name} +-?[\d.]+ ±", output, re.MULTILINE)
    # No signal, no large win: a sharp one would mean that it sees what is to come.
    assert number_after("\n  agent", output) < 150
    accounts_for_everything(output)


def leaves_the_app_its_own(output: str) -> None:
    assert number_after("heartbeat:", output) > 100
    assert re.search(r"market \w+, \d+ learned; robots \w+, \d+ learned", output)
    assert output.count("stopped after") == 2
    accounts_for_everything(output)


def accounts_for_everything(output: str) -> None:
    balances = re.findall(r"received .*", output)
    assert balances
    for line in balances:
        received, *terms = map(int, re.findall(r"\d+", line))
        assert received == sum(terms) > 0


def shows_what_certainty_costs(output: str) -> None:
    ends, delays = output.split("windows_per_false_alarm")
    done = [float(line.split()[2]) for line in ends.splitlines()[1:] if line]
    assert done == sorted(done, reverse=True), "the smaller the effect, the later the end"
    seen = [float(line.split()[1]) for line in delays.splitlines()[1:5]]
    assert seen == sorted(seen), "the rarer false alarms, the later a fall is seen"
    assert Path(output.split("picture: ")[1].strip()).suffix == ".png"


PROMISES: dict[str, Callable[[str], None]] = {
    "train_and_watch": shows_training,
    "custom_agent": solves_cart_pole,
    "embed_in_app": keeps_its_heartbeat,
    "custom_evaluator": beats_flat_and_random,
    "live_feed": learns_and_accounts_for_everything,
    "robot_bridge": stands_up_and_answers_at_once,
    "live_market": compares_itself_honestly,
    "choosing_effect": shows_what_certainty_costs,
    "embedded_live": leaves_the_app_its_own,
}


def test_every_demo_promises_something() -> None:
    demos = {path.stem for path in DEMOS.glob("*.py") if "__main__" in path.read_text()}
    assert demos == PROMISES.keys()


@pytest.mark.slow
def test_the_trader_finds_most_of_what_there_is_to_find_and_nothing_where_there_is_nothing() -> None:
    done = subprocess.run(
        [sys.executable, DEMOS / "live_market.py", "--synthetic"],
        capture_output=True,
        text=True,
        timeout=900,
        check=True,
    )
    assert number_after("share of the optimal profit:", done.stdout) >= 90
    found = re.search(r"none to make: (-?[\d.]+); its costs ([\d.]+), chance ± ([\d.]+)", done.stdout)
    assert found is not None
    profit, costs, chance = map(float, found.groups())
    assert -costs - chance <= profit <= chance


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
