"""What agents that learn from the past keep of it: one set of preallocated columns, used as a ring.

Rows of several streams interleave as they arrive. Each row knows which one continues it, so that a return over
several steps is a walk along these links: it stops where the episode ended, goes on with the value of the last next
observation where the episode was merely cut off, and never crosses a gap or into another stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from optix_stream.agents.state import Specs, read_state, write_state
from optix_stream.errors import CheckpointError, ConfigurationError
from optix_stream.replay_blocks import ReplayBlocks
from optix_stream.sum_tree import SumTree
from optix_stream.types import Array, BoolArray, StreamId

_LEAST_PRIORITY = 1e-6
_STREAMS_TO_REMEMBER = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Experience:
    """Transitions to be stored: columns of ``T`` rows, oldest first in each stream.

    Attributes:
        observations: ``[T, …]``.
        actions: ``[T, …]``.
        rewards: ``[T]``.
        next_observations: ``[T, …]``.
        terminated: booleans ``[T]``.
        ends: booleans ``[T]``: nothing continues this row, be it for an end of its episode or for a gap.
        streams: for each row, an index into ``stream_ids``.
        stream_ids: the streams.
    """

    observations: Array
    actions: Array
    rewards: Array
    next_observations: Array
    terminated: BoolArray
    ends: BoolArray
    streams: Array
    stream_ids: Sequence[StreamId]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Rows drawn from a buffer, ``M`` of them.

    The target of a row's value is ``returns + discounts * V(next_observations)``.

    Attributes:
        rows: where they are in the buffer, for ``update_priorities``.
        observations: ``[M, …]``.
        actions: ``[M, …]``.
        returns: float32 ``[M]``, discounted rewards of the steps that were taken together.
        next_observations: after the last of those steps; ``[M, …]``.
        discounts: float32 ``[M]``, ``gamma`` to the power of their number, or 0 where the episode terminated.
        weights: float32 ``[M]``, importance weights of at most 1; all 1 where rows are drawn evenly.
    """

    rows: Array
    observations: Array
    actions: Array
    returns: Array
    next_observations: Array
    discounts: Array
    weights: Array


class ReplayBuffer:
    """The newest ``capacity`` transitions.

    Args:
        capacity: rows.
        observation_shape: of one observation, which is kept as float32.
        action_shape: of one action.
        action_dtype: likewise.
        n_step: steps that a return may span.
        priority_exponent: draw rows in proportion to their priority to this power; 0: evenly. Schaul et al. 2016
            (arXiv 1511.05952), section 3.3.

    Raises:
        ConfigurationError: a capacity or a number of steps below 1, or a negative exponent.
    """

    def __init__(
        self,
        capacity: int,
        observation_shape: Sequence[int],
        action_shape: Sequence[int],
        action_dtype: Any,
        *,
        n_step: int = 1,
        priority_exponent: float = 0.0,
    ) -> None:
        if capacity < 1 or n_step < 1:
            raise ConfigurationError(f"expected a capacity and an n_step of at least 1, got {capacity} and {n_step}")
        if priority_exponent < 0.0:
            raise ConfigurationError(f"priority_exponent: expected at least 0, got {priority_exponent}")
        self.capacity = capacity
        self._n_step = n_step
        self._columns: dict[str, Array] = {
            "observations": np.zeros((capacity, *observation_shape), np.float32),
            "actions": np.zeros((capacity, *action_shape), action_dtype),
            "rewards": np.zeros(capacity, np.float64),
            "next_observations": np.zeros((capacity, *observation_shape), np.float32),
            "terminated": np.zeros(capacity, np.bool_),
            "following": np.zeros(capacity, np.int64),  # The row that continues this one; -1: none.
        }
        self._blocks = ReplayBlocks(self._columns)
        self._count = 0  # Rows ever added; row number i is at i % capacity.
        self._last: dict[StreamId, int] = {}  # Number of the newest row of each stream that may go on.
        self._exponent = priority_exponent
        self._priorities = SumTree(capacity) if priority_exponent else None
        self._max_priority = 1.0
        self._overwritten: list[tuple[Array, dict[str, Array]]] | None = None  # Since the last capture.

    @property
    def size(self) -> int:
        """Rows that can be drawn."""
        return min(self._count, self.capacity)

    def __len__(self) -> int:
        return self.size

    # --- writing

    def add(self, experience: Experience) -> None:
        """Store rows, in place of the oldest where there is no room."""
        length = len(experience.rewards)
        for start in range(0, length, self.capacity):
            self._add(experience, np.arange(start, min(start + self.capacity, length)))

    def cut(self, streams: Sequence[StreamId]) -> None:
        """What comes next in these streams does not continue what is here."""
        for stream in streams:
            self._last.pop(stream, None)

    def _add(self, given: Experience, chosen: Array) -> None:
        places = (self._count + np.arange(len(chosen))) % self.capacity
        self._keep(places)
        self._blocks.touch(places)
        columns = self._columns
        for name in ("observations", "actions", "rewards", "next_observations", "terminated"):
            columns[name][places] = getattr(given, name)[chosen]
        columns["following"][places] = -1
        self._link(given.ends[chosen], given.streams[chosen], given.stream_ids, places)
        self._count += len(chosen)
        if self._priorities is not None:
            self._priorities.put(places, np.full(len(places), self._max_priority**self._exponent))
        if len(self._last) > _STREAMS_TO_REMEMBER:
            self._last = self._present()

    def _link(self, ends: BoolArray, streams: Array, stream_ids: Sequence[StreamId], places: Array) -> None:
        order = np.argsort(streams, kind="stable")
        sorted_streams, sorted_places = streams[order], places[order]
        is_last = np.append(sorted_streams[1:] != sorted_streams[:-1], True)[: len(order)]
        before = np.flatnonzero(~is_last & ~ends[order])
        self._join(sorted_places[before], sorted_places[before + 1])
        oldest = self._count + len(places) - self.capacity
        firsts = np.append(0, np.flatnonzero(is_last)[:-1] + 1)
        for first, last in zip(firsts, np.flatnonzero(is_last), strict=True):
            stream = stream_ids[int(sorted_streams[first])]
            number = self._last.pop(stream, None)
            if number is not None and number >= oldest:
                self._join(np.asarray([number % self.capacity]), sorted_places[first : first + 1])
            if not ends[order[last]]:
                self._last[stream] = self._count + int(order[last])

    def _join(self, before: Array, after: Array) -> None:
        """Link rows, where the later one begins with what the earlier one led to: one may have been lost between."""
        columns = self._columns
        reached, begun = columns["next_observations"][before], columns["observations"][after]
        fits = (reached == begun).all(axis=tuple(range(1, reached.ndim)))
        columns["following"][before[fits]] = after[fits]
        self._blocks.touch(before[fits])

    def _present(self) -> dict[StreamId, int]:
        oldest = self._count - self.capacity
        return {stream: number for stream, number in self._last.items() if number >= oldest}

    # --- drawing

    def draw(self, count: int, gamma: float, rng: np.random.Generator, *, importance_exponent: float = 1.0) -> Sample:
        """Draw ``count`` rows with replacement; the buffer is not empty.

        Args:
            count: rows.
            gamma: discount, 0 to 1.
            rng: draws them.
            importance_exponent: how far the weights make up for priorities, 0 to 1 (all the way).
        """
        if self._priorities is None:
            return self._sample(rng.integers(self.size, size=count), np.ones(count, np.float32), gamma)
        rows = self._priorities.draw(count, rng)
        shares = self._priorities[rows] * (self.size / self._priorities.total)
        weights = shares**-importance_exponent
        return self._sample(rows, (weights / weights.max()).astype(np.float32), gamma)

    def _sample(self, rows: Array, weights: Array, gamma: float) -> Sample:
        columns = self._columns
        rewards, following = columns["rewards"], columns["following"]
        last, goes_on = rows, np.ones(len(rows), np.bool_)
        returns, discounts = rewards[rows], np.full(len(rows), gamma)
        for _ in range(self._n_step - 1):
            after = following[last]
            goes_on = after >= 0
            if not goes_on.any():
                break
            last = np.where(goes_on, after, last)
            returns += np.where(goes_on, discounts * rewards[last], 0.0)
            discounts *= np.where(goes_on, gamma, 1.0)
        discounts[columns["terminated"][last]] = 0.0
        return Sample(
            rows=rows,
            observations=columns["observations"][rows],
            actions=columns["actions"][rows],
            returns=returns.astype(np.float32),
            next_observations=columns["next_observations"][last],
            discounts=discounts.astype(np.float32),
            weights=weights,
        )

    def update_priorities(self, rows: Array, errors: Array) -> None:
        """Set the priorities of rows that were drawn to the size of their errors; nothing without priorities."""
        if self._priorities is not None:
            sizes = np.abs(errors.astype(np.float64)) + _LEAST_PRIORITY
            self._max_priority = max(self._max_priority, float(sizes.max()))
            self._priorities.put(rows, sizes**self._exponent)

    # --- state

    def capture(self) -> Any:
        """What ``restore`` needs; only the latest capture can be restored, as often as wanted."""
        self._overwritten = []
        leaves = None if self._priorities is None else self._priorities.leaves()
        return self._count, dict(self._last), self._max_priority, leaves

    def restore(self, captured: Any) -> None:
        """Be again as at that capture."""
        self._blocks.forget()
        for places, columns in reversed(self._overwritten or ()):
            for name, column in columns.items():
                self._columns[name][places] = column
        self._overwritten = []
        self._count, last, self._max_priority, leaves = captured
        self._last = dict(last)
        # Nothing had followed these then.
        for number in self._present().values():
            self._columns["following"][number % self.capacity] = -1
        if self._priorities is not None:
            self._priorities.replace(leaves)

    def _keep(self, places: Array) -> None:
        kept = self._overwritten
        # What has been written over once holds nothing of before the capture.
        if kept is not None and sum(len(earlier) for earlier, _ in kept) < self.capacity:
            kept.append((places, {name: column[places] for name, column in self._columns.items()}))

    def save(self, path: str) -> None:
        """Write everything into the new directory ``path``.

        What has not changed since it was last saved is not written again, see ``ReplayBlocks``.

        Raises:
            CheckpointError: it could not be written.
        """
        arrays = {} if self._priorities is None else {"priorities": self._priorities.leaves()[: self.size]}
        last = [[stream, number] for stream, number in self._present().items()]
        state = {"count": self._count, "last": last, "max_priority": self._max_priority, "capacity": self.capacity}
        write_state(path, arrays, {**state, "block_rows": self._blocks.rows})
        self._blocks.save(Path(path), self.size)

    def load(self, path: str) -> None:
        """Restore what ``save`` wrote; all of it or nothing.

        Raises:
            CheckpointError: it is missing, damaged, or of another buffer.
        """
        self.replace(self.read(path))

    def read(self, path: str) -> Any:
        """What ``save`` wrote, checked, for ``replace``; nothing changes yet.

        Raises:
            CheckpointError: it is missing, damaged, or of another buffer.
        """
        arrays, state = read_state(path, self._expect)
        arrays |= self._blocks.read(Path(path), min(state["count"], state["capacity"]), state["block_rows"])
        following = arrays["following"]
        if len(following) and not -1 <= following.min() <= following.max() < len(following):
            raise CheckpointError(f"{path}: expected rows that are followed by others of the buffer")
        return arrays, state

    def replace(self, saved: Any) -> None:
        """Hold what ``read`` returned, in place of everything."""
        arrays, state = saved
        self._blocks.forget()
        if self._priorities is not None:
            leaves = np.zeros(self.capacity)
            leaves[: len(arrays["priorities"])] = arrays["priorities"]
            self._priorities.replace(leaves)
        for name, column in self._columns.items():
            column[: len(arrays[name])] = arrays[name]
        self._count, self._max_priority = state["count"], float(state["max_priority"])
        self._last = dict(state["last"])
        self._overwritten = None

    def _expect(self, state: Mapping[str, Any]) -> Specs:
        count, capacity = state["count"], state["capacity"]
        if capacity != self.capacity:
            raise ValueError(f"expected a capacity of {self.capacity} rows, got {capacity}")
        if not isinstance(count, int) or count < 0 or not float(state["max_priority"]) > 0.0:
            raise ValueError(f"expected a count and a priority above 0, got {count} and {state['max_priority']}")
        for stream, number in state["last"]:
            if not isinstance(stream, str | int) or not isinstance(number, int) or not 0 <= number < count:
                raise ValueError(f"expected the rows of streams, got {stream!r} at {number!r}")
        if not isinstance(state["block_rows"], int) or not 1 <= state["block_rows"] <= capacity:
            raise ValueError(f"expected blocks of 1 to {capacity} rows, got {state['block_rows']!r}")
        return {} if self._priorities is None else {"priorities": ((min(count, capacity),), np.dtype(np.float64))}
