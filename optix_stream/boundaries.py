"""Where a window ends: pure functions, and ways to combine them.

A boundary is called after each transition with the rows in the window so far (that one included),
the seconds since the window's first row, and the transition itself; True ends the window there.
Any function of that signature will do. The ones below can also look at a whole batch at once,
which is what makes batches cheap.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol, TypeAlias

import msgspec
import numpy as np

from optix_stream.errors import ConfigurationError
from optix_stream.types import FloatArray, Transition, TransitionBatch


class BoundaryFn(Protocol):
    """Decides whether the window ends after ``transition``."""

    def __call__(self, step_count: int, elapsed_sec: float, transition: Transition, /) -> bool: ...


EpisodeBoundaryFn: TypeAlias = BoundaryFn
"""The name that the original system gave it."""


class BatchBoundary(ABC):
    """A boundary that can also look at many rows in one call."""

    @abstractmethod
    def __call__(self, step_count: int, elapsed_sec: float, transition: Transition, /) -> bool:
        """As ``BoundaryFn``."""

    @abstractmethod
    def first_end(self, step_count: int, elapsed_sec: FloatArray, batch: TransitionBatch, start: int) -> int | None:
        """The first row, from ``start`` on, after which the window ends; None if there is none.

        Args:
            step_count: rows in the window before row ``start``.
            elapsed_sec: for each row of the batch, seconds since the window's first row.
            batch: the rows.
            start: where to begin.
        """


class _EveryNSteps(BatchBoundary):
    def __init__(self, n: int) -> None:
        self.n = n

    def __call__(self, step_count: int, elapsed_sec: float, transition: Transition, /) -> bool:
        return step_count >= self.n

    def first_end(self, step_count: int, elapsed_sec: FloatArray, batch: TransitionBatch, start: int) -> int | None:
        end = start + max(self.n - step_count, 1) - 1
        return end if end < len(batch) else None


class _EveryNSeconds(BatchBoundary):
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, step_count: int, elapsed_sec: float, transition: Transition, /) -> bool:
        return elapsed_sec >= self.seconds

    def first_end(self, step_count: int, elapsed_sec: FloatArray, batch: TransitionBatch, start: int) -> int | None:
        return _first_true(elapsed_sec[start:] >= self.seconds, start)


class _OnDoneSignal(BatchBoundary):
    def __call__(self, step_count: int, elapsed_sec: float, transition: Transition, /) -> bool:
        return transition.terminated or transition.truncated

    def first_end(self, step_count: int, elapsed_sec: FloatArray, batch: TransitionBatch, start: int) -> int | None:
        return _first_true(np.logical_or(batch.terminated[start:], batch.truncated[start:]), start)


class _AnyOf(msgspec.Struct, frozen=True):
    boundaries: tuple[BoundaryFn, ...]

    def __call__(self, step_count: int, elapsed_sec: float, transition: Transition, /) -> bool:
        return any(boundary(step_count, elapsed_sec, transition) for boundary in self.boundaries)


class _AllOf(msgspec.Struct, frozen=True):
    boundaries: tuple[BoundaryFn, ...]

    def __call__(self, step_count: int, elapsed_sec: float, transition: Transition, /) -> bool:
        return all(boundary(step_count, elapsed_sec, transition) for boundary in self.boundaries)


def every_n_steps(n: int) -> BoundaryFn:
    """End a window at ``n`` transitions, counted over all its streams.

    Raises:
        ConfigurationError: ``n`` below 1.
    """
    if n < 1:
        raise ConfigurationError(f"every_n_steps: expected at least 1 step, got {n}")
    return _EveryNSteps(n)


def every_n_seconds(seconds: float) -> BoundaryFn:
    """End a window at the first transition that comes ``seconds`` or more after the window's first.

    Raises:
        ConfigurationError: ``seconds`` not above 0.
    """
    if not seconds > 0:
        raise ConfigurationError(f"every_n_seconds: expected more than 0 seconds, got {seconds}")
    return _EveryNSeconds(seconds)


def on_done_signal() -> BoundaryFn:
    """End a window wherever an episode ends, terminated or truncated."""
    return _OnDoneSignal()


def any_of(*boundaries: BoundaryFn) -> BoundaryFn:
    """End a window where at least one of the boundaries would."""
    return _AnyOf(_at_least_one("any_of", boundaries))


def all_of(*boundaries: BoundaryFn) -> BoundaryFn:
    """End a window where every one of the boundaries would: ``all_of(every_n_steps(200), on_done_signal())``
    ends it at the first episode end from the 200th step on.
    """
    return _AllOf(_at_least_one("all_of", boundaries))


def _at_least_one(name: str, boundaries: tuple[BoundaryFn, ...]) -> tuple[BoundaryFn, ...]:
    if not boundaries:
        raise ConfigurationError(f"{name}: expected at least one boundary, got none")
    return boundaries


def _first_true(mask: np.ndarray[tuple[int], np.dtype[np.bool_]], start: int) -> int | None:
    index = int(mask.argmax()) if len(mask) else 0
    return start + index if len(mask) and mask[index] else None
