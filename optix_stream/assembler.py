"""Cuts the stream of transitions into windows. No I/O, no clock, nothing async.

Rows are written straight into preallocated columns, so that closing a window costs no conversion.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from optix_stream.batching import batch_row
from optix_stream.boundaries import BatchBoundary, BoundaryFn
from optix_stream.contracts import Stateful
from optix_stream.errors import CheckpointError, TransitionMismatchError
from optix_stream.events import GapDetected
from optix_stream.state_files import state_of
from optix_stream.trees import Column, TreeColumn, make_column, map_tree
from optix_stream.types import Array, CompletedEpisode, EpisodeData, StreamId, Transition, TransitionBatch
from optix_stream.wire import decode_window, encode_window, pack, unpack

_NOTHING: Mapping[str, Any] = {}
_STREAMS_TO_REMEMBER = 4096


class WindowAssembler(Stateful):
    """Collects transitions until the boundary says that the window is complete.

    The shape and dtype of observations, actions and extras are fixed by the first transition; one
    that differs is refused and leaves the window as it was.

    Args:
        boundary: where windows end.
        max_steps: a window is closed at this many rows whatever the boundary says, so that memory
            stays bounded.
        learned_one_by_one: the agent has had every transition before it comes here.
    """

    def __init__(self, boundary: BoundaryFn, *, max_steps: int = 65_536, learned_one_by_one: bool = False) -> None:
        self._boundary = boundary
        self._max_steps = max_steps
        self._learned_one_by_one = learned_one_by_one
        self._rows_handed_over = 0
        self._columns: _WindowColumns | None = None
        self._length = 0
        self._next_id = 0
        self._start_time = 0.0
        self._codes: dict[StreamId, int] = {}
        self._last_row: dict[StreamId, int] = {}
        self._episodes: dict[StreamId, _OpenEpisode] = {}

    @property
    def streams(self) -> tuple[StreamId, ...]:
        """Those of which something has been seen; of those between two episodes, the latest few thousand."""
        return tuple(dict.fromkeys([*self._codes, *self._episodes]))

    @property
    def size(self) -> int:
        """Transitions in the window that is being assembled."""
        return self._length

    def feed(self, transition: Transition) -> EpisodeData | None:
        """Add one transition; return the window if that completed it.

        Raises:
            TransitionMismatchError: it does not fit; nothing was added.
        """
        if self._columns is None:
            self._columns = _WindowColumns(transition, 256)
        index = self._length
        if index == 0:
            self._start_time = transition.time
        if index == self._columns.capacity:
            self._columns.grow(2 * index)
        stream = transition.stream
        code = self._codes.get(stream, len(self._codes))
        self._columns.store_row(index, transition, code)
        self._codes[stream] = code
        self._last_row[stream] = index
        self._length = index + 1
        if self._length >= self._max_steps or self._boundary(
            self._length, transition.time - self._start_time, transition
        ):
            return self._close()
        return None

    def feed_batch(self, batch: TransitionBatch) -> list[EpisodeData]:
        """Add many transitions; return the windows that they complete, which may be several or none.

        Raises:
            TransitionMismatchError: the batch does not fit; nothing was added.
        """
        windows: list[EpisodeData] = []
        total = len(batch)
        _check_rows(batch)
        start = 0
        while start < total:
            if self._length == 0:
                self._start_time = float(batch.times[start])
            end = self._first_end(batch, start)
            room = start + self._max_steps - self._length
            stop = min(total if end is None else end + 1, room)
            self._store_rows(batch, start, stop)
            if end is not None or stop == room:
                windows.append(self._close())
            start = stop
        return windows

    def mark_gap(self, gap: GapDetected) -> EpisodeData | None:
        """The stream does not continue; return the window if it held rows of that stream.

        No window spans a gap: bootstrapping happens from the last ``next_observation`` before it.
        """
        last = self._last_row.get(gap.stream)
        if last is None or self._columns is None:
            self._episodes.setdefault(gap.stream, _OpenEpisode()).reset(is_whole=False)
            self._forget_old_streams()
            return None
        self._columns.gaps[last] = True
        return self._close()

    def new_rows(self, at_least: int) -> EpisodeData | None:
        """The rows that came since the last call into the window that is filling; None while they are fewer.

        They stay in the window, whose ``rows_learned`` will count them.
        """
        start, end = self._rows_handed_over, self._length
        if end - start < at_least or self._columns is None:
            return None
        self._rows_handed_over = end
        return self._columns.peek(start, end, self._next_id, tuple(self._codes))

    def flush(self) -> EpisodeData | None:
        """What has been collected so far, as a window; None if that is nothing."""
        return self._close() if self._length else None

    def state_dict(self) -> Mapping[str, Any]:
        rows = None
        if self._length and self._columns is not None:
            held = self._columns.peek(0, self._length, self._next_id, tuple(self._codes))
            rows = pack(encode_window(dataclasses.replace(held, timestamp=0.0)))
        return {
            "rows": rows,
            "next_id": self._next_id,
            "rows_handed_over": self._rows_handed_over,
            "episodes": [
                [stream, episode.is_whole, episode.total_reward, episode.length]
                for stream, episode in self._episodes.items()
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any], time_shift: float = 0.0) -> None:
        """Go on with what was held; only before anything has been fed.

        Args:
            state: what ``state_dict`` said.
            time_shift: seconds to be added to the times of what was held: the clock may have started anew.

        Raises:
            CheckpointError: it is no such state, or the boundary is another one.
        """
        with state_of("an assembler"):
            episodes = {stream: _OpenEpisode(*episode) for stream, *episode in state["episodes"]}
            next_id, handed_over = int(state["next_id"]), int(state["rows_handed_over"])
            rows = None if state["rows"] is None else _batch_of_rows(decode_window(unpack(state["rows"])), time_shift)
        if rows is not None and self.feed_batch(rows):
            raise CheckpointError("window: expected the boundary that it was saved with, got one that ends it earlier")
        self._next_id, self._rows_handed_over, self._episodes = next_id, handed_over, episodes

    def _first_end(self, batch: TransitionBatch, start: int) -> int | None:
        boundary = self._boundary
        elapsed = batch.times - self._start_time
        if isinstance(boundary, BatchBoundary):
            return boundary.first_end(self._length, elapsed, batch, start)
        for row in range(start, len(batch)):
            if boundary(self._length + row - start + 1, float(elapsed[row]), batch_row(batch, row)):
                return row
        return None

    def _store_rows(self, batch: TransitionBatch, start: int, end: int) -> None:
        if self._columns is None:
            self._columns = _WindowColumns(batch_row(batch, start), max(256, end - start))
        needed = self._length + end - start
        if needed > self._columns.capacity:
            self._columns.grow(max(needed, 2 * self._columns.capacity))
        streams = batch.streams[start:end]
        known = dict(self._codes)  # Put into force when the rows are in: a refused batch leaves no trace.
        codes = np.empty(len(batch.stream_ids), np.int32)
        present = dict.fromkeys(streams.tolist()) if len(codes) > 1 else (0,)  # As they first appear.
        for index in present:
            codes[index] = known.setdefault(batch.stream_ids[index], len(known))
        self._columns.store_rows(self._length, batch, start, end, codes)
        self._codes = known
        if len(codes) == 1:
            self._last_row[batch.stream_ids[0]] = needed - 1
            self._length = needed
            return
        last_rows = np.full(len(batch.stream_ids), -1)
        last_rows[streams] = np.arange(self._length, needed)  # The last row of each wins.
        for stream, row in zip(batch.stream_ids, last_rows.tolist(), strict=True):
            if row >= 0:
                self._last_row[stream] = row
        self._length = needed

    def _close(self) -> EpisodeData:
        columns = self._columns
        assert columns is not None
        rows_learned = self._length if self._learned_one_by_one else self._rows_handed_over
        completed = self._completed_episodes()
        window = columns.take(self._length, self._next_id, tuple(self._codes), completed, rows_learned)
        self._next_id += 1
        self._length = self._rows_handed_over = 0
        self._codes.clear()
        self._last_row.clear()
        self._forget_old_streams()
        return window

    def _forget_old_streams(self) -> None:
        """A server names each connection's stream anew; what it will not hear of again must not add up."""
        excess = len(self._episodes) - _STREAMS_TO_REMEMBER
        if excess > 0:
            idle = [stream for stream, episode in self._episodes.items() if not episode.length]
            for stream in idle[:excess]:
                del self._episodes[stream]

    def _completed_episodes(self) -> tuple[CompletedEpisode, ...]:
        columns, length = self._columns, self._length
        assert columns is not None
        found: list[tuple[int, CompletedEpisode]] = []
        rewards = columns.rewards[:length]
        ends = columns.terminated[:length] | columns.truncated[:length] | columns.gaps[:length]
        streams = columns.streams[:length]
        for stream, code in self._codes.items():
            rows = np.flatnonzero(streams == code) if len(self._codes) > 1 else np.arange(length)
            # Put at the end, so that those of which nothing has come for longest are at the front.
            episode = self._episodes[stream] = self._episodes.pop(stream, _OpenEpisode())
            last_rows = np.flatnonzero(ends[rows])
            start = int(last_rows[-1]) + 1 if len(last_rows) else 0
            if start:
                totals = np.diff(np.cumsum(rewards[rows[:start]])[last_rows], prepend=0.0).tolist()
                lengths = np.diff(last_rows, prepend=-1).tolist()
                for row, total, steps in zip(rows[last_rows].tolist(), totals, lengths, strict=True):
                    if episode.is_whole and (columns.terminated[row] or columns.truncated[row]):
                        completed = CompletedEpisode(stream, episode.total_reward + total, episode.length + steps)
                        found.append((row, completed))
                    # What comes after a gap may have begun in it.
                    episode.reset(is_whole=not columns.gaps[row])
            episode.total_reward += float(rewards[rows[start:]].sum())
            episode.length += len(rows) - start
        return tuple(episode for _, episode in sorted(found, key=lambda pair: pair[0]))


def _batch_of_rows(window: EpisodeData, time_shift: float) -> TransitionBatch:
    return TransitionBatch(
        observations=window.observations,
        actions=window.actions,
        rewards=window.rewards,
        next_observations=window.next_observations,
        terminated=window.terminated,
        truncated=window.truncated,
        streams=window.streams,
        stream_ids=window.stream_ids,
        extras=dict(window.extras),
        infos=list(window.infos),
        times=window.times + time_shift,
    )


def _check_rows(batch: TransitionBatch) -> None:
    total = len(batch.rewards)

    def check(name: str, got: int) -> None:
        if got != total:
            raise TransitionMismatchError(name, f"{total} rows", f"{got} rows")

    map_tree(lambda leaf: check("observation", len(leaf)), batch.observations)
    map_tree(lambda leaf: check("next_observation", len(leaf)), batch.next_observations)
    check("action", len(batch.actions))
    check("terminated", len(batch.terminated))
    check("truncated", len(batch.truncated))
    check("stream", len(batch.streams))
    check("time", len(batch.times))
    for name, column in batch.extras.items():
        check(f"extras[{name!r}]", len(column))
    if batch.infos is not None:
        check("info", len(batch.infos))


class _OpenEpisode:
    """What is known of an episode that has not ended."""

    __slots__ = ("is_whole", "length", "total_reward")

    def __init__(self, is_whole: bool = True, total_reward: float = 0.0, length: int = 0) -> None:
        self.is_whole = is_whole
        self.total_reward = total_reward
        self.length = length

    def reset(self, *, is_whole: bool) -> None:
        self.is_whole = is_whole
        self.total_reward = 0.0
        self.length = 0


class _WindowColumns:
    """The columns of the window that is being assembled."""

    def __init__(self, template: Transition, capacity: int) -> None:
        self.capacity = capacity
        self.observations: Column | TreeColumn = make_column("observation", template.observation, capacity)
        self.next_observations: Column | TreeColumn = make_column(
            "next_observation", template.next_observation, capacity
        )
        self.actions = Column("action", template.action, capacity)
        extras = template.extras or _NOTHING
        self.extras = {name: Column(f"extras[{name!r}]", value, capacity) for name, value in extras.items()}
        self._allocate()
        self.infos: list[Mapping[str, Any]] = []

    def _allocate(self) -> None:
        capacity = self.capacity
        self.rewards = np.empty(capacity, np.float64)
        self.terminated = np.empty(capacity, np.bool_)
        self.truncated = np.empty(capacity, np.bool_)
        self.gaps = np.zeros(capacity, np.bool_)
        self.streams = np.empty(capacity, np.int32)
        self.times = np.empty(capacity, np.float64)

    def store_row(self, index: int, transition: Transition, code: int) -> None:
        extras = transition.extras or _NOTHING
        if extras.keys() != self.extras.keys():
            raise TransitionMismatchError("extras", str(sorted(self.extras)), str(sorted(extras)))
        self.observations.store(index, transition.observation)
        self.next_observations.store(index, transition.next_observation)
        self.actions.store(index, transition.action)
        for name, column in self.extras.items():
            column.store(index, extras[name])
        self.rewards[index] = transition.reward
        self.terminated[index] = transition.terminated
        self.truncated[index] = transition.truncated
        self.streams[index] = code
        self.times[index] = transition.time
        self.infos.append(transition.info or _NOTHING)

    def store_rows(
        self, index: int, batch: TransitionBatch, start: int, end: int, codes: np.ndarray[Any, np.dtype[np.int32]]
    ) -> None:
        if len(batch.extras) != len(self.extras) or any(name not in self.extras for name in batch.extras):
            raise TransitionMismatchError("extras", str(sorted(self.extras)), str(sorted(batch.extras)))
        self.observations.store_many(index, map_tree(lambda leaf: leaf[start:end], batch.observations))
        self.next_observations.store_many(index, map_tree(lambda leaf: leaf[start:end], batch.next_observations))
        self.actions.store_many(index, batch.actions[start:end])
        for name, column in self.extras.items():
            column.store_many(index, batch.extras[name][start:end])
        rows = slice(index, index + end - start)
        self.rewards[rows] = batch.rewards[start:end]
        self.terminated[rows] = batch.terminated[start:end]
        self.truncated[rows] = batch.truncated[start:end]
        self.streams[rows] = codes[batch.streams[start:end]]
        self.times[rows] = batch.times[start:end]
        self.infos.extend([_NOTHING] * (end - start) if batch.infos is None else batch.infos[start:end])

    def grow(self, capacity: int) -> None:
        length = self.capacity
        self.capacity = capacity
        before: tuple[Array, ...] = (self.rewards, self.terminated, self.truncated, self.gaps, self.streams, self.times)
        self._allocate()
        after: tuple[Array, ...] = (self.rewards, self.terminated, self.truncated, self.gaps, self.streams, self.times)
        for old, new in zip(before, after, strict=True):
            new[:length] = old
        for column in (self.observations, self.next_observations, self.actions, *self.extras.values()):
            column.grow(capacity)

    def peek(self, start: int, end: int, window_id: int, stream_ids: tuple[StreamId, ...]) -> EpisodeData:
        """A copy of some rows; the columns keep them."""
        rows = slice(start, end)
        return EpisodeData(
            observations=self.observations.peek(start, end),
            actions=self.actions.peek(start, end),
            rewards=self.rewards[rows].copy(),
            terminated=self.terminated[rows].copy(),
            truncated=self.truncated[rows].copy(),
            infos=self.infos[rows],
            episode_id=window_id,
            next_observations=self.next_observations.peek(start, end),
            gaps=self.gaps[rows].copy(),
            streams=self.streams[rows].copy(),
            stream_ids=stream_ids,
            extras={name: column.peek(start, end) for name, column in self.extras.items()},
            times=self.times[rows].copy(),
        )

    def take(
        self,
        length: int,
        window_id: int,
        stream_ids: tuple[StreamId, ...],
        completed: tuple[CompletedEpisode, ...],
        rows_learned: int,
    ) -> EpisodeData:
        window = EpisodeData(
            observations=self.observations.take(length),
            actions=self.actions.take(length),
            rewards=self.rewards[:length],
            terminated=self.terminated[:length],
            truncated=self.truncated[:length],
            infos=self.infos,
            episode_id=window_id,
            next_observations=self.next_observations.take(length),
            gaps=self.gaps[:length],
            streams=self.streams[:length],
            stream_ids=stream_ids,
            extras={name: column.take(length) for name, column in self.extras.items()},
            times=self.times[:length],
            completed=completed,
            rows_learned=rows_learned,
        )
        self._allocate()
        self.infos = []
        return window
