"""A second source, on which the agent only acts: what it earns there is what it is judged by."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio.to_thread

from optix_stream.contracts import BaseEvaluator, BasePipeline, EventSink, Policy, WindowSource
from optix_stream.errors import ConfigurationError
from optix_stream.evaluators import checked_score
from optix_stream.learner import Learner
from optix_stream.learner.published import PublishedPolicy
from optix_stream.types import EpisodeData, EvalMetrics


class Validation:
    """Lets the agent's policy act, without exploration, in a pipeline of its own; nothing is learned there.

    Args:
        pipeline: pausable: it waits while the agent learns.
        learner: holds the agent.
        evaluator: scores windows.

    Raises:
        ConfigurationError: the pipeline cannot be paused, so that its windows would be of old policies.
    """

    def __init__(self, pipeline: BasePipeline, learner: Learner, evaluator: BaseEvaluator) -> None:
        if not isinstance(pipeline, BasePipeline) or pipeline.is_live:
            raise ConfigurationError(f"validation: expected a pipeline that can be paused, got {pipeline!r}")
        self.pipeline = pipeline
        self._learner = learner
        self._evaluator = evaluator
        self._policy: PublishedPolicy | None = None
        self._source: WindowSource | None = None

    @asynccontextmanager
    async def open(self, events: EventSink) -> AsyncIterator[None]:
        """Start it for the length of the ``async with``.

        Args:
            events: where the source's events go.
        """
        self._policy = PublishedPolicy(await self._deterministic())
        async with self.pipeline.open(self._policy, events) as self._source:
            try:
                yield
            finally:
                self._source = None

    async def next_window(self) -> EpisodeData | None:
        """A window in which the agent acted by its present weights; None when the source has ended.

        Raises:
            Exception: what the source raised.
        """
        assert self._policy is not None
        assert self._source is not None
        self._policy.publish(await self._deterministic())
        window = await self._source.next_window()
        if window is not None:
            self._source.record_dropped(window, "validation")
        return window

    async def score(self, window: int) -> EvalMetrics | None:
        """What the agent earns now; None where its next window holds no evidence for that.

        Args:
            window: of training, after which this is.
        """
        seen = await self.next_window()
        if seen is None:
            return None
        metrics = checked_score(self._evaluator.score(seen, {}), seen)
        return None if metrics is None else dataclasses.replace(metrics, episode_id=window)

    async def _deterministic(self) -> Policy:
        return await anyio.to_thread.run_sync(self._learner.deterministic_policy)
