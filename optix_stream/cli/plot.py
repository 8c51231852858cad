"""The picture of a run. Needs matplotlib, and is imported only where it is there; draws without a screen."""

from __future__ import annotations

from itertools import accumulate, groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from optix_stream.cli.formatting import duration, score_and_spread
from optix_stream.cli.history import RunHistory
from optix_stream.cli.reports import TrainReport
from optix_stream.types import LoopState

_STATE_COLOURS = {
    LoopState.ACTIVE: "#2a9d63",
    LoopState.COOLING: "#e0a100",
    LoopState.DORMANT: "#3b6fb6",
    LoopState.WATCHDOG: "#8e5bb5",
}
_INK, _FAINT, _SCORE, _POINT, _BAD = "#22262e", "#6c727e", "#1f4e8c", "#8fabcf", "#c8372d"
_RATE_WINDOWS = 5
_EMPTY = "no window was learned from in this session"


def draw_run(history: RunHistory, facts: TrainReport, path: Path) -> None:
    """Draw score, states and marks over transitions, and below them the speed; 1800 pixels wide.

    A session without a window, such as one that resumes a run that is over, is an empty picture that says so.

    Args:
        history: the run.
        facts: its report.
        path: where the PNG goes; overwritten.
    """
    figure = Figure(figsize=(9.0, 4.8), dpi=200, facecolor="white")
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(4.2, 1.0))
    figure.subplots_adjust(left=0.085, right=0.975, top=0.83, bottom=0.11, hspace=0.12)
    for axes in (top, bottom):
        _clean(axes)
    _shade_states(top, history)
    _draw_scores(top, history, facts)
    _draw_speed(bottom, history)
    if not history.points:
        top.text(0.5, 0.5, _EMPTY, transform=top.transAxes, fontsize=11, color=_FAINT, ha="center", va="center")
    bottom.set_xlabel("environment steps", color=_INK, fontsize=10)
    bottom.xaxis.set_major_formatter(FuncFormatter(_steps))
    bottom.set_xlim(0, max(1, history.transitions))
    _write_titles(figure, history, facts)
    figure.savefig(path, format="png")


def _draw_scores(axes: Any, history: RunHistory, facts: TrainReport) -> None:
    scored = history.scored()
    if scored:
        steps = np.array([transitions for transitions, _ in scored])
        scores = np.array([value for _, value in scored])
        axes.plot(steps, scores, ".", color=_POINT, markersize=5, markeredgewidth=0)
        axes.plot(steps, _trailing_means(scores, history.smoothing), color=_SCORE, linewidth=2.2, zorder=3)
    if history.improvements:
        # At the foot of the panel, where they do not hide the line that they belong to.
        at = [mark.transitions for mark in history.improvements]
        axes.plot(at, np.full(len(at), 0.02), "|", color=_STATE_COLOURS[LoopState.ACTIVE], markersize=9,
                  markeredgewidth=1.2, transform=axes.get_xaxis_transform(), zorder=4)  # fmt: skip
    for mark in history.degradations:
        axes.plot(mark.transitions, mark.score, "v", color=_BAD, markersize=8, zorder=5)
    best = facts.report.best_snapshot
    at_best = [point for point in history.points if best is not None and point.window == best.episode_id]
    if at_best and at_best[0].score is not None:
        axes.plot(at_best[0].transitions, at_best[0].score, "*", color="#f2b134", markeredgecolor=_INK,
                  markeredgewidth=0.7, markersize=14, zorder=6, clip_on=False)  # fmt: skip
    axes.margins(y=0.1)
    axes.set_ylabel("score of a window", color=_INK, fontsize=10)


def _draw_speed(axes: Any, history: RunHistory) -> None:
    times = [0.0 if history.started is None else history.started, *(point.time for point in history.points)]
    steps = [0, *(point.transitions for point in history.points)]
    span = min(_RATE_WINDOWS, max(1, len(steps) - 1))
    rates = [
        (steps[i] - steps[max(0, i - span)]) / max(times[i] - times[max(0, i - span)], 1e-9)
        for i in range(1, len(steps))
    ]
    if rates:
        # A rate holds from the window before on.
        edges, levels = steps, [rates[0], *rates]
        axes.fill_between(edges, levels, color=_POINT, alpha=0.35, linewidth=0)
        axes.plot(edges, levels, color=_SCORE, linewidth=1.2)
        # The first window holds the start-up; it must not set the scale.
        axes.set_ylim(0, 1.25 * float(np.percentile(rates, 98)))
    axes.set_ylabel("steps/s", color=_INK, fontsize=10)
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.yaxis.set_major_formatter(FuncFormatter(_steps))


def _shade_states(axes: Any, history: RunHistory) -> None:
    starts = [0, *(point.transitions for point in history.points)]
    spans = zip(starts, history.points, strict=False)  # No span begins where the last one ends.
    for state, group in groupby(spans, key=lambda span: span[1].state):
        members = list(group)
        axes.axvspan(members[0][0], members[-1][1].transitions, color=_STATE_COLOURS[state], alpha=0.13, linewidth=0)


def _write_titles(figure: Figure, history: RunHistory, facts: TrainReport) -> None:
    report = facts.report
    left, right = 0.085, 0.975
    figure.text(left, 0.945, facts.env, fontsize=15, fontweight="bold", color=_INK, va="center")
    summary = (
        f"{facts.agent} · seed {facts.seed} · {report.reason.replace('_', ' ')} after {report.transitions:,} steps "
        f"in {duration(report.wall_sec)}"
    )
    figure.text(left, 0.885, summary, fontsize=10, color=_FAINT, va="center")
    if facts.evaluation is not None:
        evaluation = score_and_spread(facts.evaluation.mean, facts.evaluation.std)
        figure.text(right, 0.945, evaluation, fontsize=15, fontweight="bold", color=_SCORE, va="center", ha="right")
        what = f"best policy, {facts.evaluation.episodes} episodes without exploration"
        figure.text(right, 0.885, what, fontsize=10, color=_FAINT, va="center", ha="right")
    figure.axes[0].legend(
        handles=_legend(history), loc="lower right", bbox_to_anchor=(1.0, 0.06), fontsize=8.5, framealpha=0.9,
        edgecolor="none", ncols=2, handlelength=1.4, columnspacing=1.4, labelcolor=_INK,
    )  # fmt: skip


def _legend(history: RunHistory) -> list[Any]:
    def marker(shape: str, colour: str, label: str, size: float) -> Line2D:
        return Line2D([], [], linestyle="", marker=shape, color=colour, label=label, markersize=size)

    present = {point.state for point in history.points}
    handles: list[Any] = [
        Line2D([], [], color=_SCORE, linewidth=2.2, label=f"mean of {history.smoothing} windows"),
        marker(".", _POINT, "one window", 7),
        marker("*", "#f2b134", "best snapshot", 10),
    ]
    if history.improvements:
        handles.append(marker("|", _STATE_COLOURS[LoopState.ACTIVE], "improved, snapshot saved", 9))
    if history.degradations:
        handles.append(marker("v", _BAD, "degraded", 7))
    handles += [
        Patch(color=colour, alpha=0.3, linewidth=0, label=state.name)
        for state, colour in _STATE_COLOURS.items()
        if state in present
    ]
    return handles


def _clean(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#c9ccd3")
    axes.tick_params(colors=_FAINT, labelsize=9, length=3)
    axes.grid(axis="y", color="#d9dce2", linewidth=0.6, alpha=0.7)
    axes.set_axisbelow(True)


def _trailing_means(values: np.ndarray[Any, Any], window: int) -> np.ndarray[Any, Any]:
    sums = [0.0, *accumulate(values.tolist())]
    return np.array([(sums[i] - sums[max(0, i - window)]) / min(i, window) for i in range(1, len(sums))])


def _steps(value: float, _: int) -> str:
    if abs(value) >= 1_000_000:
        return f"{value / 1_000_000:g}M"
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}"
