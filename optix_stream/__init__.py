"""Reinforcement learning as a stream processor inside your asyncio app.

Producers act and push whole transitions into a bounded queue; an assembler cuts windows; a
controller learns from each window off the event loop, judges its score, tunes, checkpoints, and
publishes events. Environments and models are adapters: ``optix_stream_adapters``.

The streaming agents are loaded when they are first asked for, so that who brings agents of their own does not wait.
"""

import importlib
from typing import TYPE_CHECKING, Any

from optix_stream.alignment import FeedStep
from optix_stream.assembler import WindowAssembler
from optix_stream.boundaries import BoundaryFn, all_of, any_of, every_n_seconds, every_n_steps, on_done_signal
from optix_stream.bus import Subscription
from optix_stream.callbacks import LoopCallback
from optix_stream.checkpointing import CheckpointEvery
from optix_stream.checkpoints import CheckpointRegistry
from optix_stream.clock import Clock, SystemClock
from optix_stream.contracts import (
    BaseAgent,
    BaseEvaluator,
    BaseOptimizer,
    BasePipeline,
    Decision,
    IncrementalLearner,
    Judge,
    Outcome,
    Policy,
    PolicyPublisher,
    Producer,
    Reference,
    Restorable,
    Stateful,
    TransitionLearner,
    TransitionSink,
    Verdict,
)
from optix_stream.controller import LoopController
from optix_stream.deadlines import ActDeadline, Fallback
from optix_stream.delayed_rewards import DelayedReward, DelayedRewards
from optix_stream.errors import ActingFailedError, DirectoryInUseError
from optix_stream.evaluators import EpisodeReturnEvaluator
from optix_stream.events import (
    CheckpointFailed,
    CheckpointSaved,
    CircuitOpened,
    DeadlineMissed,
    Degraded,
    Event,
    GapDetected,
    HyperparamsChanged,
    Improved,
    JournalFailed,
    JournalRegained,
    LearnerLost,
    LearnerRestarted,
    LearningFailed,
    LoopStarted,
    LoopStopped,
    PlateauReached,
    RewardMissing,
    RolledBack,
    RunResumed,
    RunSaved,
    SourceLost,
    SourceRegained,
    StateChanged,
    SubscriberFailed,
    SubscriberLagging,
    SwitchbackStarted,
    TransitionsDropped,
    TransitionsRejected,
    WatchdogStarted,
    WentDormant,
    WindowAssembled,
    WindowLearned,
    WindowScored,
)
from optix_stream.feed_session import FeedAction, FeedOptions, FeedSession
from optix_stream.journal import JournalOptions
from optix_stream.judges import EvidenceConfig, EvidenceJudge, ThresholdJudge
from optix_stream.optimizers import (
    AskTellOptimizer,
    BackoffOptimizer,
    BanditConfig,
    BanditOptimizer,
    PairedBlockConfig,
    PairedBlockTuner,
    PBTOptimizer,
    SPSAConfig,
    SPSAOptimizer,
)
from optix_stream.pipeline import LivePipeline, StreamPipeline
from optix_stream.producers import ActionReceiver, DataSource, FeedProducer, StreamAnswerer
from optix_stream.queue import OverflowPolicy, TransitionQueue
from optix_stream.reconnecting import BreakerPolicy, ReconnectPolicy
from optix_stream.rl_optimizer import RLOptimizer
from optix_stream.scheduler import BackoffScheduler
from optix_stream.switchback import SwitchbackConfig
from optix_stream.types import (
    CompletedEpisode,
    EpisodeData,
    EvalMetrics,
    HyperparamSet,
    LoopState,
    PolicySnapshot,
    RunReport,
    Statistics,
    Transition,
    TransitionBatch,
)

if TYPE_CHECKING:
    from optix_stream.agents import StreamACAgent, StreamConfig, StreamQAgent, StreamQConfig

__version__ = "0.1.0"

__all__ = [
    "ActDeadline",
    "ActingFailedError",
    "ActionReceiver",
    "AskTellOptimizer",
    "BackoffOptimizer",
    "BackoffScheduler",
    "BanditConfig",
    "BanditOptimizer",
    "BaseAgent",
    "BaseEvaluator",
    "BaseOptimizer",
    "BasePipeline",
    "BoundaryFn",
    "BreakerPolicy",
    "CheckpointEvery",
    "CheckpointFailed",
    "CheckpointRegistry",
    "CheckpointSaved",
    "CircuitOpened",
    "Clock",
    "CompletedEpisode",
    "DataSource",
    "DeadlineMissed",
    "Decision",
    "Degraded",
    "DelayedReward",
    "DelayedRewards",
    "DirectoryInUseError",
    "EpisodeData",
    "EpisodeReturnEvaluator",
    "EvalMetrics",
    "Event",
    "EvidenceConfig",
    "EvidenceJudge",
    "Fallback",
    "FeedAction",
    "FeedOptions",
    "FeedProducer",
    "FeedSession",
    "FeedStep",
    "GapDetected",
    "HyperparamSet",
    "HyperparamsChanged",
    "Improved",
    "IncrementalLearner",
    "JournalFailed",
    "JournalOptions",
    "JournalRegained",
    "Judge",
    "LearnerLost",
    "LearnerRestarted",
    "LearningFailed",
    "LivePipeline",
    "LoopCallback",
    "LoopController",
    "LoopStarted",
    "LoopState",
    "LoopStopped",
    "Outcome",
    "OverflowPolicy",
    "PBTOptimizer",
    "PairedBlockConfig",
    "PairedBlockTuner",
    "PlateauReached",
    "Policy",
    "PolicyPublisher",
    "PolicySnapshot",
    "Producer",
    "RLOptimizer",
    "ReconnectPolicy",
    "Reference",
    "Restorable",
    "RewardMissing",
    "RolledBack",
    "RunReport",
    "RunResumed",
    "RunSaved",
    "SPSAConfig",
    "SPSAOptimizer",
    "SourceLost",
    "SourceRegained",
    "StateChanged",
    "Stateful",
    "Statistics",
    "StreamACAgent",
    "StreamAnswerer",
    "StreamConfig",
    "StreamPipeline",
    "StreamQAgent",
    "StreamQConfig",
    "SubscriberFailed",
    "SubscriberLagging",
    "Subscription",
    "SwitchbackConfig",
    "SwitchbackStarted",
    "SystemClock",
    "ThresholdJudge",
    "Transition",
    "TransitionBatch",
    "TransitionLearner",
    "TransitionQueue",
    "TransitionSink",
    "TransitionsDropped",
    "TransitionsRejected",
    "Verdict",
    "WatchdogStarted",
    "WentDormant",
    "WindowAssembled",
    "WindowAssembler",
    "WindowLearned",
    "WindowScored",
    "all_of",
    "any_of",
    "every_n_seconds",
    "every_n_steps",
    "on_done_signal",
]

_AGENTS = frozenset({"StreamACAgent", "StreamConfig", "StreamQAgent", "StreamQConfig"})


def __getattr__(name: str) -> Any:
    if name not in _AGENTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module("optix_stream.agents"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_AGENTS})
