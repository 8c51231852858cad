"""What the streaming agents share: everything but the error, its gradient, and the choice of an action."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

import numpy as np

from optix_stream.agents.encoding import LARGEST, ObservationEncoder
from optix_stream.agents.network import FrozenNetwork, TwinNetworks
from optix_stream.agents.normalizers import ObservationMoments, ObservationNormalizer, RewardMoments, RewardScaler
from optix_stream.agents.obgd import BoundedStep, accumulate
from optix_stream.agents.policies import Decide, FrozenPolicy, LivePolicy
from optix_stream.agents.settings import AMOUNT, SHARE, config_of, number_of, widths_of
from optix_stream.agents.state import Specs, read_state, write_state
from optix_stream.agents.streams import StreamMemory, StreamTable
from optix_stream.contracts import BaseAgent, Policy, PolicyPublisher, Restorable, TransitionLearner
from optix_stream.errors import CheckpointError, ConfigurationError, TransitionMismatchError
from optix_stream.trees import map_tree
from optix_stream.types import Array, EpisodeData, FloatArray, HyperparamSet, StreamId, Transition, Tree

_SHARES = ("gamma", "trace_lambda", "epsilon_end")
"""Hyperparameters from 0 to 1; the others are at least 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamConfig:
    """What is fixed for the life of a streaming agent; the rest are hyperparameters.

    Attributes:
        hidden: width of each hidden layer.
        max_streams: streams that may be within an episode at once; each has traces of its own.
    """

    hidden: tuple[int, ...] = (128, 128)
    max_streams: int = 1024

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 2:
            raise ConfigurationError(f"hidden: expected one layer or more of at least 2 units, got {self.hidden}")
        if self.max_streams < 1:
            raise ConfigurationError(f"max_streams: expected at least 1, got {self.max_streams}")


@dataclass(frozen=True, slots=True)
class _Glimpse:
    """What the networks said of an observation: good for as long as nothing has been learned since."""

    version: int
    key: bytes
    inputs: Array
    moments: ObservationMoments
    outputs: Array


@dataclass(slots=True)
class _Snapshot:
    """Everything that learning changes."""

    parameters: Array
    observations: ObservationMoments
    rewards: RewardMoments
    streams: dict[StreamId, StreamMemory] = field(default_factory=dict)
    steps: int = 0
    rng: Any = None
    hyperparams: HyperparamSet | None = None


class StreamAgent(BaseAgent, TransitionLearner, PolicyPublisher, Restorable):
    """An agent that learns from each transition as it arrives, keeps none, and needs no learning rate.

    Elsayed, Vasan, Mahmood 2024, "Streaming Deep Reinforcement Learning Finally Works" (arXiv
    2410.14606), but for truncation, through which it bootstraps. All streams learn the same weights,
    each by eligibility traces of its own; a transition that does not begin with the observation in
    which the last one of its stream ended comes after a gap, and no trace crosses that.

    A subclass says what its networks' outputs mean.

    Args:
        observation_space: Box, Discrete, MultiDiscrete, MultiBinary, or Dict or Tuple of them.
        units: outputs of a network.
        networks: how many of them.
        hyperparams: initial values; those that are left out are ``default_hyperparams``.
        seed: of initialisation and exploration; None: not reproducible.
        config: what is fixed.
    """

    config: StreamConfig
    config_type: ClassVar[type[StreamConfig]] = StreamConfig
    default_hyperparams: ClassVar[Mapping[str, float]] = {}

    def __init__(
        self,
        observation_space: Any,
        *,
        units: int,
        networks: int,
        hyperparams: HyperparamSet | None,
        seed: int | None,
        config: StreamConfig | None,
    ) -> None:
        acting, initial = np.random.SeedSequence(seed).spawn(2)
        self.config = config if config is not None else self.config_type()
        self._rng = np.random.default_rng(acting)
        self._encoder = ObservationEncoder(observation_space)
        self._networks = TwinNetworks(self._encoder.size, self.config.hidden, units, networks)
        self._networks.initialize(np.random.default_rng(initial))
        shape = self._networks.parameters.shape
        self._output_gradient = np.zeros((networks, units), np.float32)
        self._step = BoundedStep(shape)
        self._streams = StreamTable(shape, self.config.max_streams)
        self._normalizer = ObservationNormalizer(self._encoder.size)
        self._scaler = RewardScaler()
        self._lock = threading.Lock()
        self._steps = 0
        self._version = 0
        self._glimpse: _Glimpse | None = None
        self._sums: dict[str, float] = {}
        self._summed = 0
        self._hyperparams = HyperparamSet({})
        self._params: dict[str, float] = {}
        self.set_hyperparams(hyperparams if hyperparams is not None else HyperparamSet({}))

    @classmethod
    def for_spaces(
        cls,
        observation_space: Any,
        action_space: Any,
        *,
        hidden: Sequence[int] | None = None,
        seed: int | None = None,
        **config: Any,
    ) -> Self:
        """An agent for an environment.

        Args:
            observation_space: Box, Discrete, MultiDiscrete, MultiBinary, or Dict or Tuple of them.
            action_space: what the agent can choose from.
            hidden: width of each hidden layer.
            seed: fixes everything that is random.
            **config: hyperparameters, and fields of ``config_type``.

        Raises:
            ConfigurationError: an unsupported space, an unknown keyword, or a value that cannot be.
        """
        params = {name: config.pop(name, value) for name, value in cls.default_hyperparams.items()}
        known = {item.name for item in fields(cls.config_type)}
        if not config.keys() <= known:
            names = sorted({*params, *known})
            raise ConfigurationError(f"config: expected some of {names}, got {sorted(config.keys() - known)}")
        if hidden is not None:
            config["hidden"] = widths_of(hidden)
        fixed = config_of(cls.config_type, config)
        return cls._of(observation_space, action_space, HyperparamSet(params), seed, fixed)

    @classmethod
    @abstractmethod
    def _of(
        cls,
        observation_space: Any,
        action_space: Any,
        hyperparams: HyperparamSet,
        seed: int | None,
        config: Any,
    ) -> Self:
        """The constructor, as the subclass has it."""

    # --- what a subclass says

    @abstractmethod
    def _choose(self, outputs: Array) -> tuple[Any, Mapping[str, Any]]:
        """An action and its extras for the outputs ``[networks, units]``; the agent is locked."""

    @abstractmethod
    def _freeze_choice(self, rng: np.random.Generator | None) -> Decide:
        """Chooses by the first network's outputs ``[N, units]``; without a generator the best actions."""

    @abstractmethod
    def _learnable(self, action: Any, extras: Mapping[str, Any] | None) -> Any:
        """What was done, as ``_differentiate`` wants it; a TransitionMismatchError where it cannot have been."""

    @abstractmethod
    def _differentiate(
        self, outputs: Array, following: Array | None, action: Any, reward: float
    ) -> tuple[float, tuple[float, ...], bool, dict[str, float]]:
        """Compute the error ``δ`` and write what the traces are to add into ``_output_gradient``.

        Args:
            outputs: ``[networks, units]`` for the observation.
            following: the same for the next one; None where nothing follows.
            action: as ``_learnable`` gave it.
            reward: scaled.

        Returns:
            ``δ``, ``κ`` of each network, whether what was accumulated before still counts, and diagnostics.
        """

    # --- acting

    def act(self, observation: Tree) -> Any:
        """One action that explores, by the weights of this moment."""
        return self._act_one(observation)[0]

    def live_policy(self) -> Policy:
        """This agent as a policy: it explores, by the weights of the moment."""
        return LivePolicy(self._act_one, lambda: self._version)

    def publish_policy(self, *, deterministic: bool = False) -> Policy:
        """A policy of copies, whose normalisation is frozen too; ``deterministic`` takes the best action."""
        with self._lock:
            return FrozenPolicy(
                self._version,
                self._encoder,
                self._normalizer.freeze(),
                FrozenNetwork(self._networks),
                self._freeze_choice(None if deterministic else self._rng),
            )

    def _act_one(self, observation: Tree) -> tuple[Any, Mapping[str, Any]]:
        row = self._encoder.encode_one(observation)
        with self._lock:
            memory = self._streams.latest
            if memory is not None and memory.row.tobytes() == row.tobytes():
                # As it will be learned from: standardised anew it would count twice.
                return self._choose(self._networks.forward(memory.inputs))
            return self._choose(self._look(row).outputs)

    def _look(self, row: FloatArray) -> _Glimpse:
        """What the networks say of ``row`` now. Acting and then learning ask the same."""
        glimpse, key = self._glimpse, row.tobytes()
        if glimpse is None or glimpse.version != self._version or glimpse.key != key:
            inputs, moments = self._normalizer.preview(row)
            glimpse = _Glimpse(self._version, key, inputs, moments, self._networks.forward(inputs).copy())
            self._glimpse = glimpse
        return glimpse

    # --- learning

    def learn_one(self, transition: Transition) -> Mapping[str, float]:
        """Learn from one transition of any stream.

        Raises:
            TransitionMismatchError: it does not fit the spaces, or is not finite.
            FloatingPointError: what is learned is no longer finite; nothing has changed.
        """
        row = self._encoder.encode_one(transition.observation)
        following = self._encoder.encode_one(transition.next_observation)
        action = self._learnable(transition.action, transition.extras)
        reward = float(transition.reward)
        if not abs(reward) <= LARGEST:
            raise TransitionMismatchError("reward", f"a number within ±{LARGEST}", str(reward))
        # What overflows is found by the size of the step.
        with self._lock, np.errstate(over="ignore", invalid="ignore"):
            moments = self._normalizer.moments
            try:
                diagnostics = self._learn_from(transition, row, following, action, reward)
            except FloatingPointError:
                self._normalizer.moments = moments
                self._streams.forget(transition.stream)
                self._version += 1
                raise
            sums = self._sums
            for name, value in diagnostics.items():
                sums[name] = sums.get(name, 0.0) + value
            self._summed += 1
        return diagnostics

    def _learn_from(
        self, transition: Transition, row: FloatArray, following: FloatArray, action: Any, reward: float
    ) -> dict[str, float]:
        params, networks, normalizer = self._params, self._networks, self._normalizer
        gamma = params["gamma"]
        memory = self._streams.open(transition.stream)
        if memory.row.tobytes() != row.tobytes():
            memory.inputs, normalizer.moments = normalizer.preview(row)
            memory.is_cold = True
            memory.discounted = 0.0
            self._version += 1
        glimpse = self._look(following)
        discounted = gamma * memory.discounted + reward
        scaled, reward_moments = self._scaler.preview(reward, discounted)
        outputs = networks.forward(memory.inputs)
        delta, kappas, goes_on, diagnostics = self._differentiate(
            outputs, None if transition.terminated else glimpse.outputs, action, scaled
        )
        gradient = networks.backward(self._output_gradient)
        traces = memory.traces
        accumulate(traces, 0.0 if memory.is_cold or not goes_on else gamma * params["trace_lambda"], gradient)
        sizes = self._step.sizes(traces, delta, kappas)
        self._step.apply(networks.parameters, traces, delta, sizes)
        normalizer.moments = glimpse.moments
        self._scaler.moments = reward_moments
        if transition.terminated or transition.truncated:
            self._streams.forget(transition.stream)
        else:
            memory.is_cold = False
            memory.row = following
            memory.inputs = glimpse.inputs
            memory.discounted = discounted
        self._steps += 1
        self._version += 1
        return diagnostics

    def learn(self, episode_data: EpisodeData) -> dict[str, float]:
        """Means of what ``learn_one`` said since the last window, after learning from rows it has not had.

        Raises:
            TransitionMismatchError: a row does not fit the spaces, or is not finite.
            FloatingPointError: what is learned is no longer finite.
        """
        window = episode_data
        if window.rows_learned < window.length:
            self._learn_rows(window)
        with self._lock:
            sums, count = self._sums, self._summed
            self._sums, self._summed = {}, 0
        return {name: value / count for name, value in sums.items()}

    def _learn_rows(self, window: EpisodeData) -> None:
        if window.next_observations is None:
            raise TransitionMismatchError("next_observations", "a column", "None")
        for row in range(window.rows_learned, window.length):
            stream = window.stream_ids[window.streams[row]]
            self.learn_one(
                Transition(
                    observation=_row_of(window.observations, row),
                    action=window.actions[row],
                    reward=float(window.rewards[row]),
                    next_observation=_row_of(window.next_observations, row),
                    terminated=bool(window.terminated[row]),
                    truncated=bool(window.truncated[row]),
                    stream=stream,
                    extras={name: column[row] for name, column in window.extras.items()},
                )
            )
            if window.gaps[row]:
                with self._lock:
                    self._streams.forget(stream)

    # --- hyperparameters

    def get_hyperparams(self) -> HyperparamSet:
        """A copy of those in force."""
        return self._hyperparams.copy()

    def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        """Put them in force; unknown ones are carried.

        Raises:
            ConfigurationError: one is not a finite number, or out of its range.
        """
        known = dict(self.default_hyperparams)
        for name in known:
            known[name] = number_of(
                name, hyperparams.params.get(name, known[name]), SHARE if name in _SHARES else AMOUNT
            )
        with self._lock:
            self._params = known
            self._hyperparams = HyperparamSet(
                {**known, **hyperparams.params}, hyperparams.episode_id, hyperparams.timestamp
            )

    # --- state

    def capture_state(self) -> Any:
        with self._lock:
            return self._capture()

    def restore_state(self, state: Any) -> None:
        with self._lock:
            self._restore(state)

    def save_weights(self, path: str) -> None:
        """Write parameters, traces, normalisers, counters and the generator to ``path``.

        Raises:
            CheckpointError: it could not be written.
        """
        with self._lock:
            state, version = self._capture(), self._version
        count, means, squares = state.observations
        memories = list(state.streams.values())
        arrays = {
            "parameters": state.parameters,
            "observations/mean": means,
            "observations/squares": squares,
            "rewards": np.asarray(state.rewards[1:]),
            "streams/traces": _stack([memory.traces for memory in memories], state.parameters),
            "streams/rows": _stack([memory.row for memory in memories], means),
            "streams/inputs": _stack([memory.inputs for memory in memories], means.astype(np.float32)),
            "streams/discounted": np.asarray([memory.discounted for memory in memories], np.float64),
        }
        write_state(
            path,
            arrays,
            {
                "agent": type(self).__name__,
                "version": version,
                "steps": state.steps,
                "observations": count,
                "rewards": state.rewards[0],
                "streams": list(state.streams),
                "rng": state.rng,
            },
        )

    def load_weights(self, path: str) -> None:
        """Restore what ``save_weights`` wrote; all of it or nothing. Hyperparameters stay.

        Raises:
            CheckpointError: it is missing, damaged, or of another agent.
        """
        shape, size = self._networks.parameters.shape, self._encoder.size

        def expect(state: dict[str, Any]) -> Specs:
            if state["agent"] != type(self).__name__:
                raise ValueError(f"expected a {type(self).__name__}, got a {state['agent']}")
            streams = state["streams"]
            if not all(type(stream) in (str, int) for stream in streams) or len(set(streams)) != len(streams):
                raise ValueError(f"expected streams by name or number, got {streams}")
            count = len(streams)
            return {
                "parameters": (shape, np.float32),
                "observations/mean": ((size,), np.float64),
                "observations/squares": ((size,), np.float64),
                "rewards": ((2,), np.float64),
                "streams/traces": ((count, *shape), np.float32),
                "streams/rows": ((count, size), np.float64),
                "streams/inputs": ((count, size), np.float32),
                "streams/discounted": ((count,), np.float64),
            }

        arrays, state = read_state(path, expect)
        try:
            memories = {
                stream: _memory(*parts)
                for stream, *parts in zip(
                    state["streams"],
                    *(arrays[f"streams/{name}"] for name in ("traces", "rows", "inputs", "discounted")),
                    strict=True,
                )
            }
            mean, squares = arrays["rewards"].tolist()
            loaded = _Snapshot(
                parameters=arrays["parameters"],
                observations=(int(state["observations"]), arrays["observations/mean"], arrays["observations/squares"]),
                rewards=(int(state["rewards"]), mean, squares),
                streams=memories,
                steps=int(state["steps"]),
                rng=state["rng"],
                hyperparams=None,
            )
            version = int(state["version"])
            # A trial on a generator of its own: the state of this one changes with everything else or not at all.
            np.random.default_rng().bit_generator.state = loaded.rng
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CheckpointError(f"cannot read weights in {path}: {error!r}") from error
        with self._lock:
            # A version never goes back: a policy that is loaded later is a later policy.
            self._version = max(self._version, version)
            self._restore(loaded)

    def _capture(self) -> _Snapshot:
        return _Snapshot(
            parameters=self._networks.parameters.copy(),
            observations=self._normalizer.moments,
            rewards=self._scaler.moments,
            streams={stream: _copy(memory) for stream, memory in self._streams},
            steps=self._steps,
            rng=self._rng.bit_generator.state,
            hyperparams=self._hyperparams.copy(),
        )

    def _restore(self, state: _Snapshot) -> None:
        self._networks.parameters[:] = state.parameters
        self._normalizer.moments = state.observations
        self._scaler.moments = state.rewards
        self._streams.replace({stream: _copy(memory) for stream, memory in state.streams.items()})
        self._steps = state.steps
        self._rng.bit_generator.state = state.rng
        if state.hyperparams is not None:
            self._hyperparams = state.hyperparams.copy()
            self._params = {name: float(self._hyperparams.params[name]) for name in self.default_hyperparams}
        self._sums, self._summed = {}, 0
        self._version += 1


def _row_of(tree: Tree, row: int) -> Tree:
    return map_tree(lambda leaf: leaf[row], tree)


def _stack(arrays: list[Array], like: Array) -> Array:
    return np.stack(arrays) if arrays else np.zeros((0, *like.shape), like.dtype)


def _memory(traces: Array, row: Array, inputs: Array, discounted: Any) -> StreamMemory:
    memory = StreamMemory(traces)
    memory.is_cold = False
    memory.row, memory.inputs, memory.discounted = row, inputs, float(discounted)
    return memory


def _copy(memory: StreamMemory) -> StreamMemory:
    copy = _memory(memory.traces.copy(), memory.row, memory.inputs, memory.discounted)
    copy.is_cold = memory.is_cold
    return copy
