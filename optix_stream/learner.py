"""Runs the agent away from the event loop, and publishes what it learned to those who act."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import anyio
import anyio.to_thread

from optix_stream.contracts import (
    BaseAgent,
    Decision,
    IncrementalLearner,
    Intake,
    Policy,
    PolicyPublisher,
    Restorable,
    SingleActor,
    TransitionLearner,
    act_one_of,
    as_policy,
)
from optix_stream.errors import LearningFailedError
from optix_stream.types import EpisodeData, Transition, Tree

logger = logging.getLogger(__name__)
T = TypeVar("T")


class PublishedPolicy(SingleActor):
    """The policy in force: immutable ones, swapped by one assignment. Safe from any thread."""

    def __init__(self, policy: Policy) -> None:
        self._current = policy
        self._act_one = act_one_of(policy)
        self._version = 0

    @property
    def version(self) -> int:
        """How often a policy has been published."""
        return self._version

    def publish(self, policy: Policy) -> None:
        """Act by ``policy`` from now on."""
        self._current = policy
        self._act_one = act_one_of(policy)
        self._version += 1

    def act(self, observations: Tree) -> Decision:
        return self._current.act(observations)

    def act_one(self, observation: Tree) -> tuple[Any, Mapping[str, Any]]:
        return self._act_one(observation)


class ThreadLearner:
    """Calls the agent in a worker thread, one call at a time.

    A call that has begun is always finished, also when the caller is cancelled: an agent is never
    left half-way.

    Args:
        agent: the learner.
        max_failures: transitions in a row on which ``learn_one`` may raise before the run fails.
    """

    def __init__(self, agent: BaseAgent, max_failures: int = 3) -> None:
        self._agent = agent
        self._max_failures = max_failures
        self._failures = 0
        self._increment_error: Exception | None = None
        self._limiter: anyio.CapacityLimiter | None = None
        self.policy = PublishedPolicy(self._new_policy())
        """What producers act by."""

    async def learn(self, window: EpisodeData) -> dict[str, float]:
        """``agent.learn(window)``, then publish.

        Raises:
            Exception: whatever ``learn`` raised; a ``Restorable`` agent is as it was before.
        """
        return await self.call(self._learn, window)

    def intake(self) -> Intake | None:
        """What the agent wants to learn from before a window is complete; None: nothing."""
        agent = self._agent
        if isinstance(agent, TransitionLearner):
            return Intake(learn_one=self._learn_one)
        if isinstance(agent, IncrementalLearner):
            return Intake(increment=agent.increment, learn_increment=self._learn_increment)
        return None

    async def call(self, function: Callable[..., T], *arguments: object) -> T:
        """Any call that touches the agent or the disk, in the learner's thread."""
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(1)
        return await anyio.to_thread.run_sync(function, *arguments, limiter=self._limiter)

    def publish(self) -> None:
        """Let the agent's present weights act."""
        self.policy.publish(self._new_policy())

    def _learn(self, window: EpisodeData) -> dict[str, float]:
        failed, self._increment_error = self._increment_error, None
        if failed is not None:
            raise failed
        return dict(self._learn_whole(self._agent.learn, window))

    async def _learn_increment(self, part: EpisodeData) -> None:
        if self._increment_error is None:  # Else the window is lost; its end tells.
            try:
                await self.call(self._learn_whole, cast("IncrementalLearner", self._agent).learn_increment, part)
            except Exception as error:
                self._increment_error = error

    def _learn_whole(
        self, learn: Callable[[EpisodeData], Mapping[str, float] | None], data: EpisodeData
    ) -> Mapping[str, float]:
        """Learn from all of it, or be as before."""
        agent = self._agent
        before = agent.capture_state() if isinstance(agent, Restorable) else None
        try:
            diagnostics = learn(data)
            policy = self._new_policy()
        except Exception:
            if isinstance(agent, Restorable):
                agent.restore_state(before)
            raise
        self.policy.publish(policy)
        return diagnostics if diagnostics is not None else {}

    def _learn_one(self, transition: Transition) -> None:
        try:
            cast("TransitionLearner", self._agent).learn_one(transition)
        except Exception as error:
            self._failures += 1
            if self._failures >= self._max_failures:
                raise LearningFailedError(self._failures, None, error) from error
            raise
        self._failures = 0

    def _new_policy(self) -> Policy:
        agent = self._agent
        if isinstance(agent, TransitionLearner):
            return agent.live_policy()
        return agent.publish_policy() if isinstance(agent, PolicyPublisher) else as_policy(agent)
