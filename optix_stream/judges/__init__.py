"""What scores mean for the run: improvement, plateau, degradation."""

from optix_stream.judges.choice import JudgeChoice, make_judge
from optix_stream.judges.config import EvidenceConfig
from optix_stream.judges.evidence import EvidenceJudge
from optix_stream.judges.threshold import ThresholdJudge

__all__ = ["EvidenceConfig", "EvidenceJudge", "JudgeChoice", "ThresholdJudge", "make_judge"]
