"""The state of a run's parts, out and back in."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optix_stream.assembler import WindowAssembler
from optix_stream.boundaries import every_n_steps
from optix_stream.contracts import Outcome, Stateful, Verdict
from optix_stream.errors import CheckpointError
from optix_stream.evaluators import EpisodeReturnEvaluator
from optix_stream.judges import ThresholdJudge
from optix_stream.ledger import Ledger
from optix_stream.run_state import Progress, gather, restore
from optix_stream.scheduler import BackoffScheduler
from optix_stream.state_files import encode_state, read_state_file
from optix_stream.testing import check_stateful, make_transition, make_window
from optix_stream.types import CompletedEpisode, EvalMetrics

NUMBERS = st.floats(allow_nan=True, allow_infinity=True)


@given(
    scores=st.lists(st.tuples(st.floats(allow_nan=False, allow_infinity=False), NUMBERS), max_size=20),
    windows=st.integers(0, 10**6),
)
def test_progress_is_the_same_after_it_has_been_saved(scores: list[tuple[float, float]], windows: int) -> None:
    progress = Progress()
    for window, (score, loss) in enumerate(scores):
        progress.record(EvalMetrics(score, {"loss": loss}, window, "basis"))
    progress.windows, progress.failures, progress.basis = windows, 2, "basis"
    again = Progress()
    again.record(EvalMetrics(1.0, {}, 0))
    again.load_state_dict(progress.state_dict())
    assert (again.windows, again.failures, again.basis) == (windows, 2, "basis")
    assert [repr(metrics) for metrics in again.history] == [repr(metrics) for metrics in progress.history]
    assert same(again.state_dict(), progress.state_dict())


def same(state: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return encode_state(state) == encode_state(other)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text().filter(lambda key: key[:1] != "$"), inner),
    max_leaves=20,
)
ARRAYS = st.sampled_from(
    [
        np.zeros(0),
        np.array(3.5, np.float32),
        np.arange(6, dtype=np.int64).reshape(2, 3).T,
        np.array([True, False]),
        np.array([math.nan, -0.0, math.inf]),
        np.frombuffer(b"bytes", np.uint8),
    ]
)


@given(state=st.dictionaries(st.sampled_from("abcd"), PLAIN | ARRAYS))
def test_a_state_is_the_same_when_it_has_been_read(
    state: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("state") / "state"
    path.write_bytes(encode_state(state))
    again = read_state_file(path)
    assert repr(again) == repr(state)
    for name, value in state.items():
        if isinstance(value, np.ndarray):
            assert (again[name].dtype, again[name].shape) == (value.dtype, value.shape)
            assert again[name].tobytes() == value.tobytes()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (object(), r"state\['x'\]: expected plain data or an array, got object"),
        ((1, 2), r"state\['x'\]: expected plain data or an array, got tuple"),
        (np.float64(1.0), "expected plain data or an array, got float64"),
        ({1: 2}, r"expected names as keys, got \[1\]"),
        ({"$array": "0"}, "expected names as keys"),
        (np.array(["text"]), "expected an array of numbers, got one of <U4"),
        (np.array([object()]), "expected an array of numbers, got one of object"),
    ],
)
def test_what_is_not_plain_data_is_named(value: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        encode_state({"x": value})


class Memory(Stateful):
    """Remembers a number."""

    def __init__(self, number: int) -> None:
        self.number = number

    def state_dict(self) -> Mapping[str, Any]:
        return {"number": self.number}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if "number" not in state:
            raise CheckpointError("expected a number")
        self.number = int(state["number"])


def test_what_has_no_memory_starts_afresh_and_is_named() -> None:
    state = gather({"memory": Memory(3), "evaluator": object()})
    parts = {"memory": Memory(0), "evaluator": object(), "new": Memory(1)}
    assert restore(parts, state) == ("evaluator", "new")
    assert [part.number for part in parts.values() if isinstance(part, Memory)] == [3, 1]


def test_a_part_of_another_kind_is_refused() -> None:
    state = gather({"judge": Memory(3)})
    with pytest.raises(
        CheckpointError, match="cannot resume: judge: expected the state of BackoffScheduler, got that of"
    ):
        restore({"judge": BackoffScheduler()}, state)
    with pytest.raises(CheckpointError, match="cannot resume: judge"):
        restore({"judge": Memory(3)}, {"judge": {"kind": "Memory", "state": {}}})


# --- every part that ships -----------------------------------------------------------------------


def scores(number: int) -> EvalMetrics:
    return EvalMetrics(float(np.random.default_rng(number).normal()), {}, number, "score")


def follow(scheduler: BackoffScheduler, number: int) -> Any:
    outcomes = [Outcome.IMPROVED, Outcome.UNCHANGED, Outcome.UNCHANGED, Outcome.COOLING, Outcome.PLATEAU]
    scheduler.record(Verdict(outcome=outcomes[number * 7 % 5], evidence=""), float(number))
    return scheduler.current_state, scheduler.current_interval, scheduler.best_score


def feed(assembler: WindowAssembler, number: int) -> Any:
    ends = number % 3 == 2
    transition = make_transition(number, reward=float(number), terminated=ends, stream=number % 2)
    window = assembler.feed(transition)
    return None if window is None else (window.episode_id, window.rewards, window.streams, window.completed)


def score(evaluator: EpisodeReturnEvaluator, number: int) -> Any:
    completed = (CompletedEpisode(0, float(number), 2),) if number % 4 == 1 else ()
    window = dataclasses.replace(make_window([1.0, 2.0], window_id=number), completed=completed)
    metrics = evaluator.score(window, {})
    return None if metrics is None else (metrics.primary_score, metrics.basis)


def book(ledger: Ledger, number: int) -> Any:
    ledger.receive(make_transition(number))
    ledger.hand_over(1)
    if number % 3:
        ledger.learn(1)
    else:
        ledger.give_up(1, "failed")
    return ledger.statistics(in_queue=0, in_window=0)


PARTS: list[tuple[Callable[[], Stateful], Callable[[Any, int], Any]]] = [
    (lambda: BackoffScheduler(plateau_threshold=2, dormant_threshold=3), follow),
    (lambda: ThresholdJudge(smoothing=3), lambda judge, number: judge.update(scores(number))),
    (EpisodeReturnEvaluator, score),
    (Progress, lambda progress, number: progress.record(scores(number))),
    (Ledger, book),
    (lambda: WindowAssembler(every_n_steps(4)), feed),
]


@pytest.mark.parametrize(("make", "use"), PARTS)
def test_what_ships_goes_on_as_if_it_had_never_stopped(
    make: Callable[[], Stateful], use: Callable[[Any, int], Any]
) -> None:
    check_stateful(make, use)


class Shared(Memory):
    """Hands out what it works on."""

    def __init__(self) -> None:
        super().__init__(0)
        self.state: dict[str, Any] = {"number": 0}

    def state_dict(self) -> Mapping[str, Any]:
        return self.state


class Forgetful(Memory):
    """Remembers less than it should."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if "number" not in state:
            raise CheckpointError("no number")


def count(memory: Memory, number: int) -> int:
    memory.number += 1
    if isinstance(memory, Shared):
        memory.state["number"] = memory.number
    return memory.number


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Forgetful(0), "it has another state"),
        (Shared, "got a state that changes"),
        (lambda: Memory(object()), "expected plain data and arrays"),  # type: ignore[arg-type]
    ],
)
def test_the_check_finds_a_bad_memory(make: Callable[[], Memory], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_stateful(make, count if "plain" not in message else lambda memory, number: None)


def test_the_check_finds_a_memory_that_takes_nonsense() -> None:
    class Trusting(Memory):
        def load_state_dict(self, state: Mapping[str, Any]) -> None:
            self.number = int(state.get("number", 0))

    with pytest.raises(AssertionError, match="expected a CheckpointError"):
        check_stateful(lambda: Trusting(0), count)
