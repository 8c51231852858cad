"""What a snapshot says of itself: one file, hashed as a whole, written last."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from optix_stream.checkpoints.files import SavedFile, open_plain, replace_file
from optix_stream.errors import CheckpointError

MANIFEST = "manifest.json"
FORMAT = 2
_LARGEST = 16 << 20


class SavedScore(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The score that made a policy worth saving.

    Attributes:
        primary_score: finite.
        basis: what it measures.
        metrics: everything else; JSON has neither NaN nor infinity, so both are null.
        evidence: why it counts, in words.
    """

    primary_score: float
    basis: str
    metrics: dict[str, float | None]
    evidence: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A snapshot.

    Attributes:
        name: of the snapshot and its directory.
        serial: goes up with each snapshot of a directory, of whatever kind.
        run: number of the run in this directory.
        epoch: of the writer, which goes up with each one that takes the directory.
        window: after which it was saved.
        timestamp: wall-clock seconds since the epoch.
        score: of a policy; None where it is the state of a run.
        hyperparams: in force.
        hyperparams_window: at which they were set.
        best: name of the run's best policy, this one included.
        files: all others in the directory.
    """

    name: str
    serial: int
    run: int
    epoch: int
    window: int
    timestamp: float
    score: SavedScore | None
    hyperparams: dict[str, Any]
    hyperparams_window: int
    best: str | None
    files: list[SavedFile]


class _Sealed(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    sha256: str
    snapshot: msgspec.Raw


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Put it in place: from here on the snapshot exists."""
    replace_file(folder / MANIFEST, encode_manifest(manifest))


def encode_manifest(manifest: Manifest) -> bytes:
    """The content of the file.

    Raises:
        CheckpointError: hyperparameters that JSON cannot hold.
    """
    try:
        json.dumps(manifest.hyperparams, allow_nan=False, default=_plain)  # Else NaN would be written, as null.
        content = msgspec.json.encode(manifest, enc_hook=_plain)
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"hyperparams: expected what JSON can hold, got {manifest.hyperparams}: {error}"
        ) from error
    return msgspec.json.encode(_Sealed(FORMAT, hashlib.sha256(content).hexdigest(), msgspec.Raw(content))) + b"\n"


def _plain(value: object) -> object:
    """A number of numpy's as one of Python's."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no such thing")


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a snapshot; None where there is none, so that the snapshot was never finished.

    Raises:
        CheckpointError: it is damaged, or of another snapshot.
    """
    path = folder / MANIFEST
    try:
        with open_plain(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > _LARGEST:
                raise CheckpointError(f"{path}: expected at most {_LARGEST} bytes, got {size}")
            content = file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    try:
        manifest = decode_manifest(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged: {error}") from error
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if manifest.name != folder.name:
        raise CheckpointError(f"{path}: expected the manifest of {folder.name}, got that of {manifest.name!r}")
    return manifest


def decode_manifest(content: bytes) -> Manifest:
    """What ``encode_manifest`` was given."""
    sealed = msgspec.json.decode(content, type=_Sealed)
    if sealed.format != FORMAT:
        raise CheckpointError(f"expected format {FORMAT}, got {sealed.format}")
    got = hashlib.sha256(sealed.snapshot).hexdigest()
    if got != sealed.sha256:
        raise CheckpointError(f"damaged: expected SHA-256 {sealed.sha256}, got {got}")
    return msgspec.json.decode(sealed.snapshot, type=Manifest)
