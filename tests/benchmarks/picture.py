"""Draws what learning.py and drift.py measured, and prints it as the README's table.

    python tests/benchmarks/picture.py --out demos/learning.png

Reads the raw results beside the benchmarks; runs nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from drift import Result as DriftResult
from scores import PEER, Result, interquartile_mean, interval
from tasks import TASKS, Task

RESULTS = Path(__file__).parent / "results"
LABELS = {"ppo": "PPO", "dqn": "DQN", "sac": "SAC", "td3": "TD3", "stream-ac": "Stream AC"}
EVERY = 15_000
"""Steps between two flips."""
OURS, THEIRS, GREY = "#1f6fb4", "#d9822b", "#888888"


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def grouped(results: Sequence[Result]) -> dict[str, dict[str, list[Result]]]:
    """By task, in the table's order, and library."""
    groups: dict[str, dict[str, list[Result]]] = {name: {} for name in TASKS}
    for result in results:
        groups[result.task].setdefault(result.library, []).append(result)
    return {name: group for name, group in groups.items() if group}


def table(groups: dict[str, dict[str, list[Result]]]) -> str:
    columns = ("environment", "agent", "steps", "score", "95 % interval", "worst", "steps to", PEER)
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    for name, group in groups.items():
        task = TASKS[name]
        if task.bar is None:
            continue
        ours = group["optix_stream"]
        scores = np.asarray([result.score for result in ours])
        low, high = interval(scores)
        steps = statistics.median(math.inf if result.reached is None else result.reached for result in ours)
        peer = [result.score for result in group.get(PEER, [])]
        cells = (
            task.env,
            LABELS[task.agent],
            f"{task.steps:,}",
            f"{float(interquartile_mean(scores)):.1f}",
            f"{low:.1f} to {high:.1f}, {len(ours)} seeds",
            f"{scores.min():.1f}",
            f"{task.threshold:g}: {steps:,.0f}" if math.isfinite(steps) else f"{task.threshold:g}: more",
            f"{float(interquartile_mean(np.asarray(peer))):.1f}" if peer else "",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def band(axes: Any, curves: Sequence[Sequence[Sequence[float]]], colour: str, label: str) -> None:
    """Median over the seeds at each evaluation, and the middle half of them."""
    count = min(len(curve) for curve in curves)
    steps = np.asarray([[point[0] for point in curve[:count]] for curve in curves]).mean(axis=0)
    scores = np.asarray([[point[1] for point in curve[:count]] for curve in curves])
    low, middle, high = np.percentile(scores, [25, 50, 75], axis=0)
    axes.plot(steps / 1000, middle, color=colour, label=label)
    axes.fill_between(steps / 1000, low, high, color=colour, alpha=0.2, linewidth=0)


def draw(groups: dict[str, dict[str, list[Result]]], drifts: Sequence[DriftResult], out: Path) -> None:
    """A panel for each task that has a curve, and one for the drift where there are results of it."""
    shown = [name for name, group in groups.items() if len(group["optix_stream"][0].curve) > 1]
    count = len(shown) + bool(drifts)
    columns = min(4, count)
    rows = math.ceil(count / columns)
    figure, grid = plt.subplots(rows, columns, figsize=(3.2 * columns, 2.3 * rows), layout="constrained", squeeze=False)
    panels = list(np.ravel(grid))
    for axes, name in zip(panels, shown, strict=False):
        draw_task(axes, TASKS[name], groups[name])
    if drifts:
        axes = panels[len(shown)]
        band(axes, [result.curve for result in drifts], OURS, "optix_stream")
        for flip in range(1, len(drifts[0].recoveries) + 1):
            axes.axvline(flip * EVERY / 1000, color=GREY, linewidth=0.8, linestyle=":")
        axes.set_title("CartPole-v1, Stream AC; left is right from each line", fontsize=9)
    for axes in panels[:count]:
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[count:]:
        axes.remove()
    figure.supxlabel("thousands of environment steps", fontsize=9)
    figure.supylabel("evaluation score: median and middle half of the seeds", fontsize=9)
    figure.savefig(out, dpi=100)


def draw_task(axes: Any, task: Task, group: dict[str, list[Result]]) -> None:
    for library, colour in (("optix_stream", OURS), (PEER, THEIRS)):
        if runs := group.get(library):
            band(axes, [result.curve for result in runs], colour, library)
    if task.bar is not None:
        axes.axhline(task.bar, color=GREY, linewidth=0.8, linestyle=":")
    lag = ", late policy" if task.is_lagging else ""
    axes.set_title(f"{task.env}, {LABELS[task.agent]}{lag}", fontsize=9)
    if len(group) > 1:
        axes.legend(fontsize=7, frameon=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the picture, a .png")
    arguments = parser.parse_args()
    groups = grouped([Result(**facts) for facts in read(RESULTS / "learning.jsonl")])
    drift = RESULTS / "drift.jsonl"
    facts_of_drift = read(drift) if drift.exists() else []
    drifts = [DriftResult(**facts) for facts in facts_of_drift if facts["agent"] == "stream-ac"]
    print(table(groups))
    draw(groups, drifts, arguments.out)


if __name__ == "__main__":
    main()
