"""Turns single transitions into columns and back."""

from __future__ import annotations

import contextlib
import itertools
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from optix_stream.contracts import StreamItem
from optix_stream.errors import TransitionMismatchError
from optix_stream.trees import describe, map_tree
from optix_stream.types import Array, StreamId, Transition, TransitionBatch, Tree


def batch_of(transitions: Sequence[Transition]) -> TransitionBatch:
    """Many transitions as one batch. They must be alike: same shapes, same dtypes, same extras.

    Raises:
        TransitionMismatchError: they are not; which one differs is for the caller to find out.
    """
    # A list for each field and no tuple for each transition: those would set off the garbage collector.
    infos = [t.info for t in transitions]
    extras = [t.extras for t in transitions]
    names = _extra_names(extras)
    stream_ids, codes = _stream_codes([t.stream for t in transitions])
    observations, next_observations = _stack_both(
        [t.observation for t in transitions], [t.next_observation for t in transitions]
    )
    return TransitionBatch(
        observations=observations,
        actions=_stack("action", [t.action for t in transitions]),
        rewards=np.array([t.reward for t in transitions], np.float64),
        next_observations=next_observations,
        terminated=_flags([t.terminated for t in transitions]),
        truncated=_flags([t.truncated for t in transitions]),
        streams=codes,
        stream_ids=stream_ids,
        extras={name: _stack(f"extras[{name!r}]", [(given or {})[name] for given in extras]) for name in names},
        infos=[info or {} for info in infos] if any(infos) else None,
        times=np.array([t.time for t in transitions], np.float64),
    )


def batch_row(batch: TransitionBatch, row: int) -> Transition:
    """One row of a batch as a transition."""

    def pick(leaf: Array) -> Any:
        return leaf[row]

    return Transition(
        observation=map_tree(pick, batch.observations),
        action=batch.actions[row],
        reward=float(batch.rewards[row]),
        next_observation=map_tree(pick, batch.next_observations),
        terminated=bool(batch.terminated[row]),
        truncated=bool(batch.truncated[row]),
        info=None if batch.infos is None else batch.infos[row],
        stream=batch.stream_ids[batch.streams[row]],
        extras={name: column[row] for name, column in batch.extras.items()},
        time=float(batch.times[row]),
    )


def batch_rows(batch: TransitionBatch, start: int, end: int) -> TransitionBatch:
    """Rows ``start`` to ``end``, that one excluded; views, no copies."""
    rows = slice(start, end)

    def pick(leaf: Array) -> Array:
        return leaf[rows]

    return TransitionBatch(
        observations=map_tree(pick, batch.observations),
        actions=batch.actions[rows],
        rewards=batch.rewards[rows],
        next_observations=map_tree(pick, batch.next_observations),
        terminated=batch.terminated[rows],
        truncated=batch.truncated[rows],
        streams=batch.streams[rows],
        stream_ids=batch.stream_ids,
        extras={name: column[rows] for name, column in batch.extras.items()},
        infos=None if batch.infos is None else batch.infos[rows],
        times=batch.times[rows],
    )


def count_transitions(item: StreamItem) -> int:
    """How many transitions an item of a stream is."""
    if type(item) is Transition:
        return 1
    if type(item) is TransitionBatch:
        return len(item)
    return 0


def count_by_stream(batch: TransitionBatch) -> dict[StreamId, int]:
    """How many rows each stream has in the batch."""
    counts = np.bincount(batch.streams, minlength=len(batch.stream_ids))
    return {stream: int(count) for stream, count in zip(batch.stream_ids, counts, strict=True) if count}


def merge(batches: Sequence[TransitionBatch]) -> Sequence[TransitionBatch]:
    """The same rows in fewer batches, where they are alike."""
    if len(batches) == 1 or len({batch.stream_ids for batch in batches}) > 1:
        return batches
    try:
        return [_concatenate(batches)]
    except TransitionMismatchError:
        return batches  # Whoever takes them finds out which one does not fit.


def _concatenate(batches: Sequence[TransitionBatch]) -> TransitionBatch:
    names = batches[0].extras.keys()
    if len({frozenset(batch.extras) for batch in batches}) > 1:
        raise TransitionMismatchError("extras", str(sorted(names)), "others")
    infos: list[Mapping[str, Any]] | None = None
    if {batch.infos is None for batch in batches} != {True}:
        infos = [info for batch in batches for info in (batch.infos or [{}] * len(batch))]
    return TransitionBatch(
        observations=_join("observation", [batch.observations for batch in batches]),
        actions=_join("action", [batch.actions for batch in batches]),
        rewards=_join("reward", [batch.rewards for batch in batches]),
        next_observations=_join("next_observation", [batch.next_observations for batch in batches]),
        terminated=_join("terminated", [batch.terminated for batch in batches]),
        truncated=_join("truncated", [batch.truncated for batch in batches]),
        streams=_join("stream", [batch.streams for batch in batches]),
        stream_ids=batches[0].stream_ids,
        extras={name: _join(name, [batch.extras[name] for batch in batches]) for name in names},
        infos=infos,
        times=_join("time", [batch.times for batch in batches]),
    )


def _join(name: str, columns: list[Tree]) -> Tree:
    first = columns[0]
    if isinstance(first, dict):
        return {key: _join(name, _parts(name, columns, key)) for key in first}
    if isinstance(first, tuple):
        return tuple(_join(name, _parts(name, columns, index)) for index in range(len(first)))
    try:
        return np.concatenate(columns, dtype=first.dtype, casting="equiv")
    except (TypeError, ValueError) as error:
        raise TransitionMismatchError(name, describe(first), str(error)) from error


def _flags(values: Sequence[bool]) -> Array:
    return np.array(values, np.bool_) if any(values) else np.zeros(len(values), np.bool_)


def _stream_codes(streams: Sequence[StreamId]) -> tuple[tuple[StreamId, ...], Array]:
    if streams.count(streams[0]) == len(streams):
        return (streams[0],), np.zeros(len(streams), np.int32)
    distinct = tuple(dict.fromkeys(streams))
    codes = {stream: code for code, stream in enumerate(distinct)}
    return distinct, np.array([codes[stream] for stream in streams], np.int32)


def _extra_names(extras: Sequence[Mapping[str, Any] | None]) -> Iterable[str]:
    if not any(extras):
        return ()
    first = extras[0] or {}
    for given in extras:
        if (given or {}).keys() != first.keys():
            raise TransitionMismatchError("extras", str(sorted(first)), str(sorted(given or {})))
    return first


def _stack_both(observations: list[Tree], next_observations: list[Tree]) -> tuple[Tree, Tree]:
    if all(map(operator.is_, itertools.islice(observations, 1, None), next_observations)):
        # One unbroken stretch of one stream, the usual case: what each step saw last, the next saw first.
        with contextlib.suppress(TransitionMismatchError):  # The two columns below say which one it is.
            column = _stack("observation", [*observations, next_observations[-1]])
            return map_tree(lambda leaf: leaf[:-1], column), map_tree(lambda leaf: leaf[1:], column)
    return _stack("observation", observations), _stack("next_observation", next_observations)


def _stack(name: str, values: Sequence[Tree]) -> Tree:
    first = values[0]
    if isinstance(first, dict):
        return {key: _stack(name, _parts(name, values, key)) for key in first}
    if isinstance(first, tuple):
        return tuple(_stack(name, _parts(name, values, index)) for index in range(len(first)))
    try:
        if isinstance(first, np.ndarray) and first.ndim:
            # Concatenation is the cheapest way to stack small arrays that also refuses to mix
            # shapes and dtypes, save for a first axis that differs.
            if len(set(map(len, values))) == 1:
                stacked = np.concatenate(values, dtype=first.dtype, casting="equiv")
                return stacked.reshape(len(values), *first.shape)
        elif len(set(map(type, values))) == 1:
            stacked = np.array(values)
            if stacked.dtype != object and stacked.shape[1:] == np.shape(first):
                return stacked
    except (TypeError, ValueError) as error:
        raise _mismatch(name, values) from error
    raise _mismatch(name, values)


def _parts(name: str, values: Sequence[Tree], key: str | int) -> list[Tree]:
    kind, size = type(values[0]), len(values[0])
    try:
        if all(type(value) is kind and len(value) == size for value in values):
            return [value[key] for value in values]
    except (KeyError, TypeError) as error:
        raise _mismatch(name, values) from error
    raise _mismatch(name, values)


def _mismatch(name: str, values: Sequence[Tree]) -> TransitionMismatchError:
    expected = describe(values[0])
    got = next((text for text in map(describe, values) if text != expected), "a mixture")
    return TransitionMismatchError(name, expected, got)
