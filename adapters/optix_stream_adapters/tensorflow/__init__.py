"""Agents, the evaluator and the fast policy for TensorFlow and Keras 3.

Importing it imports TensorFlow; without it that is an ImportError, as anywhere.
"""

from optix_stream_adapters.tensorflow.agent import TFAgent, TFAgentConfig
from optix_stream_adapters.tensorflow.evaluator import TFEvaluator
from optix_stream_adapters.tensorflow.ppo import PPOAgent, PPOConfig

__all__ = ["PPOAgent", "PPOConfig", "TFAgent", "TFAgentConfig", "TFEvaluator"]
