"""Arrays in memory that two processes share: one publishes, the others copy, and nobody waits.

Two slots, each guarded by a sequence number (a seqlock: odd while the slot is being written). The
writer fills the slot that is not in force and then puts it in force, so a writer that dies half-way
leaves the other one whole. A reader copies the slot in force and copies again if its number has moved
or its checksum is wrong, which also holds where processors may reorder writes.

Layout, from ``offset``: a header of eight words (slot in force, then sequence number, version and
checksum of either slot), then the slots.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import zlib
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from optix_stream.types import Array

_ALIGNMENT = 64
_HEADER_WORDS = 8
_IN_FORCE = 0
_SEQUENCE, _VERSION, _CHECKSUM = 1, 3, 5


class ArraySpec(msgspec.Struct, frozen=True):
    """Where an array is in a slot.

    Attributes:
        dtype: as numpy writes it.
        shape: of the array.
        offset: bytes from the slot's start.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int


class WeightsLayout(msgspec.Struct, frozen=True):
    """What both sides must know.

    Attributes:
        offset: bytes from the memory's start, a multiple of a page.
        slot_size: bytes of a slot.
        arrays: where each array is.
    """

    offset: int
    slot_size: int
    arrays: dict[str, ArraySpec]

    @property
    def end(self) -> int:
        """Bytes of memory that it takes, from the memory's start."""
        return self.offset + _ALIGNMENT * _HEADER_WORDS + 2 * self.slot_size


def create_memory() -> int:
    """A file descriptor of memory without a name: it is gone when the last process that has it is.

    Its size is 0 until ``SharedWeights.create`` needs some.
    """
    if hasattr(os, "memfd_create"):
        return os.memfd_create("optix-stream-weights")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class SharedWeights:
    """One writer's or one reader's view of the memory.

    Args:
        memory: file descriptor; may be closed afterwards.
        layout: what is where.
    """

    def __init__(self, memory: int, layout: WeightsLayout) -> None:
        self.layout = layout
        self._map = mmap.mmap(memory, layout.end - layout.offset, offset=layout.offset)
        buffer = np.frombuffer(self._map, np.uint8)
        start = _ALIGNMENT * _HEADER_WORDS
        self._words: Array = buffer[: 8 * _HEADER_WORDS].view(np.uint64)
        self._slots: list[Array] = [
            buffer[start + slot * layout.slot_size : start + (slot + 1) * layout.slot_size] for slot in (0, 1)
        ]

    @classmethod
    def create(cls, memory: int, arrays: Mapping[str, Array]) -> SharedWeights:
        """The writer's view, behind everything that is in ``memory`` already, with ``arrays`` published."""
        specs, size = {}, 0
        for name, array in arrays.items():
            specs[name] = ArraySpec(array.dtype.str, array.shape, size)
            size += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
        page = mmap.ALLOCATIONGRANULARITY
        layout = WeightsLayout(-(-os.fstat(memory).st_size // page) * page, size, specs)
        os.ftruncate(memory, layout.end)
        weights = cls(memory, layout)
        weights.write(arrays)
        return weights

    def fits(self, arrays: Mapping[str, Array]) -> bool:
        """Whether these can be written."""
        specs = self.layout.arrays
        return arrays.keys() == specs.keys() and all(
            array.dtype.str == specs[name].dtype and array.shape == specs[name].shape for name, array in arrays.items()
        )

    @property
    def version(self) -> int:
        """How often something was published."""
        return int(self._words[_VERSION + int(self._words[_IN_FORCE])])

    def write(self, arrays: Mapping[str, Array]) -> None:
        """Publish, as the only writer; ``fits(arrays)`` must hold."""
        words = self._words
        slot = 1 - int(words[_IN_FORCE])
        version = self.version + 1
        # Odd already where a writer died at it.
        sequence = int(words[_SEQUENCE + slot]) | 1
        words[_SEQUENCE + slot] = sequence
        target = self._slots[slot]
        for name, spec in self.layout.arrays.items():
            _view(target, spec)[...] = arrays[name]
        words[_CHECKSUM + slot] = zlib.crc32(target.data)
        words[_VERSION + slot] = version
        words[_SEQUENCE + slot] = sequence + 1
        words[_IN_FORCE] = slot

    def read(self) -> tuple[int, dict[str, Array]]:
        """The version in force and copies of its arrays, all of the same moment."""
        words = self._words
        while True:
            slot = int(words[_IN_FORCE])
            sequence = int(words[_SEQUENCE + slot])
            if sequence % 2:
                continue
            version, checksum = int(words[_VERSION + slot]), int(words[_CHECKSUM + slot])
            copied = self._slots[slot].copy()
            if int(words[_SEQUENCE + slot]) == sequence and zlib.crc32(copied.data) == checksum:
                return version, {name: _view(copied, spec) for name, spec in self.layout.arrays.items()}

    def close(self) -> None:
        """Let go of the memory."""
        del self._words, self._slots
        self._map.close()


def _view(slot: Array, spec: ArraySpec) -> Any:
    dtype = np.dtype(spec.dtype)
    size = int(np.prod(spec.shape, dtype=np.int64)) * dtype.itemsize
    return slot[spec.offset : spec.offset + size].view(dtype).reshape(spec.shape)
