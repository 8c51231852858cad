from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optix_stream.assembler import WindowAssembler
from optix_stream.boundaries import every_n_steps
from optix_stream.contracts import Reference
from optix_stream.errors import ConfigurationError
from optix_stream.switchback import Comparison, Switchback, SwitchbackConfig, WholeEpisodes
from optix_stream.testing import make_transition, make_window
from optix_stream.types import EpisodeData

REFERENCE = Reference(100.0, 20.0, 400)


def compare(switchback: Switchback, best: float, live: float, sd: float = 0.0, seed: int = 0) -> Comparison:
    rng = np.random.default_rng(seed)
    while (arm := switchback.next_arm) is not None:
        switchback.add((best if arm == "best" else live) + sd * float(rng.standard_normal()))
    return switchback.conclude()


def test_the_windows_are_those_of_the_formula() -> None:
    assert Switchback(REFERENCE, 80.0, SwitchbackConfig()).windows_each == 18  # At 1 sd.
    assert Switchback(REFERENCE, 60.0, SwitchbackConfig()).windows_each == 6
    assert Switchback(REFERENCE, -1000.0, SwitchbackConfig()).windows_each == 4
    assert Switchback(REFERENCE, 99.0, SwitchbackConfig()).windows_each == 32
    assert Switchback(REFERENCE, 120.0, SwitchbackConfig()).windows_each == 32


@given(st.integers(0, 1000))
def test_both_policies_act_equally_often_and_a_trend_is_cancelled(seed: int) -> None:
    switchback = Switchback(REFERENCE, 60.0, SwitchbackConfig(), seed=(seed,))
    arms = []
    while (arm := switchback.next_arm) is not None:
        arms.append(arm)
        switchback.add(1.0)
    first, second = arms[0], arms[3]
    assert arms == [first] * 3 + [second] * 6 + [first] * 3
    assert first != second
    times = {arm: np.mean([n for n, other in enumerate(arms) if other == arm]) for arm in ("best", "live")}
    assert times["best"] == times["live"]


def test_the_order_is_drawn() -> None:
    firsts = {Switchback(REFERENCE, 60.0, SwitchbackConfig(), seed=(0, n)).next_arm for n in range(20)}
    assert firsts == {"best", "live"}


@pytest.mark.parametrize(
    ("best", "live", "cause"),
    [(100.0, 70.0, "policy"), (70.0, 70.0, "environment"), (60.0, 75.0, "environment"), (100.0, 100.0, "environment")],
)
def test_who_is_to_blame(best: float, live: float, cause: str) -> None:
    """The world also where there is no fall any more: then nothing is to be rolled back."""
    comparison = compare(Switchback(REFERENCE, 70.0, SwitchbackConfig()), best, live)
    assert comparison.cause == cause
    assert f"it scores {best:g} in " in comparison.evidence
    assert f" windows, the live one {live:g} in " in comparison.evidence


def test_noise_seldom_misleads() -> None:
    policy = [compare(Switchback(REFERENCE, 70.0, SwitchbackConfig()), 100.0, 70.0, 20.0, n).cause for n in range(200)]
    world = [compare(Switchback(REFERENCE, 70.0, SwitchbackConfig()), 70.0, 70.0, 20.0, n).cause for n in range(200)]
    assert policy.count("policy") > 180
    assert world.count("environment") > 180


def test_windows_without_a_score_are_waited_for_with_patience() -> None:
    switchback = Switchback(REFERENCE, 0.0, SwitchbackConfig(patience=2))
    windows = 0
    while (arm := switchback.next_arm) is not None:
        switchback.add(1.0 if arm == "live" else None)
        windows += 1
    assert windows in (2 * 2 + 4 + 2 * 2, 2 + 4 * 2 + 2)
    comparison = switchback.conclude()
    assert comparison.cause is None
    assert comparison.evidence == "the best policy's windows could not be scored"


def windows_of(lengths: list[int], size: int) -> list[EpisodeData]:
    """Windows over episodes of such lengths, in one stream."""
    assembler = WindowAssembler(every_n_steps(size))
    windows, step = [], 0
    for length in lengths:
        for row in range(length):
            window = assembler.feed(make_transition(step, terminated=row == length - 1))
            step += 1
            windows += [] if window is None else [window]
    return windows


def test_an_episode_of_both_policies_counts_for_neither() -> None:
    first, second, third = windows_of([3, 4, 2, 5, 1], 5)
    episodes = WholeEpisodes()  # The policy changes here, after the first window, in the episode of four steps.
    assert [episode.length for episode in first.completed] == [3]
    assert [episode.length for episode in second.completed] == [4, 2]
    assert [episode.length for episode in episodes.of(second).completed] == [2]
    assert [episode.length for episode in episodes.of(third).completed] == [5, 1]


def test_a_window_without_episodes_is_left_alone() -> None:
    window = dataclasses.replace(make_window([1.0, 2.0]), completed=())
    assert WholeEpisodes().of(window) is window


@pytest.mark.parametrize(
    "make",
    [
        lambda: SwitchbackConfig(fewest_windows=1),
        lambda: SwitchbackConfig(fewest_windows=8, most_windows=4),
        lambda: SwitchbackConfig(patience=0),
    ],
)
def test_what_cannot_work_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError, match="expected"):
        make()
