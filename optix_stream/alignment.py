"""Joins the steps of a feed into whole transitions. Pure: no I/O, no clock, nothing async.

The rule that matters: *a reward belongs to the action before it*. A feed yields what ``env.step``
returns, ``(observation, reward, terminated, truncated, info)``; its reward answers the action taken
on the observation before, and the first message of an episode carries an observation only (its
other fields are ignored).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from optix_stream.contracts import StreamItem
from optix_stream.delayed_rewards import DelayedReward, DelayedRewards, RewardJoin
from optix_stream.events import GapDetected, StreamEvent, TransitionsRejected
from optix_stream.trees import as_tree, map_tree
from optix_stream.types import Array, StreamId, Transition, Tree

RewardFn: TypeAlias = Callable[[Tree, Any, Tree], float]
"""``reward_fn(previous_observation, action, observation)``, for a feed that carries no rewards."""


class FeedStep(NamedTuple):
    """What a feed yields; a plain tuple of the first five, or six, will do.

    Attributes:
        observation: what is seen now.
        reward: what followed from the action before; ignored in the first step of an episode, and
            where rewards come from a function or later.
        terminated: the episode ended by itself.
        truncated: the episode was cut off.
        info: whatever else there is to say.
        stream: which trajectory this belongs to, where one feed carries several; None: its only one.
        sequence: number of this step in its stream, one more than that of the step before it;
            shows what was lost, doubled or swapped on the way. None: the feed does not count.
        time: the source's own event time in seconds; None: that of arrival.
    """

    observation: Any
    reward: float | None
    terminated: bool
    truncated: bool
    info: dict[str, Any] | None = None
    stream: StreamId | None = None
    sequence: int | None = None
    time: float | None = None


def name_within(connection: str, item: Any) -> tuple[Any, StreamId | None]:
    """What came over one of several connections, its stream named so that none of another's has the same name.

    Args:
        connection: its name.
        item: a step, a ``DelayedReward``, or whatever else was decoded.

    Returns:
        The item, and the name that its stream came with, None where it came without.
    """
    if isinstance(item, FeedStep | DelayedReward):
        name = item.stream
        return (item if name is None else item._replace(stream=f"{connection}/{name}")), name
    if isinstance(item, _SEQUENCES) and len(item) == 6:
        return (*item[:5], f"{connection}/{item[5]}"), item[5]
    return item, None


class UnusableStepError(Exception):
    """A step that cannot be used.

    Attributes:
        streams: the streams that it concerns.
        reason: ``malformed``, ``duplicate`` or ``out of order``.
        detail: expected and got, in words.
    """

    def __init__(self, streams: tuple[StreamId, ...], reason: str, detail: str) -> None:
        super().__init__(detail)
        self.streams = streams
        self.reason = reason
        self.detail = detail

    @property
    def is_loss(self) -> bool:
        """Whether the streams lost a step by it; a step that came before had its place already."""
        return self.reason == "malformed"

    def events(self, time: float) -> list[StreamEvent]:
        """What goes into the stream in its place."""
        rejected = TransitionsRejected(stream=self.streams[0], reason=self.reason, detail=self.detail, time=time)
        if not self.is_loss:
            return [rejected]
        return [rejected, *(GapDetected(stream=s, reason="malformed step", missed=1, time=time) for s in self.streams)]


_Pending: TypeAlias = tuple[Tree, Any, Mapping[str, Any] | None, int]
"""Observation, action, extras and decision id of a transition that waits for what follows. (A plain tuple costs a
quarter of a named one.)"""


_SEQUENCES = (tuple, list)  # Text has a length, too, and is no step.


class Aligner:
    """Pairs each decision with what followed from it, stream by stream.

    ``arrive`` takes a step and says what it completed and whether it calls for a decision;
    ``decide`` takes that decision, ``hold`` that there is none.

    Args:
        reward_fn: computes the rewards that the feed does not carry.
        delayed_rewards: the rewards come later, on their own.
        stream: names the stream of steps that name none.
    """

    def __init__(
        self,
        *,
        reward_fn: RewardFn | None = None,
        delayed_rewards: DelayedRewards | None = None,
        stream: StreamId = 0,
    ) -> None:
        self._stream = stream
        self._pending: dict[StreamId, _Pending | None] = {}
        self._sequences: dict[StreamId, int] = {}
        self._decisions = 0
        self._reward_fn = reward_fn
        self._join = RewardJoin(delayed_rewards) if delayed_rewards is not None else None

    def arrive(self, item: Any, now: float) -> tuple[tuple[StreamItem, ...], StreamId, Tree]:
        """One message: what it completed, its stream, and the observation to decide on.

        That observation is None after an episode's last step, and for a reward that comes alone.

        Raises:
            UnusableStepError: a step that cannot be used; the stream goes on.
        """
        if type(item) is DelayedReward:
            return self._take_reward(item, now), self._name(item.stream), None
        sequence: int | None = None
        time: float | None = None
        stream: StreamId = self._stream
        try:
            size = len(item) if isinstance(item, _SEQUENCES) else 0
            if size == 5:
                observation, reward, terminated, truncated, info = item
            elif size == 6:
                observation, reward, terminated, truncated, info, stream = item
            elif type(item) is FeedStep:
                observation, reward, terminated, truncated, info, named, sequence, time = item
                stream = self._stream if named is None else named
            else:
                raise ValueError(size)
        except (TypeError, ValueError):
            expected = "(observation, reward, terminated, truncated, info[, stream])"
            # Any stream may have lost a step here, so none of them goes on.
            raise self.malformed(f"expected {expected}, got {_shorten(item)}") from None
        gap = () if sequence is None else self._check_sequence(stream, sequence, now)
        # Nearly always an array of floats.
        if type(observation) is not np.ndarray or observation.dtype.kind != "f" or not is_finite(observation):
            observation = self._checked(observation, stream)
        pending = self._pending.get(stream)
        if pending is None:
            # An episode may end with its first observation, as after a gap: there is nothing to decide on.
            return gap, stream, None if terminated or truncated else observation
        before, action, extras, decision_id = pending
        # One that comes later is filled in then.
        reward = self._reward(stream, pending, reward, observation) if self._join is None else math.nan
        terminated, truncated = bool(terminated), bool(truncated)
        transition = Transition(
            before,
            action,
            reward,
            observation,
            terminated,
            truncated,
            info,
            stream,
            extras,
            now if time is None else time,
        )
        # Until there is a decision on this observation, nothing waits.
        self._pending[stream] = None
        completed: tuple[StreamItem, ...] = (transition,)
        if self._join is not None:
            completed = self._join.complete(decision_id, transition, now)
        return completed, stream, None if terminated or truncated else observation

    def decide(
        self, stream: StreamId, observation: Tree, action: Any, extras: Mapping[str, Any] | None, now: float
    ) -> int:
        """What is executed on the observation that arrived last; returns the decision's id."""
        decision_id = self._decisions = self._decisions + 1
        self._pending[stream] = (observation, action, extras, decision_id)
        if self._join is not None:
            self._join.expect(stream, decision_id, now)
        return decision_id

    def hold(self, stream: StreamId, reason: str, now: float) -> tuple[StreamItem, ...]:
        """Nothing was executed on the observation that arrived last: the stream has a gap here."""
        return self._in_order(stream, GapDetected(stream=stream, reason=reason, missed=1, time=now))

    def interrupt(self, reason: str, now: float) -> tuple[StreamItem, ...]:
        """Nothing that waits will be answered. A stream whose episode has ended has lost nothing."""
        items: list[StreamItem] = []
        for stream, pending in self._pending.items():
            if pending is not None:
                self._forget(pending)
                items += self._in_order(stream, GapDetected(stream=stream, reason=reason, time=now))
        self._pending.clear()
        return tuple(items)

    def restart_sequences(self) -> None:
        """What comes next is counted from a new beginning, as on a new connection."""
        self._sequences.clear()

    def finish(self, now: float) -> tuple[StreamItem, ...]:
        """No reward will come any more: what waited for one, by the declared rule."""
        return () if self._join is None else self._join.finish(now)

    def abandon(self) -> int:
        """Nothing more is wanted: how many transitions still waited for their rewards."""
        return 0 if self._join is None else self._join.abandon()

    def malformed(self, detail: str, stream: StreamId | None = None) -> UnusableStepError:
        """What a message that cannot be read does to its stream, or, where it names none, to all of them."""
        streams = (tuple(self._pending) or (self._stream,)) if stream is None else (stream,)
        # At once, in whichever thread this is: the next step must not be joined to what is pending.
        for name in streams:
            self._forget(self._pending.get(name))
            self._pending[name] = None
        return UnusableStepError(streams, "malformed", detail)

    def _name(self, stream: StreamId | None) -> StreamId:
        return self._stream if stream is None else stream

    def _take_reward(self, message: DelayedReward, now: float) -> tuple[StreamItem, ...]:
        if self._join is None:
            raise UnusableStepError(
                (self._name(message.stream),), "unexpected reward", "delayed_rewards are not configured"
            )
        return self._join.join(message, now)

    def _reward(self, stream: StreamId, pending: _Pending, reward: Any, observation: Tree) -> float:
        if self._reward_fn is not None:
            reward = self._reward_fn(pending[0], pending[1], observation)
        try:
            value = float(reward)
        except (TypeError, ValueError):
            raise self.malformed(f"reward: expected a number, got {_shorten(reward)}", stream) from None
        if not math.isfinite(value):
            raise self.malformed(f"reward: expected a finite number, got {value}", stream)
        return value

    def _check_sequence(self, stream: StreamId, sequence: int, now: float) -> tuple[StreamItem, ...]:
        last = self._sequences.get(stream)
        if last is not None and sequence <= last:
            reason = "duplicate" if sequence == last else "out of order"
            raise UnusableStepError((stream,), reason, f"sequence: expected {last + 1}, got {sequence}")
        self._sequences[stream] = sequence
        if last is None or sequence == last + 1:
            return ()
        missed = sequence - last - 1
        self._forget(self._pending.get(stream))
        self._pending[stream] = None
        return self._in_order(stream, GapDetected(stream=stream, reason="sequence jump", missed=missed, time=now))

    def _in_order(self, stream: StreamId, event: StreamEvent) -> tuple[StreamItem, ...]:
        """The event, once what is before it in its stream has gone ahead."""
        return (event,) if self._join is None else self._join.follow(stream, event)

    def _forget(self, pending: _Pending | None) -> None:
        if pending is not None and self._join is not None:
            self._join.forget(pending[3])

    def _checked(self, observation: Any, stream: StreamId) -> Tree:
        try:
            tree = as_tree(observation)
            map_tree(_check_numbers, tree)
        except ValueError as error:
            raise self.malformed(f"observation: {error}, got {_shorten(observation)}", stream) from None
        return tree


_FEW = 32  # Below that, looking at each in turn is cheaper than two calls of numpy.


def is_finite(array: Array) -> bool:
    """Whether an array of floats holds no NaN and no infinity."""
    if array.size <= _FEW:
        return all(map(math.isfinite, array.ravel().tolist()))
    return bool(np.isfinite(array).all())


def _check_numbers(leaf: Array) -> None:
    if leaf.dtype.kind not in "biuf":
        raise ValueError("expected numbers")
    if leaf.dtype.kind == "f" and not is_finite(leaf):
        raise ValueError("expected finite numbers")


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
