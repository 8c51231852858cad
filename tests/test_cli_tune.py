"""The search for settings, and the tuners of a run, as the command offers them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from optix_stream.cli import main
from optix_stream.cli.tuners import TUNERS, make_tuner
from optix_stream.optimizers.parameters import parse_bounds
from optix_stream.presets import preset_for
from optix_stream.search_spaces import LIVE, OFFLINE

SEARCH = ("tune", "CartPole-v1", "--agent", "stream-ac", "--max-steps", "1024", "--episodes", "1", "--pruner")


def facts_of(text: str) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(text)
    return facts


def test_a_search_and_a_run_by_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "found" / "best.json"
    assert main([*SEARCH, "none", "--trials", "3", "--json", "--out", str(out)]) == 0
    captured = capsys.readouterr()
    facts = facts_of(captured.out)
    assert facts == facts_of(out.read_text())
    assert [trial["number"] for trial in facts["trials"]] == [0, 1, 2]
    assert facts["best"] in facts["trials"]
    assert facts["best"]["value"] == max(trial["value"] for trial in facts["trials"]) > 0
    assert set(facts["best"]["params"]) == set(OFFLINE["stream-ac"])
    assert [line.split(":")[0] for line in captured.err.splitlines()] == [f"trial {n} of 3" for n in (1, 2, 3)]
    run = tmp_path / "run"
    arguments = ["train", "CartPole-v1", "--agent", "stream-ac", "--params", str(out), "--max-steps", "1024"]
    assert main([*arguments, "--quiet", "--checkpoint-dir", str(run)]) == 0
    assert facts_of((run / "run.json").read_text())["settings"]["agent"] == facts["best"]["params"]


def test_one_seed_gives_one_search_and_poor_runs_are_given_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for name in ("one", "other"):
        arguments = [*SEARCH, "median", "--trials", "7", "--seed", "1", "--quiet", "--out", str(tmp_path / name)]
        assert main(arguments) == 0
        found.append(facts_of((tmp_path / name).read_text()))
    assert found[0] == found[1]
    given_up = sum(trial["value"] is None for trial in found[0]["trials"])
    assert given_up >= 1
    assert f"7 trials of 1,024 steps, {given_up} given up" in capsys.readouterr().out


def test_a_search_without_its_extra_or_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    assert main([*SEARCH, "none", "--out", str(tmp_path / "file" / "best.json")]) == 2
    assert "cannot write" in capsys.readouterr().err
    assert main(["tune", "CartPol-v1", "--out", str(tmp_path / "best.json")]) == 2
    assert "CartPole-v1" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main([*SEARCH, "none", "--out", str(tmp_path / "best.json")]) == 2
    assert capsys.readouterr().err == "optix-stream: tuning needs an extra: pip install 'optix-stream[tune]'\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot read"),
        ("{", "cannot read"),
        ("[1]", "expected an object"),
        ('{"agent": "dqn", "best": {"params": {}}}', "is for the agent dqn, not for stream-ac"),
        ('{"no_such_setting": 1}', "no_such_setting"),
    ],
)
def test_params_that_are_none(text: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "params.json"
    if text is not None:
        path.write_text(text)
    arguments = ["train", "CartPole-v1", "--agent", "stream-ac", "--params", str(path), "--quiet"]
    assert main([*arguments, "--checkpoint-dir", str(tmp_path / "run")]) == 2
    captured = capsys.readouterr().err
    assert said in captured
    assert captured.count("\n") == 1


@pytest.mark.parametrize("tuner", TUNERS)
def test_a_run_with_a_tuner_goes_on_with_it(tuner: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "CartPole-v1", "--agent", "stream-ac", "--window-size", "48", "--json"]
    arguments += ["--checkpoint-dir", str(tmp_path)]
    assert main([*arguments, "--max-steps", "2016", "--tuner", tuner]) == 0
    log = capsys.readouterr().err
    assert ("kappa_policy" in log) == (tuner != "none"), log
    assert facts_of((tmp_path / "run.json").read_text())["settings"]["tuner"] == tuner
    assert main([*arguments, "--max-steps", "2064", "--resume", "--quiet"]) == 0
    other = "pbt" if tuner != "pbt" else "none"
    assert main([*arguments, "--max-steps", "2064", "--resume", "--tuner", other]) == 2
    assert f"--tuner: expected {tuner} as in the run to resume, got {other}" in capsys.readouterr().err


@pytest.mark.parametrize("agent", LIVE)
def test_every_agent_has_bounds_that_hold_its_first_value(agent: str) -> None:
    assert set(LIVE) == set(OFFLINE)
    assert all(parse_bounds(OFFLINE[agent]))
    for name, (low, high) in LIVE[agent].items():
        assert low < preset_for("CartPole-v1", agent).agent.get(name, low * 1.1) < high
    assert make_tuner("paired-block", agent, 0).is_comparing is False
