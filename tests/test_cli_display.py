"""What a run looks like while it goes on: the panel on a terminal, the lines of the plain log, the words of events."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from optix_stream import events as ev
from optix_stream.cli.evaluation import Evaluation
from optix_stream.cli.formatting import duration, number, pairs, score, score_and_spread, size, sparkline, table
from optix_stream.cli.history import RunHistory
from optix_stream.cli.live import LiveDisplay
from optix_stream.cli.notes import Tone, note_of
from optix_stream.cli.progress import PlainLog
from optix_stream.types import EvalMetrics, HyperparamSet, LoopState, PolicySnapshot


def metrics(window: int, value: float, basis: str = "episode_return") -> EvalMetrics:
    return EvalMetrics(value, {}, window, basis)


def snapshot(window: int, value: float) -> PolicySnapshot:
    return PolicySnapshot(f"snapshot-{window:06}", metrics(window, value), HyperparamSet({}), "weights", window)


def scored(
    window: int, value: float | None, time: float, *, state: LoopState = LoopState.ACTIVE, interval: int = 1
) -> list[ev.Event]:
    """The events of one window of 100 transitions."""
    judged = None if value is None else metrics(window, value)
    return [
        ev.WindowLearned(window=window, transitions=100, diagnostics={"loss": 0.5}, time=time),
        ev.WindowScored(window=window, metrics=judged, state=state, interval=interval, is_probe=False, time=time),
    ]


def history_of(*happened: ev.Event) -> RunHistory:
    history = RunHistory(hyperparams={"learning_rate": 0.00025}, smoothing=2)
    for event in happened:
        history.apply(event)
    return history


RUN: list[ev.Event] = [
    ev.LoopStarted(is_live=False, time=10.0),
    *scored(0, 10.0, 11.0),
    ev.CheckpointSaved(window=0, snapshot=snapshot(0, 10.0), time=11.0),
    *scored(1, 30.0, 12.0),
    ev.CheckpointSaved(window=1, snapshot=snapshot(1, 30.0), time=12.0),
    ev.Improved(window=1, snapshot=snapshot(1, 30.0), evidence="30 is above 10", time=12.0),
    *scored(2, 20.0, 13.0, state=LoopState.COOLING, interval=4),
    ev.StateChanged(window=2, old=LoopState.ACTIVE, new=LoopState.COOLING, time=13.0),
    ev.PlateauReached(window=2, state=LoopState.COOLING, evidence="5 windows without", time=13.0),
    ev.HyperparamsChanged(window=2, old={"learning_rate": 0.00025}, new={"learning_rate": 0.001}, time=13.0),
]


def screen(history: RunHistory, *, max_windows: int | None = None, status: str = "") -> str:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    display = LiveDisplay(
        history, "CartPole-v1 · ppo · seed 0", now=lambda: 75.0, max_windows=max_windows, dormant_threshold=20,
        console=console,
    )  # fmt: skip
    display.show_status(status)
    console.print(display.render())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_panel_shows_state_score_speed_and_hyperparameters() -> None:
    shown = screen(history_of(*RUN), status="evaluating")
    for text in (
        "CartPole-v1 · ppo · seed 0",
        "● COOLING",
        "score 25.00",
        "best 30.00",
        "100 steps/s",
        "1 min 05 s",
        "▁█▅",
        "3 windows  300 steps",
        "tuning every 4 windows",
        "no improvement for 1 windows, dormant at 20",
        "hyperparameters  learning_rate 0.001",
        "diagnostics  loss 0.5",
        "improved: 30 is above 10",
        "cooling: 5 windows without",
        "tuned: learning_rate 2.5e-4 → 0.001",
        "evaluating",
    ):
        assert text in shown
    assert all(len(line) <= 96 for line in shown.splitlines())


def test_a_bar_where_there_is_a_budget() -> None:
    assert "3/12 windows" in screen(history_of(*RUN), max_windows=12)
    assert "/12 windows" not in screen(history_of(*RUN))


def test_the_panel_before_anything_has_happened() -> None:
    shown = screen(RunHistory())
    assert "● ACTIVE" in shown
    assert "score -" in shown


def test_the_live_display_draws_in_place_and_stops_its_clock_at_the_end() -> None:
    history, now = RunHistory(), [0.0]
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    display = LiveDisplay(history, "a run", now=lambda: now[0], max_windows=None, dormant_threshold=3, console=console)
    with display:
        for event in [*RUN, ev.LoopStopped(reason="stopped", report=None, time=14.0)]:
            display.show(event, history.apply(event))
        now[0] = 1000.0
        display.refresh()
        console.print(display.render())
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert shown.count("a run") >= 2
    assert "4.0 s" in shown
    assert "16 min" not in shown


def test_the_plain_log_says_what_is_notable_and_where_the_run_is_every_few_seconds() -> None:
    output, history = io.StringIO(), RunHistory()
    log = PlainLog(history, output)
    late = [
        *scored(3, 31.0, 30.0),
        *scored(4, 32.0, 31.0),
        ev.Degraded(window=4, metrics=metrics(4, 1.0), evidence="1 is below 30", time=31.0),
    ]
    with log:
        for event in [*RUN, *late]:
            log.show(event, history.apply(event))
        log.show_status("evaluating")
    lines = output.getvalue().splitlines()
    assert [line.split("] ")[-1].split("  ")[0] for line in lines] == [
        "ACTIVE",
        "improved: 30 is above 10",
        "cooling: 5 windows without",
        "tuned: learning_rate 2.5e-4 → 0.001",
        "ACTIVE",
        "degraded: 1 is below 30",
        "evaluating",
    ]
    assert lines[0].startswith("[    1.0 s] ACTIVE    window    1        100 steps")


def test_scores_of_another_basis_start_the_series_afresh() -> None:
    history = history_of(
        ev.LoopStarted(is_live=False, time=0.0),
        *scored(0, 10.0, 1.0),
        ev.WindowScored(
            window=1, metrics=metrics(1, 0.5, "reward"), state=LoopState.ACTIVE, interval=1, is_probe=True, time=2.0
        ),
    )
    assert history.scored() == [(100, 0.5)]
    assert (history.last_score, history.best_score, history.idle_windows) == (0.5, None, 1)


def test_the_speed_is_that_of_the_last_ten_windows() -> None:
    history = history_of(ev.LoopStarted(is_live=False, time=0.0))
    assert history.steps_per_sec is None
    for window in range(12):
        # The first two windows are slow.
        for event in scored(window, 1.0, 100.0 * min(window + 1, 2) + window):
            history.apply(event)
    assert history.steps_per_sec == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("event", "text", "tone"),
    [
        (ev.StateChanged(window=1, old=LoopState.COOLING, new=LoopState.ACTIVE, time=0.0), "active again", Tone.PLAIN),
        (ev.WentDormant(window=1, evidence="20 windows", time=0.0), "dormant: 20 windows", Tone.GOOD),
        (ev.WatchdogStarted(window=1, time=0.0), "watchdog", Tone.PLAIN),
        (ev.RolledBack(window=1, snapshot=snapshot(3, 7.0), time=0.0), "rolled back to snapshot-000003", Tone.WARNING),
        (ev.CheckpointFailed(window=1, error="disk full", time=0.0), "checkpoint failed: disk full", Tone.BAD),
        (ev.JournalFailed(error="disk full"), "nothing is accepted for good: disk full", Tone.BAD),
        (ev.JournalRegained(unkept=3), "the journal is kept again, without 3 transitions", Tone.GOOD),
        (
            ev.LearningFailed(window=4, transitions=9, failures=2, error="nan", time=0.0),
            "learning failed on window 4, 2 in a row: nan",
            Tone.BAD,
        ),
        (
            ev.SourceLost(source="feed", error="reset", retry_sec=2.0, time=0.0),
            "source feed lost, next attempt in 2.0 s: reset",
            Tone.BAD,
        ),
        (ev.SourceLost(source="feed", error="end", retry_sec=None, time=0.0), "no further attempt", Tone.BAD),
        (ev.SourceRegained(source="feed", attempts=1, time=0.0), "delivers again after 1 attempt", Tone.GOOD),
        (ev.GapDetected(stream="a", reason="jump", missed=3, time=0.0), "gap in stream a: jump, 3 steps", Tone.WARNING),
        (ev.GapDetected(stream="a", reason="jump", time=0.0), "gap in stream a: jump", Tone.WARNING),
        (ev.TransitionsDropped(reason="overflow", count=2, time=0.0), "2 transitions given up: overflow", Tone.PLAIN),
        (
            ev.TransitionsRejected(stream=1, reason="malformed", detail="expected a number", time=0.0),
            "1 transition of stream 1 refused: expected a number",
            Tone.BAD,
        ),
        (ev.SubscriberLagging(subscriber="app", missed=5, time=0.0), "app missed 5 events", Tone.WARNING),
        (
            ev.SubscriberFailed(subscriber="Log", hook="on_dormant", error="oops", time=0.0),
            "Log.on_dormant failed: oops",
            Tone.BAD,
        ),
    ],
)
def test_the_line_of_an_event(event: ev.Event, text: str, tone: Tone) -> None:
    note = note_of(event)
    assert note is not None
    assert text in note.text
    assert note.tone is tone


def test_what_happens_with_every_window_is_worth_no_line() -> None:
    assert [note_of(event) for event in scored(0, 1.0, 0.0)] == [None, None]


def test_numbers() -> None:
    assert [number(value) for value in (True, "x", 1234567, math.inf, 0.00025, 0.5, 12345.6, 0.0)] == [
        "True", "x", "1,234,567", "inf", "2.5e-4", "0.5", "12,346", "0",
    ]  # fmt: skip
    assert [score(value) for value in (None, math.nan, 0.12345, 3.14159, 475.04, 12345.6)] == [
        "-", "nan", "0.1235", "3.14", "475.0", "12,346",
    ]  # fmt: skip
    assert score_and_spread(500.0, 0.0) == "500.0 ± 0.0"
    assert [duration(value) for value in (8.21, 185.0, 4800.0)] == ["8.2 s", "3 min 05 s", "1 h 20 min"]
    assert [size(value) for value in (12, 2500, 7_340_000, 3 * 10**9)] == ["12 B", "2.5 KB", "7.3 MB", "3.0 GB"]
    assert pairs({"rate": 0.001, "name": "x"}) == "rate 0.001  name x"


def test_a_sparkline_has_the_means_of_neighbours_where_there_are_too_many() -> None:
    assert sparkline([0.0, 1.0, 2.0, 3.0], 2) == "▁█"
    assert sparkline([1.0, 1.0], 10) == "▁▁"
    assert sparkline([math.nan, 1.0, 2.0], 10) == "▁█"
    assert sparkline([], 10) == sparkline([1.0], 0) == ""


def test_a_table_is_aligned() -> None:
    assert table(("name", "n"), [("a", "1"), ("longer", "22")], numeric=(1,)) == "name     n\na        1\nlonger  22"


def test_an_evaluation_that_is_no_number_is_shown_as_what_it_is() -> None:
    evaluation = Evaluation.of([1.0, float("nan")])
    assert str(evaluation) == "nan ± nan over 2 episodes"
