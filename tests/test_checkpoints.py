from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optix_stream.checkpoints import CheckpointRegistry
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
            assert names(directory) == {"manifest.json", *(snapshot.snapshot_id for snapshot in kept)}
        if registry.best is not None:
            best_of_runs.append(registry.best)


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
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    agent = FailingAgent(error)
    expected = CheckpointError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected, match=str(error.args[-1])):
        registry.save(agent, EvalMetrics(2.0, {}, 1), agent.get_hyperparams())
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert names(tmp_path) == {"manifest.json", saved.snapshot_id}
    assert registry.best == registry.latest == saved
    assert CheckpointRegistry(tmp_path).best == saved
    assert save(registry, 3.0, 2) == registry.best


def test_a_manifest_that_cannot_be_replaced_leaves_no_snapshot_behind(tmp_path: Path) -> None:
    registry = CheckpointRegistry(tmp_path)
    (tmp_path / "manifest.json").mkdir()  # What nothing can be renamed onto.
    with pytest.raises(CheckpointError, match="cannot save snapshot-000000"):
        save(registry, 1.0)
    assert names(tmp_path) == {"manifest.json"}
    assert registry.latest is None


def test_hyperparameters_that_cannot_be_written_are_a_clear_error(tmp_path: Path) -> None:
    registry = CheckpointRegistry(tmp_path)
    agent = RecordingAgent()
    params = agent.get_hyperparams()
    params.params["strange"] = object()
    with pytest.raises(CheckpointError, match="cannot save"):
        registry.save(agent, EvalMetrics(1.0, {}, 0), params)
    assert names(tmp_path) == set()


def test_what_a_killed_save_left_is_not_in_the_way(tmp_path: Path) -> None:
    """Killed after the snapshot took its place and before the manifest named it."""
    first = save(CheckpointRegistry(tmp_path), 1.0)
    (tmp_path / ".part-snapshot-000001").mkdir()
    (tmp_path / "snapshot-000001").mkdir()
    (tmp_path / "snapshot-000001" / "weights").write_bytes(b"of another run")
    registry = CheckpointRegistry(tmp_path)
    assert registry.latest == first
    second = save(registry, 2.0)
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


# --- damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"format": 99}',
        b'{"unknown": 1}',
        b'{"snapshots": [{"snapshot_id": 1}]}',
        b'{"best": "snapshot-000000"}',
        b"\xff\xfe",
    ],
)
def test_a_damaged_manifest_is_a_clear_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        CheckpointRegistry(tmp_path)


@settings(max_examples=80)
@given(st.data())
def test_any_damaged_byte_of_the_manifest_is_an_error_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("checkpoints")
    save(CheckpointRegistry(directory), 1.0)
    path = directory / "manifest.json"
    content = bytearray(path.read_bytes())
    index = data.draw(st.integers(0, len(content) - 1))
    content[index] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        best = CheckpointRegistry(directory).best
    except CheckpointError:
        return
    assert best is None or best.eval_metrics.primary_score == 1.0


@pytest.mark.parametrize("name", ["../outside", "/etc", "a/b", ".", "..", ".part-x", "", "snapshot-000000\n"])
def test_a_manifest_names_nothing_outside_its_directory(tmp_path: Path, name: str) -> None:
    entry = {"snapshot_id": name, "primary_score": 1.0, "run": 0}
    (tmp_path / "manifest.json").write_text(json.dumps({"snapshots": [entry], "best": name, "latest": name}))
    with pytest.raises(CheckpointError, match="is not the name of a snapshot"):
        CheckpointRegistry(tmp_path)


def test_a_snapshot_that_is_gone_is_a_clear_error(tmp_path: Path) -> None:
    saved = save(CheckpointRegistry(tmp_path), 1.0)
    shutil.rmtree(tmp_path / saved.snapshot_id)
    registry = CheckpointRegistry(tmp_path)
    with pytest.raises(CheckpointError, match=saved.snapshot_id):
        registry.load_best(RecordingAgent())


def test_weights_that_are_gone_are_a_clear_error_and_the_hyperparameters_stay(tmp_path: Path) -> None:
    saved = save(CheckpointRegistry(tmp_path), 1.0)
    (tmp_path / saved.weights_path).unlink()
    agent = RecordingAgent(learning_rate=0.125)
    with pytest.raises(CheckpointError, match=f"cannot load {saved.snapshot_id}"):
        CheckpointRegistry(tmp_path).load_best(agent)
    assert agent.get_hyperparams().params == {"learning_rate": 0.125}


def test_the_manifest_is_data_that_others_can_read(tmp_path: Path) -> None:
    saved = save(CheckpointRegistry(tmp_path), 1.5)
    manifest = msgspec.json.decode((tmp_path / "manifest.json").read_bytes())
    assert (manifest["best"], manifest["latest"], manifest["format"]) == (saved.snapshot_id, saved.snapshot_id, 1)


def test_a_directory_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot make checkpoint directory"):
        CheckpointRegistry(tmp_path / "file" / "checkpoints")


def test_room_for_no_snapshot_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="max_snapshots: expected at least 1, got 0"):
        CheckpointRegistry(tmp_path, 0)
