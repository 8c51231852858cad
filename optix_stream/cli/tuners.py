"""Tuners by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from optix_stream.contracts import BaseOptimizer
from optix_stream.optimizers import BackoffOptimizer, BanditOptimizer, PairedBlockTuner, PBTOptimizer, SPSAOptimizer
from optix_stream.optimizers.parameters import Bounds
from optix_stream.search_spaces import LIVE

DEFAULT_TUNER = "none"
"""The settings that runs start from are good ones, and their short runs have no windows to spare for comparisons."""

_TUNERS: Mapping[str, Callable[[Bounds, int], BaseOptimizer]] = {
    "none": lambda bounds, seed: PairedBlockTuner(),
    "paired-block": lambda bounds, seed: PairedBlockTuner(bounds, seed=seed),
    "backoff": lambda bounds, seed: BackoffOptimizer(bounds, score_window=10, min_samples=10),
    "pbt": lambda bounds, seed: PBTOptimizer(bounds, seed=seed),
    "spsa": lambda bounds, seed: SPSAOptimizer(bounds, seed=seed),
    "bandit": lambda bounds, seed: BanditOptimizer(bounds),
}

TUNERS = tuple(_TUNERS)


def make_tuner(name: str, agent: str, seed: int) -> BaseOptimizer:
    """A tuner for the hyperparameters that this agent takes while it learns."""
    return _TUNERS[name](LIVE[agent], seed)
