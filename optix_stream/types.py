"""The values that flow through the loop: transitions, windows, scores, hyperparameters, snapshots.

Plain data, no behaviour beyond what can be derived from the fields. Structured observations
(``Dict`` and ``Tuple`` spaces) are trees: dicts and tuples whose leaves are arrays.
"""

from __future__ import annotations

import time as _time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
FloatArray: TypeAlias = npt.NDArray[np.float64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
Tree: TypeAlias = Any
"""An array, or a dict or tuple of trees: what one observation (or a column of them) looks like."""

_UNSET: Array = np.empty(0)
"""Stands for a column that was not given."""

StreamId: TypeAlias = str | int
"""Names one trajectory source: an environment's index, a symbol, a robot."""


class LoopState(Enum):
    """What the loop is doing about its own learning."""

    ACTIVE = "active"
    """Learning pays: tune every window."""
    COOLING = "cooling"
    """Little gain: tuning and checkpoint I/O back off exponentially."""
    DORMANT = "dormant"
    """Plateau: the model is trained. A pausable run stops here."""
    WATCHDOG = "watchdog"
    """A live run after its plateau: acts, scores and waits for degradation or improvement."""


class Transition(msgspec.Struct, eq=False, gc=False):
    """One whole step of one stream; what a producer pushes. Treat it as immutable.

    Transitions are many and short-lived and refer to nothing that refers back, so the garbage
    collector is spared them (``gc=False``).

    Attributes:
        observation: what the policy saw.
        action: what was executed.
        reward: what followed from ``action``.
        next_observation: what was seen next; the *final* observation where the episode ended.
        terminated: the environment ended the episode; nothing follows, so nothing is bootstrapped.
        truncated: the episode was cut off; ``next_observation`` is what bootstraps.
        info: whatever the source says besides.
        stream: names the trajectory this step belongs to.
        extras: what the policy said about its decision (behaviour log-probability, version, …).
        time: seconds, on the clock of the run or the source's own event time.
    """

    observation: Tree
    action: Any
    reward: float
    next_observation: Tree
    terminated: bool = False
    truncated: bool = False
    info: Mapping[str, Any] | None = None
    stream: StreamId = 0
    extras: Mapping[str, Any] | None = None
    time: float = 0.0


class TransitionBatch(msgspec.Struct, eq=False, gc=False):
    """Many transitions as columns with a leading axis of ``n`` rows, oldest first in each stream.

    Attributes:
        observations: tree of arrays ``[n, …]``.
        actions: array ``[n, …]``.
        rewards: floats ``[n]``.
        next_observations: tree of arrays ``[n, …]``.
        terminated: booleans ``[n]``.
        truncated: booleans ``[n]``.
        streams: for each row, an index into ``stream_ids``, integers ``[n]``.
        stream_ids: the streams in this batch.
        extras: named columns ``[n, …]``.
        infos: one mapping a row, or None where the source has nothing to say.
        times: seconds ``[n]``.
    """

    observations: Tree
    actions: Array
    rewards: Array
    next_observations: Tree
    terminated: Array
    truncated: Array
    streams: Array
    stream_ids: tuple[StreamId, ...]
    extras: dict[str, Array]
    infos: list[Mapping[str, Any]] | None
    times: Array

    def __len__(self) -> int:
        return len(self.rewards)


class CompletedEpisode(msgspec.Struct, frozen=True):
    """An episode that ended inside a window.

    Attributes:
        stream: where it happened.
        total_reward: undiscounted sum of all its rewards, those of earlier windows included.
        length: its steps, those of earlier windows included.
    """

    stream: StreamId
    total_reward: float
    length: int


@dataclass(frozen=True)
class EpisodeData:
    """A window: consecutive transitions of one or more streams, as columns of ``T`` rows.

    Rows of one stream are in order; rows of several streams may interleave. Lists are accepted and
    turned into arrays. Only raw interaction data lives here; what an algorithm derives from it
    (returns, advantages) is the agent's.

    Attributes:
        observations: tree of arrays ``[T, …]``.
        actions: ``[T]`` for discrete actions, ``[T, action_dim]`` for continuous ones.
        rewards: floats ``[T]``.
        terminated: booleans ``[T]``, the environment ended the episode after this row.
        truncated: booleans ``[T]``, the episode was cut off after this row.
        infos: one mapping a row.
        episode_id: the window's number in its run, from 0.
        next_observations: tree of arrays ``[T, …]``; None only in hand-made windows.
        gaps: booleans ``[T]``: the stream lost something right after this row, so that its next
            row does not continue from here.
        streams: for each row an index into ``stream_ids``, integers ``[T]``.
        stream_ids: the streams of this window.
        extras: what the behaviour policy said, named columns ``[T, …]``.
        times: seconds ``[T]``.
        completed: the episodes that ended in this window and were seen whole.
        rows_learned: how many rows, from the first, the agent has had already: see ``TransitionLearner`` and
            ``IncrementalLearner``.
        timestamp: wall-clock seconds since the epoch at which the window was closed.
        metadata: free for the user.

    Raises:
        ValueError: columns of different lengths.
    """

    observations: Tree
    actions: Array
    rewards: Array
    terminated: Array
    truncated: Array
    infos: Sequence[Mapping[str, Any]]
    episode_id: int
    next_observations: Tree = None
    gaps: Array = field(default_factory=lambda: _UNSET)
    streams: Array = field(default_factory=lambda: _UNSET)
    stream_ids: tuple[StreamId, ...] = (0,)
    extras: Mapping[str, Array] = field(default_factory=dict)
    times: Array = field(default_factory=lambda: _UNSET)
    completed: tuple[CompletedEpisode, ...] = ()
    rows_learned: int = 0
    timestamp: float = field(default_factory=_time.time, compare=False)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        def fix(name: str, dtype: Any, default: Any) -> None:
            value = getattr(self, name)
            object.__setattr__(self, name, default if value is _UNSET else np.asarray(value, dtype))

        fix("rewards", np.float64, None)
        length = len(self.rewards)
        fix("terminated", np.bool_, None)
        fix("truncated", np.bool_, None)
        fix("actions", None, None)
        fix("gaps", np.bool_, np.zeros(length, np.bool_))
        fix("streams", np.int32, np.zeros(length, np.int32))
        fix("times", np.float64, np.zeros(length))
        if isinstance(self.observations, list):
            object.__setattr__(self, "observations", np.asarray(self.observations))
        for name in ("actions", "terminated", "truncated", "gaps", "streams", "times"):
            if len(getattr(self, name)) != length:
                raise ValueError(f"{name}: expected {length} rows, one for each reward, got {len(getattr(self, name))}")

    @property
    def dones(self) -> BoolArray:
        """True where the episode ended, for whichever reason; booleans ``[T]``."""
        return np.logical_or(self.terminated, self.truncated)

    @property
    def total_reward(self) -> float:
        """Sum of the rewards in this window."""
        return float(self.rewards.sum())

    @property
    def length(self) -> int:
        """Transitions in this window."""
        return len(self.rewards)


@dataclass(frozen=True)
class EvalMetrics:
    """What an evaluator says of one window.

    Attributes:
        primary_score: the one comparable number; higher is better.
        metrics: everything else worth logging.
        episode_id: the window that was scored.
        basis: what ``primary_score`` measures. Scores of different bases are not comparable: when
            it changes, the loop starts its judgement afresh.
        timestamp: wall-clock seconds since the epoch.
    """

    primary_score: float
    metrics: Mapping[str, float]
    episode_id: int
    basis: str = "score"
    timestamp: float = field(default_factory=_time.time, compare=False)

    def beats(self, other: EvalMetrics, margin: float = 0.0) -> bool:
        """True if this score is above the other's by more than ``margin``, in score units."""
        return self.primary_score > other.primary_score + margin


@dataclass(frozen=True)
class HyperparamSet:
    """Hyperparameters at one point in time.

    Attributes:
        params: an open mapping; the loop never reads a key by name. What a key means is between
            the agent and the optimizer.
        episode_id: the window at which they were set.
        timestamp: wall-clock seconds since the epoch.
    """

    params: dict[str, Any]
    episode_id: int = 0
    timestamp: float = field(default_factory=_time.time, compare=False)

    def copy(self) -> HyperparamSet:
        """An independent copy, so that neither side can change the other's parameters."""
        return HyperparamSet(dict(self.params), self.episode_id, self.timestamp)


@dataclass(frozen=True)
class PolicySnapshot:
    """One checkpoint: weights on disk, and what was known when they were saved.

    Attributes:
        snapshot_id: its name in the registry.
        eval_metrics: the score that made it worth saving.
        hyperparams: the hyperparameters in force.
        weights_path: where ``save_weights`` wrote, relative to the checkpoint directory.
        episode_id: the window after which it was saved.
        timestamp: wall-clock seconds since the epoch.
    """

    snapshot_id: str
    eval_metrics: EvalMetrics
    hyperparams: HyperparamSet
    weights_path: str
    episode_id: int
    timestamp: float = field(default_factory=_time.time, compare=False)


class Statistics(msgspec.Struct, frozen=True):
    """Where every transition is. ``received = learned + held + dropped + rejected``, exactly, always.

    Attributes:
        received: transitions that a producer handed over.
        learned: transitions in windows that ``agent.learn`` took.
        held_in_queue: waiting to be assembled.
        held_in_window: in the window that is being assembled.
        held_in_learner: in the window that is being learned from.
        dropped: given up, by reason.
        rejected: refused as unfit, by reason.
    """

    received: int
    learned: int
    held_in_queue: int
    held_in_window: int
    held_in_learner: int
    dropped: Mapping[str, int]
    rejected: Mapping[str, int]

    @property
    def held(self) -> int:
        """Transitions on their way."""
        return self.held_in_queue + self.held_in_window + self.held_in_learner

    @property
    def is_balanced(self) -> bool:
        """Whether the conservation law holds; anything else is a defect in a producer or the loop."""
        return self.received == self.learned + self.held + sum(self.dropped.values()) + sum(self.rejected.values())


class RunReport(msgspec.Struct, frozen=True):
    """How a run ended.

    Attributes:
        reason: ``dormant``, ``max_episodes``, ``stopped`` or ``source_ended``.
        state: the loop's state at the end.
        windows: windows learned from or tried.
        transitions: transitions learned from.
        wall_sec: seconds the run took.
        best_snapshot: the best policy, which the agent now holds; None if no window could be scored.
        statistics: where every transition went.
        transitions_before: how many of ``transitions`` a run that was resumed had learned from by then.
    """

    reason: str
    state: LoopState
    windows: int
    transitions: int
    wall_sec: float
    best_snapshot: PolicySnapshot | None
    statistics: Statistics
    transitions_before: int = 0
