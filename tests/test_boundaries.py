from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optix_stream.batching import batch_of
from optix_stream.boundaries import (
    BatchBoundary,
    BoundaryFn,
    all_of,
    any_of,
    every_n_seconds,
    every_n_steps,
    on_done_signal,
)
from optix_stream.errors import ConfigurationError
from optix_stream.testing import make_transition


@given(
    st.one_of(
        st.integers(1, 12).map(every_n_steps),
        st.floats(0.1, 12.0).map(every_n_seconds),
        st.just(on_done_signal()),
    ),
    st.lists(st.tuples(st.floats(0.0, 3.0), st.booleans(), st.booleans()), min_size=1, max_size=20),
    st.integers(0, 15),
    st.integers(0, 19),
)
def test_the_batch_form_equals_the_row_form(
    boundary: BoundaryFn, drawn: list[tuple[float, bool, bool]], step_count: int, start: int
) -> None:
    assert isinstance(boundary, BatchBoundary)
    time = 0.0
    steps = []
    for index, (wait, terminated, truncated) in enumerate(drawn):
        time += wait
        steps.append(make_transition(index, terminated=terminated, truncated=truncated, time=time))
    batch = batch_of(steps)
    expected = next(
        (
            row
            for row in range(start, len(steps))
            if boundary(step_count + row - start + 1, float(batch.times[row]), steps[row])
        ),
        None,
    )
    assert boundary.first_end(step_count, batch.times, batch, start) == expected


@pytest.mark.parametrize(
    ("boundary", "expected"),
    [
        (every_n_steps(3), [3]),
        (on_done_signal(), [2, 4]),
        (every_n_seconds(2.5), [4]),
        (any_of(every_n_steps(3), on_done_signal()), [2, 3, 4]),
        (all_of(every_n_steps(3), on_done_signal()), [4]),
    ],
)
def test_where_a_boundary_ends_a_window(boundary: BoundaryFn, expected: list[int]) -> None:
    steps = [
        make_transition(1, time=0.0),
        make_transition(2, time=1.0, terminated=True),
        make_transition(3, time=2.0),
        make_transition(4, time=3.0, truncated=True),
    ]
    # Each of the functions is asked about every row, as if the window had not ended before.
    ends = [count for count, step in enumerate(steps, 1) if boundary(count, step.time, step)]
    assert [end for end in ends if end <= max(expected)] == expected


@pytest.mark.parametrize(
    "make",
    [
        lambda: every_n_steps(0),
        lambda: every_n_seconds(0.0),
        lambda: every_n_seconds(float("nan")),
        any_of,
        all_of,
    ],
)
def test_a_boundary_that_cannot_work_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError, match="expected"):
        make()
