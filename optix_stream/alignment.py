"""Joins the steps of a feed into whole transitions. Pure: no I/O, no clock, nothing async.

The rule that matters: *a reward belongs to the action before it*. A feed yields what ``env.step``
returns, ``(observation, reward, terminated, truncated, info)``; its reward answers the action taken
on the observation before, and the first message of an episode carries an observation only (its
other fields are ignored).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from optix_stream.events import GapDetected, StreamEvent, TransitionsRejected
from optix_stream.trees import as_tree, map_tree
from optix_stream.types import Array, StreamId, Transition, Tree


class FeedStep(NamedTuple):
    """What a feed yields; a plain tuple of the first five will do.

    Attributes:
        observation: what is seen now.
        reward: what followed from the action before; ignored in the first step of an episode.
        terminated: the episode ended by itself.
        truncated: the episode was cut off.
        info: whatever else there is to say.
        stream: which trajectory this belongs to, where one feed carries several.
    """

    observation: Any
    reward: float | None
    terminated: bool
    truncated: bool
    info: dict[str, Any] | None = None
    stream: StreamId = 0


class MalformedStepError(Exception):
    """A step that cannot be used; its streams have a gap there.

    Attributes:
        streams: the streams that may have lost a step.
        detail: expected and got, in words.
    """

    def __init__(self, streams: tuple[StreamId, ...], detail: str) -> None:
        super().__init__(detail)
        self.streams = streams
        self.detail = detail

    def events(self, time: float) -> list[StreamEvent]:
        """What goes into the stream in its place."""
        rejected = TransitionsRejected(stream=self.streams[0], reason="malformed", detail=self.detail, time=time)
        return [rejected, *(GapDetected(stream=s, reason="malformed step", missed=1, time=time) for s in self.streams)]


_Pending: TypeAlias = tuple[Tree, Any, Mapping[str, Any] | None]
"""Observation, action and extras of a transition that waits for what follows."""


class Aligner:
    """Pairs each decision with what followed from it, stream by stream.

    ``arrive`` takes a step and says what it completed and whether it calls for a decision;
    ``decide`` takes that decision.
    """

    def __init__(self) -> None:
        self._pending: dict[StreamId, _Pending | None] = {}

    def arrive(self, item: Any, now: float) -> tuple[Transition | None, StreamId, Tree]:
        """One step: the transition that it completes, its stream, and the observation to decide on.

        Either may be None: a stream's first step completes nothing, an episode's last asks for nothing.

        Raises:
            MalformedStepError: the step is unusable; the stream has a gap here.
        """
        try:
            if len(item) == 5:
                observation, reward, terminated, truncated, info = item
                stream: StreamId = 0
            else:
                observation, reward, terminated, truncated, info, stream = item
        except (TypeError, ValueError):
            expected = "(observation, reward, terminated, truncated, info[, stream])"
            # Any stream may have lost a step here, so none of them goes on.
            raise self._malformed(tuple(self._pending) or (0,), f"expected {expected}, got {_shorten(item)}") from None
        # Nearly always an array of numbers, for which these two look-ups are all there is to check.
        if type(observation) is not np.ndarray or observation.dtype.hasobject:
            observation = self._checked(observation, stream)
        pending = self._pending.get(stream)
        if pending is None:
            return None, stream, observation
        try:
            reward = float(reward)
        except (TypeError, ValueError):
            raise self._malformed((stream,), f"reward: expected a number, got {_shorten(reward)}") from None
        if not math.isfinite(reward):
            raise self._malformed((stream,), f"reward: expected a finite number, got {reward}")
        terminated, truncated = bool(terminated), bool(truncated)
        before, action, extras = pending
        transition = Transition(before, action, reward, observation, terminated, truncated, info, stream, extras, now)
        # Until there is a decision on this observation, nothing waits.
        self._pending[stream] = None
        return transition, stream, None if terminated or truncated else observation

    def decide(self, stream: StreamId, observation: Tree, action: Any, extras: Mapping[str, Any] | None) -> None:
        """What is executed on the observation that arrived last."""
        self._pending[stream] = (observation, action, extras)

    def interrupt(self, reason: str, now: float) -> list[GapDetected]:
        """Nothing that waits will be answered. A stream whose episode has ended has lost nothing."""
        gaps = [
            GapDetected(stream=stream, reason=reason, time=now)
            for stream, pending in self._pending.items()
            if pending is not None
        ]
        self._pending.clear()
        return gaps

    def _checked(self, observation: Any, stream: StreamId) -> Tree:
        try:
            tree = as_tree(observation)
            map_tree(_check_numbers, tree)
        except ValueError as error:
            raise self._malformed((stream,), f"observation: {error}, got {_shorten(observation)}") from None
        return tree

    def _malformed(self, streams: tuple[StreamId, ...], detail: str) -> MalformedStepError:
        # At once, in whichever thread this is: the next step must not be joined to what is pending.
        for stream in streams:
            self._pending[stream] = None
        return MalformedStepError(streams, detail)


def _check_numbers(leaf: Array) -> None:
    if leaf.dtype.hasobject:
        raise ValueError("expected numbers")


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
