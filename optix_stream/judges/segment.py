"""Scores since the last change: what a new reference is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from optix_stream.errors import CheckpointError
from optix_stream.judges.config import EvidenceConfig

LONG_BATCH = 8
"""Windows a batch where the noise has a long memory."""

_FEWEST_BATCHES = 16
_GROWTH = 1.5


class Segment:
    """Collects scores that are believed to share one mean, and says when to estimate from them.

    First at ``reference_windows``, then each time there are half as many again, up to ``longest_reference_windows``.
    In batches, what is collected are means of ``LONG_BATCH`` scores.
    """

    def __init__(self, config: EvidenceConfig) -> None:
        self._first = config.reference_windows
        self._most = config.longest_reference_windows
        self.restart()

    def restart(self) -> None:
        """Collect afresh."""
        self.scores: list[float] = []
        self.batch = 1
        self._partial: list[float] = []
        self._next = self._first
        self._is_done = False

    def resume(self, scores: list[float], batch: int) -> None:
        """Go on collecting from where these had been."""
        self.restart()
        self.scores, self.batch = list(scores), batch
        if scores:
            self.plan()

    @property
    def windows(self) -> int:
        """Scores collected."""
        return len(self.scores) * self.batch

    @property
    def mean(self) -> float | None:
        """Of the scores collected; None without any."""
        return sum(self.scores) / len(self.scores) if self.scores else None

    @property
    def is_due(self) -> bool:
        """Whether there are enough scores for the next estimate."""
        return not self._is_done and len(self.scores) >= self._next

    @property
    def is_complete(self) -> bool:
        """Whether no more scores are wanted."""
        return len(self.scores) >= self._most

    @property
    def can_batch(self) -> bool:
        """Whether there are enough scores to describe the noise by batches of them."""
        return self.batch == 1 and len(self.scores) >= LONG_BATCH * _FEWEST_BATCHES

    def add(self, score: float) -> None:
        """Take the next score."""
        if self.is_complete:
            return
        if self.batch == 1:
            self.scores.append(score)
            return
        self._partial.append(score)
        if len(self._partial) == self.batch:
            self.scores.append(sum(self._partial) / self.batch)
            self._partial = []

    def plan(self) -> None:
        """An estimate has been made: plan the next one."""
        count = len(self.scores)
        self._is_done = self.is_complete
        self._next = min(max(self._first, int(_GROWTH * count) + 1), self._most)

    def keep_from(self, index: int) -> bool:
        """Let go of the scores before this one; whether there are enough left for an estimate."""
        if index:
            del self.scores[:index]
            self._next, self._is_done = self._first, False
        return len(self.scores) >= self._first

    def average(self) -> None:
        """Go over to batches, those of the scores so far included."""
        count = len(self.scores) // LONG_BATCH * LONG_BATCH
        self._partial = self.scores[count:]
        self.scores = [float(mean) for mean in np.reshape(self.scores[:count], (-1, LONG_BATCH)).mean(axis=1)]
        self.batch = LONG_BATCH
        self._next = len(self.scores)
        self._is_done = False

    # --- state

    def state_dict(self) -> Mapping[str, Any]:
        """As of ``Stateful``."""
        return {
            "scores": np.array(self.scores),
            "batch": self.batch,
            "partial": list(self._partial),
            "next": self._next,
            "is_done": self._is_done,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As of ``Stateful``.

        Raises:
            CheckpointError: it is not the state of such a segment.
        """
        try:
            scores = [float(score) for score in state["scores"]]
            partial = [float(score) for score in state["partial"]]
            batch, planned, is_done = int(state["batch"]), int(state["next"]), bool(state["is_done"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"expected the state of a Segment, got {error!r}") from error
        self.scores, self._partial, self.batch, self._next, self._is_done = (
            scores,
            partial,
            batch,
            planned,
            is_done,
        )
