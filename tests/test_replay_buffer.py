"""What a replay buffer holds, and returns over several steps beside a slow, plain reference."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optix_stream.errors import CheckpointError, ConfigurationError
from optix_stream.replay_buffer import Experience, ReplayBuffer, Sample
from optix_stream.sum_tree import SumTree
from optix_stream.types import Array


@dataclass(frozen=True)
class Step:
    """One row; observations are ``[stream, time]``, so that each is unique."""

    stream: int
    time: int
    reward: float
    terminated: bool = False
    truncated: bool = False
    has_gap: bool = False


def experience(steps: Sequence[Step], stream_ids: Sequence[int] = (0, 1, 2)) -> Experience:
    return Experience(
        observations=np.array([[s.stream, s.time] for s in steps], np.float32).reshape(-1, 2),
        actions=np.array([s.time % 7 for s in steps], np.int32),
        rewards=np.array([s.reward for s in steps]),
        next_observations=np.array([[s.stream, s.time + 1] for s in steps], np.float32).reshape(-1, 2),
        terminated=np.array([s.terminated for s in steps], np.bool_),
        ends=np.array([s.terminated or s.truncated or s.has_gap for s in steps], np.bool_),
        streams=np.array([stream_ids.index(s.stream) for s in steps], np.int32),
        stream_ids=stream_ids,
    )


def make_buffer(capacity: int = 64, n_step: int = 1, priority_exponent: float = 0.0) -> ReplayBuffer:
    return ReplayBuffer(capacity, (2,), (), np.int32, n_step=n_step, priority_exponent=priority_exponent)


def straight(count: int, start: int = 0, stream: int = 0) -> list[Step]:
    return [Step(stream, time, float(time)) for time in range(start, start + count)]


@st.composite
def histories(draw: st.DrawFn) -> list[list[Step]]:
    """Parts of three interleaved streams, with ends, gaps and losses of rows."""
    times = [0, 1000, 2000]
    parts = []
    for _ in range(draw(st.integers(1, 6))):
        part = []
        for _ in range(draw(st.integers(0, 12))):
            stream = draw(st.integers(0, 2))
            end = draw(st.sampled_from(["", "", "", "", "terminated", "truncated", "has_gap", "lost"]))
            reward = draw(st.floats(-10.0, 10.0, width=32))
            if end == "lost":
                times[stream] += 1
                continue
            ends = {end: True} if end else {}
            part.append(Step(stream, times[stream], reward, **ends))
            # What is seen after a reset is not what the last episode led to; after a gap it may be.
            times[stream] += 2 if end in ("terminated", "truncated") else 1
        parts.append(part)
    return parts


def reference(steps: Sequence[Step], number: int, n_step: int, gamma: float) -> tuple[float, float, Step]:
    """Return and discount of row ``number``, and the last of the steps taken together."""
    total, discount, last = 0.0, 1.0, steps[number]
    for later in steps[number:]:
        if later.stream != last.stream or (later is not last and later.time != last.time + 1):
            continue
        total += discount * later.reward
        discount *= gamma
        last = later
        n_step -= 1
        if n_step == 0 or later.terminated or later.truncated or later.has_gap:
            break
    return total, 0.0 if last.terminated else discount, last


@given(histories(), st.integers(1, 6), st.integers(3, 80), st.sampled_from([0.0, 0.5]))
def test_returns_over_several_steps(
    parts: list[list[Step]], n_step: int, capacity: int, priority_exponent: float
) -> None:
    buffer = make_buffer(capacity, n_step, priority_exponent)
    steps: list[Step] = []
    for part in parts:
        # Streams have other codes in each part.
        buffer.add(experience(part, (2, 0, 1) if len(steps) % 2 else (0, 1, 2)))
        steps += part
        kept = steps[-capacity:]
        assert len(buffer) == len(kept)
        if not kept:
            continue
        sample = buffer.draw(100, 0.9, np.random.default_rng(0), importance_exponent=0.5)
        numbers = {(step.stream, step.time): number for number, step in enumerate(steps)}
        for row in range(100):
            stream, time = sample.observations[row].astype(int).tolist()
            number = numbers[stream, time]
            assert number >= len(steps) - capacity
            total, discount, last = reference(steps, number, n_step, 0.9)
            assert sample.returns[row] == pytest.approx(total, rel=1e-5, abs=1e-5)
            assert sample.discounts[row] == pytest.approx(discount, rel=1e-5)
            assert sample.next_observations[row].tolist() == [last.stream, last.time + 1]
            assert sample.actions[row] == time % 7


def test_a_stream_that_is_cut_does_not_go_on() -> None:
    buffer = make_buffer(n_step=3)
    buffer.add(experience(straight(1)))
    buffer.cut([0, 1])
    buffer.add(experience(straight(1, start=1)))
    sample = buffer.draw(20, 1.0, np.random.default_rng(0))
    assert set(sample.returns.tolist()) == {0.0, 1.0}
    assert set(sample.discounts.tolist()) == {1.0}


def test_rows_of_a_stream_that_has_been_silent_for_long_are_not_taken_for_others() -> None:
    buffer = make_buffer(capacity=4, n_step=2)
    buffer.add(experience(straight(1)))
    buffer.add(experience(straight(4, start=100, stream=1)))
    buffer.add(experience(straight(1, start=1)))
    sample = buffer.draw(50, 1.0, np.random.default_rng(0))
    found = {tuple(o): r for o, r in zip(sample.observations.tolist(), sample.returns.tolist(), strict=True)}
    assert found == {(1, 101): 203.0, (1, 102): 205.0, (1, 103): 103.0, (0, 1): 1.0}


def test_the_streams_that_are_remembered_are_bounded() -> None:
    buffer = make_buffer(capacity=8)
    for stream in range(1500):
        buffer.add(experience(straight(1, stream=stream), (stream,)))
    assert len(json.dumps(buffer.capture()[1])) < 40_000


def test_rows_are_drawn_evenly() -> None:
    buffer = make_buffer(capacity=10)
    buffer.add(experience(straight(25)))
    sample = buffer.draw(100_000, 0.9, np.random.default_rng(0))
    assert np.bincount(sample.observations[:, 1].astype(int))[15:] == pytest.approx([10_000] * 10, rel=0.05)
    assert set(sample.weights.tolist()) == {1.0}


def test_rows_are_drawn_by_their_priorities() -> None:
    buffer = make_buffer(capacity=4, priority_exponent=0.5)
    buffer.add(experience(straight(3)))
    buffer.update_priorities(np.array([0, 1, 2]), np.array([-1.0, 4.0, 9.0], np.float32))
    buffer.add(experience(straight(1, start=3)))  # As urgent as the most urgent so far.
    sample = buffer.draw(90_000, 0.9, np.random.default_rng(0), importance_exponent=0.5)
    counts = np.bincount(sample.rows, minlength=4)
    assert counts == pytest.approx([10_000, 20_000, 30_000, 30_000], rel=0.05)
    weights = {row: float(sample.weights[sample.rows == row][0]) for row in range(4)}
    expected = {row: share**-0.5 for row, share in enumerate([1.0, 2.0, 3.0, 3.0])}
    assert weights == pytest.approx(expected, rel=1e-5)


@given(st.lists(st.tuples(st.integers(0, 12), st.floats(0.0, 10.0)), min_size=1, max_size=30))
def test_a_tree_is_a_function_of_its_leaves(puts: list[tuple[int, float]]) -> None:
    tree, other, leaves = SumTree(13), SumTree(13), np.zeros(13)
    for row, weight in puts:
        tree.put(np.array([row]), np.array([weight]))
        leaves[row] = weight
    other.replace(leaves)
    np.testing.assert_array_equal(tree.leaves(), leaves)
    assert tree.total == other.total == pytest.approx(leaves.sum())
    if leaves.sum() > 0.0:
        rows = tree.draw(200, np.random.default_rng(0))
        np.testing.assert_array_equal(rows, other.draw(200, np.random.default_rng(0)))
        assert (leaves[rows] > 0.0).all()


def drawn(buffer: ReplayBuffer) -> list[Array]:
    sample: Sample = buffer.draw(64, 0.9, np.random.default_rng(1), importance_exponent=0.5)
    return [getattr(sample, name) for name in Sample.__slots__]


def assert_same(first: list[Array], second: list[Array]) -> None:
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("count", [3, 20, 50], ids=["not full", "full", "all of it replaced"])
@pytest.mark.parametrize("priority_exponent", [0.0, 0.6])
def test_what_was_captured_is_restored(count: int, priority_exponent: float) -> None:
    buffer = make_buffer(capacity=24, n_step=3, priority_exponent=priority_exponent)
    buffer.add(experience(straight(count)))
    before, state = drawn(buffer), buffer.capture()
    for length in (5, 30):
        for start in range(count, count + length, 5):
            buffer.add(experience(straight(5, start=start)))
            buffer.update_priorities(np.array([1, 2]), np.array([3.0, 50.0]))
        assert len(drawn(buffer)) == len(before)
        buffer.restore(state)
        assert_same(drawn(buffer), before)
    # And what goes on from there is what would have gone on.
    other = make_buffer(capacity=24, n_step=3, priority_exponent=priority_exponent)
    for one in (buffer, other):
        if one is other:
            one.add(experience(straight(count)))
        one.add(experience(straight(4, start=count)))
    assert_same(drawn(buffer), drawn(other))


@pytest.mark.parametrize("count", [0, 10, 40])
@pytest.mark.parametrize("priority_exponent", [0.0, 0.6])
def test_what_was_saved_is_loaded(count: int, priority_exponent: float, tmp_path: Path) -> None:
    first, second = (make_buffer(24, 3, priority_exponent) for _ in range(2))
    second.add(experience(straight(30, start=500)))
    first.add(experience(straight(count)))
    if count:
        first.update_priorities(np.array([1, 2]), np.array([3.0, 50.0]))
    first.save(str(tmp_path / "replay"))
    second.load(str(tmp_path / "replay"))
    for buffer in (first, second):
        buffer.add(experience(straight(4, start=count)))
    assert_same(drawn(first), drawn(second))


def test_what_does_not_fit_is_not_loaded(tmp_path: Path) -> None:
    small = make_buffer(8)
    small.add(experience(straight(4)))
    before = drawn(small)
    for number, other in enumerate((make_buffer(9), make_buffer(8, priority_exponent=0.5))):
        path = str(tmp_path / str(number))
        other.save(path)
        with pytest.raises(CheckpointError, match=r"capacity|priorities"):
            small.load(path)
    with pytest.raises(CheckpointError, match="cannot read"):
        small.load(str(tmp_path / "nothing"))
    assert_same(drawn(small), before)


def test_rows_that_lead_nowhere_are_not_loaded(tmp_path: Path) -> None:
    buffer = make_buffer(8)
    buffer.add(experience(straight(4)))
    buffer._columns["following"][2] = 7
    buffer.save(str(tmp_path / "replay"))
    with pytest.raises(CheckpointError, match="followed by others"):
        buffer.load(str(tmp_path / "replay"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"capacity": 0}, "capacity"), ({"n_step": 0}, "n_step"), ({"priority_exponent": -1.0}, "priority_exponent")],
)
def test_what_cannot_work_is_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make_buffer(**arguments)  # type: ignore[arg-type]
