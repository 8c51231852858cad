"""The default tuner: what it keeps, what it gives up, and when it leaves things alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from optix_stream.errors import ConfigurationError
from optix_stream.optimizers import PairedBlockConfig, PairedBlockTuner
from optix_stream.testing import check_optimizer
from optix_stream.types import EvalMetrics, HyperparamSet

WIDE = {"x": (1e-3, 1e3)}
QUICK = PairedBlockConfig(first_block=4, max_block=4, max_repeats=1)


class Learner:
    """A score that moves by what the value in force makes of it, and noise."""

    def __init__(self, tuner: PairedBlockTuner, slope: Callable[[Any], float], value: Any, noise: float = 0.01) -> None:
        self.tuner = tuner
        self.slope = slope
        self.values = [value]
        self.probes: list[bool] = []
        self.score = 0.0
        self.rng = np.random.default_rng(5)
        self.noise = noise

    def run(self, windows: int) -> Learner:
        for _ in range(windows):
            number = len(self.probes)
            metrics = EvalMetrics(self.score + self.noise * self.rng.normal(), {}, number)
            self.probes.append(self.tuner.is_probing)
            given = HyperparamSet({"x": self.values[-1], "free": 7})
            self.values.append(self.tuner.suggest(given, (metrics,)).params["x"])
            self.score += self.slope(self.values[-1])
        return self


def to_one(value: Any) -> float:
    """Best at 1, on a logarithmic scale."""
    return 4.0 - abs(math.log10(value))


@pytest.mark.parametrize("start", [0.01, 100.0])
def test_it_walks_to_where_the_score_rises_fastest(start: float) -> None:
    learner = Learner(PairedBlockTuner(WIDE, config=QUICK, seed=0), to_one, start).run(500)
    assert abs(math.log10(learner.values[-1])) <= 0.4


def test_windows_with_the_usual_value_are_no_probes() -> None:
    learner = Learner(PairedBlockTuner(WIDE, config=QUICK, seed=0), to_one, 1.0).run(17)
    in_force = learner.values[1:17]
    assert sorted(set(in_force)) == [1.0, pytest.approx(10**0.4)]
    assert learner.probes[1:17] == [value != 1.0 for value in in_force]
    assert sum(learner.probes[1:17]) == 8


@pytest.mark.parametrize(("start", "is_above"), [(0.01, True), (1.0, True), (50.0, False)])
def test_the_first_trial_goes_towards_the_middle_of_the_range(start: float, is_above: bool) -> None:
    learner = Learner(PairedBlockTuner(WIDE, config=QUICK, seed=0), to_one, start).run(17)
    (trial,) = set(learner.values[:17]) - {start}
    assert (trial > start) == is_above


def test_orders_are_drawn_and_one_seed_gives_one_run() -> None:
    runs = [Learner(PairedBlockTuner(WIDE, config=QUICK, seed=seed), to_one, 5.0).run(60) for seed in (1, 1, 2)]
    assert runs[0].values == runs[1].values != runs[2].values


def test_choices_and_integers() -> None:
    choices = PairedBlockTuner({"x": ["slow", "fast", "slower"]}, config=QUICK, seed=0)
    assert Learner(choices, lambda value: float(value == "fast"), "slow").run(50).values[-1] == "fast"
    integers = PairedBlockTuner({"x": (1, 9)}, config=QUICK, seed=0)
    learner = Learner(integers, lambda value: 9 - abs(value - 6), 2).run(200)
    assert all(isinstance(value, int) for value in learner.values)
    assert abs(learner.values[-1] - 6) <= 1


def test_a_value_that_makes_the_score_fall_is_given_up_within_its_block_and_not_tried_again() -> None:
    tuner = PairedBlockTuner(WIDE, config=PairedBlockConfig(first_block=50, max_block=50), seed=3)
    learner = Learner(tuner, lambda value: -0.5 if value > 2.0 else 0.0, 1.0, noise=0.5)
    learner.run(600)
    tried = [value for value, is_probe in zip(learner.values, learner.probes, strict=False) if is_probe]
    longest = max(len(run) for run in "".join("B" if value > 2.0 else " " for value in learner.values).split())
    assert longest < 25, "of blocks of 50"
    above = {value for value in tried if value > 2.0}
    assert len(above) <= 2, f"values beyond the one that failed were tried: {above}"


def test_on_noise_alone_a_value_does_not_drift_away() -> None:
    ends = [
        math.log10(Learner(PairedBlockTuner(WIDE, seed=seed), lambda value: 0.0, 1.0, noise=20.0).run(800).values[-1])
        for seed in range(20)
    ]
    assert abs(float(np.median(ends))) <= 0.4
    assert max(map(abs, ends)) <= 2.0


def test_a_learner_that_is_six_fold_too_slow_is_made_faster_and_a_good_one_is_left_as_good() -> None:
    """The simulation of tests/benchmarks/tuners.py in short: the score saturates, and diverges beyond an edge."""

    def mean_score(is_tuned: bool, offset: float, seed: int) -> float:
        tuner = PairedBlockTuner({"x": (10**-1.5, 10**1.5)} if is_tuned else None, seed=seed)
        rng = np.random.default_rng([seed, 1])
        score = total = 0.0
        hyperparams = HyperparamSet({"x": 10.0**offset})
        for window in range(2500):
            total += score
            hyperparams = tuner.suggest(hyperparams, (EvalMetrics(score + 20.0 * rng.normal(), {}, window),))
            distance = math.log10(hyperparams.params["x"])
            rate = 0.004 * math.exp(-(distance**2) / (2 * 0.4**2))
            score += -0.02 * score if distance > 0.6 else rate * (100.0 - score)
        return total / 2500

    for offset, least in ((-0.8, 1.2), (0.4, 0.94)):
        plain = mean_score(False, offset, 0)
        tuned = [mean_score(True, offset, seed) for seed in range(6)]
        assert np.mean(tuned) >= least * plain


def test_without_a_rise_comparisons_become_rare() -> None:
    shares = [
        np.mean(
            Learner(
                PairedBlockTuner(WIDE, config=dataclasses.replace(QUICK, max_rest=most), seed=0),
                lambda value: 0.0,
                1.0,
                noise=1.0,
            )
            .run(3000)
            .probes
        )
        for most in (0, 8)
    ]
    assert 0.4 < shares[0] < 0.6
    assert shares[1] < 0.75 * shares[0]


def test_a_plateau_asks_for_one_comparison_now() -> None:
    tuner = PairedBlockTuner(WIDE, config=QUICK, seed=0)
    learner = Learner(tuner, lambda value: 0.0, 1.0, noise=1.0)
    while not (learner.run(1).probes and not tuner.is_comparing and tuner.memory.rest > 20):
        assert len(learner.probes) < 3000
    tuner.on_plateau(())
    assert tuner.is_comparing
    assert not tuner.is_probing
    learner.run(17)
    assert sum(learner.probes[-17:]) == 8
    assert not tuner.is_comparing


def test_settling_restores_the_usual_value() -> None:
    tuner = PairedBlockTuner(WIDE, config=QUICK, seed=0)
    learner = Learner(tuner, to_one, 1.0)
    while not tuner.is_probing:
        learner.run(1)
    settled = tuner.settle(HyperparamSet({"x": learner.values[-1], "free": 7}))
    assert settled.params == {"x": 1.0, "free": 7}
    assert not tuner.is_comparing


def test_a_comparison_ends_when_someone_else_sets_the_value() -> None:
    """As a rollback does; what it set is the usual value from then on."""
    tuner = PairedBlockTuner(WIDE, config=QUICK, seed=0)
    learner = Learner(tuner, to_one, 1.0)
    while not tuner.is_probing:
        learner.run(1)
    learner.values.append(0.5)
    learner.run(17)
    assert 0.5 in learner.values[-17:]
    assert sorted(set(learner.values[-17:])) == [0.5, pytest.approx(0.5 * 10**0.4)]


def test_a_restored_tuner_gives_a_falling_value_up_in_the_same_window() -> None:
    rng = np.random.default_rng(0)
    scores = [*rng.normal(100.0, 1.0, 30), *(100.0 - 0.5 * np.arange(200) + rng.normal(0.0, 1.0, 200))]
    config = PairedBlockConfig(first_block=10, max_block=40)
    check_optimizer(
        lambda: PairedBlockTuner({"x": (0.1, 10.0)}, config=config, seed=1),
        HyperparamSet({"x": 1.0, "free": 7}),
        {"x": (0.1, 10.0)},
        [float(score) for score in scores],
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"first_block": 1},
        {"first_block": 9, "max_block": 8},
        {"block_growth": 1},
        {"decades": 0.0},
        {"keep_z": math.nan},
        {"windows_per_false_alarm": 1.0},
        {"max_rest": -1},
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="expected"):
        PairedBlockConfig(**settings)
