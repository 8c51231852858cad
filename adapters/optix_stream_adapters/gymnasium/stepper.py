"""What steps an environment in a worker thread, and one visit there."""

from __future__ import annotations

import threading
import traceback
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from gymnasium import Space

from optix_stream.contracts import Stateful, StreamItem
from optix_stream.types import Transition

_SIDE_BY_SIDE = "gymnasium.vector.utils.space_utils"
Learn: TypeAlias = Callable[[Transition], Sequence[StreamItem]]
"""Lets the agent learn from a transition; returns what is to be pushed in its place."""


def note_action(error: Exception, space: Space[Any], action: Any) -> None:
    """Add to an environment's error that the action was none of its own, where that is so."""
    if not space.contains(action):
        error.add_note(f"The agent's action was {action!r}; the environment's action space is {space}.")


def note_observation(error: Exception, space: Space[Any]) -> None:
    """Add to a vector environment's error that an observation was none of its space, where that is so.

    Gymnasium's error does not say so, only where it comes from: what puts observations side by side.
    """
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    if any("concatenate" in f.f_code.co_name and f.f_globals.get("__name__") == _SIDE_BY_SIDE for f in frames):
        error.add_note(f"An observation does not fit the environment's observation space, which is {space}.")


class Stepper(Stateful):
    """Acts in an environment and keeps what happens until it is taken.

    Its state is what it saw last; where the environment is, is the environment's. Only while nothing is held.
    """

    @abstractmethod
    def step_until(self, count: int, visit: Visit) -> None:
        """Step until ``count`` transitions are held or the visit is cancelled or cut short; resets where that is due.

        A step during which the visit is cancelled leaves nothing behind.
        """

    @abstractmethod
    def take(self) -> Sequence[StreamItem]:
        """Hand over what is held, in batches, oldest first."""


class Visit:
    """One visit to the worker thread, for ``count`` transitions.

    Attributes:
        goes_on: whether another step is wanted.
        is_cancelled: whether the step that is under way is to leave nothing behind.
        is_cut_short: whether the visit is to end after it.
        has_started: whether the thread has begun.
        done: set when the thread is through.
        items: what was collected, once ``done``.
    """

    def __init__(self, count: int) -> None:
        self.goes_on = True
        self.is_cancelled = False
        self.is_cut_short = False
        self.has_started = False
        self.done = threading.Event()
        self.items: Sequence[StreamItem] = ()
        self._count = count

    def cancel(self) -> None:
        """Want nothing more; called by who waits for the visit."""
        self.is_cancelled = True
        self.goes_on = False

    def cut_short(self) -> None:
        """Want no further step; called by who waits for the visit."""
        self.is_cut_short = True
        self.goes_on = False

    def run(self, stepper: Stepper) -> None:
        """Collect; called in the worker thread.

        Raises:
            Exception: what the environment or the policy raised.
        """
        # A visit may be cancelled before it begins. Either side writes its flag before it reads the
        # other's, so that never both believe that the other will act.
        self.has_started = True
        try:
            if self.is_cancelled:
                return
            try:
                stepper.step_until(self._count, self)
            finally:
                self.items = stepper.take()
        finally:
            self.done.set()
