"""Agents, the evaluator and the fast policy for TensorFlow and Keras 3.

Importing it imports TensorFlow; without it that is an ImportError, as anywhere.
"""

from optix_stream_adapters.tensorflow.agent import TFAgent, TFAgentConfig
from optix_stream_adapters.tensorflow.continuous import ActorCriticConfig
from optix_stream_adapters.tensorflow.dqn import DQNAgent, DQNConfig
from optix_stream_adapters.tensorflow.evaluator import TFEvaluator
from optix_stream_adapters.tensorflow.ppo import PPOAgent, PPOConfig
from optix_stream_adapters.tensorflow.sac import SACAgent
from optix_stream_adapters.tensorflow.td3 import TD3Agent, TD3Config

__all__ = [
    "ActorCriticConfig",
    "DQNAgent",
    "DQNConfig",
    "PPOAgent",
    "PPOConfig",
    "SACAgent",
    "TD3Agent",
    "TD3Config",
    "TFAgent",
    "TFAgentConfig",
    "TFEvaluator",
]
