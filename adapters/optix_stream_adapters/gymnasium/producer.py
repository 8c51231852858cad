"""An environment as a producer."""

from __future__ import annotations

from typing import Any, TypeAlias

import anyio
import anyio.to_thread
import gymnasium as gym
from gymnasium.vector import VectorEnv

from optix_stream.clock import Clock, SystemClock
from optix_stream.contracts import Policy, TransitionSink
from optix_stream.learning_sink import LearningSink
from optix_stream.types import TransitionBatch
from optix_stream_adapters.gymnasium.single import SingleStepper
from optix_stream_adapters.gymnasium.stepper import Stepper, Visit
from optix_stream_adapters.gymnasium.supported_spaces import check_spaces
from optix_stream_adapters.gymnasium.vector import VectorStepper

Env: TypeAlias = gym.Env[Any, Any] | VectorEnv[Any, Any, Any]

_STUCK_SEC = 5.0
"""How long a cancelled producer waits for the step under way, so that nobody closes the environment
under its feet; one that takes longer hangs, and its thread is left behind."""


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
        learning = sink if isinstance(sink, LearningSink) else None
        learn = learning.learn if learning is not None and learning.learns_each else None
        chunk_size = self._chunk_size
        if learning is not None and learning.increment is not None:
            chunk_size = min(chunk_size, learning.increment)
        stepper: Stepper = (
            VectorStepper(env, policy, self._seed, self._clock, learn)
            if isinstance(env, VectorEnv)
            else SingleStepper(env, policy, self._seed, self._clock, learn)
        )
        surplus = 0
        while True:
            wanted = max(1, chunk_size - surplus)
            visit = Visit(wanted)
            try:
                await anyio.to_thread.run_sync(visit.run, stepper, abandon_on_cancel=True)
            except BaseException:
                visit.is_cancelled = True
                if visit.has_started:
                    with anyio.CancelScope(shield=True), anyio.move_on_after(_STUCK_SEC):
                        await anyio.to_thread.run_sync(visit.done.wait, abandon_on_cancel=True)
                raise
            finally:
                items = visit.items if visit.done.is_set() else stepper.take()
                if chunk_size == self._chunk_size:  # Increments need not meet the window's end.
                    surplus = sum(len(item) for item in items if isinstance(item, TransitionBatch)) - wanted
                if learn is not None and learning is not None:
                    await learning.hand_on(items)
                else:
                    for item in items:
                        await sink.push(item)
