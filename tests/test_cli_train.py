"""The command as it is used: train, evaluate, inspect, interrupt; with real environments and agents."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from optix_stream.cli import main
from optix_stream.cli.evaluation import SEED_OFFSET

SMALL = ("--max-steps", "384", "--window-size", "128", "--num-envs", "2")


def train(*arguments: str) -> None:
    assert main(["train", "CartPole-v1", *SMALL, *arguments]) == 0


def last_line(text: str) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(text.splitlines()[-1])
    return facts


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint directory of a short run."""
    directory = tmp_path_factory.mktemp("run")
    assert main(["train", "CartPole-v1", *SMALL, "--seed", "3", "--quiet", "--checkpoint-dir", str(directory)]) == 0
    return directory


def test_the_report_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train("--seed", "5", "--json", "--checkpoint-dir", str(tmp_path))
    captured = capsys.readouterr()
    facts = last_line(captured.out)
    assert (facts["env"], facts["agent"], facts["seed"]) == ("CartPole-v1", "ppo", 5)
    assert (facts["state"], facts["reason"], facts["windows"], facts["transitions"]) == (
        "active",
        "max_episodes",
        3,
        384,
    )
    assert facts["wall_sec"] > 0
    assert facts["best_score"] > 0
    assert facts["evaluation"]["episodes"] == 20
    assert facts["evaluation"]["mean"] > 0
    assert facts["evaluation"]["std"] >= 0
    assert facts["statistics"]["is_balanced"]
    # Progress is no part of it: where standard error is no terminal it is a plain log.
    log = captured.err.splitlines()
    assert log[0] == (
        f"optix-stream: training CartPole-v1 with ppo, 2 environments, windows of 128 steps, seed 5, "
        f"snapshots in {tmp_path}"
    )
    assert any("window    1" in line and "steps/s" in line and "score" in line for line in log)
    assert log[-1] == "evaluating the best policy over 20 episodes"


def test_the_report_for_people_and_the_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "pictures" / "run.png"
    train("--checkpoint-dir", str(tmp_path / "run"), "--plot", str(picture), "--quiet")
    captured = capsys.readouterr()
    assert captured.err == ""
    for text in ("the budget of --max-steps is used up", "ACTIVE", "384 steps in 3 windows", "over 20 episodes"):
        assert text in captured.out
    assert f"Next: optix-stream evaluate {tmp_path / 'run'}" in captured.out
    assert picture.read_bytes().startswith(b"\x89PNG\r\n")


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [(OSError("disk full"), 2, "cannot write {}: disk full"), (ValueError("no ink"), 1, "ValueError: no ink")],
)
def test_a_picture_that_fails_does_not_lose_the_report(
    error: Exception,
    status: int,
    line: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("optix_stream.cli.plot.draw_run", fail)
    picture = tmp_path / "run.png"
    quick = ("--agent", "stream-ac", "--quiet", "--checkpoint-dir", str(tmp_path / "run"))
    assert main(["train", "CartPole-v1", *SMALL, *quick, "--plot", str(picture)]) == status
    captured = capsys.readouterr()
    assert "384 steps in 3 windows" in captured.out
    assert "  picture  " not in captured.out
    assert captured.err == f"optix-stream: {line.format(picture)}\n"
    assert not picture.exists()


def test_the_same_seed_gives_the_same_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reports = []
    for directory in ("first", "second"):
        train("--seed", "7", "--json", "--quiet", "--checkpoint-dir", str(tmp_path / directory))
        facts = last_line(capsys.readouterr().out)
        reports.append((facts["best_score"], facts["evaluation"]))
    assert reports[0] == reports[1]


def test_a_run_whose_agent_learns_in_a_process_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command itself then does without TensorFlow, and the run is the same one."""
    code = (
        "import sys; from optix_stream.cli import main; status = main(sys.argv[1:]); "
        "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules; sys.exit(status)"
    )
    settings = [*SMALL, "--seed", "7", "--json", "--quiet", "--checkpoint-dir"]
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            "train",
            "CartPole-v1",
            "--learner",
            "process",
            *SMALL,
            *settings,
            tmp_path / "process",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    train(*settings, str(tmp_path / "thread"))
    one, other = last_line(done.stdout), last_line(capsys.readouterr().out)
    for name in ("best_score", "evaluation", "statistics", "windows"):
        assert one[name] == other[name]


def test_another_agent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train("--agent", "reinforce", "--json", "--quiet", "--checkpoint-dir", str(tmp_path))
    facts = last_line(capsys.readouterr().out)
    assert (facts["agent"], facts["transitions"]) == ("reinforce", 384)


def test_snapshots_go_to_a_directory_of_the_environment_s_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train("--quiet")
    assert (tmp_path / "checkpoints" / "CartPole-v1" / "run.json").exists()
    assert "checkpoints/CartPole-v1" in capsys.readouterr().out


def test_an_evaluation_of_a_run_repeats_the_one_that_ended_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train("--json", "--quiet", "--checkpoint-dir", str(tmp_path))
    ended = last_line(capsys.readouterr().out)
    assert main(["evaluate", str(tmp_path), "--json"]) == 0
    repeated = last_line(capsys.readouterr().out)
    assert {name: repeated[name] for name in ("mean", "std", "episodes", "cut_off")} == ended["evaluation"]
    assert len(repeated["returns"]) == 20
    assert repeated["training_score"] == ended["best_score"]


def test_an_evaluation_for_people(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--episodes", "2", "--seed", "1"]) == 0
    output = capsys.readouterr().out
    for text in ("CartPole-v1 · ppo · snapshot-", "over 2 episodes", "lowest, highest", "training score"):
        assert text in output


def test_an_inspection(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(run)]) == 0
    output = capsys.readouterr().out
    for text in ("CartPole-v1 · ppo · seed 3", "window_size 128", "snapshot-", "best", "latest", "learning_rate"):
        assert text in output


def test_an_inspection_for_programs(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(run), "--json"]) == 0
    facts = last_line(capsys.readouterr().out)
    assert facts["run"]["seed"] == 3
    assert facts["best"] in [snapshot["snapshot"] for snapshot in facts["snapshots"]]
    assert all(snapshot["bytes"] > 0 for snapshot in facts["snapshots"])


@pytest.mark.parametrize("command", [("evaluate", "--episodes", "1"), ("inspect",)])
def test_what_only_reads_does_with_a_directory_that_it_cannot_write_to(
    command: tuple[str, ...], run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (run, *run.rglob("*"))}
    # A superuser may write anywhere, whatever the mode.
    monkeypatch.setattr("os.access", lambda path, mode: False)
    name, *options = command
    assert main([name, str(run), *options]) == 0
    assert "CartPole-v1 · ppo" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (run, *run.rglob("*"))} == before
    assert main(["train", "CartPole-v1", *SMALL, "--quiet", "--checkpoint-dir", str(run), "--resume"]) == 2
    assert "is not writable" in capsys.readouterr().err


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, text in ((["--version"], "optix-stream 0."), (["train", "--help"], "--checkpoint-dir")):
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        assert exit_.value.code == 0
        assert text in capsys.readouterr().out


class Endless(gymnasium.Env[Any, Any]):
    """Its training episodes have two steps, those of an evaluation no end.

    Args:
        on_step: called with the seed of the episode and the number of the step in it.
    """

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, on_step: Callable[[int, int], None]) -> None:
        self._on_step = on_step
        self._seed = self._steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self._seed, self._steps = seed if seed is not None else 0, 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        self._on_step(self._seed, self._steps)
        return np.zeros(2, np.float32), 1.0, self._seed < SEED_OFFSET and self._steps == 2, False, {}


@pytest.fixture
def train_endless(tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Train 200 steps in an ``Endless`` that calls the given function; returns the exit status."""

    def run_it(on_step: Callable[[int, int], None], *arguments: str) -> int:
        gymnasium.register("Endless-v0", lambda **_: Endless(on_step), order_enforce=False, disable_env_checker=True)
        quick = ("--agent", "stream-ac", "--num-envs", "1", "--window-size", "100", "--max-steps", "200")
        return main(["train", "Endless-v0", *quick, "--checkpoint-dir", str(tmp_path / "run"), *arguments])

    yield run_it
    del gymnasium.registry["Endless-v0"]


def test_episodes_that_never_end_are_cut_off_and_counted(
    train_endless: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("optix_stream.cli.evaluation.EPISODE_LIMIT", 50)
    assert train_endless(lambda seed, step: None, "--quiet") == 0
    assert "50.00 ± 0.00 over 20 episodes, 20 cut off after 50 steps" in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "run"), "--episodes", "3", "--json"]) == 0
    facts = last_line(capsys.readouterr().out)
    assert (facts["episodes"], facts["cut_off"], facts["returns"]) == (3, 3, [50.0] * 3)


@pytest.mark.parametrize("is_stopped_before", [False, True])
@pytest.mark.parametrize("whole_episodes", [0, 2])
def test_a_signal_during_the_evaluation_ends_it_with_the_report(
    whole_episodes: int,
    is_stopped_before: bool,
    train_endless: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("optix_stream.cli.evaluation.EPISODE_LIMIT", 50 if whole_episodes else 10**9)
    signalled: list[str] = []

    def signal_once(occasion: str) -> None:
        if occasion not in signalled:
            signalled.append(occasion)
            os.kill(os.getpid(), signal.SIGINT)

    def on_step(seed: int, step: int) -> None:
        if is_stopped_before and seed < SEED_OFFSET:
            signal_once("training")
        if seed == SEED_OFFSET + whole_episodes - 1:
            # The next one goes on until the signal has come.
            monkeypatch.setattr("optix_stream.cli.evaluation.EPISODE_LIMIT", 10**9)
        if seed == SEED_OFFSET + whole_episodes and step == 10:
            signal_once("evaluation")

    # A run that is to be stopped goes on until the signal has come, too.
    assert train_endless(on_step, "--json", "--max-steps", "1e9" if is_stopped_before else "200") == 0
    captured = capsys.readouterr()
    facts = last_line(captured.out)
    assert facts["reason"] == ("stopped" if is_stopped_before else "max_episodes")
    assert is_stopped_before or facts["transitions"] == 200
    if whole_episodes:
        assert facts["evaluation"] == {"mean": 50.0, "std": 0.0, "episodes": 2, "cut_off": 2}
    else:
        assert facts["evaluation"] is None
    assert "ending the evaluation; once more to exit at once" in captured.err


def start(directory: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "optix_stream.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=directory,
        env={name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"} | variables,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_run_cleanly_with_the_report(number: signal.Signals, tmp_path: Path) -> None:
    process = start(tmp_path, "train", "CartPole-v1", "--json", "--window-size", "256", "--num-envs", "2")
    assert process.stdout is not None
    assert process.stderr is not None
    said = [process.stderr.readline()]
    while "window " not in said[-1]:
        assert said[-1], f"ended early: {said}"
        said.append(process.stderr.readline())
    process.send_signal(number)
    output, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    facts = last_line(output)
    assert (facts["reason"], facts["statistics"]["is_balanced"]) == ("stopped", True)
    assert "stopping after the present window" in error
    # Nothing but what the command itself has to say: TensorFlow's own log is kept off the screen.
    assert [line for line in said[1:] if not line.startswith("[")] == []


def test_the_module_is_a_command_and_a_run_that_fails_is_status_1(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import optix_stream\n"
        "def fail(self): raise ZeroDivisionError('on purpose')\n"
        "optix_stream.RLOptimizer.run = fail\n"
    )
    process = start(tmp_path, "train", "CartPole-v1", "--quiet", PYTHONPATH=str(tmp_path))
    output, error = process.communicate(timeout=120)
    assert (process.returncode, output) == (1, "")
    assert error == "optix-stream: ZeroDivisionError: on purpose\n"
