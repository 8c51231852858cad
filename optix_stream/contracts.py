"""What users implement. Each contract is small; the loop needs nothing beyond it.

``Producer``, ``Policy`` and ``TransitionSink`` are structural (``Protocol``): anything of the right
shape fits. What a user subclasses is an abstract base class. What an agent can do *besides* the
six methods of ``BaseAgent`` it says by inheriting ``PolicyPublisher``, ``TransitionLearner``,
``IncrementalLearner``, ``Restorable`` or ``Reproducible``, what a policy can do besides ``act`` by inheriting
``SingleActor`` or ``PortablePolicy``, and whatever remembers something that a resumed run needs by inheriting
``Stateful``; nothing is found out by probing for attributes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from enum import Enum
from typing import Any, Protocol, TypeAlias, runtime_checkable

import msgspec
import numpy as np

from optix_stream.events import Event, StreamEvent, TransitionsDropped
from optix_stream.recipes import AgentRecipe
from optix_stream.trees import with_batch_axis
from optix_stream.types import (
    Array,
    EpisodeData,
    EvalMetrics,
    HyperparamSet,
    Statistics,
    Transition,
    TransitionBatch,
    Tree,
)

StreamItem: TypeAlias = Transition | TransitionBatch | StreamEvent | TransitionsDropped
"""What travels through a queue, in order."""


# --- acting and producing ----------------------------------------------------------------------


class Decision(msgspec.Struct, frozen=True, eq=False):
    """What a policy decided for ``N`` observations.

    Attributes:
        actions: ``[N]`` or ``[N, action_dim]``.
        extras: named columns ``[N, …]`` that learning will want back, such as the behaviour
            log-probability. The same names every time.
    """

    actions: Array
    extras: Mapping[str, Array] = {}


class Policy(Protocol):
    """What acts: called from any thread, never blocks, never waits for learning."""

    @property
    def version(self) -> int:
        """Goes up whenever the policy may answer differently than before."""
        ...

    def act(self, observations: Tree) -> Decision:
        """Decide for a batch: a tree of arrays ``[N, …]`` in, ``N`` actions out."""
        ...


class SingleActor(ABC):
    """Mixin for a policy that has a shorter way to decide for one observation, as feeds ask it to."""

    __slots__ = ()

    @abstractmethod
    def act_one(self, observation: Tree) -> tuple[Any, Mapping[str, Any]]:
        """What ``act`` would answer for a batch of one, without the batch axis: the action and its extras."""


class PolicyExport(msgspec.Struct, frozen=True, eq=False):
    """A policy as plain data.

    Attributes:
        builder: ``"module:callable"`` that makes it again: ``(structure, arrays, generator) -> policy``, where no
            generator means no exploration. The module imports no framework.
        structure: plain data, the same for policies of one agent that differ in weights alone.
        arrays: the weights and whatever else learning changes, by name.
    """

    builder: str
    structure: Any
    arrays: Mapping[str, Array]


class PortablePolicy(ABC):
    """Mixin for a policy that another process can have too."""

    __slots__ = ()

    @property
    @abstractmethod
    def generator(self) -> np.random.Generator | None:
        """What it explores by, shared with the agent's other policies; None: it does not explore."""

    @abstractmethod
    def export(self) -> PolicyExport | None:
        """The policy as plain data; None where this one cannot be, such as one that acts through a graph."""


def act_one_of(policy: Policy) -> Callable[[Tree], tuple[Any, Mapping[str, Any]]]:
    """The way of ``policy`` to decide for one observation."""
    if isinstance(policy, SingleActor):
        return policy.act_one

    def act_one(observation: Tree) -> tuple[Any, Mapping[str, Any]]:
        decision = policy.act(with_batch_axis(observation))
        return decision.actions[0], {name: column[0] for name, column in decision.extras.items()}

    return act_one


class TransitionSink(Protocol):
    """What takes transitions: the queue here, a broker's publisher on an edge machine."""

    async def push(self, item: StreamItem) -> None:
        """Hand over one transition, a batch, or an event that belongs between them.

        Returns once the item is accounted for; may wait where the overflow policy says so.
        """
        ...


@runtime_checkable
class Producer(Protocol):
    """What runs a source: an environment, a socket, a replay."""

    @property
    def name(self) -> str:
        """Names the source in events."""
        ...

    async def run(self, policy: Policy, sink: TransitionSink) -> None:
        """Act and push whole transitions until the source ends; cancellation stops it cleanly."""
        ...


# --- learning ----------------------------------------------------------------------------------


class BaseAgent(ABC):
    """The only contract between the loop and a learner: six methods.

    ``learn``, ``save_weights`` and ``load_weights`` run in a worker thread, one at a time. On a
    pausable source ``act`` never runs at the same time as they do. On a live source it may: an
    agent whose ``act`` must not see half-updated weights inherits ``PolicyPublisher``.
    """

    @abstractmethod
    def act(self, observation: Tree) -> Any:
        """One action for one observation (no batch axis)."""

    @abstractmethod
    def learn(self, episode_data: EpisodeData) -> dict[str, float]:
        """Update from one window; return diagnostics (loss, entropy, …), which may be empty.

        An exception means that nothing was learned; the agent must be as it was before the call,
        or inherit ``Restorable`` and leave that to the loop.
        """

    @abstractmethod
    def get_hyperparams(self) -> HyperparamSet:
        """The hyperparameters in force."""

    @abstractmethod
    def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        """Put hyperparameters into force, at once."""

    @abstractmethod
    def save_weights(self, path: str) -> None:
        """Write everything that learning changes to ``path``, which does not exist yet.

        Either as a directory or as a file of that name.
        """

    @abstractmethod
    def load_weights(self, path: str) -> None:
        """Restore what ``save_weights`` wrote."""


class PolicyPublisher(ABC):
    """Mixin for an agent that can act while it learns, because what acts is a copy."""

    @abstractmethod
    def publish_policy(self, *, deterministic: bool = False) -> Policy:
        """An immutable policy with the present weights; called in the learner's thread.

        Args:
            deterministic: the policy to evaluate or ship: no exploration.
        """


class Intake(msgspec.Struct, frozen=True, eq=False):
    """How an agent learns before its windows are complete, as a pipeline sees it.

    Attributes:
        learn_one: takes each transition, in the thread of whoever produced it; an exception means that nothing was
            learned from it, a ``LearningFailedError`` that the run is to end; None: windows are enough.
        increment: new transitions after which to await ``learn_increment`` with them; None: never.
        learn_increment: never raises for what the agent did; the window's ``learn`` will tell.
    """

    learn_one: Callable[[Transition], None] | None = None
    increment: int | None = None
    learn_increment: Callable[[EpisodeData], Awaitable[None]] | None = None


class TransitionLearner(ABC):
    """Mixin for an agent that learns from each transition as it arrives; its windows carry scores and decisions.

    ``learn_one`` is called by the producer's thread right after the action that the transition's last observation
    called for has been sent, so that learning never delays it. Every transition of a window has been through
    ``learn_one`` when ``learn`` gets the window, which says so by ``rows_learned``. Both, acting and the saving and
    loading of weights may come from different threads: the agent guards what they share by a lock, held briefly.
    """

    @abstractmethod
    def live_policy(self) -> Policy:
        """What acts during a run: it explores, by the weights of the moment."""

    @abstractmethod
    def learn_one(self, transition: Transition) -> Mapping[str, float]:
        """Learn from one transition; return diagnostics, which may be empty.

        An exception means that nothing was learned from it: it is dropped, and the stream goes on after a gap.
        """


class IncrementalLearner(ABC):
    """Mixin for an agent that learns while a window fills as well as at its end.

    As soon as at least ``increment`` transitions are new, ``learn_increment`` is called with them as ``learn`` is, in
    the learner's thread. ``learn`` then gets the whole window at its end; what follows its first ``rows_learned`` rows
    is new, and so may be a gap after the last of those.
    """

    @property
    @abstractmethod
    def increment(self) -> int:
        """Transitions after which to learn, at least 1."""

    @abstractmethod
    def learn_increment(self, part: EpisodeData) -> Mapping[str, float]:
        """Learn from the next rows of the window that is filling; the same rules as for ``learn``."""


class Reproducible(ABC):
    """Mixin for an agent that can say how another process can make one like it."""

    @property
    @abstractmethod
    def recipe(self) -> AgentRecipe | None:
        """How it was made; None where no other process could."""


class Restorable(ABC):
    """Mixin for an agent whose state can be put back in memory, as after a failed ``learn``."""

    @abstractmethod
    def capture_state(self) -> Any:
        """Everything that ``learn`` changes, copied; cheap enough for every window."""

    @abstractmethod
    def restore_state(self, state: Any) -> None:
        """Be again as when ``state`` was captured."""


class Stateful(ABC):
    """Mixin for a part of the loop that remembers: saved and restored, it goes on as if it had never stopped."""

    @abstractmethod
    def state_dict(self) -> Mapping[str, Any]:
        """Everything that changes as it works, copied, as plain data.

        None, booleans, integers, floats, strings, numpy arrays, and lists and dicts (string keys) of these. Random
        generators by their ``bit_generator.state``. What was configured is not part of it.
        """

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Be as when ``state_dict`` was called, to the bit.

        Raises:
            CheckpointError: it is not the state of such a part; nothing has changed then.
        """


class Restful(ABC):
    """Mixin for a producer, or a pipeline of such, that can come to rest in the midst of a window, to be saved so."""

    @abstractmethod
    async def rest(self) -> None:
        """Return once nothing moves; what was on its way has been handed over. Nothing more comes until a new run."""


# --- scoring, judging, tuning ------------------------------------------------------------------


class BaseEvaluator(ABC):
    """Scores windows: turns one into the single number that the loop maximises."""

    @abstractmethod
    def score(self, episode_data: EpisodeData, train_diagnostics: dict[str, float]) -> EvalMetrics | None:
        """Score one window; higher is better.

        Args:
            episode_data: the window.
            train_diagnostics: what ``agent.learn`` said of it; may be empty.

        Returns:
            The score, or None where this window holds no evidence for one: it is then not judged.
        """

    def compare(self, candidate: EvalMetrics, baseline: EvalMetrics) -> bool:
        """Whether ``candidate`` is better. Override for more than one objective."""
        return candidate.beats(baseline)


class Outcome(Enum):
    """What a judge makes of a window's score."""

    BASELINE = "baseline"
    """The first score: nothing to compare with yet."""
    IMPROVED = "improved"
    UNCHANGED = "unchanged"
    """No better than the best; the scheduler counts these."""
    ACTIVE = "active"
    """Learning pays, or nothing can be told yet."""
    COOLING = "cooling"
    """Gains have become small."""
    PLATEAU = "plateau"
    """Certain: nothing more to gain."""
    DEGRADED = "degraded"


class Reference(msgspec.Struct, frozen=True):
    """Scores that later ones are compared with.

    Attributes:
        mean: in score units.
        long_run_sd: standard deviation of one window's score, its autocorrelation taken into account.
        windows: how many.
    """

    mean: float
    long_run_sd: float
    windows: int


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """A decision and why it was made.

    Attributes:
        outcome: the decision.
        evidence: the reason in words a person can read.
        facts: the numbers behind it.
        promote: keep the policy of this moment as the best; also where that is no news.
        is_sound: nothing speaks against this moment's policy: at the end of a run it is as good as the best.
        score: what the policy is worth, by more than this one window; None: by this window alone.
        reference: what the score was compared with, where that is known with its error.
        recurs: degraded again soon after ``reinstate``: going back has not helped.
    """

    outcome: Outcome
    evidence: str
    facts: Mapping[str, float] = {}
    promote: bool = False
    is_sound: bool = False
    score: float | None = None
    reference: Reference | None = None
    recurs: bool = False


class Judge(Protocol):
    """Decides, from the scores so far, whether learning still pays. Pure: no clock, no I/O.

    A judge that is to go on after a restart of the process inherits ``Stateful`` too.
    """

    def update(self, metrics: EvalMetrics) -> Verdict:
        """Take the next score, in order. Scores of windows in which something was tried never come here."""
        ...

    def restart(self) -> None:
        """Forget every score: what they measured has changed."""
        ...

    def reinstate(self) -> None:
        """After a degradation, the policy from before it is back, and with it what its scores were."""
        ...


class BaseOptimizer(ABC):
    """Proposes hyperparameters from scores. It never knows which algorithm runs or what a key means.

    ``suggest`` is all that a tuner needs. One that compares values over several windows says so by ``is_probing`` and
    ``is_comparing``, and one that a run can be resumed with inherits ``Stateful``. The tuners in
    ``optix_stream.optimizers`` are told scores and asked for values: see ``AskTellOptimizer`` there.
    """

    @abstractmethod
    def suggest(self, current_hyperparams: HyperparamSet, metrics_history: Sequence[EvalMetrics]) -> HyperparamSet:
        """Hyperparameters for the windows to come; ``current_hyperparams`` unchanged is an answer.

        Args:
            current_hyperparams: what the agent uses now.
            metrics_history: scores so far, oldest first; long histories are cut at the old end.
        """

    @property
    def bounded(self) -> Collection[str]:
        """The hyperparameters that it has bounds or choices for; those that the agent lacks are named in the log."""
        return ()

    @property
    def is_probing(self) -> bool:
        """True while a value is on trial; such windows are scored but not judged."""
        return False

    @property
    def is_comparing(self) -> bool:
        """True until a comparison is decided, also while the usual values are in force in it.

        The loop then calls ``suggest`` after each scored window, however far tuning has backed off.
        """
        return self.is_probing

    def settle(self, current_hyperparams: HyperparamSet) -> HyperparamSet:
        """Give up a comparison, because tuning is frozen from here on; return what to use meanwhile."""
        return current_hyperparams.copy()

    def on_improvement(self, metrics: EvalMetrics) -> None:
        """A new best was found."""

    def on_plateau(self, metrics_history: Sequence[EvalMetrics]) -> None:
        """The score no longer improves: tuning backs off (COOLING), and is frozen once that is certain (DORMANT)."""


# --- pipelines ---------------------------------------------------------------------------------


class WindowSource(Protocol):
    """An open pipeline, as the controller sees it."""

    async def next_window(self) -> EpisodeData | None:
        """The next window, or None when the source has ended and nothing is left."""
        ...

    def record_learned(self, window: EpisodeData) -> None:
        """The window was learned from."""
        ...

    def record_dropped(self, window: EpisodeData, reason: str) -> None:
        """The window was given up."""
        ...


class EventSink(Protocol):
    """Where events go."""

    def emit(self, event: Event) -> None:
        """Take one event; never blocks, never raises."""
        ...


class BasePipeline(ABC):
    """A source of windows: producers, queue and assembler as one thing to hand to a controller."""

    agent: BaseAgent | None = None
    """The agent that the pipeline was made for, where it was told; the controller's acts in any case."""

    @property
    @abstractmethod
    def is_live(self) -> bool:
        """True where the source never pauses; such a run goes on to WATCHDOG after its plateau."""

    @abstractmethod
    def open(
        self, policy: Policy, events: EventSink, intake: Intake | None = None
    ) -> AbstractAsyncContextManager[WindowSource]:
        """Start producing for the length of the ``async with``.

        Leaving it stops the producers and accounts for what was not learned.

        Args:
            policy: what acts.
            events: where the source's events go.
            intake: what is to be learned from before a window is complete; None: nothing.
        """

    @abstractmethod
    def statistics(self) -> Statistics:
        """Where every transition of the present, or else the last, run is."""


_NO_EXTRAS: Mapping[str, Any] = {}


def as_policy(agent: BaseAgent) -> Policy:
    """The agent itself as a policy: ``act`` called once a row."""
    return _AgentPolicy(agent)


class _AgentPolicy(SingleActor):
    __slots__ = ("_act", "version")

    def __init__(self, agent: BaseAgent) -> None:
        self._act = agent.act
        self.version = 0

    def act_one(self, observation: Tree) -> tuple[Any, Mapping[str, Any]]:
        return self._act(observation), _NO_EXTRAS

    def act(self, observations: Tree) -> Decision:
        if isinstance(observations, np.ndarray):
            return Decision(np.asarray([self._act(row) for row in observations]))
        return Decision(np.asarray([self._act(row) for row in _rows(observations)]))


def _rows(tree: Tree) -> list[Tree]:
    if isinstance(tree, dict):
        columns = {key: _rows(value) for key, value in tree.items()}
        length = len(next(iter(columns.values())))
        return [{key: column[i] for key, column in columns.items()} for i in range(length)]
    if isinstance(tree, tuple):
        return [tuple(parts) for parts in zip(*(_rows(part) for part in tree), strict=True)]
    return list(tree)
