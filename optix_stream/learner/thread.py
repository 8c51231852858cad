"""The agent in this process, called in a worker thread."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar, cast

import anyio
import anyio.to_thread

from optix_stream.contracts import BaseAgent, EventSink, IncrementalLearner, Intake, Policy, TransitionLearner
from optix_stream.errors import LearningFailedError
from optix_stream.learner.contract import Learner
from optix_stream.learner.host import AgentHost, deterministic_policy
from optix_stream.learner.published import PublishedPolicy
from optix_stream.types import EpisodeData, HyperparamSet, Transition

T = TypeVar("T")


class ThreadLearner(Learner):
    """Calls the agent in a worker thread, one call at a time.

    A call that has begun is always finished, also when the caller is cancelled: an agent is never
    left half-way.

    Args:
        agent: the learner.
        max_failures: transitions in a row on which ``learn_one`` may raise before the run fails.
    """

    def __init__(self, agent: BaseAgent, max_failures: int = 3) -> None:
        self._agent = agent
        self._host = AgentHost(agent, lambda policy: self._policy.publish(policy))
        self._policy = PublishedPolicy(self._host.policy())
        self._hyperparams = HyperparamSet({})
        self._max_failures = max_failures
        self._failures = 0
        self._limiter: anyio.CapacityLimiter | None = None

    @property
    def policy(self) -> PublishedPolicy:
        return self._policy

    @property
    def hyperparams(self) -> HyperparamSet:
        return self._hyperparams.copy()

    @asynccontextmanager
    async def open(self, events: EventSink) -> AsyncIterator[None]:
        await self.publish()
        yield

    async def learn(self, window: EpisodeData) -> dict[str, float]:
        return await self._call(self._host.learn, window)

    def intake(self) -> Intake | None:
        if isinstance(self._agent, TransitionLearner):
            return Intake(learn_one=self._learn_one)
        if isinstance(self._agent, IncrementalLearner):
            return Intake(increment=self._agent.increment, learn_increment=self._learn_increment)
        return None

    async def call(self, function: Callable[[BaseAgent], T]) -> T:
        return await self._call(function, self._agent)

    async def publish(self) -> None:
        self._policy.publish(await self._call(self._host.policy))

    def deterministic_policy(self) -> Policy:
        return deterministic_policy(self._agent)

    async def _learn_increment(self, part: EpisodeData) -> None:
        await self._call(self._host.learn_increment, part)

    def _learn_one(self, transition: Transition) -> None:
        try:
            cast("TransitionLearner", self._agent).learn_one(transition)
        except Exception as error:
            self._failures += 1
            if self._failures >= self._max_failures:
                raise LearningFailedError(self._failures, None, error) from error
            raise
        self._failures = 0

    async def _call(self, function: Callable[..., T], *arguments: object) -> T:
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(1)
        return await anyio.to_thread.run_sync(self._do, function, *arguments, limiter=self._limiter)

    def _do(self, function: Callable[..., T], *arguments: object) -> T:
        try:
            return function(*arguments)
        finally:
            # Asked for on the way, because another visit to the thread would cost more than the question.
            self._hyperparams = self._agent.get_hyperparams()
