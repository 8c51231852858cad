"""An agent's state on disk: arrays beside a small JSON file, checked before anything changes.

Layout of a checkpoint directory::

    arrays.npz    parameters, normalisers, traces; read without unpickling anything
    state.json    format, counters, streams, random generator
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from optix_stream.errors import CheckpointError
from optix_stream.types import Array

_FORMAT = 1
_ARRAYS = "arrays.npz"
_STATE = "state.json"
_SUFFIX = ".npy"

Specs: TypeAlias = Mapping[str, tuple[tuple[int, ...], Any]]
"""Shape and dtype of each array, by name."""


def write_state(path: str, arrays: Mapping[str, Array], state: Mapping[str, Any]) -> None:
    """Write both files into the new directory ``path``.

    Raises:
        CheckpointError: the disk refused, or ``state`` is not JSON.
    """
    folder = Path(path)
    try:
        text = json.dumps({"format": _FORMAT, **state}, allow_nan=False)
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(folder / _ARRAYS, "w") as archive:
            for name, value in arrays.items():
                with archive.open(name + _SUFFIX, "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, value, version=(1, 0), allow_pickle=False)
        (folder / _STATE).write_text(text)
    except (OSError, TypeError, ValueError) as error:
        raise CheckpointError(f"cannot save weights in {folder}: {error}") from error


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
        state = json.loads((folder / _STATE).read_text())
        if not isinstance(state, dict) or state.get("format") != _FORMAT:
            got = state.get("format") if isinstance(state, dict) else state
            raise CheckpointError(f"{folder / _STATE}: expected format {_FORMAT}, got {got!r}")
        with zipfile.ZipFile(folder / _ARRAYS) as archive:
            return _read_arrays(archive, expect(state), folder), state
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        EOFError,
        RecursionError,
        NotImplementedError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise CheckpointError(f"cannot read weights in {folder}: {error!r}") from error


def _read_arrays(archive: zipfile.ZipFile, expected: Specs, folder: Path) -> dict[str, Array]:
    names = {name.removesuffix(_SUFFIX) for name in archive.namelist()}
    if names != expected.keys():
        missing, surplus = sorted(expected.keys() - names), sorted(names - expected.keys())
        raise CheckpointError(f"{folder}: expected arrays {missing} are missing, got {surplus} that do not belong")
    arrays: dict[str, Array] = {}
    for name, (shape, dtype) in expected.items():
        # The header first: what is not expected is not read, whatever its size.
        with archive.open(name + _SUFFIX) as file:
            version = np.lib.format.read_magic(file)
            if version != (1, 0):
                raise CheckpointError(f"{folder}: {name}: expected array format 1.0, got {version}")
            got_shape, _, got_dtype = np.lib.format.read_array_header_1_0(file)
        if got_shape != shape or got_dtype != dtype:
            raise CheckpointError(
                f"{folder}: {name}: expected {np.dtype(dtype)}{list(shape)}, got {got_dtype}{list(got_shape)}"
            )
        with archive.open(name + _SUFFIX) as file:
            arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
        if not np.isfinite(arrays[name]).all():
            raise CheckpointError(f"{folder}: {name}: expected finite numbers")
    return arrays
