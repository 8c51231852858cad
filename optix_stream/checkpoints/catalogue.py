"""Which snapshots a directory holds, by their manifests, and which of them are wanted. Reads, and changes nothing."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from optix_stream.checkpoints.manifest import Manifest, read_manifest
from optix_stream.errors import CheckpointError
from optix_stream.types import EvalMetrics, HyperparamSet, PolicySnapshot

_NAME = re.compile(r"(snapshot|checkpoint)-([0-9]{6,18})\Z")


class Catalogue(msgspec.Struct, frozen=True):
    """The snapshots of a directory.

    Attributes:
        manifests: of those that can be read, oldest first.
        damaged: why the others cannot.
        unfinished: directories of snapshots that were never finished.
        next_numbers: by kind, higher than that of any of them.
    """

    manifests: tuple[Manifest, ...] = ()
    damaged: Mapping[str, CheckpointError] = {}
    unfinished: tuple[Path, ...] = ()
    next_numbers: Mapping[str, int] = {}

    @classmethod
    def read(cls, directory: Path) -> Catalogue:
        """What is there; nothing where there is no such directory.

        Raises:
            CheckpointError: the directory cannot be read.
        """
        manifests: list[Manifest] = []
        damaged: dict[str, CheckpointError] = {}
        unfinished: list[Path] = []
        next_numbers = {"snapshot": 0, "checkpoint": 0}
        try:
            with os.scandir(directory) as entries:
                found = [(entry, match) for entry in entries if (match := _NAME.match(entry.name))]
        except FileNotFoundError:
            found = []
        except OSError as error:
            raise CheckpointError(f"cannot read {directory}: {error}") from error
        for entry, match in found:
            kind, number = match[1], int(match[2])
            next_numbers[kind] = max(next_numbers[kind], number + 1)
            try:
                if not entry.is_dir(follow_symlinks=False):
                    raise CheckpointError(f"{entry.path}: expected a directory, not a file or a link")
                manifest = read_manifest(Path(entry.path))
            except CheckpointError as error:
                damaged[entry.name] = error
                continue
            if manifest is None:
                unfinished.append(Path(entry.path))
            else:
                manifests.append(manifest)
        # By epoch first: what a writer that was fenced off saved late is older than what came after it.
        manifests.sort(key=lambda manifest: (manifest.epoch, manifest.serial))
        return cls(tuple(manifests), damaged, tuple(unfinished), next_numbers)

    @property
    def latest_run(self) -> int:
        return self.manifests[-1].run if self.manifests else 0

    @property
    def next_serial(self) -> int:
        """Higher than that of any of them."""
        return max((manifest.serial for manifest in self.manifests), default=-1) + 1

    @property
    def latest_epoch(self) -> int:
        return max((manifest.epoch for manifest in self.manifests), default=0)

    def of_run(self, run: int) -> list[Manifest]:
        """The manifests of a run, oldest first."""
        return [manifest for manifest in self.manifests if manifest.run == run]

    def find(self, name: str) -> Manifest:
        """The manifest of that name.

        Raises:
            CheckpointError: there is none, or it is damaged.
        """
        for manifest in self.manifests:
            if manifest.name == name:
                return manifest
        raise self.damaged.get(name) or CheckpointError(f"there is no snapshot {name!r}")

    def bests(self, run: int) -> list[Manifest]:
        """The best policy of a run, then the one that was best before it, and so on."""
        policies = {manifest.name: manifest for manifest in self.manifests if is_policy(manifest)}
        names = dict.fromkeys(manifest.best for manifest in reversed(self.of_run(run)))
        return [policies[name] for name in names if name in policies]

    def surplus(self, max_policies: int, max_checkpoints: int) -> list[str]:
        """What need not be kept: neither a run's best, nor the latest, nor what goes with a checkpoint that is kept."""
        policies = [manifest for manifest in self.manifests if is_policy(manifest)]
        checkpoints = [manifest for manifest in self.manifests if not is_policy(manifest)]
        surplus = [manifest.name for manifest in checkpoints[:-max_checkpoints]]
        protected = {bests[0].name for run in {m.run for m in policies} if (bests := self.bests(run))}
        protected |= {manifest.best for manifest in checkpoints[-max_checkpoints:] if manifest.best is not None}
        protected |= {manifest.name for manifest in policies[-1:]}
        old = [manifest.name for manifest in policies if manifest.name not in protected]
        return surplus + old[: max(0, len(policies) - max_policies)]

    def with_one_more(self, manifest: Manifest) -> Catalogue:
        """The latest is new."""
        return msgspec.structs.replace(self, manifests=(*self.manifests, manifest))

    def without(self, names: list[str]) -> Catalogue:
        """These are gone."""
        kept = tuple(manifest for manifest in self.manifests if manifest.name not in names)
        return msgspec.structs.replace(self, manifests=kept)


def is_policy(manifest: Manifest) -> bool:
    """Whether it is of a policy, and not of a run."""
    return manifest.score is not None


def policy_of(manifest: Manifest) -> PolicySnapshot:
    """A policy as the loop knows it."""
    score = manifest.score
    assert score is not None
    metrics = {name: math.nan if value is None else value for name, value in score.metrics.items()}
    return PolicySnapshot(
        snapshot_id=manifest.name,
        eval_metrics=EvalMetrics(score.primary_score, metrics, manifest.window, score.basis, manifest.timestamp),
        hyperparams=HyperparamSet(dict(manifest.hyperparams), manifest.hyperparams_window, manifest.timestamp),
        weights_path=f"{manifest.name}/weights",
        episode_id=manifest.window,
        timestamp=manifest.timestamp,
    )
