"""An environment as a producer."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import anyio
import anyio.to_thread
import gymnasium as gym
from gymnasium.vector import VectorEnv

from optix_stream.clock import Clock, SystemClock
from optix_stream.contracts import Policy, Restful, Stateful, StreamItem, TransitionSink
from optix_stream.errors import CheckpointError, ConfigurationError
from optix_stream.events import GapDetected
from optix_stream.learning_sink import LearningSink
from optix_stream.trees import as_tree
from optix_stream.types import TransitionBatch
from optix_stream.wire import decode, encode, unpack
from optix_stream_adapters.gymnasium.environment_state import Env, OpaqueEnvironment, StatefulEnvironment, stateful
from optix_stream_adapters.gymnasium.single import SingleStepper
from optix_stream_adapters.gymnasium.stepper import Learn, Stepper, Visit
from optix_stream_adapters.gymnasium.supported_spaces import check_spaces
from optix_stream_adapters.gymnasium.vector import VectorStepper

logger = logging.getLogger(__name__)

_STUCK_SEC = 5.0
"""How long a cancelled producer waits for the step under way, so that nobody closes the environment
under its feet; one that takes longer hangs, and its thread is left behind."""


class GymProducer(Restful, Stateful):
    """Acts in an environment and pushes batches of ``chunk_size`` transitions.

    Sub-environment ``i`` of a vector environment is stream ``i``. With a vector environment a batch
    may be larger by less than one step of all sub-environments; the next one is then smaller.

    Args:
        env: a Gymnasium environment or vector environment.
        chunk_size: transitions a push.
        seed: of the first reset.
        clock: stamps transitions.
        keeps_place: whether its state says where the environment is, for a run that goes on later; only where each
            push waits for what it brings about. An environment that cannot be put back there begins a new episode.

    Raises:
        ConfigurationError: an unsupported space, or no environment.
    """

    def __init__(
        self,
        env: Env,
        *,
        chunk_size: int,
        seed: int | None = None,
        clock: Clock | None = None,
        keeps_place: bool = False,
    ) -> None:
        if isinstance(env, VectorEnv):
            check_spaces(env.single_observation_space, env.single_action_space)
        elif isinstance(env, gym.Env):
            check_spaces(env.observation_space, env.action_space)
        else:
            raise ConfigurationError(f"env: expected an environment such as gymnasium.make makes, got {env!r}")
        self._env = env
        self._chunk_size = chunk_size
        self._seed = seed
        self._clock: Clock = clock if clock is not None else SystemClock()
        self._keeps_place = keeps_place
        self._saved: Mapping[str, Any] | None = None
        self._place: StatefulEnvironment | None = None
        self._stepper: Stepper | None = None
        # Transitions that were pushed beyond what was wanted; below 0: that are missing.
        self._surplus = 0
        self._visit: Visit | None = None
        self._is_at_rest = self._is_to_rest = False
        self._rested: anyio.Event | None = None

    @property
    def name(self) -> str:
        spec = self._env.spec
        return spec.id if spec is not None else type(self._env).__name__

    async def run(self, policy: Policy, sink: TransitionSink) -> None:
        """Act and push until cancelled.

        Raises:
            Exception: what the environment raised; what was collected before is pushed first.
        """
        learning = sink if isinstance(sink, LearningSink) else None
        learn = learning.learn if learning is not None and learning.learns_each else None
        chunk_size = self._chunk_size
        if learning is not None and learning.increment is not None:
            chunk_size = min(chunk_size, learning.increment)
        place = stateful(self._env) if self._keeps_place else OpaqueEnvironment(self._env, "it does not wait")
        self._surplus = 0
        with contextlib.closing(place):
            stepper = _make_stepper(place.env, policy, self._seed, self._clock, learn)
            saved, self._saved = self._saved, None
            if saved is not None and saved["stepper"]["observation"] is not None:
                try:
                    await anyio.to_thread.run_sync(_go_on, place, stepper, saved, abandon_on_cancel=True)
                    self._surplus = saved["surplus"]
                except CheckpointError as error:
                    stepper = _make_stepper(place.env, policy, None, self._clock, learn)
                    for gap in self._gaps(error):
                        await sink.push(gap)
            self._place, self._stepper = place, stepper
            try:
                while True:
                    await self._make_visit(stepper, chunk_size, sink, learning if learn is not None else None)
            finally:
                self._place = self._stepper = self._rested = None
                self._is_at_rest = self._is_to_rest = False

    async def _make_visit(
        self, stepper: Stepper, chunk_size: int, sink: TransitionSink, learned: LearningSink | None
    ) -> None:
        wanted = max(1, chunk_size - self._surplus)
        visit = self._visit = Visit(wanted)
        if self._is_to_rest:
            visit.cut_short()
        try:
            await anyio.to_thread.run_sync(visit.run, stepper, abandon_on_cancel=True)
        except BaseException:
            visit.cancel()
            if visit.has_started:
                with anyio.CancelScope(shield=True), anyio.move_on_after(_STUCK_SEC):
                    await anyio.to_thread.run_sync(visit.done.wait, abandon_on_cancel=True)
            raise
        finally:
            items = visit.items if visit.done.is_set() else stepper.take()
            if chunk_size == self._chunk_size or visit.is_cut_short:  # Increments need not meet the window's end.
                self._surplus = sum(len(item) for item in items if isinstance(item, TransitionBatch)) - wanted
            await self._hand_over(items, sink, learned)

    async def _hand_over(self, items: Sequence[StreamItem], sink: TransitionSink, learned: LearningSink | None) -> None:
        # With several, what a push waits for may come about between them.
        self._is_at_rest = len(items) <= 1
        if self._is_to_rest and self._rested is not None:
            self._rested.set()
        if learned is not None:
            await learned.hand_on(items)
        else:
            for item in items:
                await sink.push(item)
        if self._is_to_rest:
            await anyio.sleep_forever()
        self._is_at_rest = False

    async def rest(self) -> None:
        self._is_to_rest = True
        if self._is_at_rest:
            return
        rested = self._rested = anyio.Event()
        if self._visit is not None:
            self._visit.cut_short()
        # One that is stuck is not waited for; it says so when it is asked for its state.
        with anyio.move_on_after(_STUCK_SEC):
            await rested.wait()

    def state_dict(self) -> Mapping[str, Any]:
        if self._place is None or self._stepper is None:
            return self._saved if self._saved is not None else {"stepper": {"observation": None}}
        if not self._is_at_rest:
            raise CheckpointError(f"{self.name} is in the midst of a step")
        place, reason = None, ""
        try:
            place = self._place.state_dict()
        except CheckpointError as error:
            reason = str(error)
        return {"stepper": self._stepper.state_dict(), "place": place, "reason": reason, "surplus": self._surplus}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._saved = state

    def _gaps(self, error: CheckpointError) -> list[GapDetected]:
        logger.warning("%s begins new episodes, because it cannot be put back where it was: %s", self.name, error)
        count = self._env.num_envs if isinstance(self._env, VectorEnv) else 1
        reason = f"the environment could not be put back where it was: {error}"
        return [GapDetected(stream=stream, reason=reason, time=self._clock.now()) for stream in range(count)]


def _make_stepper(env: Env, policy: Policy, seed: int | None, clock: Clock, learn: Learn | None) -> Stepper:
    if isinstance(env, VectorEnv):
        return VectorStepper(env, policy, seed, clock, learn)
    return SingleStepper(env, policy, seed, clock, learn)


def _go_on(place: StatefulEnvironment, stepper: Stepper, saved: Mapping[str, Any]) -> None:
    """Put the environment and who steps it back where they were."""
    if saved["place"] is None:
        raise CheckpointError(saved["reason"])
    try:
        place.load_state_dict(saved["place"])
        shown, expected = place.observe(), decode(unpack(saved["stepper"]["observation"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"expected the state of such an environment, got another: {error!r}") from error
    if shown is not None and encode(shown) != encode(as_tree(expected)):
        raise CheckpointError("it does not show what it showed")
    stepper.load_state_dict(saved["stepper"])
