"""The check for hyperparameter optimizers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

from optix_stream.contracts import BaseOptimizer
from optix_stream.types import EvalMetrics, HyperparamSet


def check_optimizer(
    make_optimizer: Callable[[], BaseOptimizer],
    hyperparams: HyperparamSet,
    bounds: Mapping[str, tuple[float, float]],
    scores: Sequence[float],
) -> None:
    """Drive an optimizer through a run and check that it stays within its limits.

    Parameters without bounds are never touched, those with bounds stay within them, no key comes or
    goes, and what it was given is left alone.

    Args:
        make_optimizer: makes a fresh optimizer with these bounds.
        hyperparams: where it starts, within the bounds; a key without bounds makes the check sharper.
        bounds: what it may tune.
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
        history.append(EvalMetrics(score, {}, number))
        given, past = copy.deepcopy(current), list(history)
        new = optimizer.suggest(given, past)
        where = f"suggestion {number}"
        assert given.params == current.params, f"{where}: expected its input to be left alone, got {given.params}"
        assert new.params is not given.params, f"{where}: expected a copy, got the parameters that were given"
        assert past == history, f"{where}: expected the history to be left alone, got {past}"
        assert isinstance(optimizer.is_probing, bool), f"is_probing: expected a bool, got {optimizer.is_probing!r}"
        _check_suggestion(hyperparams, new, bounds, where)
        current = new.copy()
        if number == len(scores) // 2:
            optimizer.on_improvement(history[-1])
            optimizer.on_plateau(tuple(history))


def _check_suggestion(
    first: HyperparamSet, new: HyperparamSet, bounds: Mapping[str, tuple[float, float]], where: str
) -> None:
    expected_keys, keys = set(first.params), set(new.params)
    assert keys == expected_keys, f"{where}: expected the keys {sorted(expected_keys)}, got {sorted(keys)}"
    for name, value in new.params.items():
        if name not in bounds:
            expected = first.params[name]
            assert value == expected, f"{where}: {name} has no bounds: expected it to stay {expected!r}, got {value!r}"
        else:
            low, high = bounds[name]
            assert low <= value <= high, f"{where}: {name}: expected {low} to {high}, got {value}"
