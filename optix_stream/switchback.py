"""Was it the policy or the world? Two policies act in turn, and their scores say. Pure: nothing acts here."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from optix_stream.contracts import Reference
from optix_stream.errors import ConfigurationError
from optix_stream.events import Cause
from optix_stream.types import CompletedEpisode, EpisodeData

Arm: TypeAlias = Literal["best", "live"]

_Z = 1.645 + 1.28
"""Normal quantiles of 95 % confidence and 90 % power."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SwitchbackConfig:
    """How long to compare two policies.

    Attributes:
        fewest_windows: scores of each policy, at least, however clear the fall.
        most_windows: at most, however small.
        patience: windows to wait for one score, on average, where not every window has one.
    """

    fewest_windows: int = 4
    most_windows: int = 32
    patience: int = 16

    def __post_init__(self) -> None:
        if not 2 <= self.fewest_windows <= self.most_windows:
            raise ConfigurationError(
                f"expected 2 <= fewest_windows <= most_windows, got {self.fewest_windows} and {self.most_windows}"
            )
        if self.patience < 1:
            raise ConfigurationError(f"patience: expected at least 1 window a score, got {self.patience}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What a switchback found.

    Attributes:
        cause: why the score had fallen; None: the scores do not say.
        evidence: in words.
    """

    cause: Cause | None
    evidence: str


class Switchback:
    """A switchback experiment: the best policy and the live one act by turns, in the order ABBA or BAAB.

    Both orders cancel a linear trend; which one it is, is drawn. Each gets ``2((z_0.95 + z_0.9)·ω/Δ)²`` scores, where
    ω is the reference's long-run standard deviation and Δ the fall that was seen. If the best policy is better than the
    live one by more than half of the fall, the policy was to blame, else the world (Bojinov, Simchi-Levi, Zhao 2020).

    Args:
        reference: what the best policy's scores were.
        fallen_to: the live policy's score now.
        config: limits.
        seed: draws the order.
    """

    def __init__(
        self, reference: Reference, fallen_to: float, config: SwitchbackConfig, seed: tuple[int, ...] = (0,)
    ) -> None:
        self._reference = reference
        self._fall = max(reference.mean - fallen_to, 0.0)
        needed = config.most_windows
        if self._fall > 0.0:
            needed = math.ceil(2.0 * min(_Z * reference.long_run_sd / self._fall, 1e3) ** 2)
        half = math.ceil(min(max(needed, config.fewest_windows), config.most_windows) / 2)
        first: Arm = "best" if np.random.default_rng(seed).random() < 0.5 else "live"
        second: Arm = "live" if first == "best" else "best"
        self._blocks: list[tuple[Arm, int]] = [(first, half), (second, 2 * half), (first, half)]
        self._patience = config.patience
        self._scores: dict[Arm, list[float]] = {"best": [], "live": []}
        self._in_block = self._tried = 0

    @property
    def windows_each(self) -> int:
        """Scores that each policy is to get."""
        return self._blocks[-1][1] * 2

    @property
    def next_arm(self) -> Arm | None:
        """Who acts in the next window; None: there has been enough."""
        if not self._blocks:
            return None
        return self._blocks[0][0]

    def add(self, score: float | None) -> None:
        """Take what came of that window: a score, or nothing that could be scored."""
        arm, wanted = self._blocks[0]
        self._tried += 1
        if score is not None:
            self._scores[arm].append(score)
            self._in_block += 1
        if self._in_block >= wanted or self._tried >= wanted * self._patience:
            del self._blocks[0]
            self._in_block = self._tried = 0

    def conclude(self) -> Comparison:
        """What the scores so far say."""
        best, live = self._scores["best"], self._scores["live"]
        if not best or not live:
            who = "best" if not best else "live"
            return Comparison(cause=None, evidence=f"the {who} policy's windows could not be scored")
        best_mean, live_mean = float(np.mean(best)), float(np.mean(live))
        # Of the fall that was seen, some may have been bad luck.
        fall = max(self._reference.mean - live_mean, 0.5 * self._fall)
        cause: Cause = "policy" if best_mean - live_mean > 0.5 * fall else "environment"
        did = "does better" if cause == "policy" else "fell too"
        return Comparison(
            cause=cause,
            evidence=(
                f"the best policy {did}: it scores {best_mean:.6g} in {len(best)} windows, "
                f"the live one {live_mean:.6g} in {len(live)}"
            ),
        )


class WholeEpisodes:
    """Keeps of each window the episodes that began since one policy took over: others are both policies' work."""

    def __init__(self) -> None:
        self._rows: dict[object, int] = {}

    def of(self, window: EpisodeData) -> EpisodeData:
        """The window with only those."""
        if not window.completed:
            self._count(window)
            return window
        kept: list[CompletedEpisode] = []
        for index, stream in enumerate(window.stream_ids):
            episodes = [episode for episode in window.completed if episode.stream == stream]
            ends = np.flatnonzero(window.dones[window.streams == index]) + self._rows.get(stream, 0) + 1
            # An end without an episode is that of one whose beginning was not seen, which can only be the first.
            pairs = zip(episodes, ends[len(ends) - len(episodes) :], strict=True)
            kept.extend(episode for episode, end in pairs if episode.length <= end)
        self._count(window)
        return dataclasses.replace(window, completed=tuple(kept))

    def _count(self, window: EpisodeData) -> None:
        for index, stream in enumerate(window.stream_ids):
            self._rows[stream] = self._rows.get(stream, 0) + int((window.streams == index).sum())
