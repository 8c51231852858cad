"""One window is learned from, or not: either way it is accounted for and told."""

from __future__ import annotations

import logging

from optix_stream.clock import Clock
from optix_stream.contracts import EventSink, WindowSource
from optix_stream.errors import LearnerLostError, LearningFailedError
from optix_stream.events import LearningFailed, WindowLearned
from optix_stream.learner import Learner
from optix_stream.run_state import Progress
from optix_stream.types import EpisodeData

logger = logging.getLogger(__name__)


class Lessons:
    """Lets the agent learn, window by window.

    Args:
        learner: holds the agent.
        progress: counts failures.
        events: where it is told.
        clock: stamps events.
        max_failures: windows in a row on which learning may fail before the run does.
    """

    def __init__(
        self, *, learner: Learner, progress: Progress, events: EventSink, clock: Clock, max_failures: int
    ) -> None:
        self._learner = learner
        self._progress = progress
        self._events = events
        self._clock = clock
        self._max_failures = max_failures

    async def learn(self, source: WindowSource, window: EpisodeData) -> dict[str, float] | None:
        """Learn from a window; None where that failed, and nothing was learned.

        Raises:
            LearningFailedError: it failed too often in a row.
            LearnerLostError: what holds the agent is lost for good.
        """
        try:
            diagnostics = await self._learner.learn(window)
        except Exception as error:
            is_lost = isinstance(error, LearnerLostError)
            source.record_dropped(window, "learner_lost" if is_lost else "learning_failed")
            self._fail(window, error)
            return None
        except BaseException:
            source.record_dropped(window, "cancelled")
            raise
        source.record_learned(window)
        self._progress.failures = 0
        self._events.emit(
            WindowLearned(
                window=window.episode_id,
                transitions=window.length,
                diagnostics=dict(diagnostics),
                time=self._clock.now(),
            )
        )
        return diagnostics

    def _fail(self, window: EpisodeData, error: Exception) -> None:
        progress = self._progress
        progress.failures += 1
        logger.error("agent.learn failed on window %d", window.episode_id, exc_info=error)
        self._events.emit(
            LearningFailed(
                window=window.episode_id,
                transitions=window.length,
                failures=progress.failures,
                error=repr(error),
                time=self._clock.now(),
            )
        )
        if isinstance(error, LearnerLostError) and error.is_final:
            raise error
        if progress.failures >= self._max_failures:
            raise LearningFailedError(progress.failures, window.episode_id, error) from error
