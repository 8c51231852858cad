"""Activation functions by the names that Keras has for them, on float32 ``[…, units]`` that may be overwritten."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from optix_stream.errors import ConfigurationError
from optix_stream.types import Array

Activation: TypeAlias = Callable[[Array], Array]


def relu(x: Array) -> Array:
    """``max(x, 0)``."""
    return np.maximum(x, 0.0, out=x)


def leaky_relu(x: Array, slope: float = 0.2) -> Array:
    """``x`` above 0, ``slope * x`` below."""
    return np.where(x > 0.0, x, np.float32(slope) * x)


def tanh(x: Array) -> Array:
    """Hyperbolic tangent."""
    return np.tanh(x, out=x)


def sigmoid(x: Array) -> Array:
    """``1 / (1 + exp(-x))``, by way of tanh, which cannot overflow."""
    x *= np.float32(0.5)
    np.tanh(x, out=x)
    x += np.float32(1.0)
    x *= np.float32(0.5)
    return x


def elu(x: Array, alpha: float = 1.0) -> Array:
    """``x`` above 0, ``alpha * (exp(x) - 1)`` below."""
    return np.where(x > 0.0, x, np.float32(alpha) * np.expm1(np.minimum(x, 0.0)))


def selu(x: Array) -> Array:
    """Scaled elu with the constants of Klambauer et al. 2017 (arXiv 1706.02515)."""
    return np.float32(1.0507009873554805) * elu(x, 1.6732632423543772)


def silu(x: Array) -> Array:
    """``x * sigmoid(x)``."""
    return x * sigmoid(x.copy())


def gelu(x: Array) -> Array:
    """``x * Φ(x)``, with erf by Abramowitz & Stegun 7.1.26 (absolute error below 1.5e-7)."""
    y = np.abs(x) * np.float32(np.sqrt(0.5))
    t = 1.0 / (1.0 + np.float32(0.3275911) * y)
    series = np.zeros_like(t)
    for coefficient in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = (series + np.float32(coefficient)) * t
    erf = np.copysign(1.0 - series * np.exp(-y * y), x)
    result: Array = np.float32(0.5) * x * (1.0 + erf)
    return result


def softplus(x: Array) -> Array:
    """``log(1 + exp(x))``."""
    return np.logaddexp(x, np.float32(0.0))


def softsign(x: Array) -> Array:
    """``x / (1 + |x|)``."""
    return x / (1.0 + np.abs(x))


def softmax(x: Array) -> Array:
    """``exp(x) / sum(exp(x))`` over the last axis."""
    weights: Array = np.exp(x - x.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights


def layer_norm(x: Array, epsilon: float = 1e-3) -> Array:
    """Shifted and scaled to mean 0 and variance 1 over the last axis. Ba et al. 2016 (arXiv 1607.06450)."""
    x -= x.mean(axis=-1, keepdims=True)
    variance = np.einsum("...i,...i->...", x, x)[..., None] / np.float32(x.shape[-1])
    x /= np.sqrt(variance + np.float32(epsilon))
    return x


_BY_NAME: Mapping[str, Callable[..., Array]] = {
    function.__name__: function
    for function in (relu, leaky_relu, tanh, sigmoid, elu, selu, silu, gelu, softplus, softsign, softmax, layer_norm)
}


def activation_of(name: str | None, parameter: float | None = None) -> Activation | None:
    """The function of that name, with its parameter, where one is given; None for the identity.

    Raises:
        ConfigurationError: there is none.
    """
    if name is None:
        return None
    function = _BY_NAME.get(name)
    if function is None:
        raise ConfigurationError(f"activation: expected one of {', '.join(_BY_NAME)}, got {name!r}")
    if parameter is None:
        return function

    def with_parameter(x: Array) -> Array:
        return function(x, parameter)

    return with_parameter
