"""How sure should the judge be, and of what? Two numbers to choose, what each costs, and a picture of it.

``minimal_effect`` is the smallest gain worth learning on for, from one stretch of windows (its "half") to the next.
Halve it, and telling a small gain from none takes four times as many windows: the run goes on longer, and ends closer
to the best that can be had. A large one is tested in few windows, and a slow learner gains little in few windows: as
below, where with an effect of 20 the judge is done long before the learner is. Choose the gain, in the score's own
units, below which you would not have waited.

``windows_per_false_alarm`` is how long an unchanged policy in an unchanged world goes, on average, until it is called
degraded all the same. Ten times as long costs a real fall a few more windows until it is seen, and no more than that.
Choose how often you can afford a needless look, or a needless rollback.

The judge that ships reads simulated scores: a learner that rises to 100 within 300 windows and gains nothing from then
on, with noise of standard deviation 20, and a policy that falls by one or two standard deviations.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from optix_stream import EvalMetrics, EvidenceConfig, EvidenceJudge, Outcome
from optix_stream.types import FloatArray

SD = 20.0
RAMP = 300
BEFORE = 500
EFFECTS = (5.0, 10.0, 20.0, 40.0)
ALARMS = (100, 1_000, 10_000, 100_000)
FALLS = (1.0, 2.0)


@dataclass(frozen=True)
class Arguments:
    """What can be set from the command line."""

    runs: int = 60
    seed: int = 0
    picture: Path = Path("choosing_effect.png")


def first(judge: EvidenceJudge, scores: Sequence[float], outcome: Outcome, begin: int = 0) -> int | None:
    """The first window from ``begin`` on about which the judge says so."""
    for window, score in enumerate(scores):
        if judge.update(EvalMetrics(score, {}, window)).outcome is outcome and window >= begin:
            return window
    return None


def curve(windows: int = 1500) -> FloatArray:
    """What the learner is really worth."""
    return np.asarray(np.minimum(1.0, np.arange(windows) / RAMP) * 100.0)


def ends(effect: float, arguments: Arguments) -> tuple[float, float]:
    """For an effect in score units: the window at which learning is called done, and what is then still missing."""
    config = EvidenceConfig(minimal_effect=effect, effect_unit="score")
    rng = np.random.default_rng(arguments.seed)
    truth = curve()
    found = [
        first(EvidenceJudge(config), list(truth + rng.normal(0.0, SD, len(truth))), Outcome.PLATEAU)
        for _ in range(arguments.runs)
    ]
    windows = [window if window is not None else len(truth) - 1 for window in found]
    return statistics.median(windows), statistics.fmean(100.0 - truth[window] for window in windows)


def delay(alarms: int, fall: float, arguments: Arguments) -> float:
    """Windows until a fall of so many standard deviations is seen."""
    config = EvidenceConfig(windows_per_false_alarm=alarms)
    rng = np.random.default_rng(arguments.seed)
    delays = []
    for _ in range(arguments.runs):
        scores = rng.normal(100.0, SD, BEFORE + 300)
        scores[BEFORE:] -= fall * SD
        window = first(EvidenceJudge(config), list(scores), Outcome.DEGRADED, BEFORE)
        delays.append(300.0 if window is None else window - BEFORE + 1)
    return statistics.median(delays)


def draw(effects: dict[float, tuple[float, float]], delays: dict[float, dict[int, float]], path: Path) -> None:
    """Where learning is called done on the curve, and what a rare alarm costs."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    truth = curve(1000)
    noisy = truth + np.random.default_rng(0).normal(0.0, SD, len(truth))
    left.plot(noisy, ".", color="0.8", markersize=2, label="scores")
    left.plot(truth, color="0.3", linewidth=2, label="what the policy is worth")
    for number, (effect, (window, _)) in enumerate(effects.items()):
        left.axvline(window, color=f"C{number}", label=f"minimal_effect={effect:g}: done at {window:.0f}")
    left.set(xlabel="window", ylabel="score", title="The smaller the effect, the later the end")
    left.legend(fontsize=8, loc="lower right")
    for fall, line in delays.items():
        right.plot(list(line), list(line.values()), "o-", label=f"fall of {fall:g} sd")
    right.set(
        xscale="log",
        ylim=(0.0, None),
        xlabel="windows_per_false_alarm",
        ylabel="windows until it is seen",
        title="Rarer false alarms cost little",
    )
    right.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Simulate, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=Arguments.runs, help="simulated runs for each number")
    parser.add_argument("--seed", type=int, default=Arguments.seed)
    parser.add_argument("--picture", type=Path, default=Arguments.picture, help="where the picture goes")
    parser.add_argument("--quick", action="store_const", dest="runs", const=8, help="few runs")
    arguments = Arguments(**vars(parser.parse_args()))
    print("minimal_effect   half   called done at window   still missing")
    effects = {}
    for effect in EFFECTS:
        half = EvidenceConfig(minimal_effect=effect, effect_unit="score").half_windows(SD)
        effects[effect] = window, missing = ends(effect, arguments)
        print(f"{effect:14g}   {half:4d}   {window:21.0f}   {missing:13.1f}")
    print("\nwindows_per_false_alarm   " + "   ".join(f"fall of {fall:g} sd seen after" for fall in FALLS))
    delays: dict[float, dict[int, float]] = {fall: {} for fall in FALLS}
    for alarms in ALARMS:
        for fall in FALLS:
            delays[fall][alarms] = delay(alarms, fall, arguments)
        print(f"{alarms:23,d}   " + "   ".join(f"{delays[fall][alarms]:23.0f}" for fall in FALLS))
    draw(effects, delays, arguments.picture)
    print(f"\npicture: {arguments.picture}")


if __name__ == "__main__":
    main()
