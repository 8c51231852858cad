"""Whatever cannot be done is one clear line on standard error and exit status 2, without a traceback."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from optix_stream.cli import main


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run the command, which must refuse; the line it says."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert len(lines) == 1
    assert lines[-1].startswith("optix-stream: ")
    return lines[-1]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "COMMAND"),
        (("teach",), "invalid choice: 'teach'"),
        (("train",), "ENV_ID"),
        (("train", "CartPole-v1", "--agent", "oracle"), "invalid choice: 'oracle'"),
        (("train", "CartPole-v1", "--seed", "-1"), "expected 0 to 2147483647, got -1"),
        (("train", "CartPole-v1", "--max-steps", "0"), "expected at least 1, got 0"),
        (("train", "CartPole-v1", "--max-steps", "many"), "expected a whole number, got 'many'"),
        (("train", "CartPole-v1", "--max-steps", "1.5"), "expected a whole number, got '1.5'"),
        (("train", "CartPole-v1", "--plot", "run.pdf"), "expected a file name that ends in .png, got run.pdf"),
        (("train", "CartPole-v1", "--colour"), "unrecognized arguments: --colour"),
        (
            ("train", "CartPole-v1", "--agent", "stream-ac", "--learner", "process"),
            "--learner: expected thread for stream-ac, which learns from each step where it acts, got process",
        ),
    ],
)
def test_a_mistake_in_the_arguments(arguments: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert text in refusal(capsys, *arguments)


def test_an_unknown_environment_and_the_names_close_to_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(capsys, "train", "CartPol-v1", "--checkpoint-dir", str(tmp_path))
    assert "CartPol-v1" in line
    assert "CartPole-v1" in line


def test_an_action_space_that_no_agent_supports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import gymnasium

    class Several(gymnasium.Env[Any, Any]):
        observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))
        action_space = gymnasium.spaces.MultiDiscrete([2, 3])

    gymnasium.register("Several-v0", lambda **_: Several())
    try:
        line = refusal(capsys, "train", "Several-v0", "--checkpoint-dir", str(tmp_path))
    finally:
        del gymnasium.registry["Several-v0"]
    assert "MultiDiscrete" in line


@pytest.mark.parametrize("agent", ["stream-ac", "ppo", "dqn"])
@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"gamma": "x"}, "gamma: expected a finite number from 0 to 1, got 'x'"),
        ({"gamma": 2}, "gamma: expected a finite number from 0 to 1, got 2"),
        ({"hidden": "x"}, "hidden: expected whole numbers of at least 1, such as [64, 64], got 'x'"),
    ],
)
def test_settings_of_the_agent_that_cannot_be(
    params: dict[str, object], text: str, agent: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "params.json"
    file.write_text(json.dumps(params))
    arguments = ("train", "CartPole-v1", "--agent", agent, "--params", str(file))
    assert text in refusal(capsys, *arguments, "--checkpoint-dir", str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("module", "extra"), [("gymnasium", "gymnasium"), ("optix_stream_adapters.tensorflow", "tensorflow")]
)
def test_a_missing_extra(
    module: str, extra: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    line = refusal(capsys, "train", "CartPole-v1", "--checkpoint-dir", str(tmp_path))
    assert f"pip install 'optix-stream[{extra}]'" in line


@pytest.mark.parametrize(
    ("arguments", "extras"),
    [
        (("train",), "gymnasium,tensorflow"),
        (("train", "--plot", "run.png"), "gymnasium,tensorflow,cli"),
        (("train", "--agent", "stream-ac", "--plot", "run.png"), "gymnasium,cli"),
        (("tune",), "tune,gymnasium,tensorflow"),
    ],
)
def test_all_missing_extras_are_named_at_once(
    arguments: tuple[str, ...],
    extras: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for module in ("gymnasium", "tensorflow", "matplotlib", "optuna"):
        monkeypatch.setitem(sys.modules, module, None)
    command, *options = arguments
    assert f"needs extras: pip install 'optix-stream[{extras}]'" in refusal(capsys, command, "CartPole-v1", *options)
    assert list(tmp_path.iterdir()) == []


def test_a_picture_without_matplotlib(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    line = refusal(capsys, "train", "CartPole-v1", "--plot", str(tmp_path / "run.png"))
    assert "pip install 'optix-stream[cli]'" in line


def test_a_picture_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").touch()
    assert "cannot write" in refusal(capsys, "train", "CartPole-v1", "--plot", str(tmp_path / "taken" / "run.png"))


def test_a_checkpoint_directory_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").touch()
    line = refusal(capsys, "train", "CartPole-v1", "--checkpoint-dir", str(tmp_path / "taken"))
    assert "taken" in line


@pytest.mark.parametrize("command", ["evaluate", "inspect"])
class TestADirectoryWithoutARun:
    def test_that_does_not_exist(self, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "no checkpoint directory" in refusal(capsys, command, str(tmp_path / "nowhere"))

    def test_that_holds_none(self, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "holds no run of optix-stream train" in refusal(capsys, command, str(tmp_path))

    def test_whose_record_is_damaged(self, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "run.json").write_text("{")
        assert "cannot read" in refusal(capsys, command, str(tmp_path))

    @pytest.mark.parametrize(
        ("changes", "text"),
        [
            ({"format": 99}, "expected format 1, got 99"),
            ({"settings": {"agent": 3}}, "expected settings.agent to be an object"),
        ],
    )
    def test_whose_record_is_of_another_kind(
        self,
        command: str,
        changes: dict[str, object],
        text: str,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        record = {"env_id": "CartPole-v1", "agent": "ppo", "seed": 0, "settings": {}, "versions": {}, "started": 0.0}
        (tmp_path / "run.json").write_text(json.dumps({**record, "format": 1, **changes}))
        assert text in refusal(capsys, command, str(tmp_path))


def test_a_run_without_a_snapshot_cannot_be_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = {"env_id": "CartPole-v1", "agent": "ppo", "seed": 0, "settings": {}, "versions": {}, "started": 0.0}
    (tmp_path / "run.json").write_text(json.dumps({**record, "format": 1}))
    assert "holds no snapshot" in refusal(capsys, "evaluate", str(tmp_path))
    assert main(["inspect", str(tmp_path)]) == 0
    assert "CartPole-v1" in capsys.readouterr().out


def test_an_agent_that_this_version_does_not_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from optix_stream import CheckpointRegistry, EvalMetrics, HyperparamSet
    from optix_stream.testing import RecordingAgent

    CheckpointRegistry(tmp_path).save(RecordingAgent(), EvalMetrics(1.0, {}, 0), HyperparamSet({}))
    record = {"env_id": "CartPole-v1", "agent": "oracle", "seed": 0, "settings": {}, "versions": {}, "started": 0.0}
    (tmp_path / "run.json").write_text(json.dumps({**record, "format": 1}))
    assert "unknown agent 'oracle'" in refusal(capsys, "evaluate", str(tmp_path))
    record |= {"agent": "ppo", "settings": {"agent": {"charm": 1}}}
    (tmp_path / "run.json").write_text(json.dumps({**record, "format": 1}))
    assert "got ['charm']" in refusal(capsys, "evaluate", str(tmp_path))
    record |= {"settings": {}}
    (tmp_path / "run.json").write_text(json.dumps({**record, "format": 1}))
    assert "cannot read weights" in refusal(capsys, "evaluate", str(tmp_path))


def test_environments_side_by_side_whose_observations_do_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import gymnasium
    import numpy as np

    class WrongShape(gymnasium.Env[Any, Any]):
        observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))
        action_space = gymnasium.spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
            return np.zeros(3, np.float32), {}

    gymnasium.register("WrongShape-v0", lambda **_: WrongShape(), disable_env_checker=True)
    arguments = ("--num-envs", "2", "--agent", "stream-ac", "--checkpoint-dir", str(tmp_path / "run"))
    try:
        assert main(["train", "WrongShape-v0", "--quiet", *arguments]) == 1
    finally:
        del gymnasium.registry["WrongShape-v0"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("optix-stream: ValueError: ")
    assert "the environment's observation space, which is Box(-1.0, 1.0, (2,), float32)" in line


def test_debug_shows_the_traceback_besides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path / "nowhere"), "--debug"]) == 2
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.splitlines()[-1].startswith("optix-stream: no checkpoint directory")
