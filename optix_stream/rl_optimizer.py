"""``RLOptimizer``: the front door, every part defaulted, with the original system's flat parameters."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence

from optix_stream.arguments import expect
from optix_stream.bus import Subscription
from optix_stream.callbacks import LoopCallback
from optix_stream.checkpointing import EVERY_MINUTE, CheckpointEvery
from optix_stream.checkpoints import CheckpointRegistry
from optix_stream.contracts import BaseAgent, BaseEvaluator, BaseOptimizer, BasePipeline, Policy
from optix_stream.controller import LoopController
from optix_stream.errors import ConfigurationError
from optix_stream.evaluators import EpisodeReturnEvaluator
from optix_stream.events import Event
from optix_stream.journal import JournalOptions
from optix_stream.judges import JudgeChoice, make_judge
from optix_stream.learner import LearnerPlacement
from optix_stream.optimizers import PairedBlockTuner
from optix_stream.optimizers.parameters import Bounds
from optix_stream.recipes import AgentRecipe
from optix_stream.scheduler import BackoffScheduler
from optix_stream.types import LoopState, PolicySnapshot, RunReport, Statistics

_THRESHOLD_DEFAULTS = (0.0, 5, 20, 0.95)


class RLOptimizer:
    """Assembles the loop around an agent and a pipeline: ``await RLOptimizer(agent, pipeline).run()``.

    Args:
        agent: learns and acts; or how it is made, see ``LoopController``.
        pipeline: where windows come from.
        evaluator: scores windows; by default the mean return of the episodes that ended.
        optimizer: tunes hyperparameters; by default ``PairedBlockTuner`` with ``param_bounds``, without which it
            leaves them alone.
        checkpoint_dir: where snapshots go; each of several that run at a time wants one of its own.
        max_snapshots: how many to keep; the best and the latest are always kept.
        rollback_on_degradation: go back to the best snapshot when the score falls.
        improvement_margin: by how much, in score units, a new best must beat the old (threshold judge).
        max_episodes: stop after this many windows; None: run until DORMANT.
        base_interval: windows between two tuning steps while learning pays.
        backoff_factor: growth of that interval with each window that brings nothing.
        max_interval_episodes: its cap.
        plateau_threshold: windows without improvement until COOLING (threshold judge).
        dormant_threshold: windows without improvement until DORMANT (threshold judge).
        degradation_threshold: share of the best score below which the policy counts as degraded (threshold judge).
        callbacks: hooks, see ``LoopCallback``.
        judge: decides what a score means: ``"evidence"`` (or an ``EvidenceConfig``), which states how often it errs, or
            ``"threshold"``, the original system's margins and counts, or one of your own. None: ``"threshold"`` where
            one of the four parameters that are the threshold judge's is not at its default, else ``"evidence"``.
        learner: ``"thread"`` or ``"process"``: where the agent learns, see ``LoopController``.
        validation: a second pipeline, on which the agent only acts and whose scores are judged, see ``LoopController``.
        watchdog_learning: share of the windows that a live run goes on learning from once it is trained.
        resume: go on from the last checkpoint in ``checkpoint_dir``, as if the run had never stopped; where there is
            none, begin.
        checkpoint_every: how often the state of the run is saved, besides when it ends.
        journal: keep what a live pipeline accepts between two checkpoints, see ``LoopController``.
        param_bounds: what to tune where no ``optimizer`` is given: for each hyperparameter ``(low, high)`` or a list
            of choices.

    Raises:
        ConfigurationError: both a tuner and bounds, or what ``LoopController`` refuses.
    """

    def __init__(
        self,
        agent: BaseAgent | AgentRecipe,
        pipeline: BasePipeline,
        evaluator: BaseEvaluator | None = None,
        optimizer: BaseOptimizer | None = None,
        checkpoint_dir: str | os.PathLike[str] = "./checkpoints",
        max_snapshots: int = 10,
        rollback_on_degradation: bool = False,
        improvement_margin: float = 0.0,
        max_episodes: int | None = None,
        base_interval: int = 1,
        backoff_factor: float = 2.0,
        max_interval_episodes: int = 100,
        plateau_threshold: int = 5,
        dormant_threshold: int = 20,
        degradation_threshold: float = 0.95,
        callbacks: Sequence[LoopCallback] | None = None,
        *,
        judge: JudgeChoice | None = None,
        learner: LearnerPlacement = None,
        validation: BasePipeline | None = None,
        watchdog_learning: float = 1.0,
        resume: bool = False,
        checkpoint_every: CheckpointEvery = EVERY_MINUTE,
        journal: bool | JournalOptions = False,
        param_bounds: Bounds | None = None,
    ) -> None:
        if optimizer is not None and param_bounds is not None:
            raise ConfigurationError("param_bounds: expected none beside an optimizer, which has its own")
        expect("checkpoint_dir", checkpoint_dir, (str, os.PathLike), "a path")
        evaluator = evaluator if evaluator is not None else EpisodeReturnEvaluator()
        expect("evaluator", evaluator, BaseEvaluator, "a BaseEvaluator")
        if judge is None:
            given = (improvement_margin, plateau_threshold, dormant_threshold, degradation_threshold)
            judge = "evidence" if given == _THRESHOLD_DEFAULTS else "threshold"
        self.controller = LoopController(
            agent=agent,
            evaluator=evaluator,
            optimizer=optimizer if optimizer is not None else PairedBlockTuner(param_bounds),
            pipeline=pipeline,
            checkpoint_registry=CheckpointRegistry(checkpoint_dir, max_snapshots),
            backoff_scheduler=BackoffScheduler(
                base_interval=base_interval,
                backoff_factor=backoff_factor,
                max_interval_episodes=max_interval_episodes,
                plateau_threshold=plateau_threshold,
                dormant_threshold=dormant_threshold,
                degradation_threshold=degradation_threshold,
            ),
            rollback_on_degradation=rollback_on_degradation,
            improvement_margin=improvement_margin,
            max_episodes=max_episodes,
            callbacks=callbacks,
            judge=make_judge(
                judge,
                improvement_margin=improvement_margin,
                degradation_threshold=degradation_threshold,
                compare=evaluator.compare,
            ),
            learner=learner,
            validation=validation,
            watchdog_learning=watchdog_learning,
            resume=resume,
            checkpoint_every=checkpoint_every,
            journal=journal,
        )

    async def run(self) -> RunReport:
        """Run the loop; see ``LoopController.run``."""
        return await self.controller.run()

    def stop(self) -> None:
        """End the run after the present window."""
        self.controller.stop()

    def events(
        self, buffer_size: int = 1024, name: str | None = None, *, kinds: Collection[type[Event]] | None = None
    ) -> Subscription:
        """Subscribe to events; see ``LoopController.events``."""
        return self.controller.events(buffer_size, name, kinds=kinds)

    def statistics(self) -> Statistics:
        """Where every transition of this run is."""
        return self.controller.statistics()

    def deterministic_policy(self) -> Policy:
        """What to evaluate or ship; see ``LoopController.deterministic_policy``."""
        return self.controller.deterministic_policy()

    @property
    def state(self) -> LoopState:
        """What the loop is doing."""
        return self.controller.state

    @property
    def best_snapshot(self) -> PolicySnapshot | None:
        """The best policy of this run so far."""
        return self.controller.best_snapshot
