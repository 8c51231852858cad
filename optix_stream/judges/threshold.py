"""Fixed margins around the best score so far: the original system's rule."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from optix_stream.contracts import Judge, Outcome, Stateful, Verdict
from optix_stream.errors import CheckpointError, ConfigurationError
from optix_stream.types import EvalMetrics


class ThresholdJudge(Judge, Stateful):
    """Compares scores with the best so far by fixed margins, as the original system did.

    Improved: above the best by more than ``improvement_margin``. Degraded: below
    ``best - |best| * (1 - degradation_threshold)``, which also works for negative scores. There is
    no error rate behind these margins: on noisy scores widen them or raise ``smoothing``.

    Args:
        improvement_margin: in score units.
        degradation_threshold: share of the best score that is still well, 0 to 1.
        smoothing: compares the mean of this many latest scores instead of single ones, so that one
            lucky window does not stay the best for ever.
        compare: a further condition for an improvement, such as ``evaluator.compare``.
    """

    def __init__(
        self,
        improvement_margin: float = 0.0,
        degradation_threshold: float = 0.95,
        *,
        smoothing: int = 1,
        compare: Callable[[EvalMetrics, EvalMetrics], bool] | None = None,
    ) -> None:
        if not 0.0 <= degradation_threshold <= 1.0:
            raise ConfigurationError(f"degradation_threshold: expected 0 to 1, got {degradation_threshold}")
        if not improvement_margin >= 0.0:
            raise ConfigurationError(f"improvement_margin: expected 0 or more, got {improvement_margin}")
        if smoothing < 1:
            raise ConfigurationError(f"smoothing: expected at least 1 window, got {smoothing}")
        self._margin = improvement_margin
        self._threshold = degradation_threshold
        self._compare = compare
        self._recent: deque[float] = deque(maxlen=smoothing)
        self._best: EvalMetrics | None = None
        self._has_baseline = False

    @property
    def best_score(self) -> float | None:
        """The score to beat, as a mean over ``smoothing`` windows; None before the first."""
        return None if self._best is None else self._best.primary_score

    def update(self, metrics: EvalMetrics) -> Verdict:
        self._recent.append(metrics.primary_score)
        score = sum(self._recent) / len(self._recent)
        candidate = EvalMetrics(score, metrics.metrics, metrics.episode_id, metrics.basis)
        is_full = len(self._recent) == self._recent.maxlen
        if self._best is None or (is_full and not self._has_baseline):
            self._best = candidate
            self._has_baseline = is_full
            return Verdict(
                outcome=Outcome.BASELINE,
                evidence=f"baseline {score:.6g} over {len(self._recent)} windows",
                facts={"score": score},
                promote=True,
            )
        if not is_full:
            seen = f"{len(self._recent)} of {self._recent.maxlen} scores seen"
            return Verdict(outcome=Outcome.UNCHANGED, evidence=seen)
        best = self._best.primary_score
        floor = best - abs(best) * (1.0 - self._threshold)
        facts = {"score": score, "best": best, "floor": floor, "margin": self._margin}
        if candidate.beats(self._best, self._margin) and (
            self._compare is None or self._compare(candidate, self._best)
        ):
            self._best = candidate
            by = f" by more than {self._margin:g}" if self._margin else ""
            evidence = f"score {score:.6g} beats {best:.6g}{by}"
            return Verdict(outcome=Outcome.IMPROVED, evidence=evidence, facts=facts, promote=True)
        if score < floor:
            self._recent.clear()
            evidence = f"score {score:.6g} is below {floor:.6g}, the best being {best:.6g}"
            return Verdict(outcome=Outcome.DEGRADED, evidence=evidence, facts=facts)
        evidence = f"score {score:.6g} is no better than {best:.6g}"
        return Verdict(outcome=Outcome.UNCHANGED, evidence=evidence, facts=facts)

    def reinstate(self) -> None:
        """Nothing to do: the best score is still the one to beat."""

    def restart(self) -> None:
        self._recent.clear()
        self._best = None
        self._has_baseline = False

    # --- state

    def state_dict(self) -> Mapping[str, Any]:
        return {
            "recent": list(self._recent),
            "best": None if self._best is None else msgspec.to_builtins(self._best),
            "has_baseline": self._has_baseline,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        try:
            recent = [float(score) for score in state["recent"]]
            best = msgspec.convert(state["best"], EvalMetrics | None)
            has_baseline = bool(state["has_baseline"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"expected the state of a ThresholdJudge, got {error!r}") from error
        self._recent = deque(recent, maxlen=self._recent.maxlen)
        self._best, self._has_baseline = best, has_baseline
