"""Hyperparameter tuners, one a file."""

from optix_stream.optimizers.ask_tell import AskTellOptimizer
from optix_stream.optimizers.backoff import BackoffOptimizer
from optix_stream.optimizers.bandit import BanditConfig, BanditOptimizer
from optix_stream.optimizers.paired_block import PairedBlockTuner
from optix_stream.optimizers.paired_block_config import PairedBlockConfig
from optix_stream.optimizers.pbt import PBTOptimizer
from optix_stream.optimizers.spsa import SPSAConfig, SPSAOptimizer

__all__ = [
    "AskTellOptimizer",
    "BackoffOptimizer",
    "BanditConfig",
    "BanditOptimizer",
    "PBTOptimizer",
    "PairedBlockConfig",
    "PairedBlockTuner",
    "SPSAConfig",
    "SPSAOptimizer",
]
