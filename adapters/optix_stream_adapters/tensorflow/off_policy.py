"""What agents that learn from the past share: replay, when to learn how much, and their state."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np

from optix_stream.agents.settings import widths_of
from optix_stream.contracts import IncrementalLearner
from optix_stream.errors import TransitionMismatchError
from optix_stream.policies import EncodedInput
from optix_stream.recipes import recipe_of
from optix_stream.replay_buffer import Experience, ReplayBuffer, Sample
from optix_stream.types import Array, EpisodeData, HyperparamSet, StreamId
from optix_stream_adapters.tensorflow.fused_update import FusedUpdate, Learned
from optix_stream_adapters.tensorflow.keras_agent import KerasAgent, require_finite, split_settings
from optix_stream_adapters.tensorflow.off_policy_config import OffPolicyConfig
from optix_stream_adapters.tensorflow.scaling import scaling_of

_REPLAY = "replay"


class OffPolicyAgent(KerasAgent, IncrementalLearner):
    """Learns from replayed transitions, whoever chose their actions, as they come and at the end of a window.

    After each ``config.increment`` new transitions, ``config.update_ratio`` gradient steps for each are made in one
    compiled call, on minibatches that are drawn together. Transitions that nobody had learned from when their window
    ended are learned from then.

    Args:
        model: Keras model that acts.
        hyperparams: initial values.
        observation_space: needed for observations that are not arrays of numbers.
        action_shape: of an action in the buffer.
        action_dtype: likewise.
        seed: of everything random; None: not reproducible.
        config: what is fixed.
        priority_exponent: of replay; 0: rows are drawn evenly.
    """

    config: Any
    config_type: ClassVar[type[Any]] = OffPolicyConfig

    def __init__(
        self,
        model: Any,
        hyperparams: HyperparamSet,
        *,
        observation_space: Any,
        action_shape: tuple[int, ...],
        action_dtype: Any,
        seed: int | None,
        config: Any,
        priority_exponent: float = 0.0,
    ) -> None:
        super().__init__(model, hyperparams, observation_space=observation_space, seed=seed, config=config)
        self._scaling = scaling_of(observation_space) if self.config.scale_observations else (None, None)
        self._buffer = ReplayBuffer(
            self.config.buffer_size,
            self._forward.input_shape,
            action_shape,
            action_dtype,
            n_step=self.config.n_step,
            priority_exponent=priority_exponent,
        )
        self._learned = self._make_learned()
        self._update = self._make_update(self._learned)
        self._due = 0.0
        self._told: list[dict[str, float]] = []

    @classmethod
    def for_spaces(
        cls,
        observation_space: Any,
        action_space: Any,
        *,
        hidden: Sequence[int] = (128, 128),
        seed: int | None = None,
        **config: Any,
    ) -> Self:
        """An agent with networks of its own.

        Args:
            observation_space: Box, Discrete, MultiDiscrete, MultiBinary, or Dict or Tuple of them.
            action_space: Discrete, or a bounded Box of floats, as the algorithm wants.
            hidden: width of each hidden layer, for all networks.
            seed: fixes everything that is random.
            **config: hyperparameters, and fields of ``config_type``.

        Raises:
            ConfigurationError: an unsupported space, an unknown keyword, or a value that cannot be.
        """
        from optix_stream_adapters.tensorflow.encoding import ObservationEncoder

        given = {"observation_space": observation_space, "action_space": action_space, "hidden": hidden, "seed": seed}
        recipe = recipe_of(cls.for_spaces, given | config)
        hidden = widths_of(hidden)
        params, fixed = split_settings(config, cls.default_hyperparams, cls.config_type)
        size = ObservationEncoder(observation_space).size
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3,)))
        make = cast("Callable[..., Self]", cls)  # A subclass's constructor begins with its networks.
        agent = make(
            *cls._build_networks(size, action_space, hidden, rng, fixed),
            HyperparamSet(params),
            observation_space=observation_space,
            action_space=action_space,
            seed=seed,
            config=fixed,
        )
        agent._recipe = recipe
        return agent

    @classmethod
    @abstractmethod
    def _build_networks(
        cls, size: int, action_space: Any, hidden: Sequence[int], rng: np.random.Generator, config: Any
    ) -> tuple[Any, ...]:
        """What the constructor wants first, for observations of ``size`` numbers.

        Raises:
            ConfigurationError: an unsupported action space.
        """

    @property
    def increment(self) -> int:
        return int(self.config.increment)

    # --- learning

    def learn_increment(self, part: EpisodeData) -> Mapping[str, float]:
        """Remember the rows, and make the gradient steps that are due.

        Raises:
            TransitionMismatchError: observations or actions that do not fit.
            FloatingPointError: a loss is not finite.
        """
        return self._learn_rows(part, 0)

    def learn(self, episode_data: EpisodeData) -> dict[str, float]:
        """Likewise for the rows of the window that are new; diagnostics are means over the whole window.

        Raises:
            TransitionMismatchError: observations or actions that do not fit.
            FloatingPointError: a loss is not finite.
        """
        window, start = episode_data, episode_data.rows_learned
        self._buffer.cut(_cut_since(window, start))
        self._learn_rows(window, start)
        told, self._told = self._told, []
        if not told:
            return {}
        return {name: float(np.mean([each[name] for each in told])) for name in told[0]}

    def _learn_rows(self, window: EpisodeData, start: int) -> Mapping[str, float]:
        if start >= window.length:
            return {}
        self._buffer.add(self._experience(window, start))
        length, config = window.length - start, self.config
        before = max(self._steps, config.learning_starts)
        self._steps += length
        self._due += max(self._steps - before, 0) * config.update_ratio
        told: dict[str, float] = {}
        # One call, unless more came at once than an increment.
        while self._due >= config.updates:
            self._due -= config.updates
            told = self._learn_once()
            require_finite(told)
            self._told.append(told)
        return told

    def _learn_once(self) -> dict[str, float]:
        """One compiled call."""
        count, size = self.config.updates, self.config.batch_size
        sample = self._buffer.draw(
            count * size, self._param("gamma"), self._rng, importance_exponent=self._importance_exponent()
        )
        columns = {
            name: getattr(sample, name).reshape(count, size, *getattr(sample, name).shape[1:])
            for name in Sample.__slots__
            if name != "rows"
        }
        told, errors = self._update(columns | self._noise(count, size), self._coefficients())
        self._buffer.update_priorities(sample.rows, errors.reshape(-1))
        return told

    def _experience(self, window: EpisodeData, start: int) -> Experience:
        if window.next_observations is None:
            raise TransitionMismatchError("next_observations", "one for each row", "None")
        prepare = self._prepare()
        # Whole columns first: a slice of a tree would cost more than what it saves.
        return Experience(
            observations=prepare(window.observations)[start:],
            actions=self._learnable(window)[start:],
            rewards=window.rewards[start:],
            next_observations=prepare(window.next_observations)[start:],
            terminated=window.terminated[start:],
            ends=(window.terminated | window.truncated | window.gaps)[start:],
            streams=window.streams[start:],
            stream_ids=window.stream_ids,
        )

    def _prepare(self) -> EncodedInput:
        return EncodedInput(self._forward.input_shape, self._encoder, *self._scaling)

    @abstractmethod
    def _learnable(self, window: EpisodeData) -> Array:
        """Executed actions as the networks take them; ``[T, …]``.

        Raises:
            TransitionMismatchError: they cannot come from this agent's space.
        """

    @abstractmethod
    def _make_learned(self) -> dict[str, Learned]:
        """What is learned, by name."""

    @abstractmethod
    def _make_update(self, learned: Mapping[str, Learned]) -> FusedUpdate:
        """The compiled update."""

    @abstractmethod
    def _coefficients(self) -> dict[str, float]:
        """The numbers that the update wants now."""

    def _noise(self, count: int, size: int) -> dict[str, Array]:
        """Random columns ``[count, size, …]`` that the update wants."""
        return {}

    def _importance_exponent(self) -> float:
        return 1.0

    # --- state

    def capture_state(self) -> Any:
        """Everything that ``learn`` changes; only the latest capture can be restored, as often as wanted."""
        return super().capture_state(), self._buffer.capture()

    def restore_state(self, state: Any) -> None:
        rest, buffer = state
        super().restore_state(rest)
        self._buffer.restore(buffer)
        self._told = []

    def save_weights(self, path: str) -> None:
        """Write all networks, targets, optimizer slots, counters, generators and what is remembered to ``path``.

        Raises:
            CheckpointError: it could not be written.
        """
        super().save_weights(path)
        self._buffer.save(str(Path(path) / _REPLAY))

    def load_weights(self, path: str) -> None:
        """Restore what ``save_weights`` wrote; all of it or nothing.

        Raises:
            CheckpointError: it is missing, damaged, or of another agent.
        """
        remembered = self._buffer.read(str(Path(path) / _REPLAY))
        super().load_weights(path)
        self._buffer.replace(remembered)
        self._told = []

    def _variables(self) -> dict[str, Any]:
        return {
            f"{group}/{name}": variable
            for group, learned in self._learned.items()
            for name, variable in learned.variables().items()
        }

    def _counters(self) -> dict[str, Any]:
        return super()._counters() | {"due": self._due}

    def _restore_counters(self, counters: dict[str, Any]) -> None:
        super()._restore_counters(counters)
        self._due = float(counters["due"])


def _cut_since(window: EpisodeData, start: int) -> list[StreamId]:
    """Streams of which something was lost after the last of the rows before ``start``."""
    streams = window.streams[:start]
    last = np.full(len(window.stream_ids), -1)
    last[streams] = np.arange(start)  # The last row of each wins.
    return [window.stream_ids[stream] for stream in np.flatnonzero(last >= 0) if window.gaps[last[stream]]]
