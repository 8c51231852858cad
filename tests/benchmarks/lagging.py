"""An agent whose policy comes late: what acts is always older than what has been learned, and changes mid-window."""

from __future__ import annotations

from typing import Any

from optix_stream import BaseAgent, Decision, EpisodeData, HyperparamSet, Policy, PolicyPublisher
from optix_stream.trees import tree_length
from optix_stream.types import Tree


class LaggingAgent(BaseAgent, PolicyPublisher):
    """Learns as ``agent`` does, but acts by its policy of two windows ago, from mid-window on by that of one.

    Args:
        agent: publishes policies.
        window: transitions.
    """

    def __init__(self, agent: Any, window: int) -> None:
        self._agent = agent
        self._half = window // 2
        self._published: list[Policy] = []

    def publish_policy(self, *, deterministic: bool = False) -> Policy:
        policy: Policy = self._agent.publish_policy(deterministic=deterministic)
        if deterministic:
            return policy
        self._published = [*self._published[-2:], policy]
        return _Late(self._published[0], self._published[max(0, len(self._published) - 2)], self._half)

    def act(self, observation: Tree) -> Any:
        return self._agent.act(observation)

    def learn(self, episode_data: EpisodeData) -> dict[str, float]:
        diagnostics: dict[str, float] = self._agent.learn(episode_data)
        return diagnostics

    def get_hyperparams(self) -> HyperparamSet:
        hyperparams: HyperparamSet = self._agent.get_hyperparams()
        return hyperparams

    def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        self._agent.set_hyperparams(hyperparams)

    def save_weights(self, path: str) -> None:
        self._agent.save_weights(path)

    def load_weights(self, path: str) -> None:
        self._agent.load_weights(path)


class _Late:
    """One policy for the first ``decisions``, another one from there."""

    def __init__(self, first: Policy, then: Policy, decisions: int) -> None:
        self._first, self._then = first, then
        self._left = decisions

    @property
    def version(self) -> int:
        return (self._first if self._left > 0 else self._then).version

    def act(self, observations: Tree) -> Decision:
        policy = self._first if self._left > 0 else self._then
        self._left -= tree_length(observations)
        return policy.act(observations)
