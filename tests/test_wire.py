from __future__ import annotations

import dataclasses
import io
import logging
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optix_stream.errors import ConfigurationError
from optix_stream.testing import make_window
from optix_stream.testing.comparing import same_tree, same_window
from optix_stream.types import CompletedEpisode
from optix_stream.wire import decode, decode_window, encode, encode_window, frame, read_frame

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(-(2**63), 2**64 - 1), inner)
    ),
)


@given(VALUES)
def test_plain_data_comes_back_as_it_was(value: Any) -> None:
    got = decode(encode(value))
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.int32).reshape(2, 3),
        np.arange(6.0).reshape(2, 3).T,
        np.zeros((0, 4), np.float32),
        np.asarray(3.5),
        np.asarray([True, False]),
        np.asarray(["a", "bcd"]),
        np.asarray(["2024-01-01"], "datetime64[s]"),
        np.asarray([1, 2], ">i4"),
        np.asarray([1 + 2j]),
    ],
    ids=str,
)
def test_arrays_come_back_with_dtype_and_shape_and_as_copies(array: Any) -> None:
    data = encode({"array": (array,)})
    got = decode(data)["array"][0]
    assert (got.dtype, got.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(got, array)
    assert got.flags.writeable
    assert got.flags.aligned


def test_numpy_scalars_stay_scalars() -> None:
    got = decode(encode([np.float32(0.1), np.int8(-3), np.bool_(True)]))
    assert [type(value) for value in got] == [np.float32, np.int8, np.bool_]
    assert got == [np.float32(0.1), np.int8(-3), np.bool_(True)]


@pytest.mark.parametrize("value", [object(), np.asarray([object()]), np.zeros(2, [("a", "f4")]), 2**64, {1, object()}])
def test_what_cannot_travel_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="expected plain data, arrays and spaces"):
        encode({"a": [value]})


def test_a_whole_window_travels() -> None:
    window = dataclasses.replace(
        make_window([1.0, 2.0, 3.0], window_id=7),
        observations={"a": np.eye(3, dtype=np.float32), "b": (np.arange(3), np.asarray(["x", "y", "z"]))},
        extras={"log_prob": np.asarray([0.1, np.nan, 0.3], np.float32)},
        infos=[{}, {"won": True, "place": np.int64(2)}, {}],
        streams=np.asarray([0, 1, 0]),
        stream_ids=("left", 3),
        completed=(CompletedEpisode("left", 4.0, 2), CompletedEpisode(3, -1.0, 1)),
        gaps=np.asarray([False, True, False]),
        times=np.asarray([0.5, 1.5, 2.5]),
        rows_learned=2,
        metadata={"session": "a"},
    )
    got = decode_window(encode_window(window))
    assert same_window(window, got) is None
    assert got.timestamp == window.timestamp
    assert got.rewards.dtype == window.rewards.dtype


def test_empty_infos_and_no_next_observations_travel_too() -> None:
    window = dataclasses.replace(make_window([1.0, 2.0]), next_observations=None)
    got = decode_window(encode_window(window))
    assert same_window(window, got) is None
    assert list(got.infos) == [{}, {}]


def test_an_info_that_cannot_travel_stays_behind_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    window = dataclasses.replace(make_window([1.0, 2.0]), infos=[{"env": object(), "lives": 3}, {}])
    with caplog.at_level(logging.WARNING):
        got = decode_window(encode_window(window))
    assert list(got.infos) == [{"lives": 3}, {}]
    assert "'env' is a object and does not travel" in caplog.text


def test_frames_come_out_one_by_one_and_the_end_is_none() -> None:
    stream = io.BytesIO(frame(b"one") + frame(b"") + frame(b"three")[:-1])
    assert [read_frame(stream.read) for _ in range(3)] == [b"one", b"", None]


def test_bytes_that_are_no_frame_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="frame: expected at most"):
        read_frame(io.BytesIO(b"Traceback (most recent call last)").read)


def test_the_comparison_can_fail() -> None:
    assert not same_tree(decode(encode(np.zeros(2))), np.ones(2))
