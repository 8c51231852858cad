"""Gymnasium environments, single and vector, as producers and as a pausable pipeline."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import anyio
import anyio.to_thread
import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from optix_stream.boundaries import every_n_steps
from optix_stream.clock import Clock, SystemClock
from optix_stream.contracts import BaseAgent, Policy, Producer, TransitionSink, act_one_of
from optix_stream.errors import ConfigurationError
from optix_stream.pipeline import StreamPipeline
from optix_stream.trees import Column, TreeColumn, as_tree, make_column, map_tree, with_batch_axis
from optix_stream.types import Array, TransitionBatch, Tree

Env: TypeAlias = gym.Env[Any, Any] | VectorEnv[Any, Any, Any]

_OBSERVATION_SPACES = (
    spaces.Box,
    spaces.Discrete,
    spaces.MultiDiscrete,
    spaces.MultiBinary,
    spaces.Dict,
    spaces.Tuple,
)
_ACTION_SPACES = (spaces.Discrete, spaces.Box)


class BatchPipeline(StreamPipeline):
    """Steps an environment without end and yields windows of ``window_size`` transitions.

    A window does not end with an episode, nor an episode with a window. The environment is stepped
    in a worker thread, so that one that blocks does not hold up the event loop; it is reset at the
    start of a run, and closing it is left to whoever made it.

    Args:
        env: a Gymnasium environment or vector environment (any autoreset mode).
        agent: may be given as in the original system; must be the controller's agent then.
        window_size: transitions a window, over all sub-environments.
        seed: of the first reset; None: not seeded.
        lockstep: the environment waits while a window is learned from, so that every window is
            acted with the newest weights and one seed gives one run, bit for bit. False: it goes
            on, at most four windows ahead of the one that is learned from.
        clock: the run's clock.

    Raises:
        ConfigurationError: an unsupported space or a window below 1.
    """

    def __init__(
        self,
        env: Env,
        agent: BaseAgent | None = None,
        window_size: int = 200,
        *,
        seed: int | None = None,
        lockstep: bool = True,
        clock: Clock | None = None,
    ) -> None:
        if window_size < 1:
            raise ConfigurationError(f"window_size: expected at least 1 transition, got {window_size}")
        chunk = window_size if lockstep else max(1, min(64, window_size // 4))
        super().__init__(
            boundary=every_n_steps(window_size),
            # What is in flight: as much again drained into windows, and one chunk that waits for room.
            capacity=max(1, 2 * window_size - chunk),
            overflow="block",
            lockstep=lockstep,
            clock=clock,
        )
        self.agent = agent
        self.env = env
        self._producer = GymProducer(env, chunk_size=chunk, seed=seed, clock=self.clock)

    @property
    def is_live(self) -> bool:
        return False

    def producers(self) -> Sequence[Producer]:
        return [self._producer]


class GymProducer:
    """Acts in an environment and pushes batches of ``chunk_size`` transitions.

    Sub-environment ``i`` of a vector environment is stream ``i``. With a vector environment a batch
    may be larger by less than one step of all sub-environments; the next one is then smaller.

    Args:
        env: a Gymnasium environment or vector environment.
        chunk_size: transitions a push.
        seed: of the first reset.
        clock: stamps transitions.

    Raises:
        ConfigurationError: an unsupported space.
    """

    def __init__(self, env: Env, *, chunk_size: int, seed: int | None = None, clock: Clock | None = None) -> None:
        if isinstance(env, VectorEnv):
            check_spaces(env.single_observation_space, env.single_action_space)
        else:
            check_spaces(env.observation_space, env.action_space)
        self._env = env
        self._chunk_size = chunk_size
        self._seed = seed
        self._clock: Clock = clock if clock is not None else SystemClock()

    @property
    def name(self) -> str:
        spec = self._env.spec
        return spec.id if spec is not None else type(self._env).__name__

    async def run(self, policy: Policy, sink: TransitionSink) -> None:
        """Act and push until cancelled.

        Raises:
            Exception: what the environment raised; what was collected before is pushed first.
        """
        env = self._env
        stepper: _Stepper = (
            _VectorStepper(env, policy, self._seed, self._clock)
            if isinstance(env, VectorEnv)
            else _SingleStepper(env, policy, self._seed, self._clock)
        )
        surplus = 0
        while True:
            wanted = max(1, self._chunk_size - surplus)
            chunk = _Chunk(wanted)
            try:
                await anyio.to_thread.run_sync(chunk.fill, stepper, abandon_on_cancel=True)
            except BaseException:
                chunk.is_cancelled = True
                if chunk.has_started:
                    with anyio.CancelScope(shield=True), anyio.move_on_after(_STUCK_SEC):
                        await anyio.to_thread.run_sync(chunk.done.wait, abandon_on_cancel=True)
                raise
            finally:
                batch = stepper.take()
                if batch is not None:
                    surplus = len(batch) - wanted
                    await sink.push(batch)


_STUCK_SEC = 5.0
"""How long a cancelled producer waits for the step under way, so that nobody closes the environment
under its feet; one that takes longer hangs, and its thread is left behind."""


class _Chunk:
    """One visit to the worker thread."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.is_cancelled = False
        self.has_started = False
        self.done = threading.Event()

    def fill(self, stepper: _Stepper) -> None:
        # A visit may be cancelled before it begins. Either side writes its flag before it reads the
        # other's, so that never both believe that the other will act.
        self.has_started = True
        if self.is_cancelled:
            self.done.set()
            return
        try:
            stepper.begin(self._size)
            while stepper.length < self._size and not self.is_cancelled:
                stepper.step(self)
        finally:
            self.done.set()


class _Rows:
    """Columns that are being filled; allocated from the first row, reused afterwards."""

    def __init__(self, capacity: int, observation: Tree, action: Any, extras: Mapping[str, Any]) -> None:
        self.capacity = capacity
        self.observations: Column | TreeColumn = make_column("observation", observation, capacity)
        self.next_observations: Column | TreeColumn = make_column("observation", observation, capacity)
        self.actions = Column("action", action, capacity)
        self.extras = {name: Column(f"extras[{name!r}]", value, capacity) for name, value in extras.items()}
        self.rewards = np.empty(capacity, np.float64)
        self.terminated = np.empty(capacity, np.bool_)
        self.truncated = np.empty(capacity, np.bool_)
        self.streams = np.empty(capacity, np.int32)
        self.times = np.empty(capacity, np.float64)
        self.infos: list[Mapping[str, Any]] = []

    def take(self, length: int, stream_ids: tuple[int, ...]) -> TransitionBatch:
        infos, self.infos = self.infos, []
        return TransitionBatch(
            observations=self.observations.take(length),
            actions=self.actions.take(length),
            rewards=self.rewards[:length].copy(),
            next_observations=self.next_observations.take(length),
            terminated=self.terminated[:length].copy(),
            truncated=self.truncated[:length].copy(),
            streams=self.streams[:length].copy(),
            stream_ids=stream_ids,
            extras={name: column.take(length) for name, column in self.extras.items()},
            infos=infos if any(infos) else None,
            times=self.times[:length].copy(),
        )


class _Stepper:
    """Steps an environment and writes rows. Runs in a worker thread."""

    def __init__(self, seed: int | None, clock: Clock, num_envs: int) -> None:
        self.length = 0
        self._seed = seed
        self._now = clock.now
        self._num_envs = num_envs
        self._stream_ids = tuple(range(num_envs))
        self._capacity = 0
        self._rows: _Rows | None = None
        self._observation: Tree = None

    def begin(self, size: int) -> None:
        self._capacity = size + self._num_envs - 1
        if self._rows is not None and self._rows.capacity < self._capacity:
            self._rows = None
        if self._observation is None:
            self._observation = self._reset()

    def take(self) -> TransitionBatch | None:
        """The rows written since ``begin``, or None."""
        length, self.length = self.length, 0
        return self._rows.take(length, self._stream_ids) if self._rows is not None and length else None

    def _reset(self) -> Tree:
        raise NotImplementedError

    def step(self, chunk: _Chunk) -> None:
        raise NotImplementedError


class _SingleStepper(_Stepper):
    def __init__(self, env: gym.Env[Any, Any], policy: Policy, seed: int | None, clock: Clock) -> None:
        super().__init__(seed, clock, 1)
        self._env = env
        self._act = act_one_of(policy)

    def _reset(self) -> Tree:
        seed, self._seed = self._seed, None
        observation, _ = self._env.reset(seed=seed)
        return as_tree(observation)

    def step(self, chunk: _Chunk) -> None:
        observation = self._observation
        action, extras = self._act(observation)
        rows = self._rows
        if rows is None:
            rows = self._rows = _Rows(self._capacity, observation, action, extras)
            rows.streams[:] = 0
        index = self.length
        # Before the step, because an environment may hand out one buffer again and again.
        rows.observations.store(index, observation)
        rows.actions.store(index, action)
        for name, value in extras.items():
            rows.extras[name].store(index, value)
        next_observation, reward, terminated, truncated, info = self._env.step(action)
        if chunk.is_cancelled:
            return
        next_observation = as_tree(next_observation)
        rows.next_observations.store(index, next_observation)
        rows.rewards[index] = reward
        rows.terminated[index] = terminated
        rows.truncated[index] = truncated
        rows.times[index] = self._now()
        rows.infos.append(info)
        self.length = index + 1
        self._observation = self._reset() if terminated or truncated else next_observation


class _VectorStepper(_Stepper):
    def __init__(self, env: VectorEnv[Any, Any, Any], policy: Policy, seed: int | None, clock: Clock) -> None:
        super().__init__(seed, clock, env.num_envs)
        self._env = env
        self._policy = policy
        self._mode = AutoresetMode(env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        self._is_resetting = np.zeros(env.num_envs, np.bool_)

    def _reset(self) -> Tree:
        seed, self._seed = self._seed, None
        observations, _ = self._env.reset(seed=seed)
        return as_tree(observations)

    def step(self, chunk: _Chunk) -> None:
        observations = self._observation
        decision = self._policy.act(observations)
        rows = self._rows
        if rows is None:
            first = map_tree(lambda leaf: leaf[0], observations)
            extras = {name: column[0] for name, column in decision.extras.items()}
            rows = self._rows = _Rows(self._capacity, first, decision.actions[0], extras)
        # In NEXT_STEP mode, the step after an episode's end only resets and is no transition.
        live = np.flatnonzero(~self._is_resetting)
        start, end = self.length, self.length + len(live)
        rows.observations.store_many(start, map_tree(lambda leaf: leaf[live], observations))
        rows.actions.store_many(start, decision.actions[live])
        for name, column in decision.extras.items():
            rows.extras[name].store_many(start, column[live])
        next_observations, rewards, terminated, truncated, infos = self._env.step(decision.actions)
        if chunk.is_cancelled:
            return
        next_observations = as_tree(next_observations)
        done = np.logical_or(terminated, truncated)
        rows.next_observations.store_many(
            start, map_tree(lambda leaf: leaf[live], self._final(next_observations, done, infos))
        )
        rows.rewards[start:end] = rewards[live]
        rows.terminated[start:end] = terminated[live]
        rows.truncated[start:end] = truncated[live]
        rows.streams[start:end] = live
        rows.times[start:end] = self._now()
        rows.infos.extend(_row_info(infos, int(index)) for index in live)
        self.length = end
        self._observation = next_observations
        if self._mode is AutoresetMode.NEXT_STEP:
            self._is_resetting = done
        elif self._mode is AutoresetMode.DISABLED and done.any():
            self._observation = as_tree(self._env.reset(options={"reset_mask": done})[0])

    def _final(self, observations: Tree, done: Array, infos: Mapping[str, Any]) -> Tree:
        """What each sub-environment saw last; in SAME_STEP mode ``observations`` are those after the reset."""
        if self._mode is not AutoresetMode.SAME_STEP or not done.any():
            return observations
        final = map_tree(np.copy, observations)
        for index in np.flatnonzero(done):
            _put(final, int(index), as_tree(infos["final_obs"][index]))
        return final


def _put(columns: Tree, index: int, row: Tree) -> None:
    def put(column: Array, value: Any) -> None:
        column[index] = value

    map_tree(put, columns, row)


def _row_info(infos: Mapping[str, Any], index: int) -> Mapping[str, Any]:
    """What a vector environment's infos say of this step of one sub-environment."""
    if not infos:
        return infos
    row = _info_of(infos, index)
    # In SAME_STEP mode the top level already speaks of the next episode's reset; wrappers write there too.
    row.pop("final_obs", None)
    final: Mapping[str, Any] = row.pop("final_info", {})
    return {**row, **final}


def _info_of(infos: Mapping[str, Any], index: int, *, is_nested: bool = False) -> dict[str, Any]:
    """One sub-environment's share: a value ``x`` is its own where the mask ``_x`` says so.

    Wrappers nest dicts without masks under a key that has one.
    """
    row: dict[str, Any] = {}
    for name, values in infos.items():
        mask = infos.get(f"_{name}")
        is_mask = name.startswith("_") and name[1:] in infos
        if is_mask or not (is_nested if mask is None else mask[index]):
            continue
        if isinstance(values, dict):
            row[name] = _info_of(values, index, is_nested=True)
        elif isinstance(values, np.ndarray):
            row[name] = values[index]
    return row


def check_spaces(observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
    """Raise ConfigurationError unless both spaces are supported."""
    if not isinstance(action_space, _ACTION_SPACES):
        raise ConfigurationError(f"action space: expected Discrete or Box, got {action_space}")
    if not isinstance(observation_space, _OBSERVATION_SPACES):
        raise ConfigurationError(
            "observation space: expected Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple, "
            f"got {observation_space}"
        )
    parts: Sequence[gym.Space[Any]] = ()
    if isinstance(observation_space, spaces.Dict):
        parts = tuple(observation_space.spaces.values())
    elif isinstance(observation_space, spaces.Tuple):
        parts = observation_space.spaces
    for part in parts:
        check_spaces(part, action_space)


def evaluate_policy(policy: Policy, env: gym.Env[Any, Any], episodes: int, *, seed: int | None = None) -> list[float]:
    """Undiscounted returns of ``episodes`` whole episodes; blocking. Episode ``i`` resets with ``seed + i``.

    Args:
        policy: what acts; nothing is learned.
        env: a single environment.
        episodes: how many.
        seed: of the first episode; None: not seeded.
    """
    returns: list[float] = []
    for episode in range(episodes):
        observation, _ = env.reset(seed=None if seed is None else seed + episode)
        total, is_done = 0.0, False
        while not is_done:
            action = policy.act(with_batch_axis(as_tree(observation))).actions[0]
            observation, reward, terminated, truncated, _ = env.step(action)
            total += float(reward)
            is_done = bool(terminated or truncated)
        returns.append(total)
    return returns
