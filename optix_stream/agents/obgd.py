"""Eligibility traces and the overshooting-bounded step (ObGD).

Elsayed, Vasan, Mahmood 2024 (arXiv 2410.14606).
"""

from __future__ import annotations

import math

import numpy as np

from optix_stream.types import Array


class BoundedStep:
    """``w += α δ z`` with ``α = 1 / max(1, κ · max(|δ|, 1) · ‖z‖₁)``, for each row of parameters.

    The bound keeps a step from carrying the estimate past its target, so that no learning rate is
    needed.

    Args:
        shape: of the parameters, ``[count, size]``.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self._scratch = np.zeros(shape, np.float32)
        self._coefficients = np.zeros((shape[0], 1), np.float32)

    def sizes(self, traces: Array, delta: float, kappas: tuple[float, ...]) -> list[float]:
        """``α`` of each row.

        Raises:
            FloatingPointError: ``delta`` or a trace is not finite; nothing has changed.
        """
        np.abs(traces, out=self._scratch)
        norms: list[float] = np.add.reduce(self._scratch, axis=1).tolist()
        if not (math.isfinite(delta) and math.isfinite(sum(norms))):
            raise FloatingPointError(f"learning diverged: expected finite numbers, got δ {delta} and ‖z‖₁ {norms}")
        size = max(abs(delta), 1.0)
        return [1.0 / max(1.0, kappa * size * norm) for kappa, norm in zip(kappas, norms, strict=True)]

    def apply(self, parameters: Array, traces: Array, delta: float, sizes: list[float]) -> None:
        """Take the step, in place."""
        coefficients = self._coefficients
        coefficients[:, 0] = [delta * size for size in sizes]
        np.multiply(traces, coefficients, out=self._scratch)
        np.add(parameters, self._scratch, out=parameters)


def accumulate(traces: Array, decay: float, gradient: Array) -> None:
    """``z ← decay · z + gradient``, in place; a decay of 0 forgets whatever is there."""
    if decay:
        np.multiply(traces, np.float32(decay), out=traces)
        np.add(traces, gradient, out=traces)
    else:
        np.copyto(traces, gradient)
