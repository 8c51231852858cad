"""Which judge decides, said in one word."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

from optix_stream.contracts import Judge
from optix_stream.errors import ConfigurationError
from optix_stream.judges.config import EvidenceConfig
from optix_stream.judges.evidence import EvidenceJudge
from optix_stream.judges.threshold import ThresholdJudge
from optix_stream.types import EvalMetrics

JudgeChoice: TypeAlias = Judge | EvidenceConfig | Literal["evidence", "threshold"]
"""A judge, or ``"evidence"``, or that by its settings, or ``"threshold"``."""


def make_judge(
    choice: JudgeChoice,
    *,
    improvement_margin: float = 0.0,
    degradation_threshold: float = 0.95,
    compare: Callable[[EvalMetrics, EvalMetrics], bool] | None = None,
) -> Judge:
    """The judge that was chosen.

    Args:
        choice: which.
        improvement_margin: of the threshold judge.
        degradation_threshold: likewise.
        compare: likewise.

    Raises:
        ConfigurationError: there is no such judge.
    """
    match choice:
        case EvidenceConfig():
            return EvidenceJudge(choice)
        case "evidence":
            return EvidenceJudge()
        case "threshold":
            return ThresholdJudge(improvement_margin, degradation_threshold, compare=compare)
        case str():
            raise ConfigurationError(f"judge: expected 'evidence', 'threshold' or a Judge, got {choice!r}")
        case _:
            return choice
