"""Observations as a network takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from optix_stream.errors import ConfigurationError, TransitionMismatchError
from optix_stream.policies.encoding import ObservationEncoder
from optix_stream.policies.parts import PolicyPart
from optix_stream.trees import describe
from optix_stream.types import Array, Tree

_LIMIT = np.float32(10.0)


class EncodedInput(PolicyPart):
    """Encodes observations, standardises them if it has moments, and gives them the network's shape.

    Standardised observations are clipped to ±10 deviations.

    Args:
        shape: of one row of the result.
        encoder: None: observations are arrays of numbers.
        mean: float32 ``[size]``; None: nothing is standardised.
        inverse_deviation: float32 ``[size]``, with ``mean``.
    """

    __slots__ = ("_encoder", "_inverse", "_mean", "_shape")

    def __init__(
        self,
        shape: tuple[int, ...],
        encoder: ObservationEncoder | None = None,
        mean: Array | None = None,
        inverse_deviation: Array | None = None,
    ) -> None:
        self._shape = shape
        self._encoder = encoder
        self._mean = mean
        self._inverse = inverse_deviation

    def __call__(self, observations: Tree) -> Array:
        """float32 ``[N, *shape]`` for a batch.

        Raises:
            TransitionMismatchError: the observations do not fit.
            ConfigurationError: dicts or tuples without an encoder.
        """
        rows = self._encode(observations)
        mean, inverse = self._mean, self._inverse
        if mean is None or inverse is None:
            return rows
        if rows.ndim == 2:
            return _standardize(rows, mean, inverse)
        return _standardize(rows.reshape(len(rows), -1), mean, inverse).reshape(rows.shape)

    def _encode(self, observations: Tree) -> Array:
        encoder, shape = self._encoder, self._shape
        if encoder is not None:
            return encoder(observations).reshape(-1, *shape)
        if not isinstance(observations, np.ndarray):
            raise ConfigurationError("observation_space: expected one, for observations that are dicts or tuples")
        try:
            return observations.astype(np.float32, copy=False).reshape(len(observations), *shape)
        except ValueError as error:
            raise TransitionMismatchError("observation", f"[N, {shape}]", describe(observations)) from error

    def describe(self) -> tuple[Mapping[str, Any], Mapping[str, Array]]:
        structure = {"shape": list(self._shape), "space": None if self._encoder is None else self._encoder.space}
        if self._mean is None or self._inverse is None:
            return structure, {}
        return structure, {"mean": self._mean, "inverse_deviation": self._inverse}

    @classmethod
    def restore(
        cls, structure: Mapping[str, Any], arrays: Mapping[str, Array], generator: np.random.Generator | None
    ) -> Self:
        space = structure["space"]
        return cls(
            tuple(structure["shape"]),
            None if space is None else ObservationEncoder(space),
            arrays.get("mean"),
            arrays.get("inverse_deviation"),
        )


def _standardize(rows: Array, mean: Array, inverse: Array) -> Array:
    standard: Array = rows - mean
    standard *= inverse
    np.maximum(standard, -_LIMIT, out=standard)
    return np.minimum(standard, _LIMIT, out=standard)
