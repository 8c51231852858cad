"""The loop: window after window, learn, score, judge, save, tune. Glue only; the parts decide."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial

import anyio
from anyio.abc import TaskGroup

from optix_stream.arguments import expect
from optix_stream.bus import EventBus, Subscription
from optix_stream.callbacks import CallbackRunner, LoopCallback
from optix_stream.checkpointing import EVERY_MINUTE, Checkpointer, CheckpointEvery
from optix_stream.checkpoints import CheckpointRegistry
from optix_stream.clock import Clock, SystemClock
from optix_stream.contracts import (
    BaseAgent,
    BaseEvaluator,
    BaseOptimizer,
    BasePipeline,
    Judge,
    Policy,
    WindowSource,
)
from optix_stream.decisions import Decisions
from optix_stream.errors import (
    AlreadyRunningError,
    ConfigurationError,
)
from optix_stream.evaluators import checked_score
from optix_stream.events import (
    Event,
    HyperparamsChanged,
    LoopStarted,
    LoopStopped,
    StateChanged,
    WatchdogStarted,
    WindowAssembled,
    WindowScored,
)
from optix_stream.intake_gate import gated
from optix_stream.journal import Journal, JournalOptions
from optix_stream.judges import ThresholdJudge
from optix_stream.learner import Learner, LearnerPlacement, make_learner
from optix_stream.lessons import Lessons
from optix_stream.pipeline import StreamPipeline
from optix_stream.recipes import AgentRecipe
from optix_stream.recovery import Recovery
from optix_stream.run_state import Progress
from optix_stream.scheduler import BackoffScheduler
from optix_stream.switchback import SwitchbackConfig
from optix_stream.types import EpisodeData, LoopState, PolicySnapshot, RunReport, Statistics
from optix_stream.validation import Validation

logger = logging.getLogger(__name__)

_JOURNAL = "journal.sqlite"
_EVERY = "how often, such as CheckpointEvery(windows=5) or CheckpointEvery(sec=60)"
_SWITCHBACK = SwitchbackConfig()


class LoopController:
    """Owns the loop. ``await run()`` in any task of any app; it brings no event loop of its own.

    Args:
        agent: learns and acts; or how it is made, for a process of its own whose libraries are not needed here.
        evaluator: scores windows.
        optimizer: tunes hyperparameters.
        pipeline: where windows come from.
        checkpoint_registry: where snapshots go.
        backoff_scheduler: states and intervals.
        rollback_on_degradation: go back to the best snapshot when the score falls.
        improvement_margin: of the default judge, in score units.
        max_episodes: stop after this many windows; None: no limit.
        callbacks: hooks, see ``LoopCallback``.
        judge: decides what a score means; by default a ``ThresholdJudge``.
        max_learning_failures: windows (or, for ``learn_one``, transitions) in a row on which learning may raise
            before the run fails.
        clock: the run's clock.
        learner: where the agent learns: ``"thread"``, ``"process"`` or ``ProcessOptions``. By default a live
            pipeline's agent that learns from windows and says how it is made (``Reproducible``) gets a process, if
            its policy can act here without it, and every other agent a thread.
        resume: go on from the last checkpoint in the registry's directory, where there is one.
        checkpoint_every: how often the state of the run is saved, besides when it ends.
        journal: keep what a live pipeline accepts between two checkpoints, beside these: after a kill, ``resume``
            learns from it first. What a pipeline takes is accepted, and only then learned from, when it is on the disk.
        switchback: how the best policy and the live one are compared before a rollback, where the source can be
            paused and the judge says what it compares with; None: they are not.
        validation: a second pipeline, which can be paused and on which the agent only acts, without exploration: after
            each window one of these, whose score is the one that is judged.
        watchdog_learning: share of the windows that a live run goes on learning from once it is trained.

    Raises:
        ConfigurationError: a process for an agent without a recipe, a pipeline made for another agent, a journal
            for a pipeline that is not live, a limit below 1, or an argument of another type than stated.
    """

    def __init__(
        self,
        agent: BaseAgent | AgentRecipe,
        evaluator: BaseEvaluator,
        optimizer: BaseOptimizer,
        pipeline: BasePipeline,
        checkpoint_registry: CheckpointRegistry,
        backoff_scheduler: BackoffScheduler,
        rollback_on_degradation: bool = False,
        improvement_margin: float = 0.0,
        max_episodes: int | None = None,
        callbacks: Sequence[LoopCallback] | None = None,
        *,
        judge: Judge | None = None,
        max_learning_failures: int = 3,
        clock: Clock | None = None,
        learner: LearnerPlacement = None,
        resume: bool = False,
        checkpoint_every: CheckpointEvery = EVERY_MINUTE,
        journal: bool | JournalOptions = False,
        switchback: SwitchbackConfig | None = _SWITCHBACK,
        validation: BasePipeline | None = None,
        watchdog_learning: float = 1.0,
    ) -> None:
        expect("evaluator", evaluator, BaseEvaluator, "a BaseEvaluator")
        expect("optimizer", optimizer, BaseOptimizer, "a BaseOptimizer, such as PairedBlockTuner()")
        expect("pipeline", pipeline, BasePipeline, "one such as BatchPipeline(env)")
        expect("checkpoint_registry", checkpoint_registry, CheckpointRegistry, "a CheckpointRegistry")
        expect("backoff_scheduler", backoff_scheduler, BackoffScheduler, "a BackoffScheduler")
        expect("checkpoint_every", checkpoint_every, CheckpointEvery, _EVERY)
        if callbacks is not None:
            expect("callbacks", callbacks, Sequence, "a list of LoopCallback")
            for number, callback in enumerate(callbacks):
                expect(f"callbacks[{number}]", callback, LoopCallback, "a LoopCallback")
        if pipeline.agent is not None and pipeline.agent is not agent:
            raise ConfigurationError("the pipeline was made for another agent than the controller's")
        if max_episodes is not None and max_episodes < 1:
            raise ConfigurationError(f"max_episodes: expected at least 1 window, got {max_episodes}")
        if max_learning_failures < 1:
            raise ConfigurationError(f"max_learning_failures: expected at least 1, got {max_learning_failures}")
        if not 0.0 <= watchdog_learning <= 1.0:
            raise ConfigurationError(f"watchdog_learning: expected a share from 0 to 1, got {watchdog_learning}")
        self._evaluator = evaluator
        self._optimizer = optimizer
        self._pipeline = pipeline
        self._registry = checkpoint_registry
        self._scheduler = backoff_scheduler
        self._max_episodes = max_episodes
        self._clock: Clock = clock if clock is not None else SystemClock()
        self._judge: Judge = (
            judge
            if judge is not None
            else ThresholdJudge(improvement_margin, backoff_scheduler.degradation_threshold, compare=evaluator.compare)
        )
        self._bus = EventBus(self._clock)
        self._callbacks = CallbackRunner(callbacks or (), self._bus, self._clock)
        self._learner: Learner = make_learner(
            agent, learner, is_live=pipeline.is_live, clock=self._clock, max_failures=max_learning_failures
        )
        self._journal = _make_journal(journal, checkpoint_registry, pipeline)
        self._checkpoints = Checkpointer(
            checkpoint_registry,
            self._learner,
            self._bus,
            self._clock,
            every=checkpoint_every,
            resume=resume,
            is_live=pipeline.is_live,
            journal=self._journal,
        )
        self._validation = None if validation is None else Validation(validation, self._learner, evaluator)
        self._watchdog_learning = watchdog_learning
        self._progress = Progress()
        self._lessons = Lessons(
            learner=self._learner,
            progress=self._progress,
            events=self._bus,
            clock=self._clock,
            max_failures=max_learning_failures,
        )
        self._recovery = Recovery(
            checkpoints=self._checkpoints,
            evaluator=evaluator,
            events=self._bus,
            clock=self._clock,
            switchback=None if pipeline.is_live and validation is None else switchback,
        )
        self._decisions = Decisions(
            judge=self._judge,
            scheduler=backoff_scheduler,
            optimizer=optimizer,
            progress=self._progress,
            checkpoints=self._checkpoints,
            events=self._bus,
            clock=self._clock,
            recovery=self._recovery,
            rolls_back=rollback_on_degradation,
        )
        self._is_running = False
        self._stop_requested = False
        self._learned_before = 0
        self._waiting: anyio.CancelScope | None = None

    # -- for those who watch --------------------------------------------------------------------

    @property
    def state(self) -> LoopState:
        """What the loop is doing."""
        return self._scheduler.current_state

    @property
    def best_snapshot(self) -> PolicySnapshot | None:
        """The best policy of this run so far."""
        return self._registry.best

    def statistics(self) -> Statistics:
        """Where every transition of this run is."""
        return self._pipeline.statistics()

    def events(
        self, buffer_size: int = 1024, name: str | None = None, *, kinds: Collection[type[Event]] | None = None
    ) -> Subscription:
        """Subscribe: ``async with controller.events() as events: async for event in events: …``.

        The iteration ends after ``LoopStopped``.

        Args:
            buffer_size: events held while the subscriber is busy.
            name: names the subscriber in ``SubscriberLagging``.
            kinds: the types of the events that are wanted, besides ``LoopStopped`` and ``SubscriberLagging``; worth
                saying where a feed may bring events with each step. None: all.
        """
        return self._bus.subscribe(buffer_size, name, kinds=kinds)

    def stop(self) -> None:
        """End the run after the window that is being learned from. Call it on the loop's own thread."""
        self._stop_requested = True
        if self._waiting is not None:
            self._waiting.cancel()

    def deterministic_policy(self) -> Policy:
        """What to evaluate or ship: the agent's policy without exploration, where it has one."""
        return self._learner.deterministic_policy()

    # -- the loop -------------------------------------------------------------------------------

    async def run(self) -> RunReport:
        """Run until the plateau (pausable sources), ``max_episodes``, ``stop()`` or the source's end.

        Afterwards the agent holds the best policy that was found. Cancelling it is a clean stop:
        a window that is being learned from is finished first, the rest is accounted for.

        Returns:
            How it ended.

        Raises:
            LearningFailedError: ``learn`` failed too often in a row.
            LearnerLostError: the learner's process was lost too often in a row.
            ScoreError: the evaluator's answer is no score.
            UnusableSourceError: an environment, or another source that can be paused, brings nothing that can be used.
            AlreadyRunningError: a run is under way.
            DirectoryInUseError: another run has the checkpoint directory.
            CheckpointError: there are checkpoints to resume from, and none that fits.
            Exception: what a source, the evaluator, the judge or the tuner raised.
        """
        if self._is_running:
            raise AlreadyRunningError
        self._is_running = True
        self._stop_requested = False
        started = self._clock.now()
        error: Exception | None = None
        report: RunReport | None = None
        try:
            async with anyio.create_task_group() as tasks:
                reason = "cancelled"
                try:
                    await tasks.start(self._callbacks.run)
                    async with self._learner.open(self._bus):
                        reason = await self._run_windows(tasks)
                        await self._checkpoints.load_best(self._progress.windows - 1)
                    report = self._report(reason, started)
                except Exception as raised:
                    # Carried past the task group, which would wrap it in an exception group.
                    reason, error = "failed", raised
                finally:
                    self._bus.emit(LoopStopped(reason=reason, report=report, time=self._clock.now()))
                    self._callbacks.finish()
        finally:
            self._is_running = False
        if error is not None:
            raise error
        assert report is not None
        return report

    async def _run_windows(self, tasks: TaskGroup) -> str:
        self._bus.emit(LoopStarted(is_live=self._pipeline.is_live, time=self._clock.now()))
        self._begin_anew()
        progress, checkpoints = self._progress, self._checkpoints
        async with checkpoints.open(self._parts(), tasks), self._open_validation(), self._open_pipeline() as source:
            self._warn_of_what_is_not_tuned()
            self._learned_before = self._pipeline.statistics().learned
            reason = self._reason_to_end() if checkpoints.has_resumed else None
            while reason is None:
                window = await self._next_window(source)
                if window is None:
                    reason = "stopped" if self._stop_requested else "source_ended"
                    break
                progress.windows += 1
                await self._process(source, window)
                reason = self._reason_to_end()
                if reason is None:
                    if self.state is LoopState.DORMANT:
                        self._enter_watchdog(window)
                    await checkpoints.after_window(window.episode_id)
            # In this order: a run that goes on from there must not know that it once ended.
            await checkpoints.at_end(progress.windows - 1)
            await self._decisions.at_end()
            return reason

    def _reason_to_end(self) -> str | None:
        if self._stop_requested:
            return "stopped"
        if self._max_episodes is not None and self._progress.windows >= self._max_episodes:
            return "max_episodes"
        return "dormant" if self.state is LoopState.DORMANT and not self._pipeline.is_live else None

    def _parts(self) -> Mapping[str, object]:
        """What a checkpoint holds besides the agent."""
        parts: dict[str, object] = {
            "progress": self._progress,
            "judge": self._judge,
            "scheduler": self._scheduler,
            "decisions": self._decisions,
            "tuner": self._optimizer,
            "evaluator": self._evaluator,
            "pipeline": self._pipeline,
        }
        if self._validation is not None:
            parts["validation"] = self._validation.pipeline
        return parts if self._journal is None else {**parts, "journal": self._journal}

    def _begin_anew(self) -> None:
        """Nothing of an earlier run is compared with: its best is that of other weights."""
        self._decisions.restart()
        self._progress.restart()

    def _warn_of_what_is_not_tuned(self) -> None:
        # No error, because an agent's hyperparameters may appear later, with the first window for example.
        present = self._learner.hyperparams.params
        missing = [name for name in self._optimizer.bounded if name not in present]
        if missing:
            logger.warning(
                "the tuner has bounds for %s, which the agent does not have: its hyperparameters are %s",
                ", ".join(missing),
                ", ".join(present) or "none",
            )

    def _open_validation(self) -> AbstractAsyncContextManager[None]:
        return nullcontext() if self._validation is None else self._validation.open(self._bus)

    def _open_pipeline(self) -> AbstractAsyncContextManager[WindowSource]:
        intake = self._learner.intake()
        if intake is None:  # A pipeline of the user's own need not know that there is such a thing.
            return self._pipeline.open(self._learner.policy, self._bus)
        return self._pipeline.open(self._learner.policy, self._bus, gated(intake, self._is_learning))

    def _is_learning(self) -> bool:
        """Whether the window that is filling is to be learned from."""
        return not self._recovery.is_comparing and self._learns_from(self._progress.windows)

    def _learns_from(self, index: int) -> bool:
        """Whether the run's window of this number is: once trained, of so many only the configured share."""
        share = self._watchdog_learning
        return self.state is not LoopState.WATCHDOG or int((index + 1) * share) > int(index * share)

    async def _next_window(self, source: WindowSource) -> EpisodeData | None:
        if self._stop_requested:
            return None
        with anyio.CancelScope() as self._waiting:
            try:
                return await source.next_window()
            finally:
                self._waiting = None
        return None

    async def _next_to_compare(self, source: WindowSource) -> EpisodeData | None:
        """A window from which nothing is learned."""
        if self._validation is not None:
            return await self._validation.next_window()
        if self._reason_to_end() is not None:
            return None
        window = await self._next_window(source)
        if window is not None:
            source.record_dropped(window, "switchback")
            self._progress.windows += 1
        return window

    async def _process(self, source: WindowSource, window: EpisodeData) -> None:
        self._bus.emit(
            WindowAssembled(
                window=window.episode_id,
                transitions=window.length,
                streams=len(window.stream_ids),
                time=self._clock.now(),
            )
        )
        if not self._learns_from(self._progress.windows - 1):
            source.record_dropped(window, "watchdog")
            diagnostics: dict[str, float] | None = {}
        else:
            diagnostics = await self._lessons.learn(source, window)
        if diagnostics is None:
            return
        metrics = checked_score(self._evaluator.score(window, diagnostics), window)
        if self._validation is not None:
            metrics = await self._validation.score(window.episode_id)
        is_probe = self._optimizer.is_probing
        old_state = self.state
        verdict = None
        if metrics is not None:
            self._progress.record(metrics)
            if not is_probe:
                verdict = self._decisions.judge(metrics)
        self._bus.emit(
            WindowScored(
                window=window.episode_id,
                metrics=metrics,
                state=self.state,
                interval=self._scheduler.current_interval,
                is_probe=is_probe,
                time=self._clock.now(),
            )
        )
        if verdict is not None and metrics is not None:
            await self._decisions.act_on(verdict, metrics, old_state, partial(self._next_to_compare, source))
        if metrics is not None:
            await self._tune(window.episode_id)

    async def _tune(self, window: int) -> None:
        tuner = self._optimizer
        is_frozen = self.state in (LoopState.DORMANT, LoopState.WATCHDOG)
        if not (tuner.is_comparing or (not is_frozen and self._scheduler.should_adapt(window))):
            return
        old = self._learner.hyperparams
        history = tuple(self._progress.history)
        new = tuner.settle(old.copy()) if is_frozen else tuner.suggest(old.copy(), history)
        if new.params != old.params:
            await self._learner.call(lambda agent: agent.set_hyperparams(new))
            self._bus.emit(
                HyperparamsChanged(window=window, old=old.params, new=dict(new.params), time=self._clock.now())
            )

    def _enter_watchdog(self, window: EpisodeData) -> None:
        now = self._clock.now()
        self._scheduler.enter_watchdog()
        self._bus.emit(StateChanged(window=window.episode_id, old=LoopState.DORMANT, new=LoopState.WATCHDOG, time=now))
        self._bus.emit(WatchdogStarted(window=window.episode_id, time=now))

    def _report(self, reason: str, started: float) -> RunReport:
        statistics = self._pipeline.statistics()
        return RunReport(
            reason=reason,
            state=self.state,
            windows=self._progress.windows,
            transitions=statistics.learned,
            wall_sec=self._clock.now() - started,
            best_snapshot=self._registry.best,
            statistics=statistics,
            transitions_before=self._learned_before,
        )


def _make_journal(
    journal: bool | JournalOptions, registry: CheckpointRegistry, pipeline: BasePipeline
) -> Journal | None:
    if journal is False:
        return None
    if not isinstance(pipeline, StreamPipeline):
        raise ConfigurationError(f"journal: expected a pipeline such as LivePipeline, got {type(pipeline).__name__}")
    made = Journal(registry.checkpoint_dir / _JOURNAL, None if journal is True else journal)
    pipeline.use_journal(made)
    return made
