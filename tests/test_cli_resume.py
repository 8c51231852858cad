"""``optix-stream train --resume``: whatever stopped the command, the next one goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from saved_state import FILE, last_checkpoint

from optix_stream.cli import main

RUN = ("train", "CartPole-v1", "--agent", "stream-ac", "--window-size", "200", "--checkpoint-every", "1")
WINDOWS = 30
BUDGET = ("--max-steps", str(200 * WINDOWS))


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "optix_stream.cli", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def report_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return {name: facts[name] for name in ("reason", "windows", "statistics")}


def json_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    facts: dict[str, Any] = json.loads(capsys.readouterr().out)
    return facts


def wait_for_checkpoint(process: subprocess.Popen[str], directory: Path, number: int) -> None:
    """Until the command has saved its run so often, all runs in the directory counted."""
    wanted = f"checkpoint-{number:06d}"
    while max((path.name for path in directory.glob("checkpoint-*")), default="") < wanted:
        assert process.poll() is None, f"ended before {wanted}"
        time.sleep(0.001)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that nothing stopped."""
    directory = tmp_path_factory.mktemp("unbroken")
    assert main([*RUN, *BUDGET, "--quiet", "--checkpoint-dir", str(directory)]) == 0
    return directory


def test_killed_and_resumed_it_is_the_same_run(
    unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (2, 4, 6):
        process = start(*RUN, *BUDGET, "--checkpoint-dir", str(tmp_path), "--resume")
        wait_for_checkpoint(process, tmp_path, number)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    capsys.readouterr()
    assert main([*RUN, *BUDGET, "--json", "--checkpoint-dir", str(tmp_path), "--resume"]) == 0
    captured = capsys.readouterr()
    assert "goes on after window" in captured.err
    assert json.loads(captured.out.splitlines()[-1])["windows"] == WINDOWS
    assert last_checkpoint(tmp_path) == last_checkpoint(unbroken)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_by_a_signal_and_resumed_it_is_the_same_run(
    number: signal.Signals, unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = start(*RUN, *BUDGET, "--json", "--checkpoint-dir", str(tmp_path))
    wait_for_checkpoint(process, tmp_path, 3)
    process.send_signal(number)
    output, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    assert json.loads(output.splitlines()[-1])["reason"] == "stopped"
    assert main([*RUN, *BUDGET, "--quiet", "--json", "--checkpoint-dir", str(tmp_path), "--resume"]) == 0
    assert report_of(capsys)["windows"] == WINDOWS
    assert last_checkpoint(tmp_path) == last_checkpoint(unbroken)


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    process = start(*RUN, "--checkpoint-dir", str(tmp_path))
    wait_for_checkpoint(process, tmp_path, 1)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    # Whichever is handled first: the run may have ended between the two.
    process.communicate(timeout=30)
    assert process.returncode in (0, 130)
    assert main(["inspect", str(tmp_path)]) == 0


def test_a_run_that_is_over_is_not_begun_again(
    unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(unbroken, tmp_path / "run")
    capsys.readouterr()
    assert main([*RUN, "--quiet", "--json", "--checkpoint-dir", str(tmp_path / "run"), "--resume"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["reason"], report["windows"]) == ("max_episodes", WINDOWS)
    assert report["statistics"]["is_balanced"]
    # The time is that of this process, and so is what is divided by it.
    assert report["transitions"] == report["transitions_before"] == 200 * WINDOWS
    assert report["steps_per_sec"] == 0.0


def test_a_run_that_is_over_has_an_empty_picture_and_its_report(
    unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(unbroken, tmp_path / "run")
    capsys.readouterr()
    picture = tmp_path / "run.png"
    again = [*RUN, "--quiet", "--checkpoint-dir", str(tmp_path / "run"), "--resume", "--plot", str(picture)]
    assert main(again) == 0
    assert f"picture      {picture}" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG\r\n")


def test_a_larger_budget_lets_it_go_on(unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(unbroken, tmp_path / "run")
    capsys.readouterr()
    more = str(200 * (WINDOWS + 2))
    arguments = ["train", "CartPole-v1", "--quiet", "--json", "--checkpoint-dir", str(tmp_path / "run"), "--resume"]
    assert main([*arguments, "--max-steps", more]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["windows"] == WINDOWS + 2
    assert report["steps_per_sec"] == pytest.approx(400 / report["wall_sec"], rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("Acrobot-v1",), "env_id: expected CartPole-v1 as in the run to resume, got Acrobot-v1"),
        (("CartPole-v1", "--agent", "ppo"), "--agent: expected stream-ac as in the run to resume, got ppo"),
        (("CartPole-v1", "--seed", "5"), "--seed: expected 0 as in the run to resume, got 5"),
        (("CartPole-v1", "--window-size", "7"), "--window-size: expected 200 as in the run to resume, got 7"),
    ],
)
def test_another_run_cannot_go_on_there(
    arguments: tuple[str, ...], message: str, unbroken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["train", *arguments, "--checkpoint-dir", str(unbroken), "--resume"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", "at least 1"),
        ("xs", "seconds such as 30s"),
        ("-1s", "seconds such as 30s"),
        ("infs", "seconds such as 30s"),
    ],
)
def test_how_often_to_save_is_checked(text: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "CartPole-v1", f"--checkpoint-every={text}"]) == 2
    assert expected in capsys.readouterr().err


def test_a_run_that_begins_anew_says_what_it_replaces(
    unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "run"
    shutil.copytree(unbroken, directory)
    best = json_of(capsys, "inspect", str(directory))["best"]
    other = ["train", "Acrobot-v1", "--agent", "stream-ac", "--max-steps", "200", "--window-size", "200", "--quiet"]
    assert main([*other, "--checkpoint-dir", str(directory)]) == 0
    assert capsys.readouterr().err == (
        f"optix-stream: warning: {directory} holds an earlier run of CartPole-v1, of {WINDOWS} windows; this run "
        "begins anew and replaces what that one could be resumed from, its best policies stay "
        "(--resume goes on with it)\n"
    )
    assert best in [each["snapshot"] for each in json_of(capsys, "inspect", str(directory))["snapshots"]]
    assert main([*other, "--checkpoint-dir", str(directory), "--resume"]) == 0
    assert capsys.readouterr().err == ""
    (directory / "run.json").write_text("{")
    assert main([*other, "--checkpoint-dir", str(directory)]) == 0
    assert "an earlier run of an unknown environment, of 1 window; this" in capsys.readouterr().err


def test_two_commands_and_one_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    process = start(*RUN, "--checkpoint-dir", str(tmp_path))
    wait_for_checkpoint(process, tmp_path, 1)
    assert main([*RUN, "--quiet", "--checkpoint-dir", str(tmp_path)]) == 2
    assert f"is in use by process {process.pid} on" in capsys.readouterr().err
    process.kill()
    process.communicate()


def test_an_inspection_finds_damage(unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "run"
    shutil.copytree(unbroken, directory)
    last = max(directory.glob("checkpoint-*"))
    assert main(["inspect", str(directory)]) == 0
    text = capsys.readouterr().out
    assert "damaged" not in text
    assert "to resume from" in text
    file = last / "weights" / FILE
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    assert main(["inspect", str(directory)]) == 2
    captured = capsys.readouterr()
    assert "damaged" in captured.out
    assert f"1 snapshot in {directory} damaged, such as {last.name}" in captured.err
    (last / "manifest.json").write_text("{}")
    assert main(["inspect", str(directory), "--json"]) == 2
    facts = json.loads(capsys.readouterr().out)
    assert list(facts["damaged"]) == [last.name]
    assert os.fspath(last) in facts["damaged"][last.name]
