"""For the tests of those who build on optix_stream: virtual time, scripted parts, contract checks.

Nothing here needs a test framework. Every check raises an ``AssertionError`` that names what was
expected and what came; those of async parts are coroutines that run on asyncio and on trio.
"""

from optix_stream.testing.agents import NullAgent, RecordingAgent, check_agent
from optix_stream.testing.cancelling import Canceller, cancel_everywhere
from optix_stream.testing.clock import FakeClock
from optix_stream.testing.pipelines import assert_balanced, check_pipeline
from optix_stream.testing.producers import RecordingSink, ScriptedProducer, check_producer, check_sink
from optix_stream.testing.recording import RecordingEvents
from optix_stream.testing.remembering import check_stateful
from optix_stream.testing.scoring import check_evaluator, check_judge
from optix_stream.testing.tuning import check_optimizer
from optix_stream.testing.windows import make_transition, make_window

__all__ = [
    "Canceller",
    "FakeClock",
    "NullAgent",
    "RecordingAgent",
    "RecordingEvents",
    "RecordingSink",
    "ScriptedProducer",
    "assert_balanced",
    "cancel_everywhere",
    "check_agent",
    "check_evaluator",
    "check_judge",
    "check_optimizer",
    "check_pipeline",
    "check_producer",
    "check_sink",
    "check_stateful",
    "make_transition",
    "make_window",
]
