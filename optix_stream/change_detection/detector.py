"""Sequential detection of a change of the mean, upwards and downwards."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from optix_stream.change_detection.noise import BETS, Noise
from optix_stream.contracts import Stateful
from optix_stream.errors import CheckpointError

_NEVER = -math.inf
_NOTHING = -1e9
"""The logarithm of no evidence; finite, so that it can be saved as any format's number."""
_DATING_DRIFT = 0.5
"""Half of the change, in long-run standard deviations, that is dated best (Page 1954)."""
_LOG_BETS = math.log(len(BETS))


class Evidence(msgspec.Struct):
    """How strong the evidence for a change in one direction is, and what it rests on.

    Attributes:
        logs: for each bet, the logarithm of its statistic.
        log: of their mean, which reaches the logarithm of ``N`` on average once in ``N`` scores or less often while
            nothing changes.
        excess: Page's cumulative sum, which dates the change: it was last 0 when the change set in.
        count: scores since then.
        total: their sum.
    """

    logs: list[float]
    log: float = _NOTHING
    excess: float = 0.0
    count: int = 0
    total: float = 0.0

    @property
    def mean(self) -> float:
        """Mean of the scores since the change seems to have set in; nan without any."""
        return self.total / self.count if self.count else math.nan


class ChangeDetector(Stateful):
    """Mixture Shiryaev–Roberts e-detector on prewhitened residuals, in log space.

    For each bet λ the statistic follows M ← (M + 1)·exp(∓λe − L(λ)), where L is an upper estimate of the residuals'
    log moment generating function: each factor has a mean of at most 1 while nothing changes, so that the mean over
    the bets exceeds N on average at most once in N scores (Shin, Ramdas, Rinaldo 2022; the mixture over bets spares
    knowing the size of the change).

    Args:
        noise: of scores before any change.
        batch: scores that are averaged into one, for noise with long memory; ``noise`` is then that of such averages.
        slack: what the residuals must exceed to count, in their long-run standard deviations: room for the error of
            ``noise`` itself.
    """

    def __init__(self, noise: Noise, *, batch: int = 1, slack: float = 0.0) -> None:
        self.noise = noise
        self.batch = batch
        self._slack = slack
        self._last = noise.last
        self._partial: list[float] = []
        self.reset()

    def reset(self, *, down: bool = True, up: bool = True) -> None:
        """Forget all evidence.

        Args:
            down: whether to watch for a fall from here on.
            up: whether to watch for a rise.
        """
        self.down = _nothing() if down else None
        self.up = _nothing() if up else None

    def refine(self, noise: Noise, *, slack: float) -> None:
        """Go on with a better description of the same noise; the evidence so far stays."""
        self.noise, self._slack, self._last = noise, slack, noise.last

    @property
    def log_down(self) -> float:
        """Log evidence for a fall; −∞ where it is not watched for."""
        return _NEVER if self.down is None else self.down.log

    @property
    def log_up(self) -> float:
        """Log evidence for a rise; −∞ where it is not watched for."""
        return _NEVER if self.up is None else self.up.log

    def update(self, score: float) -> bool:
        """Take the next score.

        Returns:
            Whether the evidence is new: with batches, it is when one is full.
        """
        if self.batch > 1:
            self._partial.append(score)
            if len(self._partial) < self.batch:
                return False
            score = sum(self._partial) / self.batch
            self._partial = []
        noise = self.noise
        deviation = noise.deviation(score)
        residual = noise.residual(deviation, self._last)
        self._last = deviation
        if self.down is not None:
            _add(self.down, -residual - self._slack, noise.log_mgf_down, score)
        if self.up is not None:
            _add(self.up, residual - self._slack, noise.log_mgf_up, score)
        return True

    # --- state

    def state_dict(self) -> Mapping[str, Any]:
        return {
            "noise": {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in msgspec.structs.asdict(self.noise).items()
            },
            "batch": self.batch,
            "slack": self._slack,
            "last": self._last,
            "partial": list(self._partial),
            "down": None if self.down is None else msgspec.to_builtins(self.down),
            "up": None if self.up is None else msgspec.to_builtins(self.up),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        try:
            noise = msgspec.convert(state["noise"], Noise)
            down, up = (msgspec.convert(state[name], Evidence | None) for name in ("down", "up"))
            batch, slack, last = int(state["batch"]), float(state["slack"]), float(state["last"])
            partial = [float(score) for score in state["partial"]]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"expected the state of a ChangeDetector, got {error!r}") from error
        self.noise, self.down, self.up, self.batch, self._partial = noise, down, up, batch, partial
        self._slack, self._last = slack, last

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> ChangeDetector:
        """The detector that had this state.

        Raises:
            CheckpointError: it is not the state of one.
        """
        try:
            detector = cls(msgspec.convert(state["noise"], Noise))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"expected the state of a ChangeDetector, got {error!r}") from error
        detector.load_state_dict(state)
        return detector


def _nothing() -> Evidence:
    return Evidence([_NOTHING] * len(BETS))


def _add(evidence: Evidence, drift: float, log_mgf: tuple[float, ...], score: float) -> None:
    logs = evidence.logs
    top = _NEVER
    for index, bet in enumerate(BETS):
        log = logs[index]
        # log(M + 1), which for large M is log M to the last bit.
        grown = log + math.log1p(math.exp(-log)) if log > 0.0 else math.log1p(math.exp(log))
        log = logs[index] = grown + bet * drift - log_mgf[index]
        top = max(top, log)
    if evidence.excess <= 0.0:
        evidence.count, evidence.total = 0, 0.0
    evidence.excess = max(0.0, evidence.excess + drift - _DATING_DRIFT)
    evidence.count += 1
    evidence.total += score
    evidence.log = top + math.log(sum(math.exp(log - top) for log in logs)) - _LOG_BETS
