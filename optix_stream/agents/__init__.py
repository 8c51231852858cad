"""Agents that learn from each transition as it arrives: numpy, no replay, no batch, no learning rate.

One algorithm a file; ``stream_agent`` holds what they share.
"""

from optix_stream.agents.stream_ac import StreamACAgent
from optix_stream.agents.stream_agent import StreamAgent, StreamConfig
from optix_stream.agents.stream_q import StreamQAgent, StreamQConfig

__all__ = ["StreamACAgent", "StreamAgent", "StreamConfig", "StreamQAgent", "StreamQConfig"]
