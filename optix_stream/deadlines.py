"""Acting in time, or not at all as the policy would: deadlines, and what is executed when one is missed."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from enum import Enum
from typing import Any

import anyio
import anyio.to_thread
import msgspec
import numpy as np

from optix_stream.contracts import Policy, act_one_of
from optix_stream.errors import ConfigurationError
from optix_stream.types import StreamId, Tree


class Fallback(Enum):
    """What to do instead of what the policy would have said."""

    HOLD = "hold"
    """Send nothing. Nothing was executed, so nothing is recorded: the stream has a gap there."""
    LAST = "last"
    """Repeat the stream's last action; hold where there is none."""


class ActDeadline(msgspec.Struct, frozen=True, kw_only=True):
    """When an action is too late.

    Attributes:
        act_sec: from the observation's arrival to the action; the policy then decides in a thread of
            its own, so that even one that hangs makes nobody late. None: no deadline, and the policy
            decides at once.
        max_age_sec: an observation that has waited longer than this is not shown to the policy at
            all; None: no limit.
        fallback: what is executed, and recorded, instead: a ``Fallback``, or an action.

    Raises:
        ConfigurationError: a time that is not above 0.
    """

    act_sec: float | None = None
    max_age_sec: float | None = None
    fallback: Any = Fallback.HOLD

    def __post_init__(self) -> None:
        for name, value in (("act_sec", self.act_sec), ("max_age_sec", self.max_age_sec)):
            if value is not None and not value > 0:
                raise ConfigurationError(f"{name}: expected more than 0 seconds, got {value}")


class Execution(msgspec.Struct, frozen=True, eq=False):
    """What is executed on an observation.

    Attributes:
        action: to send and to record.
        extras: what the policy said about it. For a fallback the policy's names hold NaN: it was not
            the policy that chose.
        missed: why it is a fallback, in words; None: it is the policy's.
        is_held: nothing is executed.
    """

    action: Any
    extras: Mapping[str, Any] | None
    missed: str | None = None
    is_held: bool = False


class PunctualActor:
    """Asks a policy for actions under a deadline.

    Args:
        policy: decides.
        deadline: by when.
    """

    def __init__(self, policy: Policy, deadline: ActDeadline) -> None:
        self._act_one = act_one_of(policy)
        self._deadline = deadline
        self._last: dict[StreamId, Any] = {}
        self._extras: Mapping[str, Any] = {}
        self._is_busy = threading.Event()

    async def act(self, observation: Tree, stream: StreamId, age_sec: float) -> Execution:
        """Decide on an observation that arrived ``age_sec`` ago."""
        limit, deadline = self._deadline.max_age_sec, self._deadline.act_sec
        if limit is not None and age_sec > limit:
            return self._fall_back(stream, f"observation older than {limit:g} s")
        decided: tuple[Any, Mapping[str, Any]] | None
        if deadline is None:
            decided = self._act_one(observation)
        else:
            decided = await self._act_until(observation, deadline - age_sec)
        if decided is None:
            return self._fall_back(stream, f"deadline of {deadline:g} s missed")
        action, self._extras = decided
        self._last[stream] = action
        return Execution(action, self._extras)

    async def _act_until(self, observation: Tree, left_sec: float) -> tuple[Any, Mapping[str, Any]] | None:
        # One call at a time: those that come while the policy hangs must not pile up behind it.
        if left_sec <= 0 or self._is_busy.is_set():
            return None
        self._is_busy.set()

        def decide() -> tuple[Any, Mapping[str, Any]]:
            try:
                return self._act_one(observation)
            finally:
                self._is_busy.clear()

        with anyio.move_on_after(left_sec):
            return await anyio.to_thread.run_sync(decide, abandon_on_cancel=True)
        return None

    def _fall_back(self, stream: StreamId, missed: str) -> Execution:
        fallback = self._deadline.fallback
        if fallback is Fallback.LAST and stream in self._last:
            action = self._last[stream]
        elif isinstance(fallback, Fallback):
            return Execution(None, None, missed, is_held=True)
        else:
            action = fallback
        nothing = {name: np.full_like(value, np.nan, dtype=float) for name, value in self._extras.items()}
        self._last[stream] = action
        return Execution(action, nothing, missed)
