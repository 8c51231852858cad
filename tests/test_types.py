from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest

from optix_stream.testing import make_transition, make_window
from optix_stream.types import EpisodeData, EvalMetrics, HyperparamSet, LoopState, PolicySnapshot, Statistics


def window_of(length: int, **changes: object) -> EpisodeData:
    columns: dict[str, object] = {
        "observations": [[float(index)] for index in range(length)],
        "actions": list(range(length)),
        "rewards": [1.0] * length,
        "terminated": [False] * length,
        "truncated": [False] * length,
        "infos": [{}] * length,
        "episode_id": 0,
    }
    return EpisodeData(**{**columns, **changes})  # type: ignore[arg-type]


def test_a_handmade_window_takes_lists() -> None:
    window = window_of(3, terminated=[False, True, False], truncated=[False, False, True])
    assert window.length == 3
    assert window.total_reward == 3.0
    assert window.dones.tolist() == [False, True, True]
    assert window.observations.shape == (3, 1)
    assert window.gaps.tolist() == [False] * 3
    assert window.streams.tolist() == [0] * 3
    assert window.times.tolist() == [0.0] * 3


@pytest.mark.parametrize("name", ["actions", "terminated", "truncated", "gaps", "streams", "times"])
def test_columns_of_different_lengths_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected 3 rows, one for each reward, got 2"):
        window_of(3, **{name: np.zeros(2)})


def test_a_window_is_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_window([1.0]).episode_id = 1  # type: ignore[misc]


def test_a_higher_score_beats_a_lower_one_by_more_than_the_margin() -> None:
    better, worse = EvalMetrics(2.0, {}, 1), EvalMetrics(1.0, {}, 0)
    assert better.beats(worse)
    assert not worse.beats(better)
    assert not better.beats(better)
    assert not better.beats(worse, margin=1.0)


def test_copied_hyperparameters_are_independent() -> None:
    original = HyperparamSet({"learning_rate": 0.1}, 3)
    copied = original.copy()
    copied.params["learning_rate"] = 9.0
    assert original == HyperparamSet({"learning_rate": 0.1}, 3)


def test_when_a_value_was_made_is_not_part_of_what_it_is() -> None:
    metrics = EvalMetrics(1.0, {}, 0, timestamp=1.0)
    assert metrics == EvalMetrics(1.0, {}, 0, timestamp=2.0)
    params = HyperparamSet({}, 0)
    assert PolicySnapshot("a", metrics, params, "a/weights", 0, 1.0) == PolicySnapshot(
        "a", metrics, params, "a/weights", 0, 2.0
    )


def test_held_is_the_sum_of_where_transitions_wait() -> None:
    statistics = Statistics(10, 1, 2, 3, 4, {}, {})
    assert statistics.held == 9
    assert statistics.is_balanced
    assert not msgspec.structs.replace(statistics, received=11).is_balanced
    assert msgspec.structs.replace(statistics, received=15, dropped={"a": 2}, rejected={"b": 3}).is_balanced


def test_there_are_four_states() -> None:
    assert [state.value for state in LoopState] == ["active", "cooling", "dormant", "watchdog"]


def test_transitions_compare_by_identity() -> None:
    """Their arrays have no single truth value, so that comparing fields would raise."""
    assert make_transition(1) != make_transition(1)
