"""The checks for evaluators and judges."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from numbers import Real

from optix_stream.contracts import BaseEvaluator, Judge, Outcome, Verdict
from optix_stream.testing.comparing import same_window
from optix_stream.types import EpisodeData, EvalMetrics


def check_evaluator(make_evaluator: Callable[[], BaseEvaluator], windows: Sequence[EpisodeData]) -> None:
    """Check that an evaluator is pure: the same windows, the same finite scores, and nothing changed.

    Args:
        make_evaluator: makes a fresh evaluator.
        windows: what to score, in order.

    Raises:
        AssertionError: a promise is broken; the text says which.
    """
    first, second = make_evaluator(), make_evaluator()
    for window in windows:
        before = copy.deepcopy(window)
        diagnostics = {"loss": 1.0}
        got = first.score(window, diagnostics)
        changed = same_window(before, window)
        assert changed is None, f"score: expected the window to be left alone, but it changed {changed}"
        assert diagnostics == {"loss": 1.0}, f"score: expected the diagnostics to be left alone, got {diagnostics}"
        again = second.score(window, diagnostics)
        assert _number(got) == _number(again), f"score: expected the same from two evaluators, got {got} and {again}"
        if got is None:
            continue
        assert isinstance(got, EvalMetrics), f"score: expected EvalMetrics or None, got {type(got).__name__}"
        assert math.isfinite(got.primary_score), f"score: expected a finite number, got {got.primary_score}"
        assert got.episode_id == window.episode_id, (
            f"score: expected episode_id {window.episode_id}, that of the window, got {got.episode_id}"
        )
        assert not first.compare(got, got), f"compare: expected no score to be better than itself, but {got} is"


def check_judge(make_judge: Callable[[], Judge], scores: Sequence[float]) -> None:
    """Check that a judge is deterministic, gives its reasons, and forgets when told to.

    Args:
        make_judge: makes a fresh judge.
        scores: what to judge, in order; the more verdicts they call for, the better the check.

    Raises:
        AssertionError: a promise is broken; the text says which.
    """
    judge = make_judge()
    expected = _verdicts(judge, scores)
    for number, verdict in enumerate(expected):
        where = f"verdict {number} on {scores[number]}"
        assert isinstance(verdict, Verdict), f"{where}: expected a Verdict, got {type(verdict).__name__}"
        assert isinstance(verdict.outcome, Outcome), f"{where}: expected an Outcome, got {verdict.outcome!r}"
        assert verdict.evidence.strip(), f"{where}: expected evidence in words, got {verdict.evidence!r}"
        for name, value in verdict.facts.items():
            assert isinstance(value, Real), f"{where}: expected a number for {name!r}, got {value!r}"
    _expect_same(expected, _verdicts(make_judge(), scores), "a second judge")
    judge.restart()
    _expect_same(expected, _verdicts(judge, scores), "the judge after restart")


def _verdicts(judge: Judge, scores: Sequence[float]) -> list[Verdict]:
    return [judge.update(EvalMetrics(score, {}, window)) for window, score in enumerate(scores)]


def _expect_same(expected: list[Verdict], got: list[Verdict], who: str) -> None:
    for number, (one, other) in enumerate(zip(expected, got, strict=True)):
        assert one == other, f"{who}, verdict {number}: expected {one}, got {other}"


def _number(metrics: EvalMetrics | None) -> float | None:
    return None if metrics is None else metrics.primary_score
