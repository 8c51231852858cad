"""Has the mean of a noisy, autocorrelated series changed? Answers with a stated rate of false alarms.

``estimate_noise`` describes a stretch of scores; a ``ChangeDetector`` tells, score by score, how strong the evidence is
that they are no longer like that stretch. Whoever decides on it, a judge or a tuner, sets the threshold.
"""

from optix_stream.change_detection.detector import ChangeDetector, Evidence
from optix_stream.change_detection.homogeneity import begin_of_last_level
from optix_stream.change_detection.noise import Noise, estimate_noise

__all__ = ["ChangeDetector", "Evidence", "Noise", "begin_of_last_level", "estimate_noise"]
