"""What is remembered of each stream between two of its transitions; a bounded number of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from optix_stream.types import Array, FloatArray, StreamId

_SPARE = 8


class StreamMemory:
    """One stream within an episode.

    Attributes:
        traces: eligibility traces, float32 ``[count, size]``; of no meaning while ``is_cold``.
        is_cold: nothing has been accumulated yet.
        row: the encoded observation that its next transition must begin with.
        inputs: ``row`` as it was standardised when it was seen, float32.
        discounted: discounted sum of the episode's rewards so far.
    """

    __slots__ = ("discounted", "inputs", "is_cold", "row", "traces")

    def __init__(self, traces: Array) -> None:
        self.traces = traces
        self.is_cold = True
        self.row: FloatArray = np.zeros(0)
        self.inputs: Array = np.zeros(0, np.float32)
        self.discounted = 0.0


class StreamTable:
    """The streams that are within an episode, the longest unheard of first.

    A stream that ends leaves; one that falls silent stays until ``capacity`` others have spoken since,
    and is then taken to begin anew. Arrays are used again, so that episodes allocate nothing.

    Args:
        shape: of traces.
        capacity: streams, at most.
    """

    def __init__(self, shape: tuple[int, int], capacity: int) -> None:
        self._shape = shape
        self._capacity = capacity
        self._streams: dict[StreamId, StreamMemory] = {}
        self._spare: list[Array] = []

    def __len__(self) -> int:
        return len(self._streams)

    def __iter__(self) -> Iterator[tuple[StreamId, StreamMemory]]:
        return iter(self._streams.items())

    @property
    def latest(self) -> StreamMemory | None:
        """The stream that was heard of last, of those within an episode."""
        return next(reversed(self._streams.values()), None)

    def open(self, stream: StreamId) -> StreamMemory:
        """The memory of ``stream``, a new one outside an episode; now the one heard of last."""
        memory = self._streams.pop(stream, None)
        if memory is None:
            if len(self._streams) >= self._capacity:
                self.forget(next(iter(self._streams)))
            memory = StreamMemory(self._spare.pop() if self._spare else np.zeros(self._shape, np.float32))
        self._streams[stream] = memory
        return memory

    def forget(self, stream: StreamId) -> None:
        """The stream's episode is over, or was interrupted."""
        memory = self._streams.pop(stream, None)
        if memory is not None and len(self._spare) < _SPARE:
            self._spare.append(memory.traces)

    def replace(self, memories: dict[StreamId, StreamMemory]) -> None:
        """Remember ``memories``, and nothing else."""
        self._streams = memories
