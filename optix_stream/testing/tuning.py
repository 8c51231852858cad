"""The check for hyperparameter optimizers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from optix_stream.contracts import BaseOptimizer, Stateful
from optix_stream.errors import CheckpointError
from optix_stream.optimizers.parameters import Bounds
from optix_stream.types import EvalMetrics, HyperparamSet


def check_optimizer(
    make_optimizer: Callable[[], BaseOptimizer],
    hyperparams: HyperparamSet,
    bounds: Bounds,
    scores: Sequence[float],
) -> None:
    """Drive an optimizer through a run and check that it stays within its limits.

    Parameters without bounds are never touched, those with bounds stay within them, no key comes or goes, and what it
    was given is left alone. A probe is part of a comparison, and ``settle`` ends both. One that is ``Stateful`` goes on
    from a saved state exactly as the one that was saved.

    Args:
        make_optimizer: makes a fresh optimizer with these bounds.
        hyperparams: where it starts, within the bounds; a key without bounds makes the check sharper.
        bounds: what it may tune: for each key ``(low, high)`` or a list of choices.
        scores: of the windows, one a suggestion.

    Raises:
        AssertionError: a promise is broken; the text says which.
    """
    optimizer = make_optimizer()
    got = optimizer.suggest(hyperparams.copy(), ())
    assert got.params == hyperparams.params, f"suggest without history: expected {hyperparams.params}, got {got.params}"
    optimizer = make_optimizer()
    current = hyperparams.copy()
    history: list[EvalMetrics] = []
    for number, score in enumerate(scores):
        where = f"suggestion {number}"
        history.append(EvalMetrics(score, {}, number))
        restored = _restored(optimizer, make_optimizer, where)
        given, past = copy.deepcopy(current), list(history)
        new = optimizer.suggest(given, past)
        assert given.params == current.params, f"{where}: expected its input to be left alone, got {given.params}"
        assert new.params is not given.params, f"{where}: expected a copy, got the parameters that were given"
        assert past == history, f"{where}: expected the history to be left alone, got {past}"
        _check_suggestion(hyperparams, new, bounds, where)
        _check_flags(optimizer)
        if restored is not None:
            again = restored.suggest(copy.deepcopy(current), past)
            assert again.params == new.params, f"{where}, restored: expected {new.params}, got {again.params}"
            optimizer = restored
        current = new.copy()
        if number == len(scores) // 2:
            optimizer.on_improvement(history[-1])
            optimizer.on_plateau(tuple(history))
    settled = optimizer.settle(current.copy())
    _check_suggestion(hyperparams, settled, bounds, "settle")
    assert not optimizer.is_probing, "settle: expected the probe to have ended"


def _check_flags(optimizer: BaseOptimizer) -> None:
    for name, flag in (("is_probing", optimizer.is_probing), ("is_comparing", optimizer.is_comparing)):
        assert isinstance(flag, bool), f"{name}: expected a bool, got {flag!r}"
    assert optimizer.is_comparing or not optimizer.is_probing, "expected a probe to be part of a comparison"


def _restored(optimizer: BaseOptimizer, make: Callable[[], BaseOptimizer], where: str) -> BaseOptimizer | None:
    """A fresh one with the state of ``optimizer``; None where that cannot be saved."""
    if not isinstance(optimizer, Stateful):
        return None
    fresh = make()
    assert isinstance(fresh, Stateful)
    before = copy.deepcopy(fresh.state_dict())
    try:
        fresh.load_state_dict({"nothing": 0})
    except CheckpointError:
        assert fresh.state_dict() == before, f"{where}: expected a refused state to change nothing"
    else:
        raise AssertionError(f"{where}: expected a CheckpointError from a state that is none")
    saved = copy.deepcopy(dict(optimizer.state_dict()))
    fresh.load_state_dict(copy.deepcopy(saved))
    assert dict(fresh.state_dict()) == saved, f"{where}: expected the restored state to be the saved one"
    return fresh


def _check_suggestion(first: HyperparamSet, new: HyperparamSet, bounds: Bounds, where: str) -> None:
    expected_keys, keys = set(first.params), set(new.params)
    assert keys == expected_keys, f"{where}: expected the keys {sorted(expected_keys)}, got {sorted(keys)}"
    for name, value in new.params.items():
        limits: Any = bounds.get(name)
        if limits is None:
            expected = first.params[name]
            assert value == expected, f"{where}: {name} has no bounds: expected it to stay {expected!r}, got {value!r}"
        elif isinstance(limits, tuple) and len(limits) == 2:
            low, high = limits
            assert low <= value <= high, f"{where}: {name}: expected {low} to {high}, got {value}"
            is_whole = isinstance(low, int) and isinstance(high, int) and isinstance(first.params[name], int)
            assert not is_whole or isinstance(value, int), f"{where}: {name}: expected an integer, got {value!r}"
        else:
            assert value in limits, f"{where}: {name}: expected one of {limits}, got {value!r}"
