"""One run of a feed: steps come in, decisions go out, transitions go to the sink; losses are told.

What makes transitions of steps is in ``alignment``; what runs a particular source (an object with
``stream()``, a socket, a file) brings its steps here.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import anyio
import msgspec

from optix_stream.alignment import Aligner, RewardFn, UnusableStepError
from optix_stream.clock import Clock
from optix_stream.contracts import Policy, StreamItem, TransitionSink, act_one_of
from optix_stream.deadlines import ActDeadline, PunctualActor
from optix_stream.delayed_rewards import DelayedRewards
from optix_stream.errors import ActingFailedError, ConfigurationError, QueueClosedError, SourceFailedError
from optix_stream.events import CircuitOpened, DeadlineMissed, SourceLost, SourceRegained, TransitionsDropped
from optix_stream.reconnecting import BreakerPolicy, CircuitBreaker, ReconnectPolicy
from optix_stream.types import StreamId, Transition, Tree

logger = logging.getLogger(__name__)


class FeedAction(NamedTuple):
    """An action on its way to the source.

    Attributes:
        action: what is executed.
        stream: whose observation it answers.
        decision_id: what a delayed reward names.
    """

    action: Any
    stream: StreamId
    decision_id: int


Answer: TypeAlias = Callable[[FeedAction], Awaitable[None] | None]
"""Sends an action back to the source."""


class FeedOptions(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """How the steps of a feed become transitions.

    Attributes:
        reward_fn: computes the rewards that the feed does not carry.
        delayed_rewards: rewards come later, on their own.
        deadline: by when to act, and what to do else.
    """

    reward_fn: RewardFn | None = None
    delayed_rewards: DelayedRewards | None = None
    deadline: ActDeadline | None = None

    def __post_init__(self) -> None:
        if self.reward_fn is not None and self.delayed_rewards is not None:
            raise ConfigurationError("expected rewards from reward_fn or delayed_rewards, got both")


class FeedSession:
    """Turns one source's steps into transitions, acts on them, and tells when the source is lost.

    Args:
        policy: decides.
        sink: takes the transitions.
        clock: stamps them.
        name: names the source in events.
        options: how steps become transitions.
        stream: names the stream of steps that name none.
    """

    def __init__(
        self,
        policy: Policy,
        sink: TransitionSink,
        clock: Clock,
        name: str,
        options: FeedOptions | None = None,
        stream: StreamId = 0,
    ) -> None:
        options = options if options is not None else FeedOptions()
        self.delivered = False
        """Whether the present attempt has brought anything."""
        self.now = clock.now
        self.aligner = Aligner(reward_fn=options.reward_fn, delayed_rewards=options.delayed_rewards, stream=stream)
        self._act = act_one_of(policy)
        self._punctual = PunctualActor(policy, options.deadline) if options.deadline is not None else None
        self._clock = clock
        self._sink = sink
        self._name = name
        self._failed_attempts = 0
        self._is_lost = False

    # -- steps ----------------------------------------------------------------------------------

    def step(self, item: Any, now: float) -> tuple[tuple[StreamItem, ...], FeedAction | None]:
        """One step without deadlines, in any thread: what it completes and the action it calls for.

        Args:
            item: the step.
            now: when it came, on the session's clock.

        Raises:
            UnusableStepError: the step cannot be used; see its ``events``.
        """
        completed, stream, observation = self.aligner.arrive(item, now)
        self.delivered = True
        if observation is None:
            return completed, None
        action, extras = self._decide(observation)
        return completed, FeedAction(action, stream, self.aligner.decide(stream, observation, action, extras, now))

    async def reject(self, detail: str, stream: StreamId | None = None) -> None:
        """A message that could not be read; ``stream`` is whose it was, None where it does not say."""
        await self.push_all(self.aligner.malformed(detail, stream).events(self.now()))

    async def handle(self, item: Any, answer: Answer | None, arrived: float | None = None) -> None:
        """One step, from its arrival to the transition in the sink.

        Args:
            item: the step.
            answer: sends the action; None where the source wants none.
            arrived: when it came, on the session's clock, which is the time of the transition; None: now.
        """
        now = self.now() if arrived is None else arrived
        try:
            completed, stream, observation = self.aligner.arrive(item, now)
        except UnusableStepError as error:
            await self.push_all(error.events(now))
            return
        self.delivered = True
        if self._is_lost:
            await self._regain()
        try:
            if observation is None:
                pass
            elif self._punctual is None:
                action, extras = self._decide(observation)
                decision_id = self.aligner.decide(stream, observation, action, extras, now)
                if answer is not None:
                    sending = answer(FeedAction(action, stream, decision_id))
                    if sending is not None:
                        await sending
            else:
                completed += await self._act_in_time(self._punctual, stream, observation, answer, now)
        finally:
            # Last, so that nothing delays the action; and also when sending failed or was cancelled, because the
            # transition is whole and not to be lost.
            if len(completed) == 1:
                await self._sink.push(completed[0])
            elif completed:
                await self.push_all(completed)

    def _decide(self, observation: Tree) -> tuple[Any, Mapping[str, Any]]:
        try:
            return self._act(observation)
        except Exception as error:
            raise ActingFailedError(self._name, error) from error

    async def _act_in_time(
        self, actor: PunctualActor, stream: StreamId, observation: Tree, answer: Answer | None, arrived: float
    ) -> tuple[StreamItem, ...]:
        try:
            execution = await actor.act(observation, stream, self.now() - arrived)
        except Exception as error:
            raise ActingFailedError(self._name, error) from error
        now = self.now()
        events: tuple[StreamItem, ...] = ()
        if execution.missed is not None:
            events = (
                DeadlineMissed(
                    stream=stream,
                    reason=execution.missed,
                    age_sec=now - arrived,
                    is_held=execution.is_held,
                    time=now,
                ),
            )
        if execution.is_held:
            return (*self.aligner.hold(stream, execution.missed or "held", now), *events)
        decision_id = self.aligner.decide(stream, observation, execution.action, execution.extras, now)
        if answer is not None:
            sending = answer(FeedAction(execution.action, stream, decision_id))
            if sending is not None:
                await sending
        return events

    async def push_all(self, items: Sequence[StreamItem]) -> None:
        """Push in order; what a cancellation leaves unpushed is accounted for."""
        pushed = 0
        try:
            if self.delivered and self._is_lost:
                await self._regain()
            for item in items:
                pushed += 1
                await self._sink.push(item)
        except BaseException:
            # push() has accounted for the item it was given; the ones behind it are accounted here.
            left = sum(isinstance(item, Transition) for item in items[pushed:])
            if left:
                with anyio.CancelScope(shield=True):
                    await self._sink.push(TransitionsDropped(reason="cancelled", count=left, time=self.now()))
            raise

    # -- supervision ----------------------------------------------------------------------------

    async def supervise(
        self, attempt: Callable[[], Awaitable[None]], reconnect: ReconnectPolicy | None, rng: random.Random
    ) -> None:
        """Run the source, again and again where it reconnects.

        Args:
            attempt: runs it once, from connecting to its end.
            reconnect: how to go on when it ends or fails; None: the end is the end.
            rng: of the jitter.

        Raises:
            SourceFailedError: too many attempts in a row delivered nothing.
            ActingFailedError: the policy raised.
            ConfigurationError: the source cannot work as it is.
            Exception: what the source raised, where there is no reconnecting.
        """
        try:
            await self._run_attempts(attempt, reconnect, rng)
        finally:
            await self.abandon()

    async def _run_attempts(
        self, attempt: Callable[[], Awaitable[None]], reconnect: ReconnectPolicy | None, rng: random.Random
    ) -> None:
        breaker = CircuitBreaker(reconnect.breaker) if reconnect is not None and reconnect.breaker is not None else None
        while True:
            self.delivered = False
            self.aligner.restart_sequences()
            error: Exception | None = None
            try:
                await attempt()
            except (ConfigurationError, ActingFailedError, QueueClosedError):
                raise  # Trying again would not mend it.
            except Exception as caught:
                if reconnect is None:
                    raise
                error = caught
                logger.warning("source %s failed", self._name, exc_info=caught)
            reason = "stream ended" if error is None else repr(error)
            if reconnect is None:
                await self.push_all(self.aligner.finish(self.now()))
                await self._sink.push(SourceLost(source=self._name, error=reason, retry_sec=None, time=self.now()))
                return
            # A stream that delivered and then ended is one session of a feed that comes in sessions.
            is_failure = error is not None or not self.delivered
            wait = self._back_off(reconnect, rng) if is_failure else 0.0
            opened: CircuitOpened | None = None
            if is_failure and breaker is not None and breaker.record_failure(self.now()):
                opened = self._open_circuit(breaker.policy)
                wait = max(wait, opened.cool_down_sec)
            await self.lose(reason, wait)
            if opened is not None:
                await self._sink.push(opened)
            await self._clock.sleep(wait)

    def _back_off(self, reconnect: ReconnectPolicy, rng: random.Random) -> float:
        attempt = self._failed_attempts = 1 if self.delivered else self._failed_attempts + 1
        if reconnect.max_attempts is not None and attempt > reconnect.max_attempts:
            raise SourceFailedError(self._name, attempt)
        return reconnect.wait_sec(attempt, rng)

    def _open_circuit(self, policy: BreakerPolicy) -> CircuitOpened:
        return CircuitOpened(
            source=self._name, failures=policy.failures, cool_down_sec=policy.cool_down_sec, time=self.now()
        )

    async def lose(self, reason: str, retry_sec: float | None) -> None:
        """The source is gone."""
        now = self.now()
        self._is_lost = True
        self.delivered = False
        lost = SourceLost(source=self._name, error=reason, retry_sec=retry_sec, time=now)
        await self.push_all((lost, *self.aligner.interrupt(f"source lost: {reason}", now)))

    async def end(self, reason: str) -> None:
        """The source is gone for good."""
        await self.lose(reason, None)
        await self.push_all(self.aligner.finish(self.now()))

    async def abandon(self) -> None:
        """The run is over: what still waits for its reward is counted, and goes no further."""
        count = self.aligner.abandon()
        if count:
            dropped = TransitionsDropped(reason="run ended before the reward came", count=count, time=self.now())
            with anyio.CancelScope(shield=True):
                await self._sink.push(dropped)

    async def _regain(self) -> None:
        self._is_lost = False
        attempts, self._failed_attempts = self._failed_attempts, 0
        await self._sink.push(SourceRegained(source=self._name, attempts=attempts, time=self.now()))
