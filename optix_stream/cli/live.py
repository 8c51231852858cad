"""The live display on a terminal. Needs rich, and is imported only where it is there."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from optix_stream.cli.formatting import duration, pairs, score, sparkline
from optix_stream.cli.history import RunHistory
from optix_stream.cli.notes import Note, Tone
from optix_stream.cli.progress import Silence
from optix_stream.events import Event
from optix_stream.types import LoopState

STATE_STYLES = {
    LoopState.ACTIVE: "bold green",
    LoopState.COOLING: "bold yellow",
    LoopState.DORMANT: "bold blue",
    LoopState.WATCHDOG: "bold magenta",
}
_TONES = {Tone.GOOD: "green", Tone.PLAIN: "", Tone.WARNING: "yellow", Tone.BAD: "bold red"}
_NOTES = 6
_DIAGNOSTICS = 4
_WIDTH = 96
_SPARK_WINDOWS = 400


class LiveDisplay(Silence):
    """One panel that is redrawn in place.

    Args:
        history: of the run.
        title: what is trained.
        now: seconds, on the clock of the events.
        max_windows: the budget; None: none.
        dormant_threshold: windows without improvement until DORMANT; None: it takes more than a count.
        console: where to draw.
    """

    def __init__(
        self,
        history: RunHistory,
        title: str,
        *,
        now: Callable[[], float],
        max_windows: int | None,
        dormant_threshold: int | None,
        console: Console | None = None,
    ) -> None:
        self._history = history
        self._title = title
        self._now = now
        self._max_windows = max_windows
        self._dormant_threshold = dormant_threshold
        self._status = ""
        self._ended: float | None = None
        self._console = console if console is not None else Console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False, get_renderable=self.render)

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._status = ""
        self._live.stop()

    def show(self, event: Event, note: Note | None) -> None:
        if self._history.stop_reason is not None and self._ended is None:
            self._ended = event.time

    def show_status(self, text: str) -> None:
        self._status = text

    def refresh(self) -> None:
        self._live.refresh()

    def render(self) -> RenderableType:
        """The panel, as things are now."""
        history = self._history
        width = min(self._console.width, _WIDTH)
        inner = max(20, width - 4)
        lines: list[RenderableType] = [self._headline()]
        spark = sparkline(history.recent_scores(_SPARK_WINDOWS), inner)
        if spark:
            lines.append(Text(spark, style=STATE_STYLES[history.state].removeprefix("bold "), no_wrap=True))
        if self._max_windows is not None:
            lines.append(self._budget(self._max_windows, inner))
        lines.append(self._counts())
        if history.hyperparams:
            lines.append(_labelled("hyperparameters", pairs(history.hyperparams)))
        if history.diagnostics:
            lines.append(_labelled("diagnostics", pairs(dict(list(history.diagnostics.items())[:_DIAGNOSTICS]))))
        lines.extend(self._note_lines())
        if self._status:
            lines.append(Text(self._status, style="italic cyan"))
        return Panel(Group(*lines), title=Text(self._title, style="bold"), title_align="left", width=width)

    def _headline(self) -> RenderableType:
        history = self._history
        rate = history.steps_per_sec
        columns = Table.grid(expand=True)
        for _ in range(4):
            columns.add_column(no_wrap=True)
        columns.add_column(justify="right", no_wrap=True)
        columns.add_row(
            Text(f"● {history.state.name}", style=STATE_STYLES[history.state]),
            Text.assemble(("score ", "dim"), (score(history.smoothed_score), "bold")),
            Text.assemble(("best ", "dim"), (score(history.best_score), "bold green")),
            Text.assemble(("-" if rate is None else f"{rate:,.0f}", "bold"), (" steps/s", "dim")),
            Text(duration(self._elapsed()), style="dim"),
        )
        return columns

    def _budget(self, max_windows: int, width: int) -> RenderableType:
        done = min(self._history.windows, max_windows)
        label = f" {done}/{max_windows} windows"
        bar = ProgressBar(total=max_windows, completed=done, width=max(10, width - len(label)))
        columns = Table.grid()
        columns.add_row(bar, Text(label, style="dim", no_wrap=True))
        return columns

    def _counts(self) -> Text:
        history = self._history
        text = Text(no_wrap=True, overflow="ellipsis")
        text.append(f"{history.windows:,} windows  {history.transitions:,} steps", style="")
        text.append(
            f"  tuning every {history.interval} windows" if history.interval > 1 else "  tuning every window", "dim"
        )
        if history.idle_windows:
            at = "" if self._dormant_threshold is None else f", dormant at {self._dormant_threshold}"
            text.append(f"  no improvement for {history.idle_windows} windows{at}", "dim")
        return text

    def _note_lines(self) -> list[RenderableType]:
        started = self._history.started or 0.0
        return [
            Text.assemble(
                (f"{duration(note.time - started):>9}  ", "dim"),
                (note.text, _TONES[note.tone]),
                overflow="ellipsis",
                no_wrap=True,
            )
            for note in list(self._history.notes)[-_NOTES:]
        ]

    def _elapsed(self) -> float:
        if self._history.started is None:
            return 0.0
        return (self._ended if self._ended is not None else self._now()) - self._history.started


def _labelled(label: str, text: str) -> Text:
    return Text.assemble((f"{label}  ", "dim"), text, no_wrap=True, overflow="ellipsis")
