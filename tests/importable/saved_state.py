"""What an agent or a replay buffer has saved in a directory: to look at it, to compare it, and to damage it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.numpy import save

from optix_stream.agents.state import write_arrays
from optix_stream.types import Array

FILE = "state.safetensors"


def read_saved(folder: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """The arrays, and everything else."""
    with safe_open(folder / FILE, framework="numpy") as file:
        state: dict[str, Any] = json.loads(file.metadata()["state"])
        return {name: file.get_tensor(name) for name in file.keys()}, state  # noqa: SIM118  # It is no mapping.


def what_was_learned(folder: Path) -> tuple[bytes, dict[str, Any]]:
    """Both to compare, but for the number of the policy, which goes up with every loading."""
    arrays, state = read_saved(folder)
    del state["version"]
    return save(arrays), state


def last_checkpoint(directory: Path) -> tuple[bytes, dict[str, Any]]:
    """What was learned when a run was last saved."""
    return what_was_learned(max(directory.glob("checkpoint-*")) / "weights")


def write_saved(folder: Path, arrays: Mapping[str, Array], text: str | None) -> None:
    """Other arrays and another text in their place; None: no text at all."""
    write_arrays(folder / FILE, arrays, None if text is None else {"state": text})


def with_text(text: str | None) -> Callable[[Path], None]:
    """What puts another text in the place of the state."""

    def damage(folder: Path) -> None:
        write_saved(folder, read_saved(folder)[0], text)

    return damage


def with_state(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """What changes the state."""

    def damage(folder: Path) -> None:
        arrays, state = read_saved(folder)
        change(state)
        write_saved(folder, arrays, json.dumps(state))

    return damage


def with_arrays(change: Callable[[dict[str, Array]], object]) -> Callable[[Path], None]:
    """What changes the arrays."""

    def damage(folder: Path) -> None:
        arrays, state = read_saved(folder)
        change(arrays)
        write_saved(folder, arrays, json.dumps(state))

    return damage


def with_content(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """What changes the bytes of the file."""

    def damage(folder: Path) -> None:
        (folder / FILE).write_bytes(change((folder / FILE).read_bytes()))

    return damage


def without_file(folder: Path) -> None:
    """Remove it."""
    (folder / FILE).unlink()
