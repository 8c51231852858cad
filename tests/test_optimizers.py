from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optix_stream.contracts import BaseOptimizer
from optix_stream.errors import ConfigurationError
from optix_stream.optimizers import (
    AskTellOptimizer,
    BackoffOptimizer,
    BanditConfig,
    BanditOptimizer,
    PairedBlockConfig,
    PairedBlockTuner,
    PBTOptimizer,
    SPSAConfig,
    SPSAOptimizer,
)
from optix_stream.optimizers.block_effect import EffectKind
from optix_stream.optimizers.parameters import Bounds
from optix_stream.testing import check_optimizer
from optix_stream.types import EvalMetrics, HyperparamSet

BOUNDS: Bounds = {"learning_rate": (1e-4, 1.0), "gamma": (0.5, 1.0), "k": (1, 9), "name": ["ppo", "a2c", "dqn"]}
START = HyperparamSet({"learning_rate": 0.1, "gamma": 0.9, "layers": [64, 64], "name": "ppo", "use_gae": True, "k": 3})

TUNERS: list[type[AskTellOptimizer[Any]]] = [
    BackoffOptimizer,
    BanditOptimizer,
    PairedBlockTuner,
    PBTOptimizer,
    SPSAOptimizer,
]

finite = st.floats(-1e6, 1e6)


class Loop:
    """Drives an optimizer as the controller does: one score, one suggestion."""

    def __init__(self, optimizer: BaseOptimizer, **params: float) -> None:
        self.optimizer = optimizer
        self.params: dict[str, Any] = params
        self.history: list[EvalMetrics] = []

    def window(self, score: float) -> Mapping[str, Any]:
        self.history.append(EvalMetrics(score, {}, len(self.history)))
        current = HyperparamSet(dict(self.params), len(self.history))
        self.params = dict(self.optimizer.suggest(current, tuple(self.history)).params)
        return self.params

    def windows(self, *scores: float) -> list[float]:
        """The value of ``x`` after each score."""
        return [self.window(score)["x"] for score in scores]


@given(
    st.lists(finite, min_size=1, max_size=60),
    st.floats(0.0, 0.5),
    st.integers(1, 5),
    st.sampled_from([None, 0.0, 1e3]),
    st.floats(0.0, 10.0),
)
def test_backoff_stays_within_its_limits(
    scores: list[float], scale: float, min_samples: int, threshold: float | None, penalty: float
) -> None:
    check_optimizer(
        lambda: BackoffOptimizer(
            BOUNDS,
            perturbation_scale=scale,
            min_samples=min_samples,
            high_variance_threshold=threshold,
            variance_penalty=penalty,
        ),
        START,
        BOUNDS,
        scores,
    )


@given(
    st.lists(finite, min_size=1, max_size=60),
    st.integers(1, 30),
    st.floats(0.0, 1.0),
    st.floats(0.0, 1.0),
    st.integers(0, 99),
)
def test_pbt_stays_within_its_limits(scores: list[float], size: int, bottom: float, top: float, seed: int) -> None:
    check_optimizer(lambda: PBTOptimizer(BOUNDS, size, bottom, top, seed=seed), START, BOUNDS, scores)


@given(
    st.lists(finite, min_size=1, max_size=120),
    st.integers(2, 4),
    st.integers(2, 4),
    st.integers(4, 16),
    st.sampled_from(["slope", "level"]),
    st.integers(0, 99),
)
def test_paired_blocks_stay_within_their_limits(
    scores: list[float], first: int, growth: int, longest: int, effect: EffectKind, seed: int
) -> None:
    config = PairedBlockConfig(effect=effect, first_block=first, block_growth=growth, max_block=longest)
    check_optimizer(lambda: PairedBlockTuner(BOUNDS, config=config, seed=seed), START, BOUNDS, scores)


@given(
    st.lists(finite, min_size=1, max_size=60),
    st.floats(0.01, 5.0),
    st.floats(0.01, 5.0),
    st.integers(2, 4),
    st.integers(0, 99),
)
def test_spsa_stays_within_its_limits(scores: list[float], reach: float, gain: float, block: int, seed: int) -> None:
    config = SPSAConfig(perturbation=reach, gain=gain, block=block)
    check_optimizer(lambda: SPSAOptimizer(BOUNDS, config=config, seed=seed), START, BOUNDS, scores)


@given(
    st.lists(finite, min_size=1, max_size=100),
    st.integers(2, 5),
    st.integers(3, 5),
    st.floats(0.0, 5.0),
    st.sampled_from(["slope", "level"]),
)
def test_the_bandit_stays_within_its_limits(
    scores: list[float], arms: int, block: int, exploration: float, effect: EffectKind
) -> None:
    config = BanditConfig(arms=arms, block=block, memory=6, exploration=exploration, effect=effect)
    check_optimizer(lambda: BanditOptimizer(BOUNDS, config=config), START, BOUNDS, scores)


@pytest.mark.parametrize("make", TUNERS)
def test_numbers_of_numpy_s_are_tuned_and_saved(make: Callable[..., AskTellOptimizer[Any]]) -> None:
    params: dict[str, Any] = {"rate": np.float32(0.5), "k": np.int64(4)}
    bounds: Bounds = {"rate": (0.1, 1.0), "k": (1, 9)}
    optimizer = make(bounds)
    seen = set()
    for window in range(120):
        score = EvalMetrics(float(window % 7), {}, window)
        params = dict(optimizer.suggest(HyperparamSet(dict(params)), (score,)).params)
        seen.add((params["rate"], params["k"]))
        saved = dict(optimizer.state_dict())
        generator = saved.pop("rng")  # Its integers are longer than those of most formats.
        optimizer.load_state_dict({**msgspec.msgpack.decode(msgspec.msgpack.encode(saved)), "rng": generator})
    assert len(seen) > 1
    assert all(0.1 <= rate <= 1.0 and 1 <= k <= 9 and k == int(k) for rate, k in seen)


@pytest.mark.parametrize("make", TUNERS)
def test_without_bounds_nothing_is_touched(make: Callable[[], BaseOptimizer]) -> None:
    check_optimizer(make, START, {}, [1.0, 2.0, -3.0, 4.0])
    assert not make().is_probing


@pytest.mark.parametrize("make", TUNERS)
def test_what_it_has_bounds_for_can_be_asked(make: Callable[..., BaseOptimizer]) -> None:
    assert list(make({"rate": (0.1, 1.0), "k": [1, 9]}).bounded) == ["rate", "k"]
    assert not make({}).bounded
    assert not make().bounded


# --- finite differences --------------------------------------------------------------------------


def backoff(**changes: Any) -> BackoffOptimizer:
    return BackoffOptimizer({"x": (0.0, 100.0)}, perturbation_scale=0.1, **changes)


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        pytest.param(6.0, 11.0, id="a positive gradient keeps theta + d"),
        pytest.param(4.0, 9.0, id="a negative one applies theta - d"),
        pytest.param(5.0, 10.0, id="none restores theta"),
    ],
)
def test_what_the_score_says_after_a_probe(after: float, expected: float) -> None:
    """The original's reverse step returned theta and never theta - d: on noise, values only ever grew."""
    loop = Loop(backoff(), x=10.0)
    assert loop.windows(5.0) == [pytest.approx(11.0)]
    assert loop.optimizer.is_probing
    assert loop.windows(after) == [pytest.approx(expected)]
    assert not loop.optimizer.is_probing


def test_pure_noise_does_not_ratchet_a_value_up() -> None:
    """In the original system the learning rate grew 141-fold in 400 windows of noise."""
    rng = np.random.default_rng(1)
    ends = []
    for _ in range(30):
        loop = Loop(BackoffOptimizer({"x": (1e-6, 1e6)}, perturbation_scale=0.05), x=1.0)
        ends.append(loop.windows(*rng.normal(100.0, 20.0, 400))[-1])
    assert 0.2 < float(np.median(ends)) < 5.0


@pytest.mark.parametrize("start", [2.0, 40.0])
def test_on_a_clean_slope_it_walks_to_the_top(start: float) -> None:
    loop = Loop(backoff(), x=start)
    for _ in range(300):
        loop.window(-((loop.params["x"] - 10.0) ** 2))
    assert loop.params["x"] == pytest.approx(10.0, abs=0.5)


def test_a_probe_that_did_not_help_halves_the_step_and_turns_around() -> None:
    loop = Loop(backoff(), x=10.0)
    loop.windows(5.0, 4.0)
    assert loop.params["x"] == pytest.approx(9.0)
    # Half of a tenth of 9, in the other direction.
    assert loop.windows(5.0) == [pytest.approx(9.0 - 0.45)]
    assert loop.windows(6.0) == [pytest.approx(8.55)]
    assert loop.windows(6.0) == [pytest.approx(8.55 - 0.4275)]


def test_a_plateau_makes_the_steps_large_again() -> None:
    loop = Loop(backoff(), x=10.0)
    loop.windows(5.0, 4.0)
    loop.optimizer.on_plateau(tuple(loop.history))
    assert loop.windows(5.0) == [pytest.approx(9.0 + 0.9)]


def test_a_plateau_during_a_probe_does_not_break_it() -> None:
    loop = Loop(backoff(), x=10.0)
    loop.windows(5.0)
    loop.optimizer.on_plateau(tuple(loop.history))
    assert loop.windows(6.0) == [pytest.approx(11.0)]


def test_parameters_take_turns() -> None:
    optimizer = BackoffOptimizer({"a": (0.0, 9.0), "b": (0.0, 9.0), "c": (0.0, 9.0)}, perturbation_scale=0.1)
    loop = Loop(optimizer, a=1.0, b=1.0, c=1.0)
    probed = []
    for _ in range(6):
        before = dict(loop.params)
        after = loop.window(0.0)
        probed += [name for name in after if after[name] != before[name]]
        loop.window(0.0)
    assert probed == ["a", "b", "c", "a", "b", "c"]


def test_no_probe_starts_while_scores_vary_too_much(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop(backoff(high_variance_threshold=1.0, min_samples=2), x=10.0)
    with caplog.at_level(logging.INFO, "optix_stream.optimizers.backoff"):
        assert loop.windows(0.0, 100.0) == [10.0, 10.0]
    assert "skipped tuning x: score variance 2.5e+03 is above the threshold" in caplog.text
    assert not loop.optimizer.is_probing
    assert loop.windows(*[50.0] * 5)[-1] == pytest.approx(11.0)


def test_noise_makes_the_steps_smaller() -> None:
    loop = Loop(backoff(variance_penalty=1.0, min_samples=2), x=10.0)
    loop.windows(4.0, 6.0)  # Variance 1, so that alpha is a half.
    assert loop.params["x"] == pytest.approx(10.5)


def test_a_decision_waits_for_enough_scores_and_takes_their_mean() -> None:
    loop = Loop(backoff(min_samples=3), x=10.0)
    assert loop.windows(5.0, 5.0) == [10.0, 10.0]
    assert loop.windows(5.0, 100.0, 0.0) == [pytest.approx(11.0)] * 3
    assert loop.optimizer.is_probing
    assert loop.windows(-91.0) == [pytest.approx(9.0)]  # A mean of 3, below 5.


def test_scores_are_not_taken_twice_when_not_every_window_is_for_tuning() -> None:
    optimizer = backoff(min_samples=3)
    history = [EvalMetrics(1.0, {}, 0), EvalMetrics(2.0, {}, 1)]
    current = HyperparamSet({"x": 10.0})
    for _ in range(3):
        assert optimizer.suggest(current, tuple(history)).params == {"x": 10.0}
    history.append(EvalMetrics(3.0, {}, 2))
    assert optimizer.suggest(current, tuple(history)).params != {"x": 10.0}


def test_integers_move_by_one_at_least() -> None:
    optimizer = BackoffOptimizer({"x": (1, 100)}, perturbation_scale=0.1)
    assert Loop(optimizer, x=4).windows(5.0, 6.0, 6.0) == [5, 5, 6]


def test_what_is_on_trial_ends_where_tuning_is_frozen_or_scores_mean_something_else() -> None:
    optimizer = backoff()
    loop = Loop(optimizer, x=10.0)
    assert loop.windows(5.0) == [pytest.approx(11.0)]
    assert optimizer.settle(HyperparamSet(dict(loop.params))).params == {"x": 10.0}
    assert not optimizer.is_probing
    loop = Loop(optimizer, x=10.0)
    loop.windows(5.0)
    history = [*loop.history, EvalMetrics(500.0, {}, 1, basis="another")]
    assert optimizer.suggest(HyperparamSet(dict(loop.params)), history).params["x"] == pytest.approx(11.0)
    assert optimizer.memory.probe is not None
    assert optimizer.memory.probe.origin == 10.0


@pytest.mark.parametrize(("start", "expected"), [(100.0, 90.0), (0.0, 1e-7), (500.0, 100.0)])
def test_at_a_bound_there_is_only_one_way_to_go(start: float, expected: float) -> None:
    assert Loop(backoff(), x=start).windows(1.0) == [pytest.approx(expected)]


# --- population-based training -------------------------------------------------------------------


def pbt(**changes: Any) -> PBTOptimizer:
    return PBTOptimizer({"x": (0.0, 100.0)}, seed=3, **changes)


def suggest_after(optimizer: PBTOptimizer, past: Sequence[tuple[float, float]]) -> float:
    """The suggestion after these pairs of value and score."""
    value = 0.0
    history: list[EvalMetrics] = []
    for window, (current, score) in enumerate(past):
        history.append(EvalMetrics(score, {}, window))
        value = optimizer.suggest(HyperparamSet({"x": current}), history).params["x"]
    return value


def test_a_bad_score_copies_from_the_best_and_perturbs_it_a_little() -> None:
    past = [(float(value), float(value)) for value in (20, 30, 40, 80)]
    assert suggest_after(pbt(exploit_scale=0.0), [*past, (10.0, -5.0)]) == 80.0
    assert abs(suggest_after(pbt(exploit_scale=0.05), [*past, (10.0, -5.0)]) - 80.0) <= 5.0


def test_any_other_score_explores_around_the_present_values() -> None:
    past = [(float(value), float(value)) for value in (20, 30, 40, 80)]
    assert suggest_after(pbt(explore_scale=0.0), [*past, (50.0, 50.0)]) == 50.0
    explored = suggest_after(pbt(), [*past, (50.0, 50.0)])
    assert 0.0 < abs(explored - 50.0) <= 10.0


def test_what_fell_out_of_the_history_is_not_copied() -> None:
    past = [(99.0, 99.0), (20.0, 20.0), (30.0, 30.0), (10.0, -5.0)]
    assert suggest_after(pbt(exploit_scale=0.0, history_size=3, exploit_percentile=0.4), past) == 30.0


def test_one_seed_gives_one_run() -> None:
    past = [(float(value), float(-value)) for value in range(10)]
    assert suggest_after(pbt(), past) == suggest_after(pbt(), past)


@pytest.mark.parametrize(
    "make",
    [
        lambda: BackoffOptimizer({"x": (1.0, 1.0)}),
        lambda: BackoffOptimizer({"x": (2.0, 1.0)}),
        lambda: BackoffOptimizer(min_samples=0),
        lambda: BackoffOptimizer(min_samples=6, score_window=5),
        lambda: PBTOptimizer({"x": (2.0, 1.0)}),
        lambda: PBTOptimizer(history_size=0),
        lambda: PBTOptimizer(exploit_percentile=1.1),
        lambda: PBTOptimizer(top_percentile=-0.1),
    ],
)
def test_settings_that_cannot_work_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError, match="expected"):
        make()


# --- simultaneous perturbation -------------------------------------------------------------------


def test_spsa_moves_many_parameters_at_once_to_where_the_score_is_best() -> None:
    names = [f"x{number}" for number in range(6)]
    optimizer = SPSAOptimizer(dict.fromkeys(names, (0.0, 1.0)), config=SPSAConfig(block=2, effect="level"), seed=0)
    params: dict[str, Any] = dict.fromkeys(names, 0.1)
    rng = np.random.default_rng(0)
    is_probe = []
    for window in range(1500):
        score = -sum((params[name] - 0.7) ** 2 for name in names) + 0.001 * rng.normal()
        is_probe.append(optimizer.is_probing)
        params = dict(optimizer.suggest(HyperparamSet(dict(params)), (EvalMetrics(score, {}, window),)).params)
    settled = optimizer.settle(HyperparamSet(params)).params
    assert np.mean([abs(settled[name] - 0.7) for name in names]) < 0.1
    assert is_probe[1:10] == [True] * 8 + [False], "between two comparisons the values are those between the points"


def test_spsa_ends_a_comparison_when_someone_else_sets_a_value() -> None:
    loop = Loop(SPSAOptimizer({"x": (0.0, 100.0)}, seed=0), x=50.0)
    loop.windows(1.0, 1.0)
    assert loop.optimizer.is_probing
    loop.params = {"x": 20.0}
    assert loop.windows(1.0)[0] in (pytest.approx(5.0), pytest.approx(35.0))


# --- the bandit ----------------------------------------------------------------------------------


def play(worth: Callable[[int, Any], float], bounds: Bounds, start: Any, windows: int, noise: float = 0.1) -> list[Any]:
    """The values in force, where a value is worth so much a window."""
    optimizer = BanditOptimizer(bounds, config=BanditConfig(block=4, memory=12, effect="level"))
    rng = np.random.default_rng(3)
    values = [start]
    for window in range(windows):
        score = EvalMetrics(worth(window, values[-1]) + noise * rng.normal(), {}, window)
        values.append(optimizer.suggest(HyperparamSet({"x": values[-1]}), (score,)).params["x"])
    return values


def test_the_bandit_finds_the_best_choice_and_stays_with_it() -> None:
    values = play(lambda window, value: {"a": 1.0, "b": 3.0, "c": 2.0}[value], {"x": ["a", "b", "c"]}, "a", 400)
    assert values[-200:].count("b") > 120


def test_the_bandit_follows_when_another_choice_becomes_the_best() -> None:
    def worth(window: int, value: str) -> float:
        return float(value == ("a" if window < 300 else "b"))

    values = play(worth, {"x": ["a", "b"]}, "a", 900)
    assert values[100:300].count("a") > 120
    assert values[-300:].count("b") > 200


def test_the_bandit_cuts_a_range_into_values() -> None:
    values = play(lambda window, value: -abs(np.log10(value) + 3.0), {"x": (1e-5, 1e-1)}, 1e-5, 400)
    assert sorted(set(values)) == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
    assert values[-100:].count(pytest.approx(1e-3)) > 50


@pytest.mark.parametrize(
    "make",
    [
        lambda: SPSAConfig(block=1),
        lambda: SPSAConfig(gain=0.0),
        lambda: SPSAConfig(perturbation=float("nan")),
        lambda: BanditConfig(arms=1),
        lambda: BanditConfig(memory=3),
        lambda: BanditConfig(block=2),
        lambda: BanditConfig(exploration=-1.0),
        lambda: BanditOptimizer({"x": list(range(60))}),
    ],
)
def test_settings_of_spsa_and_the_bandit_that_cannot_work_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError, match="expected"):
        make()
