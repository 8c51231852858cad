"""Replays what was recorded, through the same code path as live: rows of a table, or a recorded session."""

from __future__ import annotations

import csv
import importlib
import itertools
import math
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel
import anyio.to_thread
import msgspec

from optix_stream.alignment import name_within
from optix_stream.clock import Clock, SystemClock
from optix_stream.contracts import Policy, TransitionSink
from optix_stream.errors import ConfigurationError, MissingExtraError
from optix_stream.events import SourceLost
from optix_stream.feed_session import Answer, FeedAction, FeedOptions, FeedSession
from optix_stream.recording import RecordedMessage

_CHUNK = 512
_STEPS_BETWEEN_CHECKPOINTS = 64


class ReplayClock:
    """Shows the recorded time of what is being replayed, so that windows cut by time come out the same at any speed.

    Args:
        real: what waiting is done on.
        speed: of the replay.
    """

    def __init__(self, real: Clock, speed: float) -> None:
        self._real = real
        self._speed = speed
        self._now = 0.0
        self._origin: tuple[float, float] | None = None

    def now(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        await self._real.sleep(seconds / self._speed)

    async def reach(self, time: float) -> None:
        """Wait until what was recorded at ``time`` is due. A time that lies back is due at once."""
        if self._origin is None:
            self._origin = (time, self._real.now())
        elif not math.isinf(self._speed):
            due = self._origin[1] + (time - self._origin[0]) / self._speed
            if due > self._real.now():
                await self._real.sleep(due - self._real.now())
        self._now = max(time, self._now) if self._origin[0] != time else time


class ReplayFeed:
    """A producer that replays a file.

    A ``.csv`` or ``.parquet`` file is replayed row by row, a row being a dict by column; anything else is taken for
    a recording that a live feed made with ``record=``, and replayed message by message.

    Args:
        path: the file.
        decode: a row, or a message's bytes, to a step, a ``DelayedReward``, a list of them, or None; for a recording
            the same function as live.
        speed: 1 is the recorded pace, ``math.inf`` as fast as possible.
        time_column: of a table, the column with the time in seconds or in ISO form; needed for a pace.
        answer: gets every action, as the source would have.
        options: reward function, delayed rewards; as live.
        name: names the source in events; by default the file's name.
        clock: what waiting is done on.

    Attributes:
        clock: shows recorded time; give it to the pipeline.

    Raises:
        ConfigurationError: no such file, a speed that is not above 0, or a pace without a time column.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        decode: Callable[[Any], Any],
        speed: float = 1.0,
        time_column: str | None = None,
        answer: Callable[[FeedAction], None] | None = None,
        options: FeedOptions | None = None,
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._path = Path(path)
        if not self._path.is_file():
            raise ConfigurationError(f"path: expected a file, got {path}")
        if not speed > 0:
            raise ConfigurationError(f"speed: expected more than 0, got {speed}")
        is_table = self._path.suffix.lower() in (".csv", ".parquet")
        if is_table and time_column is None and not math.isinf(speed):
            raise ConfigurationError("time_column: expected one, because a table has no pace of its own, got None")
        if self._path.suffix.lower() == ".parquet":
            _pyarrow()
        self._decode = decode
        self._time_column = time_column
        self._answer: Answer | None = answer
        self._options = options
        self._name = name if name is not None else self._path.name
        self.clock = ReplayClock(clock if clock is not None else SystemClock(), speed)

    @property
    def name(self) -> str:
        return self._name

    async def run(self, policy: Policy, sink: TransitionSink) -> None:
        """Replay to the end.

        Raises:
            ValueError: the file is damaged; the text names the line or the row.
        """
        sessions = _Sessions(policy, sink, self.clock, self._name, self._options)
        records = self._records()
        count = 0
        try:
            while chunk := await anyio.to_thread.run_sync(lambda: list(itertools.islice(records, _CHUNK))):
                for record in chunk:
                    await self.clock.reach(record.time)
                    if record.gap is None:
                        await self._handle(sessions.of(record.connection), record)
                    else:
                        await sessions.part(record.connection, record.gap)
                    count += 1
                    if count % _STEPS_BETWEEN_CHECKPOINTS == 0:
                        await anyio.lowlevel.checkpoint()
            await sessions.finish()
        finally:
            await sessions.abandon()
        await sink.push(SourceLost(source=self._name, error="replay ended", retry_sec=None, time=self.clock.now()))

    async def _handle(self, session: FeedSession, record: _Record) -> None:
        try:
            decoded = self._decode(record.payload)
        except Exception as error:
            # As live: it is told and counted.
            await session.reject(f"{type(error).__name__}: {error}")
            return
        for step in decoded if type(decoded) is list else [] if decoded is None else [decoded]:
            named = step if record.connection is None else name_within(record.connection, step)[0]
            await session.handle(named, self._answer, record.time)

    def _records(self) -> Iterator[_Record]:
        """What was recorded; read in a worker thread."""
        match self._path.suffix.lower():
            case ".csv":
                with self._path.open(newline="", encoding="utf-8") as file:
                    yield from self._timed(csv.DictReader(file))
            case ".parquet":
                with _pyarrow().ParquetFile(self._path) as table:
                    for batch in table.iter_batches(batch_size=_CHUNK):
                        yield from self._timed(iter(batch.to_pylist()))
            case _:
                yield from self._messages()

    def _timed(self, rows: Iterator[dict[str, Any]]) -> Iterator[_Record]:
        column = self._time_column
        for number, row in enumerate(rows):
            if column is None:
                yield _Record(0.0, row)
            elif column not in row:
                raise ValueError(f"{self._path}: expected a column {column!r}, got {sorted(row)}")
            else:
                try:
                    yield _Record(_seconds(row[column]), row)
                except ValueError as error:
                    raise ValueError(f"{self._path}, row {number + 1}: {error}") from error

    def _messages(self) -> Iterator[_Record]:
        decoder = msgspec.json.Decoder(RecordedMessage)
        latest, shift = -math.inf, 0.0
        with self._path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    record = decoder.decode(line)
                except msgspec.MsgspecError as error:
                    raise ValueError(f"{self._path}, line {number}: {error}") from error
                if record.time + shift < latest:
                    # Appended by a later run, whose clock began anew; there is no pause between the two.
                    shift = latest - record.time
                latest = record.time + shift
                yield _Record(latest, record.message, record.stream, record.gap)


class _Record(NamedTuple):
    """One thing that was recorded.

    Attributes:
        time: when, in seconds.
        payload: what ``decode`` reads.
        connection: over which of several it came; None where there was but one.
        gap: why what follows does not continue what came before; there is no payload then.
    """

    time: float
    payload: Any
    connection: str | None = None
    gap: str | None = None


class _Sessions:
    """One session for each recorded connection, as there was live."""

    def __init__(
        self, policy: Policy, sink: TransitionSink, clock: Clock, name: str, options: FeedOptions | None
    ) -> None:
        self._policy = policy
        self._sink = sink
        self._clock = clock
        self._name = name
        self._options = options
        self._open: dict[str | None, FeedSession] = {}

    def of(self, connection: str | None) -> FeedSession:
        """The session of this connection, which may be new."""
        session = self._open.get(connection)
        if session is None:
            name, stream = (self._name, 0) if connection is None else (connection, connection)
            session = FeedSession(self._policy, self._sink, self._clock, name, self._options, stream=stream)
            self._open[connection] = session
        return session

    async def part(self, connection: str | None, reason: str) -> None:
        """The connection ended here, or something of it is missing."""
        session = self.of(connection)
        session.aligner.restart_sequences()
        await session.lose(reason, None)

    async def finish(self) -> None:
        """Nothing more will come."""
        for session in self._open.values():
            await session.push_all(session.aligner.finish(self._clock.now()))

    async def abandon(self) -> None:
        """Account for what still waits."""
        for session in self._open.values():
            await session.abandon()


def _seconds(value: Any) -> float:
    if isinstance(value, datetime):
        return value.timestamp()
    try:
        return float(value)
    except (TypeError, ValueError):
        pass
    try:
        return datetime.fromisoformat(str(value)).timestamp()
    except ValueError:
        raise ValueError(f"time: expected seconds or an ISO time, got {value!r}") from None


def _pyarrow() -> Any:
    try:
        return importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        raise MissingExtraError("replaying Parquet", "replay") from error
