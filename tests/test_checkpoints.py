from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optix_stream.checkpoints import CheckpointRegistry, RunCheckpoint
from optix_stream.errors import CheckpointError, ConfigurationError
from optix_stream.testing import NullAgent, RecordingAgent
from optix_stream.types import EvalMetrics, PolicySnapshot


def save(registry: CheckpointRegistry, score: float, window: int = 0, basis: str = "score") -> PolicySnapshot:
    """Save an agent whose weight is the score."""
    agent = RecordingAgent()
    agent.weight = score
    return registry.save(agent, EvalMetrics(score, {"loss": 0.5}, window, basis), agent.get_hyperparams())


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def contents(directory: Path) -> dict[Path, bytes]:
    """Of every file but the lock's."""
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file() and path.name != "lock"}


def weight_of(registry: CheckpointRegistry, snapshot: PolicySnapshot) -> float:
    agent = RecordingAgent()
    registry.load(agent, snapshot)
    return agent.weight


def test_loading_the_best_gives_back_weights_and_hyperparameters(tmp_path: Path) -> None:
    """The original system restored weights only."""
    registry = CheckpointRegistry(tmp_path)
    agent = RecordingAgent(learning_rate=0.25)
    agent.weight = 3.0
    saved = registry.save(agent, EvalMetrics(1.0, {}, 0), agent.get_hyperparams())
    other = RecordingAgent(learning_rate=9.0)
    assert registry.load_best(other) == saved
    assert (other.weight, other.get_hyperparams().params) == (3.0, {"learning_rate": 0.25})


def test_without_snapshots_there_is_nothing_to_load(tmp_path: Path) -> None:
    registry = CheckpointRegistry(tmp_path / "made" / "when" / "missing")
    agent = RecordingAgent()
    agent.weight = 7.0
    assert registry.load_best(agent) is None
    assert (registry.best, registry.latest, registry.snapshots(), agent.weight) == (None, None, [], 7.0)


@settings(max_examples=40)
@given(runs=st.lists(st.lists(st.integers(-5, 5), max_size=7), min_size=1, max_size=3), max_snapshots=st.integers(1, 4))
def test_pruning_never_removes_the_best_or_the_latest(
    tmp_path_factory: pytest.TempPathFactory, runs: list[list[int]], max_snapshots: int
) -> None:
    """Pruning by age, as in the original system, deletes the best snapshot."""
    directory = tmp_path_factory.mktemp("checkpoints")
    best_of_runs: list[PolicySnapshot] = []
    for scores in runs:
        registry = CheckpointRegistry(directory, max_snapshots)
        registry.begin_run()
        assert registry.best is None
        saved: list[tuple[float, PolicySnapshot]] = []
        for window, score in enumerate(scores):
            saved.append((float(score), save(registry, float(score), window)))
            best = max(saved, key=lambda pair: pair[0])[0]
            assert registry.latest == saved[-1][1]
            assert registry.best is not None
            assert registry.best.eval_metrics.primary_score == best
            for snapshot in (saved[-1][1], registry.best, *best_of_runs):
                assert weight_of(registry, snapshot) == snapshot.eval_metrics.primary_score
            kept = registry.snapshots()
            assert len(kept) <= max(max_snapshots, len(best_of_runs) + 2)
            assert names(directory) == {"lock", *(snapshot.snapshot_id for snapshot in kept)}
        if registry.best is not None:
            best_of_runs.append(registry.best)
        registry.end_run()


def test_of_equal_scores_the_later_is_the_best(tmp_path: Path) -> None:
    registry = CheckpointRegistry(tmp_path)
    save(registry, 1.0, 0)
    later = save(registry, 1.0, 1)
    assert registry.best == later


def test_scores_of_another_basis_are_not_compared(tmp_path: Path) -> None:
    registry = CheckpointRegistry(tmp_path)
    save(registry, 100.0, 0, basis="reward_per_step")
    episodic = save(registry, 1.0, 1, basis="episode_return")
    assert registry.best == episodic


def test_a_directory_can_be_moved(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "elsewhere" / "new"
    saved = save(CheckpointRegistry(old), 4.0, 2)
    new.parent.mkdir()
    shutil.move(old, new)
    registry = CheckpointRegistry(new)
    assert registry.best == saved
    assert weight_of(registry, saved) == 4.0


def test_no_path_in_a_directory_is_absolute(tmp_path: Path) -> None:
    saved = save(CheckpointRegistry(tmp_path), 1.0)
    assert not Path(saved.weights_path).is_absolute()
    for path in tmp_path.rglob("*.json"):
        assert str(tmp_path) not in path.read_text()


def test_numbers_go_on_where_the_last_run_stopped(tmp_path: Path) -> None:
    first = save(CheckpointRegistry(tmp_path), 1.0)
    registry = CheckpointRegistry(tmp_path)
    registry.begin_run()
    second = save(registry, 0.0)
    assert registry.best == second
    assert [snapshot.snapshot_id for snapshot in registry.snapshots()] == [first.snapshot_id, second.snapshot_id]


class FailingAgent(NullAgent):
    """Writes half of its weights and fails."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def save_weights(self, path: str) -> None:
        Path(path).mkdir()
        (Path(path) / "half").write_bytes(b"half")
        raise self.error


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("broken")])
def test_a_save_that_fails_leaves_everything_as_it_was(tmp_path: Path, error: Exception) -> None:
    registry = CheckpointRegistry(tmp_path)
    saved = save(registry, 1.0)
    before = contents(tmp_path)
    agent = FailingAgent(error)
    expected = CheckpointError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected, match=str(error.args[-1])):
        registry.save(agent, EvalMetrics(2.0, {}, 1), agent.get_hyperparams())
    assert contents(tmp_path) == before
    assert names(tmp_path) == {"lock", saved.snapshot_id}
    assert registry.best == registry.latest == saved
    assert CheckpointRegistry(tmp_path).best == saved
    assert save(registry, 3.0, 2) == registry.best


def test_hyperparameters_that_cannot_be_written_are_a_clear_error(tmp_path: Path) -> None:
    registry = CheckpointRegistry(tmp_path)
    agent = RecordingAgent()
    params = agent.get_hyperparams()
    params.params["strange"] = object()
    with pytest.raises(CheckpointError, match="cannot save"):
        registry.save(agent, EvalMetrics(1.0, {}, 0), params)
    assert names(tmp_path) == {"lock"}


def test_what_a_killed_save_left_is_removed(tmp_path: Path) -> None:
    """Killed before the manifest took its place."""
    first = save(CheckpointRegistry(tmp_path), 1.0)
    (tmp_path / "snapshot-000001").mkdir()
    (tmp_path / "snapshot-000001" / "weights").write_bytes(b"half")
    (tmp_path / "snapshot-000001" / ".part-manifest.json").write_bytes(b"{")
    registry = CheckpointRegistry(tmp_path)
    assert registry.latest == first
    second = save(registry, 2.0)
    assert second.snapshot_id == "snapshot-000001"
    assert names(tmp_path) == {"lock", first.snapshot_id, second.snapshot_id}
    assert registry.take_reports() == []
    assert weight_of(CheckpointRegistry(tmp_path), second) == 2.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_metrics_that_are_not_finite_can_be_read_again(tmp_path: Path, value: float) -> None:
    """JSON has no NaN: written as null, a snapshot with one could never be loaded again."""
    agent = RecordingAgent()
    CheckpointRegistry(tmp_path).save(
        agent, EvalMetrics(1.0, {"explained_variance": value, "loss": 0.5}, 0), agent.get_hyperparams()
    )
    best = CheckpointRegistry(tmp_path).best
    assert best is not None
    assert best.eval_metrics.metrics["loss"] == 0.5
    assert not math.isfinite(best.eval_metrics.metrics["explained_variance"])


def test_a_score_that_is_not_finite_is_never_saved(tmp_path: Path) -> None:
    registry = CheckpointRegistry(tmp_path)
    saved = save(registry, 1.0)
    with pytest.raises(CheckpointError, match="expected a finite score, got nan"):
        save(registry, math.nan)
    assert CheckpointRegistry(tmp_path).latest == saved


# --- the state of a run --------------------------------------------------------------------------


def save_run(registry: CheckpointRegistry, window: int, weight: float = 0.0) -> RunCheckpoint:
    agent = RecordingAgent()
    agent.weight = weight
    return registry.commit_run(registry.stage_run(agent, window, {"window": window, "rows": np.arange(window)}))


def resume(registry: CheckpointRegistry) -> tuple[RunCheckpoint, Mapping[str, Any], float] | None:
    agent = RecordingAgent()
    found: list[tuple[RunCheckpoint, Mapping[str, Any]]] = []
    if not registry.resume_run(lambda checkpoint, state: found.append((checkpoint, state)), agent):
        return None
    return (*found[0], agent.weight)


def test_a_run_goes_on_from_its_latest_checkpoint(tmp_path: Path) -> None:
    registry = CheckpointRegistry(tmp_path)
    registry.begin_run()
    best = save(registry, 5.0, 0)
    for window in range(4):
        save_run(registry, window, window * 2.0)
    registry.end_run()
    assert names(tmp_path) == {"lock", "snapshot-000000", "checkpoint-000002", "checkpoint-000003"}
    again = CheckpointRegistry(tmp_path)
    found = resume(again)
    assert found is not None
    checkpoint, state, weight = found
    assert (checkpoint.name, checkpoint.window, weight) == ("checkpoint-000003", 3, 6.0)
    assert state["window"] == 3
    assert state["rows"].tolist() == [0, 1, 2]
    assert again.best == best


def test_without_a_checkpoint_there_is_nothing_to_go_on_from(tmp_path: Path) -> None:
    registry = CheckpointRegistry(tmp_path)
    save(registry, 1.0)
    assert resume(registry) is None
    assert registry.best is None


def test_what_a_run_did_after_its_checkpoint_is_forgotten_when_it_goes_on(tmp_path: Path) -> None:
    registry = CheckpointRegistry(tmp_path)
    registry.begin_run()
    first = save(registry, 1.0, 0)
    save_run(registry, 0)
    save(registry, 2.0, 1)
    registry.end_run()
    again = CheckpointRegistry(tmp_path)
    assert resume(again) is not None
    assert again.best == again.latest == first
    assert names(tmp_path) == {"lock", "snapshot-000000", "checkpoint-000000"}
    assert save(again, 1.5, 1).snapshot_id == "snapshot-000001"


def test_the_best_that_goes_with_a_checkpoint_is_kept_with_it(tmp_path: Path) -> None:
    registry = CheckpointRegistry(tmp_path, max_snapshots=1)
    registry.begin_run()
    first = save(registry, 1.0, 0)
    save_run(registry, 0)
    save(registry, 2.0, 1)
    save(registry, 3.0, 2)
    registry.end_run()
    again = CheckpointRegistry(tmp_path, max_snapshots=1)
    assert resume(again) is not None
    assert again.best == first


def test_a_damaged_checkpoint_is_passed_over_and_told(tmp_path: Path) -> None:
    registry = CheckpointRegistry(tmp_path)
    registry.begin_run()
    for window in range(2):
        save_run(registry, window, float(window))
    registry.end_run()
    path = tmp_path / "checkpoint-000001" / "run.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    again = CheckpointRegistry(tmp_path)
    found = resume(again)
    assert found is not None
    assert (found[0].name, found[2]) == ("checkpoint-000000", 0.0)
    (report,) = again.take_reports()
    assert re.search(r"checkpoint-000001/run\.safetensors: damaged", str(report))
    assert again.take_reports() == []


def test_a_state_that_cannot_be_saved_is_a_clear_error(tmp_path: Path) -> None:
    registry = CheckpointRegistry(tmp_path)
    registry.begin_run()
    with pytest.raises(CheckpointError, match=r"state\['judge'\]\[0\]: expected plain data or an array, got object"):
        registry.commit_run(registry.stage_run(RecordingAgent(), 0, {"judge": [object()]}))
    assert names(tmp_path) == {"lock"}


# --- the rest ------------------------------------------------------------------------------------


def test_the_manifest_is_data_that_others_can_read(tmp_path: Path) -> None:
    saved = save(CheckpointRegistry(tmp_path), 1.5, 3)
    sealed = json.loads((tmp_path / saved.snapshot_id / "manifest.json").read_bytes())
    manifest = sealed["snapshot"]
    assert (sealed["format"], manifest["name"], manifest["best"]) == (2, saved.snapshot_id, saved.snapshot_id)
    assert (manifest["window"], manifest["score"]["primary_score"], manifest["hyperparams"]) == (
        3,
        1.5,
        {"learning_rate": 0.5},
    )
    weights = (tmp_path / saved.weights_path).read_bytes()
    assert manifest["files"] == [
        {"path": "weights", "size": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}
    ]


def test_a_directory_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"cannot read .*checkpoints"):
        CheckpointRegistry(tmp_path / "file" / "checkpoints")
    registry = CheckpointRegistry(tmp_path / "checkpoints")
    (tmp_path / "checkpoints").write_text("in the way since")
    with pytest.raises(CheckpointError, match="cannot make checkpoint directory"):
        registry.begin_run()


def test_a_directory_is_made_when_a_run_begins_or_something_is_saved(tmp_path: Path) -> None:
    registry = CheckpointRegistry(tmp_path / "run")
    assert (registry.best, registry.snapshots(), registry.run_checkpoints()) == (None, [], [])
    assert registry.load_best(RecordingAgent()) is None
    assert not (tmp_path / "run").exists()
    registry.begin_run()
    assert (tmp_path / "run").is_dir()
    registry.end_run()


def test_who_only_reads_need_not_be_able_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = save(CheckpointRegistry(tmp_path), 1.0)
    # A superuser may write anywhere, whatever the mode.
    monkeypatch.setattr("os.access", lambda path, mode: False)
    registry, agent = CheckpointRegistry(tmp_path), RecordingAgent()
    registry.verify(saved.snapshot_id)
    assert registry.load_best(agent) == saved
    with pytest.raises(CheckpointError, match="is not writable"):
        registry.begin_run()
    with pytest.raises(CheckpointError, match="is not writable"):
        save(registry, 2.0)


def test_room_for_no_snapshot_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="max_snapshots: expected at least 1, got 0"):
        CheckpointRegistry(tmp_path, 0)
