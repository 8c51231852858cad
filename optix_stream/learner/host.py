"""An agent and the rules for it: learn from all of something or from nothing. Plain and blocking."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

from optix_stream.contracts import (
    BaseAgent,
    IncrementalLearner,
    Policy,
    PolicyPublisher,
    Restorable,
    TransitionLearner,
    as_policy,
)
from optix_stream.types import EpisodeData


class AgentHost:
    """Calls the agent by its contracts; one call at a time.

    Args:
        agent: what learns.
        publish: takes each new policy that learning brings.
    """

    def __init__(self, agent: BaseAgent, publish: Callable[[Policy], None]) -> None:
        self.agent = agent
        self._publish = publish
        self._increment_error: Exception | None = None

    def learn(self, window: EpisodeData) -> dict[str, float]:
        """Learn from a window and publish; or raise, and be as before where the agent is ``Restorable``."""
        failed, self._increment_error = self._increment_error, None
        if failed is not None:
            raise failed
        return dict(self._learn_whole(self.agent.learn, window))

    def learn_increment(self, part: EpisodeData) -> None:
        """Learn from the next rows of a window; what goes wrong is raised by the window's ``learn``."""
        if self._increment_error is None:  # Else the window is lost; its end tells.
            try:
                self._learn_whole(cast("IncrementalLearner", self.agent).learn_increment, part)
            except Exception as error:
                self._increment_error = error

    def policy(self) -> Policy:
        """What acts, by the agent's present weights."""
        agent = self.agent
        if isinstance(agent, TransitionLearner):
            return agent.live_policy()
        return agent.publish_policy() if isinstance(agent, PolicyPublisher) else as_policy(agent)

    def _learn_whole(
        self, learn: Callable[[EpisodeData], Mapping[str, float] | None], data: EpisodeData
    ) -> Mapping[str, float]:
        agent = self.agent
        before = agent.capture_state() if isinstance(agent, Restorable) else None
        try:
            diagnostics = learn(data)
            policy = self.policy()
        except Exception:
            if isinstance(agent, Restorable):
                agent.restore_state(before)
            raise
        self._publish(policy)
        return diagnostics if diagnostics is not None else {}


def deterministic_policy(agent: BaseAgent) -> Policy:
    """The agent's policy without exploration, where it can publish one."""
    return agent.publish_policy(deterministic=True) if isinstance(agent, PolicyPublisher) else as_policy(agent)
