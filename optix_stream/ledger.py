"""The conservation law: ``received = learned + held + dropped + rejected``.

The ledger counts what moves; what is held is *measured* where it is held (queue, window, learner),
so that the balance is a check and not a definition.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from optix_stream.batching import count_transitions
from optix_stream.contracts import Stateful, StreamItem
from optix_stream.events import TransitionsDropped, TransitionsRejected
from optix_stream.state_files import state_of
from optix_stream.types import Statistics

OVERFLOW = "overflow"
"""Reason of what a full queue drops; events say after a comma which."""


class Ledger(Stateful):
    """Counters of one run. One instance is shared by a pipeline's queue and assembler."""

    __slots__ = ("dropped", "in_learner", "learned", "received", "rejected")

    def __init__(self) -> None:
        self.received = 0
        self.learned = 0
        self.in_learner = 0
        self.dropped: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()

    def receive(self, item: StreamItem, times: int = 1) -> None:
        """Count what came: transitions, or an event's word on some that are lost.

        Args:
            item: of a stream.
            times: -1: it had been counted, and is yet to come.
        """
        if isinstance(item, TransitionsRejected):
            self.received += times * item.count
            self.rejected[item.reason] += times * item.count
        elif isinstance(item, TransitionsDropped):
            self.received += times * item.count
            self.dropped[OVERFLOW if item.reason.startswith(f"{OVERFLOW}, ") else item.reason] += times * item.count
        else:
            self.received += times * count_transitions(item)

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

    def without(self, items: Iterable[StreamItem]) -> Ledger:
        """A copy, as it was before these were received."""
        before = Ledger()
        before.load_state_dict(self.state_dict())
        for item in items:
            before.receive(item, -1)
        return before

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        with state_of("a ledger"):
            received, learned = int(state["received"]), int(state["learned"])
            dropped, rejected = Counter(state["dropped"]), Counter(state["rejected"])
        self.received, self.learned, self.dropped, self.rejected = received, learned, dropped, rejected

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
