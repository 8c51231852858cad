"""An agent's state on disk: one file of named arrays, checked before anything changes.

Layout of a checkpoint directory::

    state.safetensors    arrays: parameters, optimizer slots, normalisers, traces
                         metadata: format, counters, streams, random generators, as one JSON text

Architecture is code and stays in the user's hands; nothing here can run code from a file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from optix_stream.errors import CheckpointError
from optix_stream.types import Array

_FORMAT = 3
_FILE = "state.safetensors"
_METADATA = "state"

Specs: TypeAlias = Mapping[str, tuple[tuple[int, ...], Any]]
"""Shape and dtype of each array, by name."""


def write_state(path: str, arrays: Mapping[str, Array], state: Mapping[str, Any]) -> None:
    """Write the file into the new directory ``path``.

    Args:
        path: the directory, which is made.
        arrays: by name, of numbers of any shape.
        state: everything else, as JSON; its format is added.

    Raises:
        CheckpointError: the disk refused, or ``state`` is not JSON.
    """
    folder = Path(path)
    try:
        text = json.dumps({"format": _FORMAT, **state}, allow_nan=False)
        folder.mkdir(parents=True, exist_ok=True)
        write_arrays(folder / _FILE, arrays, {_METADATA: text})
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise CheckpointError(f"cannot save weights in {folder}: {error}") from error


def write_arrays(path: Path, arrays: Mapping[str, Array], metadata: dict[str, str] | None = None) -> None:
    """Write arrays into one file, and texts before them.

    Raises:
        OSError: the disk refused.
        SafetensorError: likewise, or a kind of array that cannot be written.
    """
    # Only C-contiguous arrays are written as they look.
    save_file(
        {name: np.ascontiguousarray(value).reshape(value.shape) for name, value in arrays.items()}, path, metadata
    )


def read_arrays(path: Path, expected: Specs) -> dict[str, Array]:
    """Read what ``write_arrays`` wrote.

    Raises:
        CheckpointError: missing, damaged, or not of the expected names, shapes and dtypes.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return _read_arrays(file, expected, path)
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error!r}") from error


def read_state(path: str, expect: Callable[[dict[str, Any]], Specs]) -> tuple[dict[str, Array], dict[str, Any]]:
    """Read what ``write_state`` wrote.

    Args:
        path: the directory.
        expect: the arrays that must be there, by what ``state`` says. What it raises where it cannot
            make sense of ``state`` (KeyError, TypeError, ValueError) is a damaged checkpoint.

    Raises:
        CheckpointError: missing, damaged, or not of the expected names, shapes and dtypes.
    """
    folder = Path(path)
    try:
        with safe_open(folder / _FILE, framework="numpy") as file:
            # What has no such text is of no format.
            state = json.loads((file.metadata() or {}).get(_METADATA, "null"))
            if not isinstance(state, dict) or state.get("format") != _FORMAT:
                got = state.get("format") if isinstance(state, dict) else state
                raise CheckpointError(f"{folder / _FILE}: expected format {_FORMAT}, got {got!r}")
            return _read_arrays(file, expect(state), folder), state
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"cannot read weights in {folder}: {error!r}") from error


def _read_arrays(file: Any, expected: Specs, folder: Path) -> dict[str, Array]:
    names = set(file.keys())
    if names != expected.keys():
        missing, surplus = sorted(expected.keys() - names), sorted(names - expected.keys())
        raise CheckpointError(f"{folder}: expected arrays {missing} are missing, got {surplus} that do not belong")
    arrays: dict[str, Array] = {}
    for name, (shape, dtype) in expected.items():
        # The header first: what is not expected is not read, whatever its size.
        view = file.get_slice(name)
        wanted, got = f"{_kind(dtype)}{list(shape)}", f"{view.get_dtype()}{list(view.get_shape())}"
        if got != wanted:
            raise CheckpointError(f"{folder}: {name}: expected {wanted}, got {got}")
        arrays[name] = file.get_tensor(name)
        if not np.isfinite(arrays[name]).all():
            raise CheckpointError(f"{folder}: {name}: expected finite numbers")
    return arrays


def _kind(dtype: Any) -> str:
    """A dtype as safetensors calls it."""
    dtype = np.dtype(dtype)
    # The second is none of numpy's own, which therefore knows no kind of it.
    special = {"bool": "BOOL", "bfloat16": "BF16"}
    return special.get(dtype.name, f"{dtype.kind.upper()}{8 * dtype.itemsize}")
