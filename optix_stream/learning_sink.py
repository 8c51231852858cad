"""Where producers push when the agent learns from transitions before their window is complete."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence

import anyio
import anyio.to_thread

from optix_stream.batching import batch_row
from optix_stream.clock import Clock
from optix_stream.contracts import Intake, StreamItem, TransitionSink
from optix_stream.errors import LearningFailedError
from optix_stream.events import GapDetected, LearningFailed, TransitionsDropped
from optix_stream.types import Transition, TransitionBatch

logger = logging.getLogger(__name__)


class LearningSink:
    """Lets the agent learn from each transition, then hands it on.

    ``push`` does both, and that is all that a producer needs to know: it pushes after it has sent its action. One that
    steps its source in a thread of its own may call ``learn`` there, step by step, and ``hand_on`` the outcomes later.

    Args:
        sink: where everything goes in the end.
        intake: what learns.
        clock: stamps what went wrong.

    Attributes:
        increment: transitions after which the agent wants to learn, at the latest; None where it does not matter.
    """

    def __init__(self, sink: TransitionSink, intake: Intake, clock: Clock) -> None:
        self.increment = intake.increment
        self._sink = sink
        self._fatal: LearningFailedError | None = None
        self._learn_one = intake.learn_one
        self._clock = clock
        self._failures = 0

    @property
    def learns_each(self) -> bool:
        """Whether ``learn`` does anything."""
        return self._learn_one is not None

    async def push(self, item: StreamItem) -> None:
        """Learn from a transition, or each of a batch, and hand it on.

        Raises:
            LearningFailedError: the agent failed too often in a row.
        """
        if self._learn_one is not None and isinstance(item, Transition):
            await self.hand_on(self.learn(item))
        elif self._learn_one is not None and isinstance(item, TransitionBatch):
            for row in range(len(item)):
                await self.hand_on(self.learn(batch_row(item, row)))
        else:
            await self._sink.push(item)

    async def hand_on(self, outcomes: Sequence[StreamItem]) -> None:
        """Push what ``learn`` returned, or batches of it.

        Raises:
            LearningFailedError: the agent failed too often in a row.
        """
        for outcome in outcomes:
            await self._sink.push(outcome)
        if self._fatal is not None:
            raise self._fatal

    async def learn_accepted(self, items: Sequence[StreamItem]) -> tuple[list[StreamItem], Counter[str]]:
        """Learn, in a worker thread, from transitions that were pushed and counted before.

        Returns:
            What is to be handed on, and how many transitions were lost, by reason.
        """
        with anyio.CancelScope(shield=True):  # Else they would be lost, if it came before the thread has begun.
            return await anyio.to_thread.run_sync(self._learn_accepted, items)
        raise AssertionError("unreachable")

    def _learn_accepted(self, items: Sequence[StreamItem]) -> tuple[list[StreamItem], Counter[str]]:
        outcomes: list[StreamItem] = []
        lost = Counter[str]()
        for item in items:
            for part in _singles(item):
                # After the last failure the rest goes on as it is: the run ends before it is learned from.
                learned = self.learn(part) if isinstance(part, Transition) and self._fatal is None else (part,)
                outcomes.extend(learned)
                if isinstance(part, Transition):
                    lost.update({each.reason: each.count for each in learned if isinstance(each, TransitionsDropped)})
        return outcomes, lost

    def learn(self, transition: Transition) -> Sequence[StreamItem]:
        """Learn from one; may be called in any thread.

        Returns:
            What is to be handed on: the transition, or what tells that it was lost.
        """
        assert self._learn_one is not None
        try:
            self._learn_one(transition)
        except Exception as error:
            if isinstance(error, LearningFailedError):
                self._fatal = error
            self._failures += 1
            stream, now = transition.stream, self._clock.now()
            logger.exception("agent.learn_one failed on a transition of stream %s", stream)
            return (
                LearningFailed(window=None, transitions=1, failures=self._failures, error=repr(error), time=now),
                TransitionsDropped(reason="learning_failed", count=1, stream=stream, time=now),
                GapDetected(stream=stream, reason="learning failed", missed=1, time=now),
            )
        self._failures = 0
        return (transition,)


def _singles(item: StreamItem) -> Iterable[StreamItem]:
    return (batch_row(item, row) for row in range(len(item))) if isinstance(item, TransitionBatch) else (item,)
