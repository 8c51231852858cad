"""An agent's state on disk: named tensors beside a small JSON file, checked before anything changes.

Layout of a checkpoint directory::

    tensors.safetensors    every variable and every normaliser
    state.json             format, counters, random generators

Architecture is code and stays in the user's hands; nothing here can run code from a file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from optix_stream.errors import CheckpointError
from optix_stream.types import Array

_FORMAT = 1
_TENSORS = "tensors.safetensors"
_STATE = "state.json"


def write_state(path: str, tensors: Mapping[str, Array], state: Mapping[str, Any]) -> None:
    """Write both files into the new directory ``path``.

    Raises:
        CheckpointError: the disk refused, or ``state`` is not JSON.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Only C-contiguous arrays are written as they look.
        save_file(
            {name: np.ascontiguousarray(value).reshape(value.shape) for name, value in tensors.items()},
            folder / _TENSORS,
        )
        (folder / _STATE).write_text(json.dumps({"format": _FORMAT, **state}, allow_nan=False))
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise CheckpointError(f"cannot save weights in {folder}: {error}") from error


def read_state(path: str, expected: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Any]]:
    """Read what ``write_state`` wrote.

    Args:
        path: the directory.
        expected: tensors of the names, shapes and dtypes that must be there.

    Raises:
        CheckpointError: missing, damaged, or not of the expected names, shapes and dtypes.
    """
    folder = Path(path)
    try:
        tensors: dict[str, Array] = load_file(folder / _TENSORS)
        state = json.loads((folder / _STATE).read_text())
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"cannot read weights in {folder}: {error}") from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        got = state.get("format") if isinstance(state, dict) else state
        raise CheckpointError(f"{folder / _STATE}: expected format {_FORMAT}, got {got!r}")
    if tensors.keys() != expected.keys():
        missing, surplus = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
        raise CheckpointError(f"{folder}: expected tensors {missing} are missing, got {surplus} that do not belong")
    for name, value in expected.items():
        got = tensors[name]
        if got.shape != value.shape or got.dtype != value.dtype:
            raise CheckpointError(
                f"{folder}: {name}: expected {value.dtype}{list(value.shape)}, got {got.dtype}{list(got.shape)}"
            )
    return tensors, state
