"""What shows a run while it goes on, and the plain lines that do so where there is no terminal."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Protocol, Self, TextIO

from optix_stream.cli.formatting import duration, score
from optix_stream.cli.history import RunHistory
from optix_stream.cli.notes import Note
from optix_stream.events import Event, Improved, WindowScored

_PROGRESS_SEC = 5.0
_IMPROVEMENT_SEC = 1.0


class Display(Protocol):
    """Shows a run while it goes on. Used as a context manager, on the event loop's thread."""

    def show(self, event: Event, note: Note | None) -> None:
        """Take an event, which the history already holds, and its line."""
        ...

    def show_status(self, text: str) -> None:
        """Say what goes on besides the run."""
        ...

    def refresh(self) -> None:
        """Called a few times a second."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class Silence:
    """Shows nothing: ``--quiet``."""

    def show(self, event: Event, note: Note | None) -> None:
        pass

    def show_status(self, text: str) -> None:
        pass

    def refresh(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass


class PlainLog(Silence):
    """One line for what is notable, and one every few seconds. Timed by the events, not by a clock.

    Args:
        history: of the run.
        output: where lines go; by default standard error.
    """

    def __init__(self, history: RunHistory, output: TextIO | None = None) -> None:
        self._history = history
        self._output = output
        self._last_line = float("-inf")

    def show(self, event: Event, note: Note | None) -> None:
        match event:
            case Improved():
                # Early in a run almost every window is one.
                if note is not None and self._is_due(event.time, _IMPROVEMENT_SEC):
                    self._write(event.time, note.text)
            case WindowScored():
                if self._is_due(event.time, _PROGRESS_SEC):
                    self._write(event.time, progress_line(self._history))
            case _ if note is not None:
                self._write(note.time, note.text)

    def show_status(self, text: str) -> None:
        self._write_line(text)

    def _is_due(self, time: float, interval_sec: float) -> bool:
        return time - self._last_line >= interval_sec

    def _write(self, time: float, text: str) -> None:
        self._last_line = time
        started = self._history.started
        self._write_line(f"[{duration(time - started if started is not None else 0.0):>9}] {text}")

    def _write_line(self, text: str) -> None:
        output = self._output if self._output is not None else sys.stderr
        output.write(f"{text}\n")
        output.flush()


def progress_line(history: RunHistory) -> str:
    """Where the run is."""
    rate = history.steps_per_sec
    return (
        f"{history.state.name:<8}  window {history.windows:>4}  {history.transitions:>9,} steps"
        f"  {'-' if rate is None else f'{rate:,.0f}':>6} steps/s"
        f"  score {score(history.last_score):>8}  best {score(history.best_score):>8}"
    )
