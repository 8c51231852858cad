"""Where the agent learns: away from the event loop, behind one small contract."""

from optix_stream.learner.contract import Learner
from optix_stream.learner.published import PublishedPolicy
from optix_stream.learner.thread import ThreadLearner

__all__ = ["Learner", "PublishedPolicy", "ThreadLearner"]
