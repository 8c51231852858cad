"""How often the judge is wrong, and how late it is right, on scores whose truth is known.

    python tests/benchmarks/decisions.py --seed 1 --jobs 2
    python tests/benchmarks/decisions.py --seed 2 --tables falls,plateau

Scores are simulated with mean 100 and standard deviation 20, neither of which any rule is told, nor how they are
correlated. The judge is the one that ships, window by window, as the loop calls it: after a degradation the policy of
before is reinstated, and where that does not help, it starts anew. Beside it the original system's rule, and ADWIN and
Page–Hinkley as river has them; Page–Hinkley is given the true scale and a threshold for one false alarm in 10,000
windows of independent normal noise.

A learning curve ends where it is within a quarter of a standard deviation of its limit. The exponential one that the
bars are for has come as far after four time constants as the ramp after the same 300 windows. A slower one gains less
than the effect that matters in the stretch that is tested, long before its end: it is shown, without bars.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import math
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeAlias

import msgspec
import numpy as np

from optix_stream import Outcome, ThresholdJudge
from optix_stream.contracts import Judge, Verdict
from optix_stream.judges import EvidenceConfig, EvidenceJudge
from optix_stream.switchback import Switchback, SwitchbackConfig
from optix_stream.types import EvalMetrics, FloatArray

MEAN, SD = 100.0, 20.0
PART = 50_000
"""Windows of one stationary run."""
BEFORE, AFTER = 500, 500
LOOP_AFTER = 400
RAMP = 300
TAUS = {"exponential": RAMP / 4.0, "slow": RAMP / 3.0}
EFFECT = 0.5 * SD
COST_BAR_US, STATE_BAR = 50.0, 32 * 1024

FALSE_ALARM_BAR, FALSE_IMPROVED_BAR, CLAIM_BAR = 1.3, 1.0, 0.15
DELAY_BARS: Mapping[str, tuple[float, float, float]] = {
    "normal": (54.0, 18.0, 6.0), "AR(.5)": (132.0, 41.0, 13.0), "t3": (40.0, 14.0, 6.0)
}  # fmt: skip
DROPS = (0.5, 1.0, 2.0)

CONFIG = EvidenceConfig()

Tally: TypeAlias = "dict[str, Any]"


# --- noise -------------------------------------------------------------------------------------


def _normal(rng: np.random.Generator, count: int) -> FloatArray:
    return rng.standard_normal(count)


def _t3(rng: np.random.Generator, count: int) -> FloatArray:
    return rng.standard_t(3, count) / math.sqrt(3.0)


def _left_skewed(rng: np.random.Generator, count: int) -> FloatArray:
    return 1.0 - rng.standard_exponential(count)


def _correlated(
    draw: Callable[[np.random.Generator, int], FloatArray], rng: np.random.Generator, count: int, rho: float = 0.5
) -> FloatArray:
    settle = 100
    news = draw(rng, count + settle) * math.sqrt(1.0 - rho * rho)
    value, values = 0.0, np.empty(count + settle)
    for index, new in enumerate(news):
        value = rho * value + new
        values[index] = value
    return values[settle:]


def _long_memory(rng: np.random.Generator, count: int) -> FloatArray:
    """Half the variance remembers some fifty windows."""
    slow = _correlated(_normal, rng, count, 0.98)
    return math.sqrt(0.5) * (_normal(rng, count) + slow)


NOISES: Mapping[str, Callable[[np.random.Generator, int], FloatArray]] = {
    "normal": _normal,
    "t3": _t3,
    "AR(.5)": partial(_correlated, _normal),
    "t3 AR(.5)": partial(_correlated, _t3),
    "left-skewed": _left_skewed,
    "long memory": _long_memory,
}
BARRED = ("normal", "t3", "AR(.5)", "t3 AR(.5)", "left-skewed")


# --- rules -------------------------------------------------------------------------------------


class Rule(Protocol):
    """What is compared: takes scores, says when they have fallen or risen."""

    def update(self, score: float) -> Outcome: ...


class OfJudge:
    """A judge as a rule; after a degradation the policy from before is back."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.window = 0
        self.verdict: Verdict | None = None

    def update(self, score: float) -> Outcome:
        self.verdict = self.judge.update(EvalMetrics(score, {}, self.window, timestamp=0.0))
        self.window += 1
        if self.verdict.outcome is Outcome.DEGRADED:
            if self.verdict.recurs:
                self.judge.restart()
            else:
                self.judge.reinstate()
        return self.verdict.outcome


class OfDetector:
    """A change detector as a rule."""

    def __init__(self, detector: Any, scale: float = 1.0) -> None:
        self._detector = detector
        self._scale = scale

    def update(self, score: float) -> Outcome:
        self._detector.update(score / self._scale)
        return Outcome.DEGRADED if self._detector.drift_detected else Outcome.UNCHANGED


def _river(detector: str) -> Any:
    """By name, so that the types do not depend on what is installed: the detectors are no part of the project."""
    return getattr(importlib.import_module("river.drift"), detector)


RULES: Mapping[str, Callable[[], Rule]] = {
    "evidence": lambda: OfJudge(EvidenceJudge(CONFIG)),
    "original": lambda: OfJudge(ThresholdJudge(0.0, 0.95)),
    "ADWIN": lambda: OfDetector(_river("ADWIN")()),
    "Page-Hinkley": lambda: OfDetector(_river("PageHinkley")(delta=0.25, threshold=13.0, mode="down"), SD),
}


# --- what is simulated -------------------------------------------------------------------------


def stationary(rule: str, noise: str, config: EvidenceConfig, windows: int, seed: Sequence[int]) -> Tally:
    """Nothing changes."""
    judged = OfJudge(EvidenceJudge(config)) if rule == "evidence" else RULES[rule]()
    scores = MEAN + SD * NOISES[noise](np.random.default_rng(seed), windows)
    outcomes = Counter(judged.update(score) for score in scores.tolist())
    return {
        "rule": rule,
        "noise": noise,
        "windows": windows,
        "degraded": outcomes[Outcome.DEGRADED],
        "improved": outcomes[Outcome.IMPROVED],
    }


def fall(rule: str, noise: str, config: EvidenceConfig, drop: float, runs: int, seed: Sequence[int]) -> Tally:
    """The mean falls by ``drop`` standard deviations after ``BEFORE`` windows."""
    rng = np.random.default_rng(seed)
    delays: list[float] = []
    for _ in range(runs):
        judged = OfJudge(EvidenceJudge(config)) if rule == "evidence" else RULES[rule]()
        scores = MEAN + SD * NOISES[noise](rng, BEFORE + AFTER)
        scores[BEFORE:] -= drop * SD
        for score in scores[:BEFORE].tolist():
            judged.update(score)
        delays.append(
            next(
                (n + 1 for n, s in enumerate(scores[BEFORE:].tolist()) if judged.update(s) is Outcome.DEGRADED),
                math.inf,
            )
        )
    return {"rule": rule, "noise": noise, "drop": drop, "delays": delays}


def rise(noise: str, config: EvidenceConfig, runs: int, seed: Sequence[int]) -> Tally:
    """The mean rises by one standard deviation; what is the new best said to be worth, and what is it?"""
    rng = np.random.default_rng(seed)
    errors: list[float] = []
    flattery: list[float] = []
    for _ in range(runs):
        judged = OfJudge(EvidenceJudge(config))
        scores = MEAN + SD * NOISES[noise](rng, BEFORE + AFTER)
        scores[BEFORE:] += SD
        claim: float | None = None
        for window, score in enumerate(scores.tolist()):
            outcome, verdict = judged.update(score), judged.verdict
            assert verdict is not None
            if window < BEFORE:
                continue
            if outcome is Outcome.IMPROVED:
                assert verdict.score is not None
                flattery.append((verdict.score - MEAN - SD) / SD)
                claim = None
            elif verdict.promote and flattery:
                claim = verdict.score
        if claim is not None:
            errors.append((claim - MEAN - SD) / SD)
    return {"errors": errors, "flattery": flattery}


def plateau(curve: str, config: EvidenceConfig, runs: int, seed: Sequence[int]) -> Tally:
    """Learning that ends: when is it certified, and how far below its end?"""
    rng = np.random.default_rng(seed)
    windows: list[float] = []
    below: list[float] = []
    steps = np.arange(2000)
    share = np.minimum(1.0, steps / RAMP) if curve == "ramp" else 1.0 - np.exp(-steps / TAUS[curve])
    truth = MEAN * share
    for _ in range(runs):
        judged = OfJudge(EvidenceJudge(config))
        scores = truth + SD * rng.standard_normal(len(steps))
        at = next((n for n, s in enumerate(scores.tolist()) if judged.update(s) is Outcome.PLATEAU), None)
        windows.append(math.inf if at is None else at)
        below.append(math.inf if at is None else float(MEAN - truth[at]) / SD)
    return {"curve": curve, "windows": windows, "below": below}


def closed_loop(noise: str, config: EvidenceConfig, runs: int, seed: Sequence[int]) -> Tally:
    """The policy is damaged; it is found out by a switchback, and rolled back: what is earned meanwhile?"""
    rng = np.random.default_rng(seed)
    earned: list[float] = []
    spurious = windows = 0
    for run in range(runs):
        judge = EvidenceJudge(config)
        live, window, is_damaged = MEAN, 0, False
        draws = iter((SD * NOISES[noise](rng, BEFORE + LOOP_AFTER + 200)).tolist())
        true: list[float] = []

        def act(level: float, draws: Iterator[float] = draws, true: list[float] = true) -> float:
            true.append(level)
            return level + next(draws)

        while len(true) < BEFORE + LOOP_AFTER:
            if not is_damaged and len(true) >= BEFORE:
                live, is_damaged = MEAN - 1.5 * SD, True
            verdict = judge.update(EvalMetrics(act(live), {}, window, timestamp=0.0))
            window += 1
            if verdict.outcome is not Outcome.DEGRADED or verdict.reference is None or verdict.score is None:
                continue
            switchback = Switchback(verdict.reference, verdict.score, SwitchbackConfig(), seed=(run, window))
            while (arm := switchback.next_arm) is not None:
                switchback.add(act(MEAN if arm == "best" else live))
            if switchback.conclude().cause == "environment":
                judge.restart()
            else:
                spurious += live == MEAN
                live = MEAN
                judge.reinstate()
        windows += BEFORE
        earned.append(statistics.fmean(true[BEFORE : BEFORE + LOOP_AFTER]) / MEAN)
    return {"earned": earned, "spurious": spurious, "windows": windows}


# --- tables ------------------------------------------------------------------------------------


@dataclass
class Report:
    """Prints tables and remembers whether every bar was met."""

    missed: list[str] = field(default_factory=list)

    def bar(self, what: str, value: float, limit: float, *, at_least: bool = False) -> None:
        is_met = value >= limit if at_least else value <= limit
        sign = ">=" if at_least else "<="
        print(f"  {what}: {value:.4g} {sign} {limit:g}  {'MET' if is_met else 'MISSED'}")
        if not is_met:
            self.missed.append(what)


Runner: TypeAlias = Callable[[Iterable[Callable[[], Tally]]], "list[Tally]"]


def show_stationary(report: Report, run: Runner, arguments: argparse.Namespace, config: EvidenceConfig) -> None:
    parts = max(1, arguments.windows // PART)
    tasks = [
        partial(stationary, "evidence", noise, config, PART, (arguments.seed, 1, number, part))
        for number, noise in enumerate(NOISES)
        for part in range(parts)
    ]
    tasks += [
        partial(stationary, rule, noise, config, PART, (arguments.seed, 1, number, part))
        for rule in list(RULES)[1:]
        for number, noise in enumerate(NOISES)
        for part in range(max(1, parts // 10))
    ]
    tallies = run(tasks)
    print(f"\nNothing changes: {parts * PART:,} windows a noise ({max(1, parts // 10) * PART:,} for the other rules)")
    print("  false alarms in 10,000 windows" + "".join(f"{noise:>13}" for noise in NOISES))
    rates: dict[tuple[str, str], float] = {}
    for rule in RULES:
        for noise in NOISES:
            chosen = [t for t in tallies if t["rule"] == rule and t["noise"] == noise]
            rates[rule, noise] = 1e4 * sum(t["degraded"] for t in chosen) / sum(t["windows"] for t in chosen)
        print(f"  {rule:<30}" + "".join(f"{rates[rule, noise]:13.2f}" for noise in NOISES))
    per_improved = config.windows_per_false_improvement
    improved = {}
    for noise in NOISES:
        chosen = [t for t in tallies if t["rule"] == "evidence" and t["noise"] == noise]
        improved[noise] = per_improved * sum(t["improved"] for t in chosen) / sum(t["windows"] for t in chosen)
    print(f"  false IMPROVED in {per_improved:<13,}" + "".join(f"{improved[noise]:13.2f}" for noise in NOISES))
    alarm_bar = FALSE_ALARM_BAR * 1e4 / config.windows_per_false_alarm
    for noise in BARRED:
        report.bar(f"false alarms, {noise}", rates["evidence", noise], alarm_bar)
    report.bar("false IMPROVED, worst", max(improved[noise] for noise in BARRED), FALSE_IMPROVED_BAR)


def show_falls(report: Report, run: Runner, arguments: argparse.Namespace, config: EvidenceConfig) -> None:
    size = min(arguments.runs, 250)
    tasks = [
        partial(fall, rule, noise, config, drop, size, (arguments.seed, 2, *where, part))
        for rule in ("evidence", "ADWIN", "Page-Hinkley")
        for where, noise, drop in _cells()
        for part in range(max(1, arguments.runs // size))
    ]
    delays: dict[tuple[str, str, float], list[float]] = {}
    for tally in run(tasks):
        delays.setdefault((tally["rule"], tally["noise"], tally["drop"]), []).extend(tally["delays"])
    print(
        f"\nThe mean falls after {BEFORE} windows: median delay in windows (not seen in {AFTER}), {arguments.runs} runs"
    )
    print(f"  {'':<14}" + "".join(f"{f'{noise} {drop:g} sd':>17}" for _, noise, drop in _cells()))
    for rule in ("evidence", "ADWIN", "Page-Hinkley"):
        cells = [delays[rule, noise, drop] for _, noise, drop in _cells()]
        texts = [f"{_median(cell):.0f} ({_share(cell, math.isinf):.1%})" for cell in cells]
        print(f"  {rule:<14}" + "".join(f"{text:>17}" for text in texts))
    for _, noise, drop in _cells():
        cell = delays["evidence", noise, drop]
        report.bar(f"median delay, {noise}, {drop:g} sd", _median(cell), DELAY_BARS[noise][DROPS.index(drop)])
        most = 0.003 if drop >= 1.0 else 0.06 if noise == "AR(.5)" else 0.03
        report.bar(f"not seen, {noise}, {drop:g} sd", _share(cell, math.isinf), most)


def _cells() -> list[tuple[tuple[int, int], str, float]]:
    return [((n, d), noise, drop) for n, noise in enumerate(DELAY_BARS) for d, drop in enumerate(DROPS)]


def show_rises(report: Report, run: Runner, arguments: argparse.Namespace, config: EvidenceConfig) -> None:
    size = min(arguments.runs, 250)
    names = ("normal", "t3", "AR(.5)")
    tallies = run(
        partial(rise, noise, config, size, (arguments.seed, 3, number, part))
        for number, noise in enumerate(names)
        for part in range(max(1, arguments.runs // size))
    )
    parts = len(tallies) // len(names)
    print("\nThe mean rises by 1 sd: claimed minus true score of the new best, in sd")
    for number, noise in enumerate(names):
        chosen = tallies[number * parts : (number + 1) * parts]
        errors = [error for tally in chosen for error in tally["errors"]]
        flattery = [error for tally in chosen for error in tally["flattery"]]
        print(
            f"  {noise:<8} by its own windows {statistics.fmean(errors):+.3f} (mean size "
            f"{statistics.fmean(map(abs, errors)):.3f}); by those that found it {statistics.fmean(flattery):+.3f}"
        )
        report.bar(f"|claimed - true|, {noise}", statistics.fmean(map(abs, errors)), CLAIM_BAR)


def show_plateaus(report: Report, run: Runner, arguments: argparse.Namespace, config: EvidenceConfig) -> None:
    scored = dataclasses.replace(config, minimal_effect=EFFECT, effect_unit="score")
    half = scored.half_windows(SD)
    size = min(arguments.runs, 250)
    curves = ("ramp", *TAUS)
    tallies = run(
        partial(plateau, curve, scored, size, (arguments.seed, 4, number, part))
        for number, curve in enumerate(curves)
        for part in range(max(1, arguments.runs // size))
    )
    ends = {"ramp": float(RAMP)} | {curve: tau * math.log(MEAN / (0.25 * SD)) for curve, tau in TAUS.items()}
    print(f"\nLearning ends: DORMANT (effect {EFFECT:g} score units, half {half} windows)")
    for curve in curves:
        chosen = [tally for tally in tallies if tally["curve"] == curve]
        windows = [window for tally in chosen for window in tally["windows"]]
        below = [value for tally in chosen for value in tally["below"]]
        low, high = np.quantile(windows, [0.05, 0.95])
        print(f"  {curve:<12} declared at {_median(windows):.0f} (5-95 %: {low:.0f}-{high:.0f})")
        if curve == "slow":
            early = _share(below, lambda value: value > 0.25)
            print(f"  {curve}: {early:.1%} more than 1/4 sd below the end, regret {statistics.fmean(below):.3f} sd")
            continue
        report.bar(f"{curve}: declared more than 1/4 sd below the end", _share(below, lambda v: v > 0.25), 0.03)
        report.bar(f"{curve}: median window", _median(windows), ends[curve] + 1.5 * half)
        report.bar(f"{curve}: regret in sd", statistics.fmean(below), 0.05 if curve == "ramp" else 0.15)


def show_closed_loop(report: Report, run: Runner, arguments: argparse.Namespace, config: EvidenceConfig) -> None:
    size = min(arguments.runs, 250)
    names = ("normal", "t3", "AR(.5)")
    print(f"\nThe policy falls by 1.5 sd and is rolled back after a switchback: the {LOOP_AFTER} windows that follow")
    for number, noise in enumerate(names):
        tallies = run(
            partial(closed_loop, noise, config, size, (arguments.seed, 6, number, part))
            for part in range(max(1, arguments.runs // size))
        )
        earned = statistics.fmean(share for tally in tallies for share in tally["earned"])
        report.bar(f"mean true score over the plateau's, {noise}", earned, 0.97, at_least=True)
        spurious = 1000 * sum(tally["spurious"] for tally in tallies) / sum(tally["windows"] for tally in tallies)
        report.bar(f"spurious rollbacks in 1,000 windows, {noise}", spurious, 0.2)


def show_cost(report: Report, arguments: argparse.Namespace, config: EvidenceConfig) -> None:
    rng = np.random.default_rng((arguments.seed, 5))
    count = 20_000
    scores = (MEAN + SD * _correlated(_normal, rng, count)).tolist()
    metrics = [EvalMetrics(score, {}, window, timestamp=0.0) for window, score in enumerate(scores)]
    judge = EvidenceJudge(config)
    start = time.perf_counter()
    for one in metrics:
        judge.update(one)
    cost = 1e6 * (time.perf_counter() - start) / count
    first, second = EvidenceJudge(config), EvidenceJudge(config)
    differences = 0
    for window, one in enumerate(metrics):
        if window % 500 == 250:
            saved, first = first.state_dict(), EvidenceJudge(config)
            first.load_state_dict(saved)
        differences += first.update(one) != second.update(one)
    print("\nCost")
    report.bar("microseconds a window", cost, COST_BAR_US)
    report.bar("bytes of state", float(len(msgspec.msgpack.encode(judge.state_dict(), enc_hook=_plain))), STATE_BAR)
    report.bar("verdicts that differ after save, restore, continue", float(differences), 0.0)


def _plain(value: Any) -> Any:
    return value.tobytes() if isinstance(value, np.ndarray) else value


def _median(values: Sequence[float]) -> float:
    return float(statistics.median(values))


def _share(values: Sequence[float], test: Callable[[float], bool]) -> float:
    return sum(map(test, values)) / len(values)


TABLES = {
    "stationary": show_stationary,
    "falls": show_falls,
    "rises": show_rises,
    "plateau": show_plateaus,
    "loop": show_closed_loop,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="of everything that is drawn")
    parser.add_argument("--windows", type=int, default=1_000_000, help="stationary windows a noise")
    parser.add_argument("--runs", type=int, default=1000, help="runs for each cell of the other tables")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--tables", default=",".join([*TABLES, "cost"]), help="which, with commas between them")
    parser.add_argument("--windows-per-false-alarm", type=int, default=CONFIG.windows_per_false_alarm)
    parser.add_argument("--reference-windows", type=int, default=CONFIG.reference_windows)
    arguments = parser.parse_args()
    config = EvidenceConfig(
        windows_per_false_alarm=arguments.windows_per_false_alarm, reference_windows=arguments.reference_windows
    )
    report = Report()
    start = time.perf_counter()
    with ProcessPoolExecutor(arguments.jobs) as pool:

        def run(tasks: Iterable[Callable[[], Tally]]) -> list[Tally]:
            return [future.result() for future in [pool.submit(task) for task in tasks]]

        for name in arguments.tables.split(","):
            if name == "cost":
                show_cost(report, arguments, config)
            else:
                TABLES[name](report, run, arguments, config)
    print(f"\n{time.perf_counter() - start:.0f} s; missed: {', '.join(report.missed) if report.missed else 'none'}")
    sys.exit(bool(report.missed))


if __name__ == "__main__":
    main()
