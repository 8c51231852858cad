from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optix_stream.assembler import WindowAssembler
from optix_stream.batching import batch_of
from optix_stream.boundaries import BoundaryFn, all_of, any_of, every_n_seconds, every_n_steps, on_done_signal
from optix_stream.errors import TransitionMismatchError
from optix_stream.events import GapDetected
from optix_stream.testing import make_transition
from optix_stream.testing.comparing import same_window
from optix_stream.types import CompletedEpisode, EpisodeData, StreamId, Transition

Item = Transition | GapDetected
STREAMS: list[StreamId] = [0, "b", 7]


def boundaries() -> st.SearchStrategy[BoundaryFn]:
    simple: st.SearchStrategy[BoundaryFn] = st.one_of(
        st.integers(1, 7).map(every_n_steps),
        st.integers(1, 9).map(lambda tenths: every_n_seconds(tenths / 2)),
        st.just(on_done_signal()),
        st.just(lambda step_count, elapsed_sec, transition: transition.reward > 2),
    )
    return st.one_of(
        simple,
        st.tuples(simple, simple).map(lambda pair: any_of(*pair)),
        st.just(all_of(every_n_steps(3), on_done_signal())),
    )


@st.composite
def streams_of_items(draw: st.DrawFn) -> list[Item]:
    """Interleaved streams with episode ends and gaps; rewards are small integers, so sums are exact."""
    drawn = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["step", "step", "step", "terminated", "truncated", "gap"]),
                st.sampled_from(STREAMS),
                st.integers(-3, 3),
            ),
            max_size=60,
        )
    )
    return [
        GapDetected(stream=stream, reason="drawn")
        if kind == "gap"
        else make_transition(
            index,
            reward=float(reward),
            terminated=kind == "terminated",
            truncated=kind == "truncated",
            stream=stream,
            time=index / 2,
        )
        for index, (kind, stream, reward) in enumerate(drawn)
    ]


def assemble(
    items: Sequence[Item], boundary: BoundaryFn, cuts: Sequence[int] = (), max_steps: int = 50
) -> list[EpisodeData]:
    """Feed singles, or batches that end at ``cuts``; the rest of the last window is flushed."""
    assembler = WindowAssembler(boundary, max_steps=max_steps)
    windows: list[EpisodeData | None] = []
    run: list[Transition] = []

    def feed_run() -> None:
        if run:
            windows.extend(assembler.feed_batch(batch_of(run)))
            run.clear()

    for index, item in enumerate(items):
        if isinstance(item, GapDetected):
            feed_run()
            windows.append(assembler.mark_gap(item))
        elif cuts:
            run.append(item)
            if index in cuts:
                feed_run()
        else:
            windows.append(assembler.feed(item))
    feed_run()
    windows.append(assembler.flush())
    assert assembler.size == 0
    return [window for window in windows if window is not None]


def rows(windows: Sequence[EpisodeData]) -> list[tuple[StreamId, float]]:
    return [
        (window.stream_ids[code], float(observation[0]))
        for window in windows
        for code, observation in zip(window.streams, window.observations, strict=True)
    ]


def reference_returns(items: Sequence[Item]) -> list[CompletedEpisode]:
    """The slow way: one episode at a time, whole only if nothing was lost since it began."""
    found = []
    open_episodes: dict[StreamId, tuple[float, int, bool]] = {}
    for item in items:
        total, length, is_whole = open_episodes.get(item.stream, (0.0, 0, True))
        if isinstance(item, GapDetected):
            open_episodes[item.stream] = (0.0, 0, False)
            continue
        total, length = total + item.reward, length + 1
        open_episodes[item.stream] = (total, length, is_whole)
        if item.terminated or item.truncated:
            if is_whole:
                found.append(CompletedEpisode(item.stream, total, length))
            open_episodes[item.stream] = (0.0, 0, True)
    return found


@given(streams_of_items(), boundaries(), st.sets(st.integers(0, 60), min_size=1))
def test_singles_and_any_batches_give_the_same_windows(items: list[Item], boundary: BoundaryFn, cuts: set[int]) -> None:
    singles, batches = assemble(items, boundary), assemble(items, boundary, sorted(cuts))
    assert len(singles) == len(batches)
    for one, other in zip(singles, batches, strict=True):
        assert same_window(one, other) is None


@given(streams_of_items(), boundaries())
def test_every_transition_is_in_exactly_one_window_in_order(items: list[Item], boundary: BoundaryFn) -> None:
    windows = assemble(items, boundary)
    expected = [(item.stream, float(item.observation[0])) for item in items if isinstance(item, Transition)]
    assert rows(windows) == expected
    assert [window.episode_id for window in windows] == list(range(len(windows)))


@given(streams_of_items(), boundaries())
def test_completed_episodes_equal_a_slow_reference(items: list[Item], boundary: BoundaryFn) -> None:
    windows = assemble(items, boundary)
    assert [episode for window in windows for episode in window.completed] == reference_returns(items)


@given(streams_of_items(), boundaries())
def test_no_window_spans_a_gap(items: list[Item], boundary: BoundaryFn) -> None:
    windows = assemble(items, boundary)
    window_of = {(stream, row): number for number, window in enumerate(windows) for stream, row in rows([window])}
    for position, item in enumerate(items):
        if isinstance(item, GapDetected):
            same = [
                other for other in items[:position] if isinstance(other, Transition) and other.stream == item.stream
            ]
            later = [
                other for other in items[position:] if isinstance(other, Transition) and other.stream == item.stream
            ]
            before = {window_of[other.stream, float(other.observation[0])] for other in same}
            after = {window_of[other.stream, float(other.observation[0])] for other in later}
            assert not before & after


@given(streams_of_items(), st.integers(1, 5))
def test_a_window_never_outgrows_its_limit(items: list[Item], max_steps: int) -> None:
    def never(step_count: int, elapsed_sec: float, transition: Transition, /) -> bool:
        return False

    windows = assemble(items, never, max_steps=max_steps)
    assert all(window.length <= max_steps for window in windows)


@pytest.mark.parametrize("is_batch", [False, True])
def test_a_window_names_only_the_streams_that_have_rows_in_it(is_batch: bool) -> None:
    assembler = WindowAssembler(every_n_steps(2))
    steps = [make_transition(index, stream=stream) for index, stream in enumerate(["a", "a", "b", "c"])]
    if is_batch:
        windows = assembler.feed_batch(batch_of(steps))
    else:
        windows = [window for step in steps if (window := assembler.feed(step)) is not None]
    assert [window.stream_ids for window in windows] == [("a",), ("b", "c")]


def test_an_episode_that_ended_before_the_gap_counts_also_in_the_first_window() -> None:
    assembler = WindowAssembler(every_n_steps(100))
    assembler.feed(make_transition(0, reward=1.0))
    assembler.feed(make_transition(1, reward=2.0, terminated=True))
    assembler.feed(make_transition(2, reward=4.0))
    window = assembler.mark_gap(GapDetected(stream=0, reason="test"))
    assert window is not None
    assert window.completed == (CompletedEpisode(0, 3.0, 2),)
    assert window.gaps.tolist() == [False, False, True]


def test_an_episode_that_a_gap_cut_is_never_reported_as_whole() -> None:
    assembler = WindowAssembler(on_done_signal())
    assembler.mark_gap(GapDetected(stream=0, reason="joined in the middle"))
    first = assembler.feed(make_transition(0, terminated=True))
    second = assembler.feed(make_transition(1, terminated=True))
    assert first is not None
    assert first.completed == ()
    assert second is not None
    assert second.completed == (CompletedEpisode(0, 1.0, 1),)


def test_streams_that_never_come_again_do_not_add_up() -> None:
    assembler = WindowAssembler(every_n_steps(4))
    assembler.feed(make_transition(stream="patient"))
    for connection in range(10_000):
        for _ in range(3):
            assembler.feed(make_transition(stream=f"robot {connection}"))
        # Cut off right after a window, and in the middle of one.
        assembler.mark_gap(GapDetected(stream=f"robot {connection}", reason="lost", time=0.0))
    assert len(assembler.streams) < 5000
    # An episode that goes on is never forgotten, however long it has been waiting.
    assembler.feed(make_transition(stream="patient", terminated=True))
    window = assembler.flush()
    assert window is not None
    assert [(episode.stream, episode.length) for episode in window.completed] == [("patient", 2)]


def test_the_final_observation_is_not_lost_to_what_follows() -> None:
    """An auto-reset in the original system overwrote the observation to bootstrap from."""
    assembler = WindowAssembler(every_n_steps(2))
    final = Transition(np.array([9.0]), 0, 1.0, np.array([99.0]), truncated=True)
    assembler.feed(final)
    window = assembler.feed(Transition(np.array([0.0]), 0, 1.0, np.array([1.0])))
    assert window is not None
    assert window.next_observations.tolist() == [[99.0], [1.0]]
    assert window.truncated.tolist() == [True, False]
    assert window.terminated.tolist() == [False, False]


def test_elapsed_time_starts_with_the_window_and_not_with_the_run() -> None:
    assembler = WindowAssembler(every_n_seconds(10.0))
    lengths = [window.length for time in range(100, 160, 4) if (window := assembler.feed(make_transition(time)))]
    assert lengths == [4, 4, 4]


def test_windows_do_not_share_memory() -> None:
    assembler = WindowAssembler(every_n_steps(1))
    first = assembler.feed(make_transition(1))
    second = assembler.feed(make_transition(2))
    assert first is not None
    assert second is not None
    assert first.observations.tolist() == [[1.0]]
    assert not np.shares_memory(first.observations, second.observations)


def test_a_producer_that_reuses_its_buffer_does_not_change_what_was_stored() -> None:
    buffer = np.zeros(1, np.float32)
    assembler = WindowAssembler(every_n_steps(2))
    assembler.feed(Transition(buffer, 0, 0.0, buffer))
    buffer[:] = 5.0
    window = assembler.feed(Transition(buffer, 0, 0.0, buffer))
    assert window is not None
    assert window.observations.tolist() == [[0.0], [5.0]]


STEP = make_transition(1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("observation", np.zeros(2, np.float32)),
        ("observation", np.zeros((), np.float32)),
        ("observation", np.zeros(1, np.complex64)),
        ("observation", np.array(["a"])),
        ("observation", {"a": np.zeros(1, np.float32)}),
        ("next_observation", np.zeros(3, np.float32)),
        ("action", np.zeros(1, np.int64)),
        ("action", np.float64(0.5)),
        ("action", "left"),
        ("extras", {"log_prob": np.float32(0.0)}),
    ],
)
@pytest.mark.parametrize("is_batch", [False, True])
def test_a_transition_that_does_not_fit_is_refused_and_leaves_no_trace(field: str, value: Any, is_batch: bool) -> None:
    values = {name: getattr(STEP, name) for name in ("observation", "action", "reward", "next_observation", "extras")}
    odd = Transition(**{**values, field: value, "stream": "odd"})
    assembler = WindowAssembler(every_n_steps(3))
    assembler.feed(make_transition(0))
    with pytest.raises(TransitionMismatchError) as caught:
        assembler.feed_batch(batch_of([odd] * (3 if is_batch else 1)))
    assert caught.value.field.startswith(field)
    assert assembler.size == 1
    assembler.feed(make_transition(1))
    window = assembler.feed(make_transition(2))
    assert window is not None
    assert rows([window]) == [(0, 0.0), (0, 1.0), (0, 2.0)]
    assert window.stream_ids == (0,)


def test_a_batch_whose_columns_differ_in_length_is_refused() -> None:
    """Stored as it is, it would leave rows of uninitialised memory in the window."""
    batch = batch_of([make_transition(index) for index in range(4)])
    batch.observations = batch.observations[:3]
    assembler = WindowAssembler(every_n_steps(4))
    with pytest.raises(TransitionMismatchError, match="observation"):
        assembler.feed_batch(batch)
    assert assembler.size == 0


def test_nothing_is_cast_where_that_would_lose_something() -> None:
    assembler = WindowAssembler(every_n_steps(2))
    assembler.feed(make_transition(0))
    narrowed = Transition(np.array([0.1]), np.int64(0), 0.0, np.zeros(1, np.float32))
    with pytest.raises(TransitionMismatchError, match=r"observation: expected float32\[1\], got float64\[1\]"):
        assembler.feed(narrowed)


def test_structured_observations_are_trees_of_columns() -> None:
    assembler = WindowAssembler(every_n_steps(2))

    def step(value: float) -> Transition:
        tree = {"position": np.full(2, value), "parts": (np.float64(value), np.int64(value))}
        return Transition(tree, 0, 0.0, tree)

    assembler.feed(step(1.0))
    window = assembler.feed(step(2.0))
    assert window is not None
    assert window.observations["position"].tolist() == [[1.0, 1.0], [2.0, 2.0]]
    assert window.next_observations["parts"][1].tolist() == [1, 2]


def test_columns_grow_beyond_their_first_capacity() -> None:
    steps = [make_transition(index, reward=float(index)) for index in range(1000)]
    for window in (
        *assemble(steps, every_n_steps(1000), max_steps=2000),
        *assemble(steps, every_n_steps(1000), [300], 2000),
    ):
        assert window.observations[:, 0].tolist() == list(range(1000))
        assert window.rewards.tolist() == list(range(1000))
        assert window.times.tolist() == list(range(1000))
