"""What the loop needs of whatever holds the agent, wherever that is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from optix_stream.contracts import BaseAgent, EventSink, Intake, Policy
from optix_stream.learner.published import PublishedPolicy
from optix_stream.types import EpisodeData, HyperparamSet

T = TypeVar("T")


class Learner(ABC):
    """Holds the agent, lets it learn one window at a time, and publishes what acts."""

    @property
    @abstractmethod
    def policy(self) -> PublishedPolicy:
        """What producers act by."""

    @property
    @abstractmethod
    def hyperparams(self) -> HyperparamSet:
        """Those in force after the agent was last called; the caller's own."""

    @abstractmethod
    def open(self, events: EventSink) -> AbstractAsyncContextManager[None]:
        """Be ready to learn for the length of the ``async with``, with the agent's present weights published.

        Args:
            events: where what happens to the learner goes.
        """

    @abstractmethod
    async def learn(self, window: EpisodeData) -> dict[str, float]:
        """``agent.learn(window)``, then publish.

        Returns:
            The agent's diagnostics.

        Raises:
            Exception: whatever ``learn`` raised; a ``Restorable`` agent is as it was before.
        """

    @abstractmethod
    def intake(self) -> Intake | None:
        """What the agent wants to learn from before a window is complete; None: nothing."""

    @abstractmethod
    async def call(self, function: Callable[[BaseAgent], T]) -> T:
        """Call ``function`` with the agent, or what stands for it, in a worker thread while nothing is learned.

        What stands for an agent elsewhere saves, loads and has hyperparameters; it neither acts nor learns. The
        function may be called again, if what holds the agent is lost while it runs.
        """

    @abstractmethod
    async def publish(self) -> None:
        """Let the agent's present weights act."""

    @abstractmethod
    def deterministic_policy(self) -> Policy:
        """What to evaluate or ship: the agent's policy without exploration, where it has one."""
