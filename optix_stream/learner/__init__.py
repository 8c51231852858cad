"""Where the agent learns: away from the event loop, behind one small contract."""

from optix_stream.learner.child import ProcessOptions
from optix_stream.learner.contract import Learner
from optix_stream.learner.host import deterministic_policy
from optix_stream.learner.placement import LearnerPlacement, make_learner
from optix_stream.learner.process import ProcessLearner
from optix_stream.learner.published import PublishedPolicy
from optix_stream.learner.thread import ThreadLearner

__all__ = [
    "Learner",
    "LearnerPlacement",
    "ProcessLearner",
    "ProcessOptions",
    "PublishedPolicy",
    "ThreadLearner",
    "deterministic_policy",
    "make_learner",
]
