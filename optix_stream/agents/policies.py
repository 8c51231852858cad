"""What acts: a frozen copy, or the agent itself by its weights of the moment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from optix_stream.agents.encoding import ObservationEncoder
from optix_stream.agents.network import FrozenNetwork
from optix_stream.agents.normalizers import Standardize
from optix_stream.contracts import Decision, SingleActor
from optix_stream.trees import map_tree, tree_length
from optix_stream.types import Array, Tree

Decide: TypeAlias = Callable[[Array], Decision]
"""Network outputs ``[N, units]`` in, a decision out."""
ActOne: TypeAlias = Callable[[Tree], tuple[Any, Mapping[str, Any]]]


class FrozenPolicy(SingleActor):
    """``decide(network(standardize(encode(observations))))``, of copies; safe from any thread.

    A generator that ``decide`` draws from is the agent's, so that one seed fixes a run.

    Args:
        version: of the weights.
        encode: for batches.
        standardize: frozen.
        network: frozen.
        decide: draws, or takes the most likely.
    """

    __slots__ = ("_decide", "_encode", "_network", "_standardize", "version")

    def __init__(
        self,
        version: int,
        encode: ObservationEncoder,
        standardize: Standardize,
        network: FrozenNetwork,
        decide: Decide,
    ) -> None:
        self.version = version
        self._encode = encode
        self._standardize = standardize
        self._network = network
        self._decide = decide

    def act(self, observations: Tree) -> Decision:
        return self._decide(self._network(self._standardize(self._encode(observations))))

    def act_one(self, observation: Tree) -> tuple[Any, Mapping[str, Any]]:
        row = self._encode.encode_one(observation)
        decision = self._decide(self._network(self._standardize(row[None])))
        return decision.actions[0], {name: column[0] for name, column in decision.extras.items()}


class LivePolicy(SingleActor):
    """Acts by the weights of the moment.

    Args:
        act_one: the agent's way to decide for one observation.
        version: the agent's version of the moment.
    """

    __slots__ = ("_version", "act_one_live")

    def __init__(self, act_one: ActOne, version: Callable[[], int]) -> None:
        self.act_one_live = act_one
        self._version = version

    @property
    def version(self) -> int:
        return self._version()

    def act(self, observations: Tree) -> Decision:
        decided = [self.act_one_live(map_tree(_row_of(row), observations)) for row in range(tree_length(observations))]
        names = decided[0][1] if decided else ()
        return Decision(
            np.asarray([action for action, _ in decided]),
            {name: np.asarray([extras[name] for _, extras in decided]) for name in names},
        )

    def act_one(self, observation: Tree) -> tuple[Any, Mapping[str, Any]]:
        return self.act_one_live(observation)


def _row_of(row: int) -> Callable[[Array], Array]:
    return lambda leaf: leaf[row]
