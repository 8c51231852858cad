"""The journal's file: batches of stream items in SQLite, numbered in order. Plain and blocking.

Each batch is one row of one transaction, synced before ``append`` returns: it is in the file, whole, or it is not. The
items are data (see ``wire``), and each row has a checksum, which SQLite's own pages have not.
"""

from __future__ import annotations

import sqlite3
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from optix_stream.batching import count_transitions
from optix_stream.contracts import StreamItem
from optix_stream.errors import CheckpointError, ConfigurationError, TransitionMismatchError
from optix_stream.wire import decode_items, encode_items

_APPLICATION, _FORMAT = 0x6F707478, 1
_SCHEMA = f"""
BEGIN;
CREATE TABLE batches (
    position INTEGER PRIMARY KEY AUTOINCREMENT,  -- The highest is remembered when its row is gone.
    transitions INTEGER NOT NULL,
    time REAL NOT NULL,
    clock_offset REAL NOT NULL,
    checksum INTEGER NOT NULL,
    items BLOB NOT NULL
);
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_FORMAT};
COMMIT;
"""
_FACTS = struct.Struct("<qqdd")
_ROW_BYTES = 64
"""About what SQLite needs for a row besides its items."""
_SIZE = f"SELECT TOTAL(LENGTH(items) + {_ROW_BYTES}) FROM batches"  # noqa: S608  # A constant of this module.


class JournalBatch(msgspec.Struct, frozen=True, eq=False):
    """Items that were accepted together.

    Attributes:
        position: its number; higher than that of all before it.
        transitions: how many transitions it holds.
        time: seconds of the run, when it was accepted.
        clock_offset: from the clock that the items' times are of to the time of the run, seconds.
        items: what was accepted, transitions in batches; None where the row is damaged.
    """

    position: int
    transitions: int
    time: float
    clock_offset: float
    items: list[StreamItem] | None


class JournalStore:
    """Keeps batches until they are trimmed; may be called from any thread.

    Args:
        path: of the file, which is made if it does not exist; SQLite keeps another one beside it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()
        self.size = 0
        """Bytes that the batches need, about."""

    def open(self) -> None:
        """Make the file, or find out what is in it.

        Raises:
            CheckpointError: it cannot be made or read, another process has it, or it is no journal.
        """
        with self._telling("open"):
            self._connect()

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._disconnect()

    def append(self, position: int, items: Sequence[StreamItem], time: float, clock_offset: float) -> None:
        """Add a batch; it is on the disk when this returns.

        Args:
            position: higher than all before it.
            items: transitions, batches and events, in order; what cannot travel is left out.
            time: seconds of the run.
            clock_offset: see ``JournalBatch``.

        Raises:
            CheckpointError: it could not be written.
        """
        data, transitions = _encode(items)
        checksum = _checksum(position, transitions, time, clock_offset, data)
        with self._telling("write to"):
            connection = self._use()
            try:
                connection.execute(
                    "INSERT INTO batches (position, transitions, time, clock_offset, checksum, items) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    (position, transitions, time, clock_offset, checksum, data),
                )
            except sqlite3.Error:
                # What a failed sync has or has not written, this descriptor can no longer say.
                self._disconnect()
                raise
            self.size += len(data) + _ROW_BYTES

    def read(self, after: int, last: int, at_least: int) -> list[JournalBatch]:
        """The batches after a position, oldest first, until they hold enough transitions; none where there are none.

        Args:
            after: the position.
            last: the highest position to be read.
            at_least: how many transitions are enough.

        Raises:
            CheckpointError: the file cannot be read.
        """
        found: list[JournalBatch] = []
        count = 0
        with (
            self._telling("read"),
            closing(
                self._use().execute(
                    "SELECT position, transitions, time, clock_offset, checksum, items FROM batches "
                    "WHERE position > ? AND position <= ? ORDER BY position",
                    (after, last),
                )
            ) as rows,
        ):
            for position, transitions, time, clock_offset, checksum, data in rows:
                is_whole = checksum == _checksum(position, transitions, time, clock_offset, data)
                items = _decode(data) if is_whole else None
                found.append(JournalBatch(position, transitions, time, clock_offset, items))
                count += transitions
                if count >= at_least:
                    break
        return found

    def count(self, after: int, last: int) -> int:
        """Transitions after a position, up to another.

        Raises:
            CheckpointError: the file cannot be read.
        """
        with self._telling("read"):
            (count,) = (
                self._use()
                .execute("SELECT TOTAL(transitions) FROM batches WHERE position > ? AND position <= ?", (after, last))
                .fetchone()
            )
            return int(count)

    def last(self) -> tuple[int, float | None]:
        """The highest position ever given, and when the last batch that is still there was accepted, if there is one.

        Raises:
            CheckpointError: the file cannot be read.
        """
        with self._telling("read"):
            connection = self._use()
            given = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'batches'").fetchone()
            time = connection.execute("SELECT time FROM batches ORDER BY position DESC LIMIT 1").fetchone()
            return (given[0] if given is not None else 0), (time[0] if time is not None else None)

    def trim(self, position: int) -> None:
        """Remove all batches up to a position, this one included.

        Raises:
            CheckpointError: that failed; it may be tried again.
        """
        with self._telling("trim"):
            connection = self._use()
            connection.execute("DELETE FROM batches WHERE position <= ?", (position,))
            self.size = _size(connection)

    # -- inside ---------------------------------------------------------------------------------

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except (sqlite3.Error, OSError) as error:
                raise CheckpointError(f"cannot {what} journal {self.path}: {error}") from error

    def _use(self) -> sqlite3.Connection:
        return self._connection or self._connect()

    def _connect(self) -> sqlite3.Connection:
        if self.path.is_symlink():
            raise CheckpointError(f"cannot open journal {self.path}: expected a file, got a link")
        connection = sqlite3.connect(self.path, timeout=0.0, isolation_level=None, check_same_thread=False)
        try:
            # One process, so no memory shared with others; FULL: each commit is synced before it counts.
            connection.executescript(
                "PRAGMA trusted_schema = OFF; PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; "
                "PRAGMA synchronous = FULL; PRAGMA fullfsync = ON; PRAGMA journal_size_limit = 16777216;"
            )
            if not self._is_made(connection):
                connection.executescript(_SCHEMA)
            self.size = _size(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _is_made(self, connection: sqlite3.Connection) -> bool:
        if not connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
            return False
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if (application, version) != (_APPLICATION, _FORMAT):
            raise CheckpointError(
                f"cannot open journal {self.path}: expected format {_FORMAT} of a journal, got format {version} of "
                f"application {application:#x}"
            )
        return True

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _encode(items: Sequence[StreamItem]) -> tuple[bytes, int]:
    try:
        data = encode_items(items)
    except (ConfigurationError, TransitionMismatchError):
        # One of them is unfit, and will be refused when it comes to a window.
        items = [item for item in items if _can_travel(item)]
        data = encode_items(items)
    return data, sum(map(count_transitions, items))


def _can_travel(item: StreamItem) -> bool:
    try:
        encode_items([item])
    except (ConfigurationError, TransitionMismatchError):
        return False
    return True


def _decode(data: bytes) -> list[StreamItem] | None:
    try:
        return decode_items(data)
    except (msgspec.MsgspecError, ConfigurationError, KeyError, TypeError, ValueError):
        return None


def _checksum(position: int, transitions: int, time: float, clock_offset: float, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(_FACTS.pack(position, transitions, time, clock_offset)))


def _size(connection: sqlite3.Connection) -> int:
    (size,) = connection.execute(_SIZE).fetchone()
    return int(size)
