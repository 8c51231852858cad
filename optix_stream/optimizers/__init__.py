"""Hyperparameter tuners, one a file."""

from optix_stream.optimizers.ask_tell import AskTellOptimizer
from optix_stream.optimizers.backoff import BackoffOptimizer
from optix_stream.optimizers.pbt import PBTOptimizer

__all__ = ["AskTellOptimizer", "BackoffOptimizer", "PBTOptimizer"]
