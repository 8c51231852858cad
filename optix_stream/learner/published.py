"""The policy in force, whatever learns it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optix_stream.contracts import Decision, Policy, SingleActor, act_one_of
from optix_stream.types import Tree


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
