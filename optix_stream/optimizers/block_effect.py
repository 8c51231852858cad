"""Two values that take turns in blocks of windows, and what the scores say of the difference between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec
import numpy as np

from optix_stream.types import FloatArray

EffectKind: TypeAlias = Literal["slope", "level"]
"""Whether a value changes how fast the score rises, as a learning rate does, or the score itself, as a temperature."""

_LEAST = 1e-12


class Effect(msgspec.Struct, frozen=True):
    """An estimate.

    Attributes:
        size: in score units, a window where it is a slope.
        error: its standard error.
    """

    size: float
    error: float

    @property
    def z(self) -> float:
        """The size in standard errors."""
        return self.size / self.error


class Blocks(msgspec.Struct):
    """Whose turn it is: ``A`` or ``B``.

    Attributes:
        order: of the turns, ``"ABBA"`` or ``"BAAB"``, in which a linear trend cancels out.
        length: scored windows a turn.
        scores: so far.
    """

    order: str
    length: int
    scores: list[float] = []

    @classmethod
    def draw(cls, rng: np.random.Generator, length: int) -> Blocks:
        """New ones, in an order by chance."""
        return cls("ABBA" if rng.random() < 0.5 else "BAAB", length)

    @property
    def is_over(self) -> bool:
        """Whether every window has been scored."""
        return self.letter is None

    @property
    def letter(self) -> str | None:
        """Whose turn the window to come is; None: they are over."""
        turn = len(self.scores) // self.length
        return self.order[turn] if turn < len(self.order) else None

    @property
    def since_the_last_change(self) -> list[float]:
        """The scores since the letter in turn took over from the other."""
        turn = first = len(self.scores) // self.length
        while first > 0 and self.order[first - 1] == self.order[turn]:
            first -= 1
        return self.scores[first * self.length :]

    def add(self, score: float) -> None:
        """Take the score of the next window."""
        self.scores = [*self.scores, score]


def paired_effect(scores: Sequence[float], order: str, kind: EffectKind) -> Effect:
    """How much better ``B`` is than ``A``, by least squares.

    The score is taken to be a smooth curve in time plus the effect: of a slope that of all the windows under ``B`` so
    far, for the score is continuous where one value follows the other; of a level that of the window itself. In the
    orders ABBA and BAAB the one is confounded with no parabola, the other with no straight line. Knowing that the score
    is continuous makes the error of a slope ``2.6 sigma / L^1.5`` for blocks of ``L`` windows, where the slopes of
    separate blocks leave ``3.5 sigma / L^1.5``; that of a level is ``sigma / L^0.5``. Autocorrelated noise widens it by
    ``sqrt((1 + rho) / (1 - rho))``.

    Args:
        scores: at least 8, as many in each turn; the n-th is of a policy that has learned from the n windows before it.
        order: such as ``"ABBA"``.
        kind: of the effect.
    """
    is_trial = np.repeat([letter == "B" for letter in order], len(scores) // len(order)).astype(np.float64)
    time = np.linspace(-1.0, 1.0, len(scores))
    curve = [np.ones_like(time), time]
    if kind == "level":
        return _coefficient(is_trial, np.stack(curve, axis=1), np.asarray(scores))
    windows_under_b = np.concatenate([[0.0], np.cumsum(is_trial)[:-1]])
    return _coefficient(windows_under_b, np.stack([*curve, time**2], axis=1), np.asarray(scores))


def trend(scores: Sequence[float]) -> Effect:
    """How fast the score rises, in score units a window."""
    time = np.arange(len(scores), dtype=np.float64)
    return _coefficient(time, np.ones((len(scores), 1)), np.asarray(scores))


def pool(effects: Sequence[Effect]) -> Effect:
    """One estimate of several independent ones, weighted by what each knows."""
    weights = [effect.error**-2 for effect in effects]
    size = sum(weight * effect.size for weight, effect in zip(weights, effects, strict=True)) / sum(weights)
    return Effect(size, sum(weights) ** -0.5)


def _coefficient(regressor: FloatArray, others: FloatArray, values: FloatArray) -> Effect:
    """Of ``regressor``, beside ``others``; by Frisch and Waugh, on what the others leave of it."""
    basis, _ = np.linalg.qr(others)
    left = regressor - basis @ (basis.T @ regressor)
    norm = float(left @ left)
    size = float(left @ values) / norm
    residuals = values - basis @ (basis.T @ values) - size * left
    squares = float(residuals @ residuals)
    rho = 0.0
    if squares > 0.0:
        rho = float(residuals[1:] @ residuals[:-1]) / squares
        # Residuals of a fit look less correlated than the noise is (Kendall 1954).
        rho = min(max(rho + (1.0 + 3.0 * rho) / len(values), 0.0), 0.9)
    variance = squares / (len(values) - others.shape[1] - 1) * (1.0 + rho) / (1.0 - rho)
    return Effect(size, math.sqrt(variance / norm) + _LEAST)
