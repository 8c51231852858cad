"""``optix-stream inspect``: what a checkpoint directory holds, and whether it is what was saved."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from optix_stream.checkpoints import CheckpointRegistry, RunCheckpoint
from optix_stream.cli.formatting import counted, pairs, score, size, table
from optix_stream.cli.record import RunRecord, read_record
from optix_stream.errors import CheckpointError
from optix_stream.types import PolicySnapshot


def inspect(directory: Path, as_json: bool) -> None:
    """Print the snapshots of a checkpoint directory and the settings of its latest run.

    Raises:
        CheckpointError: it holds no run, or something in it is damaged, which is printed first.
    """
    record = read_record(directory)
    registry = CheckpointRegistry(directory)
    damage = _damage(registry)
    if as_json:
        sys.stdout.write(msgspec.json.encode(_facts(registry, record, damage)).decode() + "\n")
    else:
        sys.stdout.write(_text(registry, record, damage))
    sys.stdout.flush()
    if damage:
        name, text = next(iter(damage.items()))
        raise CheckpointError(f"{counted(len(damage), 'snapshot')} in {directory} damaged, such as {name}: {text}")


def _damage(registry: CheckpointRegistry) -> dict[str, str]:
    """What is wrong, by snapshot; the others are as they were saved, to the last bit."""
    damage = {name: str(error) for name, error in registry.damaged.items()}
    names = [snapshot.snapshot_id for snapshot in registry.snapshots()]
    for name in names + [checkpoint.name for checkpoint in registry.run_checkpoints()]:
        try:
            registry.verify(name)
        except CheckpointError as error:
            damage[name] = str(error)
    return damage


def _text(registry: CheckpointRegistry, record: RunRecord, damage: Mapping[str, str]) -> str:
    rows = [_policy_row(registry, snapshot) for snapshot in registry.snapshots()]
    rows += [_run_row(registry, checkpoint) for checkpoint in registry.run_checkpoints()]
    rows += [(name, "", "", "", "", "", "") for name in registry.damaged]
    rows = [(*row[:5], "damaged" if row[0] in damage else "verified", *row[5:]) for row in rows]
    header = ("snapshot", "window", "score", "size", "saved at", "files", "", "hyperparameters")
    settings = {name: value for name, value in record.settings.items() if name != "agent"}
    return (
        f"{record.env_id} · {record.agent} · seed {record.seed} · {_moment(record.started)}\n"
        f"  settings  {pairs(settings)}\n"
        f"  agent     {pairs(record.settings.get('agent', {})) or 'defaults'}\n"
        f"  versions  {pairs(record.versions)}\n\n"
        f"{table(header, rows, numeric=(1, 2, 3))}\n"
    )


def _policy_row(registry: CheckpointRegistry, snapshot: PolicySnapshot) -> tuple[str, ...]:
    return (
        snapshot.snapshot_id,
        str(snapshot.episode_id),
        score(snapshot.eval_metrics.primary_score),
        size(_size_of(registry, snapshot.snapshot_id)),
        _moment(snapshot.timestamp),
        ", ".join(_roles(registry, snapshot)),
        pairs(snapshot.hyperparams.params),
    )


def _run_row(registry: CheckpointRegistry, checkpoint: RunCheckpoint) -> tuple[str, ...]:
    total = size(_size_of(registry, checkpoint.name))
    is_last = checkpoint == registry.run_checkpoints()[-1]
    role = "to resume from" if is_last else ""
    return (checkpoint.name, str(checkpoint.window), "", total, _moment(checkpoint.timestamp), role, "")


def _facts(registry: CheckpointRegistry, record: RunRecord, damage: Mapping[str, str]) -> dict[str, Any]:
    return {
        "checkpoint_dir": str(registry.checkpoint_dir),
        "run": record,
        "best": None if registry.best is None else registry.best.snapshot_id,
        "latest": None if registry.latest is None else registry.latest.snapshot_id,
        "snapshots": [
            {
                "snapshot": snapshot.snapshot_id,
                "window": snapshot.episode_id,
                "score": snapshot.eval_metrics.primary_score,
                "hyperparams": snapshot.hyperparams.params,
                "bytes": _size_of(registry, snapshot.snapshot_id),
                "saved_at": snapshot.timestamp,
            }
            for snapshot in registry.snapshots()
        ],
        "checkpoints": [
            {
                "checkpoint": checkpoint.name,
                "window": checkpoint.window,
                "bytes": _size_of(registry, checkpoint.name),
                "saved_at": checkpoint.timestamp,
            }
            for checkpoint in registry.run_checkpoints()
        ],
        "damaged": damage,
    }


def _roles(registry: CheckpointRegistry, snapshot: PolicySnapshot) -> list[str]:
    named = {"best": registry.best, "latest": registry.latest}
    return [role for role, other in named.items() if other is not None and other.snapshot_id == snapshot.snapshot_id]


def _size_of(registry: CheckpointRegistry, name: str) -> int:
    directory = registry.checkpoint_dir / name
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def _moment(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp).astimezone().strftime("%Y-%m-%d %H:%M:%S")
