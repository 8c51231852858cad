"""Hyperparameter tuners, one a file."""

from optix_stream.optimizers.backoff import BackoffOptimizer
from optix_stream.optimizers.pbt import PBTOptimizer

__all__ = ["BackoffOptimizer", "PBTOptimizer"]
