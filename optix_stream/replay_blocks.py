"""A replay buffer's columns on disk, in blocks of rows: only those that have changed are written again.

The others become hard links to the files of the snapshot before, so that each snapshot is whole by itself, and a file
goes when the last snapshot that has it does. Where the file system has no such links, or the earlier file is gone, the
block is written.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
from safetensors import SafetensorError

from optix_stream.agents.state import read_arrays, write_arrays
from optix_stream.errors import CheckpointError
from optix_stream.types import Array

_FOLDER = "blocks"


class _File(msgspec.Struct, frozen=True):
    """Where a block was last written, and what tells that it still is there."""

    path: Path
    rows: int
    size: int
    inode: int
    modified_ns: int

    @classmethod
    def at(cls, path: Path, rows: int) -> _File:
        status = path.stat()
        return cls(path, rows, status.st_size, status.st_ino, status.st_mtime_ns)


class ReplayBlocks:
    """Writes and reads the first rows of columns, and remembers which blocks are as they were last written.

    Args:
        columns: by name, of equal length; whoever changes them says so by ``touch`` or ``forget``.
        block_bytes: of a block, about.

    Attributes:
        rows: of a block.
    """

    def __init__(self, columns: Mapping[str, Array], block_bytes: int = 4 << 20) -> None:
        self._columns = columns
        capacity = min(map(len, columns.values()))
        row_bytes = sum(column.nbytes for column in columns.values()) // capacity
        self.rows = max(1, min(capacity, block_bytes // row_bytes))
        self._written: dict[int, _File] = {}

    def touch(self, places: Array) -> None:
        """These rows have changed."""
        if self._written:
            for block in set((places // self.rows).tolist()):
                self._written.pop(block, None)

    def forget(self) -> None:
        """Any row may have changed."""
        self._written.clear()

    def save(self, folder: Path, size: int) -> None:
        """Have the first ``size`` rows in an existing directory.

        Raises:
            CheckpointError: they could not be written.
        """
        try:
            (folder / _FOLDER).mkdir()
            for block, start in enumerate(range(0, size, self.rows)):
                path = folder / _FOLDER / f"{block:06d}.safetensors"
                stop = min(start + self.rows, size)
                if not self._link(block, stop - start, path):
                    write_arrays(path, {name: column[start:stop] for name, column in self._columns.items()})
                self._written[block] = _File.at(path, stop - start)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot save what is remembered in {folder}: {error}") from error

    def read(self, folder: Path, size: int, rows: int) -> dict[str, Array]:
        """The first ``size`` rows, as they were saved in blocks of ``rows``.

        Raises:
            CheckpointError: they are missing, damaged, or of other columns.
        """
        arrays = {name: np.empty((size, *column.shape[1:]), column.dtype) for name, column in self._columns.items()}
        for block, start in enumerate(range(0, size, rows)):
            count = min(rows, size - start)
            specs = {name: ((count, *column.shape[1:]), column.dtype) for name, column in self._columns.items()}
            for name, part in read_arrays(folder / _FOLDER / f"{block:06d}.safetensors", specs).items():
                arrays[name][start : start + count] = part
        return arrays

    def _link(self, block: int, rows: int, path: Path) -> bool:
        written = self._written.get(block)
        if written is None:
            return False
        try:
            if _File.at(written.path, rows) != written:
                return False
            os.link(written.path, path)
        except OSError:
            # The snapshot before is gone, or there are no links here. Then it is written; if that fails, it is told.
            return False
        return True
