"""What tuners are worth on one simulated learner, whose learning rate shows in the slope of its score.

    python tests/benchmarks/tuners.py --seeds 40 --first-seed 1000
    python tests/benchmarks/tuners.py --tuners none,paired-block --fall 0.05

The learner's true score rises towards 100 at ``0.004 exp(-x^2 / (2 * 0.4^2))`` of what is left a window, with ``x`` the
distance of its learning rate from the best one, in decades; beyond ``--edge`` it diverges, and the score falls by the
share ``--fall`` a window. What is seen of it has noise of deviation 20. The figure is the mean true score over 4,000
windows, by the distance at the start. Each tuner gets what it asks for: every score, and a range of three decades.

The bars are for ``paired-block``, against no tuning: 25 % more from a six-fold wrong rate (-0.8), and no more than 3 %
less from a good one (-0.4, 0, 0.4), of which the last has the edge within reach of its first trial.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from optix_stream import (
    BackoffOptimizer,
    BanditOptimizer,
    BaseOptimizer,
    EvalMetrics,
    HyperparamSet,
    PairedBlockConfig,
    PairedBlockTuner,
    PBTOptimizer,
    SPSAOptimizer,
)

NOISE, BEST_RATE, WIDTH, TOP = 20.0, 0.004, 0.4, 100.0
OFFSETS = (-0.8, -0.4, 0.0, 0.4)
LEAST_GAIN, MOST_LOST = 1.25, 0.97
BOUNDS = {"x": (10**-1.5, 10**1.5)}


class FiniteDifferenceAsCoded(BaseOptimizer):
    """The original's rule as it is written: what it calls the reverse step returns to theta, never to theta - d."""

    def __init__(self, seed: int) -> None:
        self._probe: tuple[float, float, float] | None = None

    def suggest(self, current_hyperparams: HyperparamSet, metrics_history: Sequence[EvalMetrics]) -> HyperparamSet:
        new, score = current_hyperparams.copy(), metrics_history[-1].primary_score
        value = float(new.params["x"])
        low, high = BOUNDS["x"]
        if self._probe is None:
            delta = max(0.05 * abs(value), 1e-7)
            self._probe = (value, delta, score)
            new.params["x"] = min(max(value + delta, low), high)
            return new
        _, delta, before = self._probe
        self._probe = None
        gradient = (score - before) / delta
        if gradient < -1e-10:
            new.params["x"] = min(max(value - delta, low), high)
        return new


MAKERS: Mapping[str, Callable[[int], BaseOptimizer | None]] = {
    "none": lambda seed: None,
    "as-coded": FiniteDifferenceAsCoded,
    "backoff": lambda seed: BackoffOptimizer(BOUNDS),
    "pbt": lambda seed: PBTOptimizer(BOUNDS, seed=seed),
    "spsa": lambda seed: SPSAOptimizer(BOUNDS, seed=seed),
    "bandit": lambda seed: BanditOptimizer(BOUNDS),
    "paired-block-75": lambda seed: PairedBlockTuner(
        BOUNDS, config=PairedBlockConfig(first_block=75, max_block=75), seed=seed
    ),
    "paired-block": lambda seed: PairedBlockTuner(BOUNDS, seed=seed),
}


def mean_true_score(
    tuner: BaseOptimizer | None, offset: float, seed: int, windows: int, edge: float, fall: float
) -> float:
    """Of one run that starts ``offset`` decades from the best rate."""
    noise = np.random.default_rng([seed, 1]).normal(0.0, NOISE, windows)
    score = total = 0.0
    hyperparams = HyperparamSet({"x": 10.0**offset})
    for window in range(windows):
        total += score
        if tuner is not None:
            # The tuners remember what they need of the past themselves.
            hyperparams = tuner.suggest(hyperparams, (EvalMetrics(score + noise[window], {}, window),))
        distance = math.log10(hyperparams.params["x"])
        if distance > edge:
            score -= fall * score
        else:
            score += BEST_RATE * math.exp(-(distance**2) / (2 * WIDTH**2)) * (TOP - score)
    return total / windows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tuners", default=",".join(MAKERS), help=f"of {', '.join(MAKERS)}")
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--windows", type=int, default=4000)
    parser.add_argument("--edge", type=float, default=0.6, help="decades above the best rate at which it diverges")
    parser.add_argument("--fall", type=float, default=0.02, help="share of the score that is lost a window, there")
    arguments = parser.parse_args()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    means: dict[str, list[float]] = {}
    print(f"{'start, decades':<17}" + "".join(f"{offset:>16g}" for offset in OFFSETS))
    for name in dict.fromkeys(["none", *arguments.tuners.split(",")]):
        scores = np.array(
            [
                [
                    mean_true_score(MAKERS[name](seed), offset, seed, arguments.windows, arguments.edge, arguments.fall)
                    for seed in (seeds[:1] if name == "none" else seeds)
                ]
                for offset in OFFSETS
            ]
        )
        means[name] = scores.mean(axis=1).tolist()
        errors = scores.std(axis=1) / math.sqrt(scores.shape[1])
        cells = (f"{mean:>9.1f} ± {error:<4.1f}" for mean, error in zip(means[name], errors, strict=True))
        print(f"{name:<17}" + "".join(cells), flush=True)
    if "paired-block" in means:
        ratios = [tuned / max(plain, 1e-9) for tuned, plain in zip(means["paired-block"], means["none"], strict=True)]
        print("RATIO  paired-block to none  " + "  ".join(f"{ratio:.3f}" for ratio in ratios))
        gain, kept = ratios[0], min(ratios[1:])
        print(f"from {OFFSETS[0]}: {gain:.3f} >= {LEAST_GAIN}  {'met' if gain >= LEAST_GAIN else 'MISSED'}")
        print(f"from the others: at least {kept:.3f} >= {MOST_LOST}  {'met' if kept >= MOST_LOST else 'MISSED'}")


if __name__ == "__main__":
    main()
