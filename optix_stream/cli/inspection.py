"""``optix-stream inspect``: what a checkpoint directory holds."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from optix_stream.checkpoints import CheckpointRegistry
from optix_stream.cli.formatting import pairs, score, size, table
from optix_stream.cli.record import RunRecord, read_record
from optix_stream.types import PolicySnapshot


def inspect(directory: Path, as_json: bool) -> None:
    """Print the snapshots of a checkpoint directory and the settings of its latest run.

    Raises:
        CheckpointError: it holds no run, or something in it is damaged.
    """
    record = read_record(directory)
    registry = CheckpointRegistry(directory)
    if as_json:
        sys.stdout.write(msgspec.json.encode(_facts(registry, record)).decode() + "\n")
        return
    rows = [_row(registry, snapshot) for snapshot in registry.snapshots()]
    header = ("snapshot", "window", "score", "size", "saved at", "", "hyperparameters")
    settings = {name: value for name, value in record.settings.items() if name != "agent"}
    sys.stdout.write(
        f"{record.env_id} · {record.agent} · seed {record.seed} · {_moment(record.started)}\n"
        f"  settings  {pairs(settings)}\n"
        f"  agent     {pairs(record.settings.get('agent', {})) or 'defaults'}\n"
        f"  versions  {pairs(record.versions)}\n\n"
        f"{table(header, rows, numeric=(1, 2, 3))}\n"
    )


def _row(registry: CheckpointRegistry, snapshot: PolicySnapshot) -> tuple[str, ...]:
    return (
        snapshot.snapshot_id,
        str(snapshot.episode_id),
        score(snapshot.eval_metrics.primary_score),
        size(_size_of(registry, snapshot)),
        _moment(snapshot.timestamp),
        ", ".join(_roles(registry, snapshot)),
        pairs(snapshot.hyperparams.params),
    )


def _facts(registry: CheckpointRegistry, record: RunRecord) -> dict[str, Any]:
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
                "bytes": _size_of(registry, snapshot),
                "saved_at": snapshot.timestamp,
            }
            for snapshot in registry.snapshots()
        ],
    }


def _roles(registry: CheckpointRegistry, snapshot: PolicySnapshot) -> list[str]:
    named = {"best": registry.best, "latest": registry.latest}
    return [role for role, other in named.items() if other is not None and other.snapshot_id == snapshot.snapshot_id]


def _size_of(registry: CheckpointRegistry, snapshot: PolicySnapshot) -> int:
    directory = registry.checkpoint_dir / snapshot.snapshot_id
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def _moment(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp).astimezone().strftime("%Y-%m-%d %H:%M:%S")
