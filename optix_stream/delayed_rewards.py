"""Rewards that come later than the step they belong to, and join it by the id of its decision. Pure."""

from __future__ import annotations

import math
from collections import deque
from typing import Literal, NamedTuple

import msgspec

from optix_stream.contracts import StreamItem
from optix_stream.errors import ConfigurationError
from optix_stream.events import GapDetected, RewardMissing, StreamEvent, TransitionsDropped, TransitionsRejected
from optix_stream.types import StreamId, Transition


class DelayedReward(NamedTuple):
    """A reward on its own, as a feed yields it.

    Attributes:
        decision_id: of the action that earned it, as it was sent with the action.
        reward: what it earned.
        stream: for the event, where the id is unknown.
    """

    decision_id: int
    reward: float
    stream: StreamId | None = None


class DelayedRewards(msgspec.Struct, frozen=True, kw_only=True):
    """How long to wait for rewards, and what to do without them.

    Attributes:
        timeout_sec: from the decision on, looked at whenever something arrives on the stream.
        missing: what a transition gets whose reward never came: a default reward, or ``drop`` to
            give it up, which leaves a gap.
        max_waiting: transitions of one stream that may wait; beyond that the oldest wait no longer.

    Raises:
        ConfigurationError: a value that cannot work.
    """

    timeout_sec: float
    missing: float | Literal["drop"] = "drop"
    max_waiting: int = 10_000

    def __post_init__(self) -> None:
        if not self.timeout_sec > 0 or self.max_waiting < 1:
            raise ConfigurationError(f"delayed_rewards: expected timeout_sec > 0 and max_waiting >= 1, got {self}")
        if self.missing != "drop" and not (isinstance(self.missing, int | float) and math.isfinite(self.missing)):
            raise ConfigurationError(f"missing: expected 'drop' or a finite number, got {self.missing!r}")


class _Waiting:
    """A decision whose transition or whose reward has not come yet."""

    __slots__ = ("decided", "decision_id", "is_forgotten", "reward", "stream", "transition")

    def __init__(self, stream: StreamId, decision_id: int, decided: float) -> None:
        self.stream = stream
        self.decision_id = decision_id
        self.decided = decided
        self.reward: float | None = None
        self.transition: Transition | None = None
        self.is_forgotten = False


class RewardJoin:
    """Joins rewards to transitions, and lets both go in the order of their stream.

    Each stream has a line of what waits. Whoever is at its head and whole goes; one that is not
    holds up those behind it until its time is over.

    Args:
        config: time-out and rule.
    """

    def __init__(self, config: DelayedRewards) -> None:
        self._config = config
        self._by_id: dict[int, _Waiting] = {}
        self._lines: dict[StreamId, deque[_Waiting | StreamEvent]] = {}

    def expect(self, stream: StreamId, decision_id: int, now: float) -> None:
        """A decision was made; its transition and its reward will come, in either order."""
        waiting = self._by_id[decision_id] = _Waiting(stream, decision_id, now)
        self._lines.setdefault(stream, deque()).append(waiting)

    def complete(self, decision_id: int, transition: Transition, now: float) -> tuple[StreamItem, ...]:
        """The transition has come, but for its reward; what may go now."""
        self._by_id[decision_id].transition = transition
        return self._release(transition.stream, now)

    def join(self, message: DelayedReward, now: float) -> tuple[StreamItem, ...]:
        """The reward has come; what may go now. One that nothing waits for is refused."""
        waiting = self._by_id.get(message.decision_id)
        if waiting is None:
            detail = f"decision_id: expected one that waits for its reward, got {message.decision_id}"
            return (_refused(message.stream or 0, detail, now),)
        try:
            reward = float(message.reward)
        except (TypeError, ValueError):
            reward = math.nan
        if not math.isfinite(reward):
            return (_refused(waiting.stream, f"reward: expected a finite number, got {message.reward!r}", now),)
        waiting.reward = reward
        return self._release(waiting.stream, now)

    def follow(self, stream: StreamId, event: StreamEvent) -> tuple[StreamItem, ...]:
        """An event takes its place in its stream; what may go now."""
        self._lines.setdefault(stream, deque()).append(event)
        return self._release(stream, event.time)

    def forget(self, decision_id: int) -> None:
        """The transition of this decision will never be whole."""
        waiting = self._by_id.pop(decision_id, None)
        if waiting is not None:
            waiting.is_forgotten = True

    def finish(self, now: float) -> tuple[StreamItem, ...]:
        """Nothing will come any more: the rule for everything that waits."""
        return tuple(item for stream in list(self._lines) for item in self._release(stream, now, is_over=True))

    def abandon(self) -> int:
        """Let go of everything; how many transitions still waited for their rewards."""
        waiting = sum(item.transition is not None for item in self._by_id.values())
        self._by_id.clear()
        self._lines.clear()
        return waiting

    def _release(self, stream: StreamId, now: float, *, is_over: bool = False) -> tuple[StreamItem, ...]:
        line = self._lines[stream]
        items: list[StreamItem] = []
        while line:
            head = line[0]
            if isinstance(head, _Waiting):
                if not head.is_forgotten:
                    if head.transition is None:
                        break
                    is_late = now - head.decided >= self._config.timeout_sec or len(line) > self._config.max_waiting
                    if head.reward is None and not (is_late or is_over):
                        break
                    items += self._settle(head, head.transition, now)
            else:
                items.append(head)
            line.popleft()
        return tuple(items)

    def _settle(self, waiting: _Waiting, transition: Transition, now: float) -> tuple[StreamItem, ...]:
        self._by_id.pop(waiting.decision_id, None)
        stream = transition.stream
        if waiting.reward is not None:
            transition.reward = waiting.reward
            return (transition,)
        if self._config.missing != "drop":
            transition.reward = float(self._config.missing)
            missing = RewardMissing(stream=stream, decision_id=waiting.decision_id, default=transition.reward, time=now)
            return (missing, transition)
        reason = "no reward came in time"
        return (
            TransitionsDropped(reason=reason, count=1, stream=stream, time=now),
            GapDetected(stream=stream, reason=reason, missed=1, time=now),
        )


def _refused(stream: StreamId, detail: str, now: float) -> TransitionsRejected:
    # Of no transition: the count is of transitions.
    return TransitionsRejected(stream=stream, reason="reward", detail=detail, count=0, time=now)
