"""Gymnasium environments, single and vector, as producers and as a pausable pipeline."""

from optix_stream_adapters.gymnasium.environment_state import Env
from optix_stream_adapters.gymnasium.evaluation import evaluate_policy
from optix_stream_adapters.gymnasium.pipeline import BatchPipeline
from optix_stream_adapters.gymnasium.producer import GymProducer
from optix_stream_adapters.gymnasium.rebuilt import RebuiltEnv
from optix_stream_adapters.gymnasium.supported_spaces import check_spaces

__all__ = ["BatchPipeline", "Env", "GymProducer", "RebuiltEnv", "check_spaces", "evaluate_policy"]
