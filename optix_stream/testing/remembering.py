"""The check that every part with a memory should pass."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from optix_stream.contracts import Stateful
from optix_stream.errors import CheckpointError
from optix_stream.state_files import encode_state, read_state_file

T = TypeVar("T", bound=Stateful)


def check_stateful(make: Callable[[], T], use: Callable[[T, int], Any], steps: int = 20) -> None:
    """Check that a part that was saved, and restored elsewhere, goes on as if nothing had happened.

    Args:
        make: a new part, configured as always.
        use: lets it work: its step number so and so, from 0. What it returns is compared by ``repr``.
        steps: how often, and after how many to save it.

    Raises:
        AssertionError: its state is no plain data, is not a copy, is not all that it remembers, or nonsense is taken
            for a state.
    """
    expected = [repr(use(part, number)) for part in [make()] for number in range(steps)]
    for stop in range(steps + 1):
        part = make()
        got = [repr(use(part, number)) for number in range(stop)]
        state = part.state_dict()
        saved = _encoded(state)
        got += [repr(use(part, number)) for number in range(stop, steps)]
        assert got == expected, f"saving it after {stop} steps changes what it does"
        assert _encoded(state) == saved, f"expected a copy, got a state that changes as it goes on after {stop} steps"
        restored = make()
        restored.load_state_dict(_read(saved))
        assert _encoded(restored.state_dict()) == saved, f"restored after {stop} steps, it has another state"
        got = [repr(use(restored, number)) for number in range(stop, steps)]
        assert got == expected[stop:], f"saved and restored after {stop} steps, it does something else"
    _check_nonsense(make())


def _check_nonsense(part: Stateful) -> None:
    before = _encoded(part.state_dict())
    for nonsense in ({}, {"nonsense": 1}):
        try:
            part.load_state_dict(nonsense)
        except CheckpointError:
            pass
        else:
            raise AssertionError(f"expected a CheckpointError for the state {nonsense}, got none")
        assert _encoded(part.state_dict()) == before, "a state that was refused has changed it"


def _encoded(state: Mapping[str, Any]) -> bytes:
    try:
        return encode_state(state)
    except CheckpointError as error:
        raise AssertionError(f"expected plain data and arrays, got {error}") from error


def _read(content: bytes) -> Mapping[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "state")
        path.write_bytes(content)
        return read_state_file(path)
