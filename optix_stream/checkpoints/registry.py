"""Snapshots on disk: what is saved, which is best, what may go.

Layout, all paths relative so that the directory can be moved::

    checkpoint_dir/
        lock                      who writes here
        snapshot-000012/          a policy
            weights…              what agent.save_weights wrote
            manifest.json         score, hyperparameters, size and hash of each file; written last
        checkpoint-000013/        where a run can go on from
            weights…
            run.safetensors       everything else that changes as the run goes on
            manifest.json

A snapshot exists once its manifest does, which takes its place by a rename when all else is on the disk. There is no
other file that says which is the latest or the best: each manifest names the best as of then.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from optix_stream.checkpoints.catalogue import Catalogue, is_policy, policy_of
from optix_stream.checkpoints.files import FileHashes, sync_directory, sync_tree, verify_tree
from optix_stream.checkpoints.lock import DirectoryLock
from optix_stream.checkpoints.manifest import MANIFEST, Manifest, SavedScore, encode_manifest, write_manifest
from optix_stream.contracts import BaseAgent
from optix_stream.errors import CheckpointError, ConfigurationError, DirectoryInUseError
from optix_stream.state_files import encode_state, read_state_file
from optix_stream.types import EvalMetrics, HyperparamSet, PolicySnapshot

T = TypeVar("T")
_WEIGHTS, _STATE = "weights", "run.safetensors"
_RUN_CHECKPOINTS = 2
"""Kept: the latest, and the one before it, should the latest be damaged."""


class RunCheckpoint(msgspec.Struct, frozen=True):
    """Where a run can go on from.

    Attributes:
        name: in the registry.
        window: after which it was saved.
        timestamp: wall-clock seconds since the epoch.
    """

    name: str
    window: int
    timestamp: float


class StagedSnapshot(msgspec.Struct, frozen=True):
    """A consistent copy, but not yet on the disk for certain, and of no account until it is committed."""

    folder: Path
    manifest: Manifest
    state: Mapping[str, Any] | None = None


class CheckpointRegistry:
    """Saves, finds, restores and prunes snapshots. Blocking; the loop calls it in worker threads, one save at a time.

    Several runs may use one directory one after another; ``best`` is that of the latest run, and the best snapshot of
    every earlier run is kept too.

    Args:
        checkpoint_dir: made when a run begins or something is saved; who only reads need not be able to write there.
        max_snapshots: policies beyond this many are removed, the oldest first; those that are best or latest never.

    Raises:
        CheckpointError: the directory cannot be read.
        ConfigurationError: ``max_snapshots`` below 1.
    """

    def __init__(self, checkpoint_dir: str | os.PathLike[str] = "./checkpoints", max_snapshots: int = 10) -> None:
        if max_snapshots < 1:
            raise ConfigurationError(f"max_snapshots: expected at least 1, got {max_snapshots}")
        self.checkpoint_dir = Path(checkpoint_dir)
        self.max_snapshots = max_snapshots
        self._lock = DirectoryLock(self.checkpoint_dir)
        self._hashes = FileHashes()
        self._look()
        self._run = self._catalogue.latest_run
        self._reports: list[CheckpointError] = []

    # -- a run ----------------------------------------------------------------------------------

    def begin_run(self) -> None:
        """Take the directory for a new run, which has no best and no latest snapshot yet.

        Raises:
            DirectoryInUseError: another run has it.
            CheckpointError: it cannot be read or written.
        """
        self._take()
        self._run = self._catalogue.latest_run + 1 if self._catalogue.manifests else 0

    def resume_run(self, load: Callable[[RunCheckpoint, Mapping[str, Any]], None], agent: BaseAgent) -> bool:
        """Take the directory to go on with its latest run, from its last checkpoint that is undamaged.

        What that run saved after this checkpoint is removed: it happens again.

        Args:
            load: takes the checkpoint and the state that was saved with it.
            agent: gets its weights and hyperparameters before that.

        Returns:
            Whether there was one; if not, it is a new run.

        Raises:
            DirectoryInUseError: another run has it.
            CheckpointError: it cannot be read or written, or there are checkpoints and none can be loaded.
        """
        self._take()
        failures: list[CheckpointError] = []
        for manifest in reversed(self._catalogue.manifests):
            if is_policy(manifest):
                continue
            try:
                state = self._load(agent, manifest)
            except CheckpointError as error:
                failures.append(error)
                continue
            self._reports.extend(failures)
            self._run = manifest.run
            later = self._catalogue.of_run(manifest.run)
            self._remove([each.name for each in later[later.index(manifest) + 1 :]])
            self._look()
            load(_checkpoint_of(manifest), state)
            return True
        if failures:
            self._reports.extend(failures[1:])
            raise failures[0]
        self._run = self._catalogue.latest_run + 1 if self._catalogue.manifests else 0
        return False

    def end_run(self) -> None:
        """Let others have the directory."""
        try:
            self._lock.release()
        except OSError as error:
            raise CheckpointError(f"cannot release {self.checkpoint_dir}: {error}") from error

    def take_reports(self) -> list[CheckpointError]:
        """What went wrong without failing a call since this was last asked: a damaged snapshot was passed over, one
        that is no longer wanted could not be removed.
        """
        reports, self._reports = self._reports, []
        return reports

    # -- saving ---------------------------------------------------------------------------------

    def save(
        self,
        agent: BaseAgent,
        eval_metrics: EvalMetrics,
        hyperparams: HyperparamSet,
        *,
        evidence: str = "",
        is_best: bool | None = None,
    ) -> PolicySnapshot:
        """Save a policy, make it the latest, and perhaps this run's best.

        Outside of a run, the directory is taken for the length of this call.

        Args:
            agent: whose weights.
            eval_metrics: their score.
            hyperparams: in force.
            evidence: why the score counts, in words.
            is_best: whether it is the best of its run; None: if its score is no lower than that of the best so far.

        Raises:
            CheckpointError: it could not be written; the snapshots before are untouched.
        """
        if not math.isfinite(eval_metrics.primary_score):
            raise CheckpointError(f"cannot save: expected a finite score, got {eval_metrics.primary_score}")
        if not self._lock.is_held:
            self._take()
            try:
                return self.save(agent, eval_metrics, hyperparams, evidence=evidence, is_best=is_best)
            finally:
                self.end_run()
        score = SavedScore(eval_metrics.primary_score, eval_metrics.basis, dict(eval_metrics.metrics), evidence)
        best = self.best
        if is_best is None:
            is_best = (
                best is None
                or best.eval_metrics.basis != eval_metrics.basis
                or eval_metrics.primary_score >= best.eval_metrics.primary_score
            )
        staged = self._stage(agent, hyperparams, eval_metrics.episode_id, score=score, is_best=is_best)
        self._commit(staged)
        return policy_of(staged.manifest)

    def stage_run(self, agent: BaseAgent, window: int, state: Mapping[str, Any]) -> StagedSnapshot:
        """Write where the run is: quick, because nothing is waited for. Nothing may learn meanwhile.

        Args:
            agent: whose weights.
            window: the last one.
            state: plain data and arrays, which nobody changes any more.

        Raises:
            CheckpointError: it could not be written; the snapshots before are untouched.
        """
        return self._stage(agent, agent.get_hyperparams(), window, state=state)

    def commit_run(self, staged: StagedSnapshot) -> RunCheckpoint:
        """Put it on the disk and make it what the run can go on from; things may go on meanwhile.

        Raises:
            CheckpointError: it could not be written; the snapshots before are untouched.
        """
        self._commit(staged)
        return _checkpoint_of(staged.manifest)

    # -- finding and loading --------------------------------------------------------------------

    @property
    def best(self) -> PolicySnapshot | None:
        """The best snapshot of this run (or, before a run begins, of the latest); None if there is none."""
        candidates = self._catalogue.bests(self._run)
        return policy_of(candidates[0]) if candidates else None

    @property
    def latest(self) -> PolicySnapshot | None:
        """The policy saved last; None if there is none."""
        policies = self.snapshots()
        return policies[-1] if policies else None

    def snapshots(self) -> list[PolicySnapshot]:
        """All policies on disk, oldest first."""
        return [policy_of(manifest) for manifest in self._catalogue.manifests if is_policy(manifest)]

    def run_checkpoints(self) -> list[RunCheckpoint]:
        """Where the runs in this directory can go on from, oldest first."""
        return [_checkpoint_of(manifest) for manifest in self._catalogue.manifests if not is_policy(manifest)]

    @property
    def damaged(self) -> Mapping[str, CheckpointError]:
        """Snapshots whose manifests could not be read, and why."""
        return self._catalogue.damaged

    def verify(self, name: str) -> None:
        """Check every file of a snapshot against its manifest.

        Raises:
            CheckpointError: it is not what was saved.
        """
        manifest = self._catalogue.find(name)
        verify_tree(self.checkpoint_dir / name, manifest.files, MANIFEST)

    def load_best(self, agent: BaseAgent) -> PolicySnapshot | None:
        """Give the agent the best snapshot's weights **and** hyperparameters; the best before it, where it is damaged.

        Returns:
            That snapshot, or None if there is none; the agent is then untouched.

        Raises:
            CheckpointError: there is none that can be read.
        """
        failures: list[CheckpointError] = []
        for manifest in self._catalogue.bests(self._run):
            try:
                self._load(agent, manifest)
            except CheckpointError as error:
                failures.append(error)
            else:
                self._reports.extend(failures)
                return policy_of(manifest)
        if failures:
            self._reports.extend(failures[1:])
            raise failures[0]
        return None

    def load(self, agent: BaseAgent, snapshot: PolicySnapshot) -> None:
        """Give the agent a snapshot's weights and hyperparameters.

        Raises:
            CheckpointError: it is damaged or gone.
        """
        self._load(agent, self._catalogue.find(snapshot.snapshot_id))

    # -- inside ---------------------------------------------------------------------------------

    def _take(self) -> None:
        if not self._lock.is_held:
            self._make_directory()
            self._lock.acquire(above=self._catalogue.latest_epoch)
        try:
            self._look()
            self._reports.extend(self._catalogue.damaged.values())
            if self._catalogue.unfinished:
                # What a save that was cut off has left.
                for folder in self._catalogue.unfinished:
                    self._discard(folder)
                self._look()
        except CheckpointError:
            self.end_run()
            raise
        self._run = self._catalogue.latest_run

    def _make_directory(self) -> None:
        try:
            self.checkpoint_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"cannot make checkpoint directory {self.checkpoint_dir}: {error}") from error
        if not os.access(self.checkpoint_dir, os.W_OK | os.X_OK):
            raise CheckpointError(f"checkpoint directory {self.checkpoint_dir} is not writable")

    def _look(self) -> None:
        """See what is there. Names of what is gone are used again, so that a run in pieces uses those of one in one."""
        self._catalogue = Catalogue.read(self.checkpoint_dir)
        self._next_numbers = dict(self._catalogue.next_numbers)
        self._next_serial = self._catalogue.next_serial

    def _stage(
        self,
        agent: BaseAgent,
        hyperparams: HyperparamSet,
        window: int,
        *,
        score: SavedScore | None = None,
        is_best: bool = False,
        state: Mapping[str, Any] | None = None,
    ) -> StagedSnapshot:
        best = self.best
        kind = "checkpoint" if score is None else "snapshot"
        name = f"{kind}-{self._next_numbers[kind]:06d}"
        manifest = Manifest(
            name=name,
            serial=self._next_serial,
            run=self._run,
            epoch=self._lock.epoch,
            window=window,
            timestamp=time.time(),
            score=score,
            hyperparams=dict(hyperparams.params),
            hyperparams_window=hyperparams.episode_id,
            best=name if is_best else None if best is None else best.snapshot_id,
            files=[],
        )
        try:
            encode_manifest(manifest)  # What it cannot say is an error before anything is written.
        except CheckpointError as error:
            raise CheckpointError(f"cannot save {name}: {error}") from error
        folder = self.checkpoint_dir / name
        # Not used twice, whatever becomes of this one.
        self._next_numbers[kind] += 1
        self._next_serial += 1
        try:
            folder.mkdir()
        except OSError as error:
            raise CheckpointError(f"cannot save {name} in {self.checkpoint_dir}: {error}") from error

        def write() -> None:
            agent.save_weights(str(folder / _WEIGHTS))

        self._try_to_save(folder, write)
        return StagedSnapshot(folder, manifest, state)

    def _commit(self, staged: StagedSnapshot) -> None:
        folder, hashes = staged.folder, self._hashes

        def commit() -> Manifest:
            if staged.state is not None:
                (folder / _STATE).write_bytes(encode_state(staged.state))
            files = sync_tree(folder, hashes)
            sync_directory(self.checkpoint_dir)
            manifest = msgspec.structs.replace(staged.manifest, files=files)
            self._lock.check()
            write_manifest(folder, manifest)
            return manifest

        manifest = self._try_to_save(folder, commit)
        self._catalogue = self._catalogue.with_one_more(manifest)
        hashes.forget_unused()
        self._remove(self._catalogue.surplus(self.max_snapshots, _RUN_CHECKPOINTS))

    def _try_to_save(self, folder: Path, function: Callable[[], T]) -> T:
        try:
            return function()
        except OSError as error:
            self._discard(folder)
            raise CheckpointError(f"cannot save {folder.name} in {self.checkpoint_dir}: {error}") from error
        except DirectoryInUseError:
            self._discard(folder)
            raise
        except CheckpointError as error:
            self._discard(folder)
            raise CheckpointError(f"cannot save {folder.name}: {error}") from error
        except BaseException:
            self._discard(folder)
            raise

    def _load(self, agent: BaseAgent, manifest: Manifest) -> Mapping[str, Any]:
        folder = self.checkpoint_dir / manifest.name
        verify_tree(folder, manifest.files, MANIFEST)
        try:
            state = {} if is_policy(manifest) else read_state_file(folder / _STATE)
            agent.load_weights(str(folder / _WEIGHTS))
            agent.set_hyperparams(HyperparamSet(dict(manifest.hyperparams), manifest.hyperparams_window))
        except OSError as error:
            raise CheckpointError(f"cannot load {manifest.name} from {self.checkpoint_dir}: {error}") from error
        return state

    def _remove(self, names: list[str]) -> None:
        self._catalogue = self._catalogue.without(names)
        for name in names:
            self._discard(self.checkpoint_dir / name)

    def _discard(self, folder: Path) -> None:
        try:
            # First, so that it is never found with a part of its files.
            (folder / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(folder)
        except FileNotFoundError:
            pass
        except OSError as error:
            # It is no snapshot any more, and whoever takes the directory next tries again.
            self._reports.append(CheckpointError(f"cannot remove {folder}: {error}"))


def _checkpoint_of(manifest: Manifest) -> RunCheckpoint:
    return RunCheckpoint(manifest.name, manifest.window, manifest.timestamp)
