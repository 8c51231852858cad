"""Writes down what a feed brings, so that it can be replayed: one JSON object a line, in order of arrival."""

from __future__ import annotations

import base64
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
import anyio.to_thread
import msgspec

from optix_stream.clock import Clock

_FLUSH_SEC = 0.5


class RecordedMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of a recording.

    Attributes:
        time: of arrival, seconds on the clock of the run that recorded it.
        stream: of the connection, where several are recorded.
        text: the message; None where it is not text.
        data: the message in base64; None where it is text.
    """

    time: float
    stream: str | None = None
    text: str | None = None
    data: str | None = None

    @property
    def message(self) -> bytes:
        """What arrived."""
        return base64.b64decode(self.data) if self.data is not None else (self.text or "").encode()


class Recorder:
    """Appends to a recording, away from the event loop. An async context manager.

    Args:
        path: of the recording; appended to.
        clock: times the writing.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._lines: list[RecordedMessage] = []
        self._encoder = msgspec.json.Encoder()
        self._tasks = anyio.create_task_group()

    def add(self, arrived: float, stream: str | None, message: bytes) -> None:
        """Remember a message until it is written."""
        try:
            line = RecordedMessage(arrived, stream, text=message.decode())
        except UnicodeDecodeError:
            line = RecordedMessage(arrived, stream, data=base64.b64encode(message).decode())
        self._lines.append(line)

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._flush_often)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        self._tasks.cancel_scope.cancel()
        try:
            return await self._tasks.__aexit__(kind, error, traceback)
        finally:
            with anyio.CancelScope(shield=True):
                await self._flush()

    async def _flush_often(self) -> None:
        while True:
            await self._clock.sleep(_FLUSH_SEC)
            await self._flush()

    async def _flush(self) -> None:
        lines, self._lines = self._lines, []
        if lines:
            await anyio.to_thread.run_sync(self._write, lines)

    def _write(self, lines: list[RecordedMessage]) -> None:
        with self._path.open("ab") as file:
            file.write(b"".join(self._encoder.encode(line) + b"\n" for line in lines))
