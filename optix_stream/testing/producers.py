"""Scripted producers, a sink that remembers, and the checks for producers and sinks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel
import numpy as np

from optix_stream.batching import batch_row
from optix_stream.contracts import Policy, Producer, StreamItem, TransitionSink, as_policy
from optix_stream.events import Event, GapDetected, TransitionsDropped, TransitionsRejected
from optix_stream.testing.agents import NullAgent
from optix_stream.testing.comparing import same_tree
from optix_stream.trees import describe, tree_length
from optix_stream.types import StreamId, Transition, TransitionBatch, Tree


class ScriptedProducer:
    """Pushes what it was given, in order; at an ``anyio.Event`` it waits until that is set.

    Args:
        script: transitions, batches and stream events, and the signals to wait for between them.
        name: names the source in events.
        error: raised after the last item, as by a source that fails.
        stays_open: wait for ever after the last item, as a live source does, instead of ending.

    Attributes:
        pushed: items that the sink has taken.
    """

    def __init__(
        self,
        script: Iterable[StreamItem | anyio.Event],
        *,
        name: str = "scripted",
        error: Exception | None = None,
        stays_open: bool = False,
    ) -> None:
        self.pushed = 0
        self._script = list(script)
        self._name = name
        self._error = error
        self._stays_open = stays_open

    @property
    def name(self) -> str:
        return self._name

    async def run(self, policy: Policy, sink: TransitionSink) -> None:
        """Push the script; the policy is not asked."""
        for item in self._script:
            if isinstance(item, anyio.Event):
                await item.wait()
            else:
                await sink.push(item)
                self.pushed += 1
        if self._error is not None:
            raise self._error
        if self._stays_open:
            await anyio.sleep_forever()


class RecordingSink:
    """A ``TransitionSink`` that keeps everything and never makes anyone wait for long.

    Args:
        enough: transitions after which ``full`` is set.

    Attributes:
        items: what was pushed, oldest first.
        full: set once it holds ``enough`` transitions.
    """

    def __init__(self, enough: int | None = None) -> None:
        self.items: list[StreamItem] = []
        self.full = anyio.Event()
        self._enough = enough
        self._count = 0

    async def push(self, item: StreamItem) -> None:
        """Keep one item."""
        self.items.append(item)
        self._count += len(rows_of(item))
        if self._enough is not None and self._count >= self._enough:
            self.full.set()
        await anyio.lowlevel.checkpoint()

    @property
    def transitions(self) -> list[Transition]:
        """The transitions that were pushed, those of batches included, oldest first."""
        return [row for item in self.items for row in rows_of(item)]

    @property
    def events(self) -> list[Event]:
        """The events that were pushed, oldest first."""
        return [item for item in self.items if isinstance(item, Event)]


def rows_of(item: StreamItem) -> list[Transition]:
    """The transitions of an item; none for an event."""
    if isinstance(item, Transition):
        return [item]
    if isinstance(item, TransitionBatch):
        return [batch_row(item, row) for row in range(len(item))]
    return []


class _Shape(NamedTuple):
    observation: str
    action: str
    extras: tuple[str, ...]


async def check_producer(
    producer: Producer, *, policy: Policy | None = None, transitions: int = 100
) -> list[StreamItem]:
    """Run a producer for a while, cancel it, and check what it pushed.

    Every transition is whole, has a finite reward and the shapes of the first; each row of a stream
    begins where the row before it ended, unless an episode ended or a gap was marked between them.

    Args:
        producer: what to check; it is run once.
        policy: what it acts by; by default one that always does 0.
        transitions: it is cancelled after this many, and may end before.

    Returns:
        What it pushed.

    Raises:
        AssertionError: a promise is broken; the text says which.
    """
    assert isinstance(producer.name, str), f"name: expected a text, got {producer.name!r}"
    assert producer.name, "name: expected a text, got an empty one"
    sink = RecordingSink(transitions)
    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            await producer.run(policy if policy is not None else as_policy(NullAgent()), sink)
            tasks.cancel_scope.cancel()

        tasks.start_soon(run)
        await sink.full.wait()
        tasks.cancel_scope.cancel()
    assert sink.transitions, f"run: expected transitions, got {sink.items}"
    _check_items(sink.items)
    return sink.items


def _check_items(items: Sequence[StreamItem]) -> None:
    shape: _Shape | None = None
    ends: dict[StreamId, Tree] = {}
    for number, item in enumerate(items):
        where = f"item {number}"
        if isinstance(item, TransitionBatch):
            _check_columns(item, where)
        if isinstance(item, GapDetected):
            ends.pop(item.stream, None)
        elif isinstance(item, TransitionsDropped | TransitionsRejected):
            assert item.count > 0, f"{where}: expected a count above 0, got {item.count}"
        elif not isinstance(item, Transition | TransitionBatch):
            assert isinstance(item, Event), f"{where}: expected a transition, a batch or an event, got {item!r}"
        for row in rows_of(item):
            shape = _check_row(row, where, shape)
            if row.stream in ends:
                assert same_tree(ends[row.stream], row.observation), (
                    f"{where}: expected stream {row.stream!r} to go on from {ends[row.stream]}, "
                    f"got {row.observation}; a gap needs a GapDetected"
                )
            ends[row.stream] = row.next_observation
            if row.terminated or row.truncated:
                del ends[row.stream]


def _check_row(row: Transition, where: str, expected: _Shape | None) -> _Shape:
    assert isinstance(row.terminated, bool | np.bool_), f"{where}: terminated: expected a bool, got {row.terminated!r}"
    assert isinstance(row.truncated, bool | np.bool_), f"{where}: truncated: expected a bool, got {row.truncated!r}"
    assert math.isfinite(row.reward), f"{where}: reward: expected a finite number, got {row.reward}"
    got = _Shape(describe(row.observation), describe(row.action), tuple(sorted(row.extras or {})))
    assert expected is None or got == expected, f"{where}: expected the shapes of the first, {expected}, got {got}"
    following = describe(row.next_observation)
    assert following == got.observation, f"{where}: next_observation: expected {got.observation}, got {following}"
    return got


def _check_columns(batch: TransitionBatch, where: str) -> None:
    lengths: dict[str, Any] = {
        "observations": tree_length(batch.observations),
        "next_observations": tree_length(batch.next_observations),
        "actions": len(batch.actions),
        "terminated": len(batch.terminated),
        "truncated": len(batch.truncated),
        "streams": len(batch.streams),
        "times": len(batch.times),
        **{f"extras[{name!r}]": len(column) for name, column in batch.extras.items()},
    }
    if batch.infos is not None:
        lengths["infos"] = len(batch.infos)
    for name, length in lengths.items():
        assert length == len(batch), f"{where}: {name}: expected {len(batch)} rows, one a reward, got {length}"


async def check_sink(sink: TransitionSink, items: Sequence[StreamItem]) -> None:
    """Check that a sink takes every kind of item and leaves it as it was.

    Args:
        sink: has room for all of them, or does not wait for it.
        items: what to push.

    Raises:
        AssertionError: an item was changed.
    """
    for item in items:
        before = [_values(row) for row in rows_of(item)]
        await sink.push(item)
        for number, (expected, row) in enumerate(zip(before, rows_of(item), strict=True)):
            assert same_tree(expected, _values(row)), (
                f"push: expected row {number} to be left alone as {expected}, got {_values(row)}"
            )


def _values(row: Transition) -> dict[str, Any]:
    return {
        "observation": np.array(row.observation) if isinstance(row.observation, np.ndarray) else row.observation,
        "action": np.array(row.action),
        "reward": row.reward,
        "terminated": row.terminated,
        "truncated": row.truncated,
    }
