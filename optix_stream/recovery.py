"""After a fall: finds out what was to blame, and goes back to the best policy where that helps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from optix_stream.checkpointing import Checkpointer
from optix_stream.clock import Clock
from optix_stream.contracts import BaseEvaluator, EventSink, Verdict
from optix_stream.errors import CheckpointError
from optix_stream.evaluators import checked_score
from optix_stream.events import RolledBack, SwitchbackStarted
from optix_stream.switchback import Arm, Comparison, Switchback, SwitchbackConfig, WholeEpisodes
from optix_stream.types import EpisodeData, EvalMetrics, PolicySnapshot

NextWindow = Callable[[], Awaitable[EpisodeData | None]]
"""A window in which the policy in force acted, and from which nobody learns; None: there is none."""


class Recovery:
    """Compares the best policy with the live one, and rolls back.

    Args:
        checkpoints: save and load policies.
        evaluator: scores windows.
        events: where it is told.
        clock: stamps events.
        switchback: how long to compare; None: the source cannot be had to oneself for that.

    Attributes:
        is_comparing: whether that is under way, so that nothing is to be learned.
    """

    def __init__(
        self,
        *,
        checkpoints: Checkpointer,
        evaluator: BaseEvaluator,
        events: EventSink,
        clock: Clock,
        switchback: SwitchbackConfig | None,
    ) -> None:
        self._checkpoints = checkpoints
        self._evaluator = evaluator
        self._events = events
        self._clock = clock
        self._config = switchback
        self.is_comparing = False

    async def roll_back(self, window: int) -> bool:
        """Give the agent the best policy, if there is one that can be read; tells either way."""
        try:
            snapshot = await self._checkpoints.load_best(window)
        except CheckpointError as error:
            self._checkpoints.tell_failure(window, error)
            return False
        if snapshot is not None:
            self._events.emit(RolledBack(window=window, snapshot=snapshot, time=self._clock.now()))
        return snapshot is not None

    async def find_cause(self, verdict: Verdict, metrics: EvalMetrics, next_window: NextWindow) -> Comparison | None:
        """Let both policies act for some windows; the live one is in force again afterwards.

        Returns:
            What that showed; None where it cannot be done, or was cut short.
        """
        window, reference = metrics.episode_id, verdict.reference
        if self._config is None or reference is None:
            return None
        fallen_to = metrics.primary_score if verdict.score is None else verdict.score
        switchback = Switchback(reference, fallen_to, self._config, seed=(0, window))
        try:
            live = await self._checkpoints.save_aside(metrics, "to be compared with the best")
            self._events.emit(
                SwitchbackStarted(
                    window=window,
                    windows_each=switchback.windows_each,
                    evidence=verdict.evidence,
                    time=self._clock.now(),
                )
            )
            self.is_comparing = True
            try:
                is_whole = await self._act_in_turn(switchback, live, next_window)
            finally:
                self.is_comparing = False
            await self._checkpoints.load(live)
        except CheckpointError as error:
            self._checkpoints.tell_failure(window, error)
            return None
        return switchback.conclude() if is_whole else None

    async def _act_in_turn(self, switchback: Switchback, live: PolicySnapshot, next_window: NextWindow) -> bool:
        in_force: Arm | None = None
        episodes = WholeEpisodes()
        while (arm := switchback.next_arm) is not None:
            if arm != in_force:
                if arm == "live":
                    await self._checkpoints.load(live)
                else:
                    await self._checkpoints.load_best(live.episode_id)
                in_force, episodes = arm, WholeEpisodes()
            window = await next_window()
            if window is None:
                return False
            metrics = checked_score(self._evaluator.score(episodes.of(window), {}), window)
            switchback.add(None if metrics is None else metrics.primary_score)
        return True
