"""``run.json``: what a checkpoint directory needs besides its snapshots to rebuild the agent."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from pathlib import Path
from typing import Any

import msgspec

from optix_stream.errors import CheckpointError

_FORMAT = 1
_NAME = "run.json"
_VERSIONED = ("optix-stream", "gymnasium", "numpy", "tensorflow", "keras")


class RunRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run.

    Attributes:
        env_id: Gymnasium's name of the environment.
        agent: name of the agent.
        seed: of agent and environments.
        settings: the preset as it was used; ``settings["agent"]`` are the agent's keywords.
        versions: of what the run was made with.
        started: wall-clock seconds since the epoch.
        format: of this file.
    """

    env_id: str
    agent: str
    seed: int
    settings: dict[str, Any]
    versions: dict[str, str] = msgspec.field(default_factory=lambda: versions())
    started: float = msgspec.field(default_factory=time.time)
    format: int = _FORMAT


def write_record(directory: Path, record: RunRecord) -> None:
    """Put the record into a checkpoint directory, whole or not at all.

    Raises:
        CheckpointError: it cannot be written.
    """
    path = directory / _NAME
    part = path.with_name(f".part-{_NAME}")
    try:
        part.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
        part.replace(path)
    except (OSError, TypeError) as error:
        raise CheckpointError(f"cannot write {path}: {error}") from error


def has_record(directory: Path) -> bool:
    """Whether there is one."""
    return (directory / _NAME).exists()


def read_record(directory: Path) -> RunRecord:
    """The record of a checkpoint directory.

    Raises:
        CheckpointError: no such directory, no run in it, or a damaged file.
    """
    path = directory / _NAME
    if not directory.is_dir():
        raise CheckpointError(f"no checkpoint directory {directory}")
    if not path.exists():
        raise CheckpointError(f"{directory} holds no run of optix-stream train: {_NAME} is missing")
    try:
        record = msgspec.json.decode(path.read_bytes(), type=RunRecord)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if record.format != _FORMAT:
        raise CheckpointError(f"{path}: expected format {_FORMAT}, got {record.format}")
    if not isinstance(record.settings.get("agent", {}), dict):
        raise CheckpointError(f"{path}: expected settings.agent to be an object")
    return record


def versions() -> dict[str, str]:
    """Of Python and of the packages that a run depends on, those that are installed."""
    found = {"python": platform.python_version()}
    for name in _VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
