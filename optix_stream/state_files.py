"""Plain data and arrays in one safetensors file: read without running anything, and exactly as they were.

The tensors are the arrays; everything else is one JSON text in the file's metadata, with a mark where each array was.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from optix_stream.errors import CheckpointError
from optix_stream.types import Array

_ARRAY, _NUMBER = "$array", "$number"
_METADATA = "state"


def encode_state(state: Mapping[str, Any]) -> bytes:
    """The content of the file.

    Args:
        state: None, booleans, integers of any size, floats, strings, numeric arrays, and lists and dicts of these.

    Raises:
        CheckpointError: anything else; the text says where it is.
    """
    arrays: dict[str, Array] = {}
    text = json.dumps(_without_arrays(state, arrays, "state"), allow_nan=False)
    try:
        return save(arrays, {_METADATA: text})
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"state: {error}") from error


def read_state_file(path: Path) -> dict[str, Any]:
    """What was encoded into the file.

    Raises:
        CheckpointError: it is missing, damaged, or holds something else.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(_METADATA)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # It is no mapping.
        state = _with_arrays(json.loads(text if text is not None else "null"), arrays)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"cannot read {path}: {error!r}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: expected the state of a run, got {type(state).__name__}")
    return state


@contextmanager
def state_of(what: str) -> Iterator[None]:
    """For the length of reading a state: what does not make sense is no state of ``what``.

    Raises:
        CheckpointError: in place of what was raised.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, msgspec.MsgspecError) as error:
        raise CheckpointError(f"expected the state of {what}, got another: {error!r}") from error


def _without_arrays(value: Any, arrays: dict[str, Array], where: str) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf" or value.dtype.itemsize > 8:
            raise CheckpointError(f"{where}: expected an array of numbers, got one of {value.dtype}")
        arrays[name := str(len(arrays))] = np.ascontiguousarray(value).reshape(value.shape)
        return {_ARRAY: name}
    if isinstance(value, Mapping):
        if any(not isinstance(key, str) or key in (_ARRAY, _NUMBER) for key in value):
            raise CheckpointError(f"{where}: expected names as keys, got {list(value)}")
        return {key: _without_arrays(part, arrays, f"{where}[{key!r}]") for key, part in value.items()}
    if isinstance(value, list):
        return [_without_arrays(part, arrays, f"{where}[{index}]") for index, part in enumerate(value)]
    if isinstance(value, np.generic) or not isinstance(value, int | float):
        raise CheckpointError(f"{where}: expected plain data or an array, got {type(value).__name__}")
    # JSON has neither NaN nor infinity.
    return {_NUMBER: str(value)} if isinstance(value, float) and not math.isfinite(value) else value


def _with_arrays(value: Any, arrays: Mapping[str, Array]) -> Any:
    if isinstance(value, list):
        return [_with_arrays(part, arrays) for part in value]
    if isinstance(value, dict):
        if value.keys() == {_ARRAY}:
            return arrays[value[_ARRAY]]
        if value.keys() == {_NUMBER}:
            return float(value[_NUMBER])
        return {key: _with_arrays(part, arrays) for key, part in value.items()}
    return value
