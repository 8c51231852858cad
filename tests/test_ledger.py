from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optix_stream.ledger import Ledger
from optix_stream.testing import assert_balanced


@given(st.lists(st.tuples(st.sampled_from(["learned", "dropped", "held"]), st.integers(1, 9)), max_size=30))
def test_the_books_balance_whatever_becomes_of_a_window(windows: list[tuple[str, int]]) -> None:
    ledger = Ledger()
    for fate, count in windows:
        ledger.received += count
        ledger.hand_over(count)
        if fate == "learned":
            ledger.learn(count)
        elif fate == "dropped":
            ledger.give_up(count, "because")
    statistics = ledger.statistics(in_queue=0, in_window=0)
    assert_balanced(statistics)
    assert statistics.learned == sum(count for fate, count in windows if fate == "learned")
    assert statistics.held_in_learner == sum(count for fate, count in windows if fate == "held")
    assert sum(statistics.dropped.values()) == sum(count for fate, count in windows if fate == "dropped")


def test_a_missing_transition_is_seen() -> None:
    ledger = Ledger()
    ledger.received = 3
    statistics = ledger.statistics(in_queue=1, in_window=1)
    assert not statistics.is_balanced
    with pytest.raises(AssertionError, match="3 != 2"):
        assert_balanced(statistics)


def test_statistics_do_not_change_afterwards() -> None:
    ledger = Ledger()
    ledger.dropped["overflow"] += 1
    statistics = ledger.statistics(in_queue=0, in_window=0)
    ledger.dropped["overflow"] += 1
    assert statistics.dropped == {"overflow": 1}
