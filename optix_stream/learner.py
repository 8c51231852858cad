"""Runs the agent away from the event loop, and publishes what it learned to those who act."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from optix_stream.contracts import (
    BaseAgent,
    Decision,
    Policy,
    PolicyPublisher,
    Restorable,
    SingleActor,
    act_one_of,
    as_policy,
)
from optix_stream.types import EpisodeData, Tree

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
    """

    def __init__(self, agent: BaseAgent) -> None:
        self._agent = agent
        self._limiter: anyio.CapacityLimiter | None = None
        self.policy = PublishedPolicy(self._new_policy())
        """What producers act by."""

    async def learn(self, window: EpisodeData) -> dict[str, float]:
        """``agent.learn(window)``, then publish.

        Raises:
            Exception: whatever ``learn`` raised; a ``Restorable`` agent is as it was before.
        """
        return await self.call(self._learn, window)

    async def call(self, function: Callable[..., T], *arguments: object) -> T:
        """Any call that touches the agent or the disk, in the learner's thread."""
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(1)
        return await anyio.to_thread.run_sync(function, *arguments, limiter=self._limiter)

    def publish(self) -> None:
        """Let the agent's present weights act."""
        self.policy.publish(self._new_policy())

    def _learn(self, window: EpisodeData) -> dict[str, float]:
        agent = self._agent
        before = agent.capture_state() if isinstance(agent, Restorable) else None
        try:
            diagnostics = agent.learn(window)
            policy = self._new_policy()
        except Exception:
            if isinstance(agent, Restorable):
                agent.restore_state(before)
            raise
        self.policy.publish(policy)
        return diagnostics if diagnostics is not None else {}

    def _new_policy(self) -> Policy:
        agent = self._agent
        return agent.publish_policy() if isinstance(agent, PolicyPublisher) else as_policy(agent)
