"""The journal of one run: what is in its file, what of it has been learned from, and what may go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from optix_stream.contracts import Stateful, StreamItem
from optix_stream.errors import CheckpointError, ConfigurationError

if TYPE_CHECKING:
    from optix_stream.journal.store import JournalBatch

_ENOUGH_TO_READ = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class JournalOptions:
    """How the journal of a live run is kept.

    Attributes:
        max_bytes: that it may hold. A checkpoint is due when it is half full. When it is full, because no checkpoint
            could be written, what comes is learned from all the same, and told: a kill would lose it.
    """

    max_bytes: int = 2**30

    def __post_init__(self) -> None:
        if self.max_bytes < 1:
            raise ConfigurationError(f"max_bytes: expected at least 1 byte, got {self.max_bytes}")


class Journal(Stateful):
    """Keeps accepted transitions on disk until no checkpoint needs them any more; all work is done in worker threads.

    Args:
        path: of its file.
        options: how it is kept.

    Attributes:
        taken: the position up to which everything has gone to the assembler, and so is part of a checkpoint.
        clock_offset: seconds from the clock to the time of the run, which goes on where the last process ended.
    """

    def __init__(self, path: Path, options: JournalOptions | None = None) -> None:
        # SQLite is loaded by those who keep a journal.
        from optix_stream.journal.store import JournalStore

        self.taken = 0
        self.clock_offset = 0.0
        self._options = options if options is not None else JournalOptions()
        self._store = JournalStore(path)
        self._last = self._last_earlier = 0
        self._last_time: float | None = None
        self._positions: dict[str, int] = {}

    async def open(self, *, keep: bool) -> None:
        """Begin.

        Args:
            keep: go on with what an earlier run has accepted, else forget it.

        Raises:
            CheckpointError: the file cannot be used.
        """
        await anyio.to_thread.run_sync(self._open, keep)

    async def close(self) -> None:
        """End; the file stays."""
        await anyio.to_thread.run_sync(self._store.close)

    # -- accepting ------------------------------------------------------------------------------

    def next_position(self) -> int:
        """That of the next batch."""
        self._last += 1
        return self._last

    async def append(self, position: int, items: Sequence[StreamItem], now: float) -> None:
        """Accept a batch: it is on the disk when this returns. A call that has begun is always finished.

        Raises:
            CheckpointError: it could not be written, or there is no room; a kill would lose the batch.
        """
        limit = self._options.max_bytes
        if self._store.size >= limit:
            raise CheckpointError(f"journal {self._store.path} is full: no checkpoint has made room in {limit} bytes")
        arguments = (position, items, now + self.clock_offset, self.clock_offset)
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._store.append, *arguments)

    @property
    def is_filling(self) -> bool:
        """Whether it is time for a checkpoint, which makes room."""
        return 2 * self._store.size >= self._options.max_bytes

    # -- going on -------------------------------------------------------------------------------

    def set_time(self, now: float, since: float | None) -> None:
        """Let the time of the run go on where it stopped.

        Args:
            now: on the clock.
            since: the time of the run at its last checkpoint; None: there was none.
        """
        known = [time for time in (since, self._last_time) if time is not None]
        self.clock_offset = max(known) - now if known else 0.0

    async def count_earlier(self) -> int:
        """Transitions that were accepted before this journal was opened, and not taken."""
        return await anyio.to_thread.run_sync(self._store.count, self.taken, self._last_earlier)

    async def read_earlier(self) -> list[JournalBatch]:
        """The next of them; none where there are no more."""
        return await anyio.to_thread.run_sync(self._store.read, self.taken, self._last_earlier, _ENOUGH_TO_READ)

    # -- checkpoints ----------------------------------------------------------------------------

    def remember(self, checkpoint: str) -> None:
        """What has been taken by now is part of that checkpoint."""
        self._positions[checkpoint] = self.taken

    async def trim(self, kept: Iterable[str]) -> None:
        """Remove what is part of every checkpoint that is kept.

        Args:
            kept: their names. While there is one that an earlier process wrote, everything stays.

        Raises:
            CheckpointError: that failed.
        """
        names = set(kept)
        self._positions = {name: position for name, position in self._positions.items() if name in names}
        if names and names == self._positions.keys():
            await anyio.to_thread.run_sync(self._store.trim, min(self._positions.values()))

    def state_dict(self) -> Mapping[str, Any]:
        return {"taken": self.taken}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.taken = int(state["taken"])

    def _open(self, keep: bool) -> None:
        store = self._store
        store.open()
        if not keep:
            store.trim(store.last()[0])
        last, self._last_time = store.last()
        self.taken = self.taken if keep else last
        self._last = self._last_earlier = max(last, self.taken)
