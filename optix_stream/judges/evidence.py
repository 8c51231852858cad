"""Decisions with stated error rates: the default judge."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from optix_stream.change_detection import ChangeDetector, Evidence, begin_of_last_level, estimate_noise
from optix_stream.contracts import Judge, Outcome, Reference, Stateful, Verdict
from optix_stream.errors import CheckpointError
from optix_stream.judges.config import EvidenceConfig
from optix_stream.judges.plateau import PlateauTest
from optix_stream.judges.segment import Segment
from optix_stream.judges.wording import describe_change, describe_gain
from optix_stream.types import EvalMetrics, FloatArray

_LONG_MEMORY = 1.5
_FLAGS = ("has_baseline", "is_settled", "is_on_plateau", "is_below_floor")
_RARE = 10_000
_MARGIN = 1.1
"""Alarms come this much rarer than asked for by the known noise, because it is not known but estimated."""


class EvidenceJudge(Judge, Stateful):
    """Improved, degraded, trained: each said only on evidence of a stated strength.

    Every score is compared with a *reference*, the scores since the last change. What makes it robust: deviations are
    clipped, autocorrelation is taken out, and evidence is gathered over windows by a sequential test that may be looked
    at after each of them (``ChangeDetector``). DEGRADED and IMPROVED come, while nothing changes, on average at most
    once in ``windows_per_false_alarm`` and ``windows_per_false_improvement`` windows. PLATEAU is certified where the
    later half of the latest scores is not above the earlier half by ``minimal_effect``, with confidence ``1 - alpha``.

    - The score of a best policy is the mean of the windows *after* it was found; those that found it flatter it.
    - After a change the old reference stays at work, on the side that still makes sense, until there is a new one.
    - Where the noise has a long memory, the test goes over to means of eight windows.
    - After a degradation nothing is called the best until the loss is made good, or has lasted so long that it is the
      new normal, or ``restart`` or ``reinstate`` say otherwise.

    Cost: tens of microseconds a window and some 30 KB, however long the run.

    Args:
        config: how sure to be, and of what.
    """

    def __init__(self, config: EvidenceConfig | None = None) -> None:
        self.config = config if config is not None else EvidenceConfig()
        self._log_false_alarm = math.log(_MARGIN * self.config.windows_per_false_alarm)
        self._log_false_improvement = math.log(self.config.windows_per_false_improvement)
        self._plateau = PlateauTest(self.config)
        self._segment = Segment(self.config)
        self.restart()

    def restart(self) -> None:
        self._plateau.clear()
        self._segment.restart()
        self._detector: ChangeDetector | None = None
        self._set_aside: list[float] = []
        self._has_baseline = False
        self._is_settled = False
        self._is_on_plateau = False
        self._is_below_floor = False
        self._noise_sd = self._news_sd = 0.0
        self._lost: float | None = None
        self._since_reinstated: int | None = None

    def reinstate(self) -> None:
        self._lost = None
        self._is_below_floor = False
        self._since_reinstated = 0
        if self._detector is not None:
            self._detector.reset()
            self._is_settled = True
            self._segment.resume(self._set_aside, self._detector.batch)

    @property
    def reference(self) -> Reference | None:
        """What scores are compared with now; None before there are enough of them."""
        if self._detector is None:
            return None
        noise, batch = self._detector.noise, self._detector.batch
        return Reference(noise.mean, noise.long_run_sd * math.sqrt(batch), noise.count * batch)

    @property
    def batch(self) -> int:
        """Windows that are averaged into one score: more than 1 where the noise has a long memory."""
        return 1 if self._detector is None else self._detector.batch

    def update(self, metrics: EvalMetrics) -> Verdict:
        score = metrics.primary_score
        if self._since_reinstated is not None:
            self._since_reinstated += 1
        is_catastrophe = not math.isfinite(score) or (self.config.floor is not None and score < self.config.floor)
        if is_catastrophe and not self._is_below_floor:
            return self._fall_below_floor(score)
        self._is_below_floor = is_catastrophe
        if not math.isfinite(score):
            return Verdict(outcome=Outcome.ACTIVE, evidence=f"score {score} is still no finite number")
        self._plateau.add(score)
        self._segment.add(score)
        detector = self._detector
        if detector is not None and detector.update(score):
            log_batch = math.log(detector.batch)
            if detector.down is not None and detector.log_down >= self._log_false_alarm - log_batch:
                return self._degrade(detector, detector.down)
            if detector.up is not None and detector.log_up >= self._log_false_improvement - log_batch:
                return self._improve(detector, detector.up)
        is_refreshed = False
        # The suspicion of a change is cleared up first: its scores would blur what they are to be told from.
        is_overdue = not self._is_settled and self._segment.is_complete
        if self._segment.is_due and (is_overdue or not self._is_suspicious):
            is_refreshed = self._estimate() and self._lost is None
        return self._weigh_gain(score, is_refreshed)

    # --- changes

    def _fall_below_floor(self, score: float) -> Verdict:
        what, facts = "is no finite number", {"score": score}
        if self.config.floor is not None and score < self.config.floor:
            what, facts = f"is below the floor of {self.config.floor:g}", {"score": score, "floor": self.config.floor}
        self._is_below_floor = True
        return self._lose(f"score {score:.6g} {what}", facts, score)

    def _degrade(self, detector: ChangeDetector, evidence: Evidence) -> Verdict:
        words, facts = describe_change("fell", "below", detector, evidence)
        return self._lose(words, facts, evidence.mean)

    def _lose(self, words: str, facts: Mapping[str, float], level: float) -> Verdict:
        reference, since = self.reference, self._since_reinstated
        self._leave(reference, is_loss=True)
        self._since_reinstated = None
        recurs = since is not None and since <= self.config.reference_windows
        return Verdict(
            outcome=Outcome.DEGRADED, evidence=words, facts=facts, score=level, reference=reference, recurs=recurs
        )

    def _improve(self, detector: ChangeDetector, evidence: Evidence) -> Verdict:
        reference, level = self.reference, evidence.mean
        words, facts = describe_change("rose", "above", detector, evidence)
        if self._lost is not None and level < self._lost:
            self._leave(reference, is_loss=False)
            return Verdict(outcome=Outcome.ACTIVE, evidence=f"recovering: {words}", facts=facts, reference=reference)
        self._lost = None
        self._leave(reference, is_loss=False)
        return Verdict(
            outcome=Outcome.IMPROVED,
            evidence=words,
            facts=facts,
            promote=True,
            is_sound=True,
            score=level,
            reference=reference,
        )

    def _leave(self, reference: Reference | None, *, is_loss: bool) -> None:
        """The reference is history; until there is a new one, it still tells of a change in the other direction."""
        if self._detector is not None:
            # What came after the reference may belong to the change already; and half of it is let go, so that one that
            # gives false alarms is outgrown.
            count = self._detector.noise.count
            self._set_aside = self._segment.scores[count // 2 : count] if self._is_settled else []
            self._detector.reset(down=not is_loss, up=is_loss)
        self._segment.restart()
        self._is_settled = self._is_on_plateau = False
        if is_loss:
            # A learner that recovers is not done when it is back at half of what it was.
            self._plateau.clear()
            if self._lost is None and reference is not None:
                self._lost = reference.mean - self.config.effect(reference.long_run_sd)

    @property
    def _is_suspicious(self) -> bool:
        detector = self._detector
        return detector is not None and max(detector.log_down, detector.log_up) >= 0.5 * self._log_false_alarm

    # --- the reference

    def _estimate(self) -> bool:
        """Make the segment the reference; False where it is not of one level, and too little is left."""
        segment, detector, clip = self._segment, self._detector, self.config.clip
        if not segment.keep_from(begin_of_last_level(segment.scores, clip)):
            return False
        noise = estimate_noise(segment.scores, clip)
        if noise.memory > _LONG_MEMORY and segment.can_batch:
            segment.average()
            noise = estimate_noise(segment.scores, clip)
        segment.plan()
        slack = self._slack(noise.count)
        if self._is_settled and detector is not None and detector.batch == segment.batch:
            detector.refine(noise, slack=slack)
        else:
            self._detector = ChangeDetector(noise, batch=segment.batch, slack=slack)
        self._is_settled = True
        # What a learner gains within its reference is not noise, where it is a gain that is asked for.
        steady = estimate_noise(_without_trend(segment.scores), clip)
        steady = min(noise, steady, key=lambda one: one.long_run_sd)
        per_window = math.sqrt(segment.batch)
        self._noise_sd, self._news_sd = per_window * steady.long_run_sd, per_window * steady.news_sd
        is_normal_by_now = segment.windows >= self.config.longest_reference_windows
        if self._lost is not None and (noise.mean >= self._lost or is_normal_by_now):
            self._lost = None
        return True

    def _slack(self, count: int) -> float:
        """What a residual must exceed to count: room for the error of a reference that is still short.

        Rarer alarms rest on the far tail of the reference, which it knows least also where it is complete.
        """
        complete = self.config.longest_reference_windows
        rare = 0.5 if self.config.windows_per_false_alarm > _RARE else 0.0
        return (1.0 + rare) / math.sqrt(count) - 1.0 / math.sqrt(max(count, complete))

    # --- the plateau

    def _weigh_gain(self, score: float, is_refreshed: bool) -> Verdict:
        reference = self.reference
        gain = self._plateau.check(self._noise_sd, self._news_sd) if self._is_settled else None
        is_sound = self._lost is None and not self._is_suspicious
        if reference is None or gain is None:
            self._is_on_plateau = False
            return self._wait(score, reference, is_sound, is_refreshed)
        is_news = gain.is_plateau and not self._is_on_plateau
        self._is_on_plateau = gain.is_plateau
        outcome = Outcome.PLATEAU if gain.is_plateau else Outcome.COOLING if gain.is_small else Outcome.ACTIVE
        return Verdict(
            outcome=outcome,
            evidence=describe_gain(gain, self.config.alpha),
            facts={"score": score, "gain": gain.gain, "upper": gain.upper, "effect": gain.effect, "half": gain.half},
            promote=is_refreshed or (is_news and is_sound),
            is_sound=is_sound,
            # The segment's own windows, where they are more than the half that was picked for being level.
            score=reference.mean if reference.windows >= gain.half else gain.level,
            reference=reference,
        )

    def _wait(self, score: float, reference: Reference | None, is_sound: bool, is_refreshed: bool) -> Verdict:
        is_first, self._has_baseline = not self._has_baseline, True
        if reference is None or not self._is_settled:
            words = f"{self._segment.windows} of {self.config.reference_windows} windows of the next reference seen"
        else:
            words = f"no change from the reference of {reference.windows} windows, and too few to tell a plateau"
        return Verdict(
            outcome=Outcome.BASELINE if is_first else Outcome.ACTIVE,
            evidence=words,
            facts={"score": score},
            promote=is_first or is_refreshed,
            is_sound=is_sound,
            score=self._segment.mean,
            reference=reference,
        )

    # --- state

    def state_dict(self) -> Mapping[str, Any]:
        return {
            "plateau": self._plateau.state_dict(),
            "segment": self._segment.state_dict(),
            "detector": None if self._detector is None else self._detector.state_dict(),
            "set_aside": np.array(self._set_aside),
            "has_baseline": self._has_baseline,
            "is_settled": self._is_settled,
            "is_on_plateau": self._is_on_plateau,
            "is_below_floor": self._is_below_floor,
            "noise_sd": self._noise_sd,
            "news_sd": self._news_sd,
            "lost": self._lost,
            "since_reinstated": self._since_reinstated,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        plateau, segment = PlateauTest(self.config), Segment(self.config)
        try:
            plateau.load_state_dict(state["plateau"])
            segment.load_state_dict(state["segment"])
            detector = None if state["detector"] is None else ChangeDetector.from_state(state["detector"])
            set_aside = [float(score) for score in state["set_aside"]]
            flags = {name: bool(state[name]) for name in _FLAGS}
            noise_sd, news_sd = float(state["noise_sd"]), float(state["news_sd"])
            lost = None if state["lost"] is None else float(state["lost"])
            since = None if state["since_reinstated"] is None else int(state["since_reinstated"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"expected the state of an EvidenceJudge, got {error!r}") from error
        self._plateau, self._segment, self._detector = plateau, segment, detector
        self._noise_sd, self._news_sd = noise_sd, news_sd
        self._set_aside, self._lost, self._since_reinstated = set_aside, lost, since
        self._has_baseline, self._is_settled = flags["has_baseline"], flags["is_settled"]
        self._is_on_plateau, self._is_below_floor = flags["is_on_plateau"], flags["is_below_floor"]


def _without_trend(scores: list[float]) -> FloatArray:
    """What is left when the straight line of least squares is taken out."""
    values = np.array(scores)
    steps = np.arange(len(values)) - (len(values) - 1) / 2.0
    slope = float(steps @ values) / float(steps @ steps)
    return np.asarray(values - slope * steps, np.float64)
