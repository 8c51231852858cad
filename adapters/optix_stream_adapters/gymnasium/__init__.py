"""Gymnasium environments, single and vector, as producers and as a pausable pipeline."""

from optix_stream_adapters.gymnasium.environment_state import Env
from optix_stream_adapters.gymnasium.evaluation import PlayedEpisode, evaluate_policy, play_episode
from optix_stream_adapters.gymnasium.pipeline import BatchPipeline
from optix_stream_adapters.gymnasium.producer import GymProducer
from optix_stream_adapters.gymnasium.rebuilt import RebuiltEnv
from optix_stream_adapters.gymnasium.supported_spaces import check_spaces

__all__ = [
    "BatchPipeline",
    "Env",
    "GymProducer",
    "PlayedEpisode",
    "RebuiltEnv",
    "check_spaces",
    "evaluate_policy",
    "play_episode",
]
