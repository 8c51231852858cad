"""Writes down what a feed brings, so that it can be replayed: one JSON object a line, in order of arrival."""

from __future__ import annotations

import base64
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec
import numpy as np

from optix_stream.alignment import FeedStep
from optix_stream.clock import Clock
from optix_stream.delayed_rewards import DelayedReward

logger = logging.getLogger(__name__)

_WRITE_SEC = 0.5
_MAX_HELD_BYTES = 2**26


class RecordedMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of a recording: a message, or that what follows does not continue what came before.

    Attributes:
        time: of arrival, seconds on the clock of the run that recorded it.
        stream: of the connection, where several are recorded.
        text: the message; None where it is not text.
        data: the message in base64; None where it is text.
        gap: why the connection ended, or what was not recorded; there is no message in such a line.
    """

    time: float
    stream: str | None = None
    text: str | None = None
    data: str | None = None
    gap: str | None = None

    @property
    def message(self) -> bytes:
        """What arrived."""
        return base64.b64decode(self.data) if self.data is not None else (self.text or "").encode()


def message_of(item: Any) -> bytes:
    """What a feed without messages of its own yielded, as the message that ``JsonCodec`` would read it from."""
    if isinstance(item, DelayedReward):
        return _encoder.encode(item._asdict())
    if isinstance(item, tuple | list) and len(item) in (5, 6, len(FeedStep._fields)):
        step = FeedStep(*item)
        info = {str(name): value for name, value in step.info.items()} if step.info else None
        try:
            return _encoder.encode(step._replace(info=info)._asdict())
        except (TypeError, ValueError, msgspec.MsgspecError) as error:
            return _encoder.encode({"unusable": repr(item), "because": repr(error)})
    return _encoder.encode({"unusable": repr(item)})


def _encode_other(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else repr(value)


_encoder = msgspec.json.Encoder(enc_hook=_encode_other)


class Recorder:
    """Takes messages and appends them to a recording, away from the event loop; ``recording`` opens one.

    Args:
        path: of the recording.
        max_held_bytes: of messages that wait to be written. What comes while a disk is too slow for its feed is not
            recorded, and leaves a gap in the recording; the run itself is not held up.
    """

    def __init__(self, path: Path, max_held_bytes: int = _MAX_HELD_BYTES) -> None:
        self._path = path
        self._lines: list[RecordedMessage] = []
        self._max_held_bytes = max_held_bytes
        self._held_bytes = 0
        self._lost: dict[str | None, int] = {}

    def add(self, arrived: float, stream: str | None, message: bytes) -> None:
        """Remember a message until it is written."""
        size = self._held_bytes + len(message)
        if size > self._max_held_bytes:
            if not self._lost:
                logger.warning("%s: writing is slower than what arrives; some of it is not recorded", self._path)
            self._lost[stream] = self._lost.get(stream, 0) + 1
            return
        if self._lost:
            lost = self._lost.pop(stream, 0)
            if lost:
                self.mark_gap(arrived, stream, f"{lost} messages were not recorded")
        self._held_bytes = size
        try:
            line = RecordedMessage(arrived, stream, text=message.decode())
        except UnicodeDecodeError:
            line = RecordedMessage(arrived, stream, data=base64.b64encode(message).decode())
        self._lines.append(line)

    def mark_gap(self, time: float, stream: str | None, reason: str) -> None:
        """What follows in this stream does not continue what came before."""
        self._lines.append(RecordedMessage(time, stream, gap=reason))

    async def write(self) -> None:
        """Write what is held.

        Raises:
            OSError: it cannot be written.
        """
        lines, self._lines, self._held_bytes = self._lines, [], 0
        if lines:
            await anyio.to_thread.run_sync(self._append, lines)

    def _append(self, lines: list[RecordedMessage]) -> None:
        with self._path.open("ab") as file:
            file.write(b"".join(_encoder.encode(line) + b"\n" for line in lines))


@asynccontextmanager
async def recording(path: Path | None, clock: Clock) -> AsyncIterator[Recorder | None]:
    """Append to a recording for the length of the ``async with``.

    Args:
        path: of the recording; None: nothing is recorded.
        clock: times the writing.

    Raises:
        OSError: the recording cannot be written.
    """
    if path is None:
        yield None
        return
    recorder = Recorder(path)
    error: Exception | None = None
    try:
        async with anyio.create_task_group() as tasks:

            async def write_often() -> None:
                nonlocal error
                try:
                    while True:
                        await clock.sleep(_WRITE_SEC)
                        await recorder.write()
                except OSError as raised:
                    error = raised
                    tasks.cancel_scope.cancel()

            tasks.start_soon(write_often)
            try:
                yield recorder
            except Exception as raised:
                # Carried past the task group, which would wrap it.
                error = raised
            tasks.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await recorder.write()
    if error is not None:
        raise error
