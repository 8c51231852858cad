"""The conservation law: ``received = learned + held + dropped + rejected``.

The ledger counts what moves; what is held is *measured* where it is held (queue, window, learner),
so that the balance is a check and not a definition.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from optix_stream.contracts import Stateful
from optix_stream.types import Statistics


class Ledger(Stateful):
    """Counters of one run. One instance is shared by a pipeline's queue and assembler."""

    __slots__ = ("dropped", "in_learner", "learned", "received", "rejected")

    def __init__(self) -> None:
        self.received = 0
        self.learned = 0
        self.in_learner = 0
        self.dropped: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()

    def hand_over(self, count: int) -> None:
        """A window of this many transitions went to the learner."""
        self.in_learner += count

    def learn(self, count: int) -> None:
        """The learner took them."""
        self.in_learner -= count
        self.learned += count

    def give_up(self, count: int, reason: str) -> None:
        """The learner could not take them."""
        self.in_learner -= count
        self.dropped[reason] += count

    def state_dict(self) -> Mapping[str, Any]:
        return {
            "received": self.received,
            "learned": self.learned,
            "dropped": dict(self.dropped),
            "rejected": dict(self.rejected),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.received, self.learned = int(state["received"]), int(state["learned"])
        self.dropped, self.rejected = Counter(state["dropped"]), Counter(state["rejected"])

    def statistics(self, *, in_queue: int, in_window: int) -> Statistics:
        """The balance, with what is held as measured by the caller."""
        return Statistics(
            received=self.received,
            learned=self.learned,
            held_in_queue=in_queue,
            held_in_window=in_window,
            held_in_learner=self.in_learner,
            dropped=dict(self.dropped),
            rejected=dict(self.rejected),
        )
