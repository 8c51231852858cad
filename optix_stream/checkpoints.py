"""Snapshots on disk: what is saved, which is best, what may go.

Layout, all paths in the manifest relative so that the directory can be moved::

    checkpoint_dir/
        manifest.json
        snapshot-000012/
            weights…          what agent.save_weights wrote
            metadata.json     score, hyperparameters
"""

from __future__ import annotations

import math
import os
import re
import shutil
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from optix_stream.contracts import BaseAgent
from optix_stream.errors import CheckpointError, ConfigurationError
from optix_stream.types import EvalMetrics, HyperparamSet, PolicySnapshot

T = TypeVar("T")
_FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")


class _Metadata(msgspec.Struct, forbid_unknown_fields=True):
    episode_id: int
    timestamp: float
    primary_score: float
    basis: str
    metrics: dict[str, float | None]  # JSON has neither NaN nor infinity: both become null.
    hyperparams: dict[str, Any]
    hyperparams_episode_id: int


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    snapshot_id: str
    primary_score: float
    run: int


class _Manifest(msgspec.Struct, forbid_unknown_fields=True):
    format: int = _FORMAT
    next_number: int = 0
    run: int = 0
    best: str | None = None
    latest: str | None = None
    snapshots: list[_Entry] = []


class CheckpointRegistry:
    """Saves, finds, restores and prunes snapshots. Blocking; the loop calls it in a worker thread.

    A snapshot is whole or absent: it is written beside its place and renamed into it. Several runs
    may use one directory one after another; ``best`` is that of the latest run, and the best
    snapshot of every earlier run is kept too.

    Args:
        checkpoint_dir: made if it does not exist.
        max_snapshots: older ones beyond this many are removed; those that are best or latest never.

    Raises:
        CheckpointError: the directory cannot be made or written, or its manifest is damaged.
        ConfigurationError: ``max_snapshots`` below 1.
    """

    def __init__(self, checkpoint_dir: str | os.PathLike[str] = "./checkpoints", max_snapshots: int = 10) -> None:
        if max_snapshots < 1:
            raise ConfigurationError(f"max_snapshots: expected at least 1, got {max_snapshots}")
        self.checkpoint_dir = Path(checkpoint_dir)
        self.max_snapshots = max_snapshots
        try:
            self.checkpoint_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"cannot make checkpoint directory {self.checkpoint_dir}: {error}") from error
        if not os.access(self.checkpoint_dir, os.W_OK | os.X_OK):
            raise CheckpointError(f"checkpoint directory {self.checkpoint_dir} is not writable")
        self._manifest = self._read_manifest()
        self._cache: dict[str, PolicySnapshot] = {}

    def begin_run(self) -> None:
        """A new run starts: it has no best and no latest snapshot yet."""
        manifest = self._manifest
        if manifest.snapshots:
            manifest.run = manifest.snapshots[-1].run + 1
        self._has_run_best = False

    _has_run_best = True

    def save(self, agent: BaseAgent, eval_metrics: EvalMetrics, hyperparams: HyperparamSet) -> PolicySnapshot:
        """Write a snapshot, make it the latest, and the best if its score beats this run's best.

        Raises:
            CheckpointError: it could not be written; the snapshots before are untouched.
        """
        manifest = self._manifest
        if not math.isfinite(eval_metrics.primary_score):
            raise CheckpointError(f"cannot save: expected a finite score, got {eval_metrics.primary_score}")
        snapshot = PolicySnapshot(
            snapshot_id=f"snapshot-{manifest.next_number:06d}",
            eval_metrics=eval_metrics,
            hyperparams=hyperparams.copy(),
            weights_path=f"snapshot-{manifest.next_number:06d}/weights",
            episode_id=eval_metrics.episode_id,
        )
        best = self.best
        is_best = best is None or eval_metrics.primary_score >= best.eval_metrics.primary_score
        if best is not None and best.eval_metrics.basis != eval_metrics.basis:
            is_best = True
        new_best = snapshot.snapshot_id if is_best else manifest.best
        try:
            self._write_snapshot(agent, snapshot)
            entry = _Entry(snapshot.snapshot_id, eval_metrics.primary_score, manifest.run)
            kept, removed = self._prune([*manifest.snapshots, entry], best=new_best)
            changed = _Manifest(
                next_number=manifest.next_number + 1,
                run=manifest.run,
                best=new_best,
                latest=snapshot.snapshot_id,
                snapshots=kept,
            )
            _write_atomically(self.checkpoint_dir / "manifest.json", msgspec.json.encode(changed))
        except (OSError, msgspec.MsgspecError, TypeError) as error:
            shutil.rmtree(self.checkpoint_dir / snapshot.snapshot_id, ignore_errors=True)
            raise CheckpointError(f"cannot save {snapshot.snapshot_id} in {self.checkpoint_dir}: {error}") from error
        self._manifest = changed
        self._has_run_best = True
        self._cache[snapshot.snapshot_id] = snapshot
        for name in removed:
            self._cache.pop(name, None)
            shutil.rmtree(self.checkpoint_dir / name, ignore_errors=True)
        return snapshot

    @property
    def best(self) -> PolicySnapshot | None:
        """The best snapshot of this run (or, before a run begins, of the latest); None if there is none."""
        return self._snapshot(self._manifest.best) if self._has_run_best else None

    @property
    def latest(self) -> PolicySnapshot | None:
        """The snapshot saved last; None if there is none."""
        return self._snapshot(self._manifest.latest)

    def snapshots(self) -> list[PolicySnapshot]:
        """All snapshots on disk, oldest first."""
        found = (self._snapshot(entry.snapshot_id) for entry in self._manifest.snapshots)
        return [snapshot for snapshot in found if snapshot is not None]

    def load_best(self, agent: BaseAgent) -> PolicySnapshot | None:
        """Give the agent the best snapshot's weights **and** hyperparameters.

        Returns:
            That snapshot, or None if there is none; the agent is then untouched.

        Raises:
            CheckpointError: it cannot be read.
        """
        best = self.best
        if best is not None:
            self.load(agent, best)
        return best

    def load(self, agent: BaseAgent, snapshot: PolicySnapshot) -> None:
        """Give the agent a snapshot's weights and hyperparameters.

        Raises:
            CheckpointError: it cannot be read.
        """
        try:
            agent.load_weights(str(self.checkpoint_dir / snapshot.weights_path))
            agent.set_hyperparams(snapshot.hyperparams.copy())
        except OSError as error:
            raise CheckpointError(f"cannot load {snapshot.snapshot_id} from {self.checkpoint_dir}: {error}") from error

    def _write_snapshot(self, agent: BaseAgent, snapshot: PolicySnapshot) -> None:
        metrics = snapshot.eval_metrics
        metadata = _Metadata(
            episode_id=snapshot.episode_id,
            timestamp=snapshot.timestamp,
            primary_score=metrics.primary_score,
            basis=metrics.basis,
            metrics=dict(metrics.metrics),
            hyperparams=snapshot.hyperparams.params,
            hyperparams_episode_id=snapshot.hyperparams.episode_id,
        )
        content = msgspec.json.encode(metadata)
        part = self.checkpoint_dir / f".part-{snapshot.snapshot_id}"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        try:
            agent.save_weights(str(part / "weights"))
            (part / "metadata.json").write_bytes(content)
            target = self.checkpoint_dir / snapshot.snapshot_id
            # Left by a save that was cut off after this rename and before the manifest: not referenced.
            shutil.rmtree(target, ignore_errors=True)
            part.rename(target)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise

    def _prune(self, entries: list[_Entry], *, best: str | None) -> tuple[list[_Entry], list[str]]:
        best_of_run: dict[int, _Entry] = {}
        for entry in entries:
            held = best_of_run.get(entry.run)
            if held is None or entry.primary_score >= held.primary_score:
                best_of_run[entry.run] = entry
        protected = {entry.snapshot_id for entry in best_of_run.values()} | {best, entries[-1].snapshot_id}
        surplus = len(entries) - self.max_snapshots
        kept: list[_Entry] = []
        removed: list[str] = []
        for entry in entries:
            if surplus > 0 and entry.snapshot_id not in protected:
                removed.append(entry.snapshot_id)
                surplus -= 1
            else:
                kept.append(entry)
        return kept, removed

    def _snapshot(self, name: str | None) -> PolicySnapshot | None:
        if name is None:
            return None
        if name not in self._cache:
            self._cache[name] = self._read_snapshot(name)
        return self._cache[name]

    def _read_snapshot(self, name: str) -> PolicySnapshot:
        path = self.checkpoint_dir / name / "metadata.json"
        metadata = _read(path, _Metadata)
        known = {key: math.nan if value is None else value for key, value in metadata.metrics.items()}
        metrics = EvalMetrics(metadata.primary_score, known, metadata.episode_id, metadata.basis, metadata.timestamp)
        hyperparams = HyperparamSet(metadata.hyperparams, metadata.hyperparams_episode_id, metadata.timestamp)
        return PolicySnapshot(name, metrics, hyperparams, f"{name}/weights", metadata.episode_id, metadata.timestamp)

    def _read_manifest(self) -> _Manifest:
        path = self.checkpoint_dir / "manifest.json"
        if not path.exists():
            return _Manifest()
        manifest = _read(path, _Manifest)
        if manifest.format != _FORMAT:
            raise CheckpointError(f"{path}: expected format {_FORMAT}, got {manifest.format}")
        names = [entry.snapshot_id for entry in manifest.snapshots]
        for name in (*names, manifest.best, manifest.latest):
            if name is not None and (not _NAME.match(name) or name not in names):
                raise CheckpointError(f"{path}: {name!r} is not the name of a snapshot in it")
        return manifest


def _read(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error


def _write_atomically(path: Path, content: bytes) -> None:
    part = path.with_name(f".part-{path.name}")
    try:
        part.write_bytes(content)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
