"""What the loop does about a fall, by its cause: an agent that damages itself, and a world that changes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optix_stream.boundaries import every_n_steps
from optix_stream.checkpoints import CheckpointRegistry
from optix_stream.contracts import BaseAgent, BaseEvaluator, Policy, Producer, TransitionSink
from optix_stream.controller import LoopController
from optix_stream.errors import ConfigurationError
from optix_stream.events import (
    CheckpointFailed,
    Degraded,
    Event,
    RolledBack,
    StateChanged,
    SwitchbackStarted,
    WatchdogStarted,
    WindowLearned,
    WindowScored,
)
from optix_stream.judges import EvidenceConfig, EvidenceJudge
from optix_stream.optimizers import BackoffOptimizer
from optix_stream.pipeline import StreamPipeline
from optix_stream.scheduler import BackoffScheduler
from optix_stream.testing import assert_balanced
from optix_stream.types import EpisodeData, EvalMetrics, HyperparamSet, LoopState, RunReport, Transition, Tree

pytestmark = pytest.mark.anyio

STEPS = 4
CONFIG = EvidenceConfig(reference_windows=16, minimal_effect=1.0)


class Skilled(BaseAgent):
    """Acts by its skill, and loses it on certain windows.

    Attributes:
        skill: what it acts by.
        learned: windows that it learned from.
    """

    def __init__(self, damaged_on: int | None = None) -> None:
        self.skill = 10.0
        self.learned: list[int] = []
        self._damaged_on = damaged_on

    def act(self, observation: Tree) -> Any:
        return self.skill

    def learn(self, episode_data: EpisodeData) -> dict[str, float]:
        self.learned.append(episode_data.episode_id)
        if episode_data.episode_id == self._damaged_on:
            self.skill = 2.0
        return {}

    def get_hyperparams(self) -> HyperparamSet:
        return HyperparamSet({})

    def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        pass

    def save_weights(self, path: str) -> None:
        Path(path).write_text(json.dumps(self.skill))

    def load_weights(self, path: str) -> None:
        self.skill = json.loads(Path(path).read_text())


class World:
    """Rewards skill, with noise; from a certain window on less than before."""

    name = "world"

    def __init__(self, windows: int, changes_at: int | None) -> None:
        self._windows = windows
        self._changes_at = changes_at

    async def run(self, policy: Policy, sink: TransitionSink) -> None:
        rng = np.random.default_rng(0)
        for step in range(self._windows * STEPS):
            observation = np.array([float(step)], np.float32)
            action = policy.act(observation[None]).actions[0]
            worth = 0.3 if self._changes_at is not None and step >= self._changes_at * STEPS else 1.0
            reward = worth * float(action) + float(rng.standard_normal())
            await sink.push(Transition(observation, action, reward, observation, time=float(step)))


class Windows(StreamPipeline):
    """Of that world."""

    def __init__(self, windows: int, *, changes_at: int | None = None, is_live: bool = False) -> None:
        super().__init__(boundary=every_n_steps(STEPS), capacity=STEPS, overflow="block", lockstep=True)
        self._world = World(windows, changes_at)
        self._is_live = is_live

    @property
    def is_live(self) -> bool:
        return self._is_live

    def producers(self) -> Sequence[Producer]:
        return [self._world]


class MeanReward(BaseEvaluator):
    def score(self, episode_data: EpisodeData, train_diagnostics: dict[str, float]) -> EvalMetrics | None:
        return EvalMetrics(float(episode_data.rewards.mean()), {}, episode_data.episode_id)


class Run:
    """A controller that ran, its events and its report."""

    def __init__(self, agent: BaseAgent, pipeline: StreamPipeline, directory: Path, **options: Any) -> None:
        self.agent = agent
        self.controller = LoopController(
            agent,
            MeanReward(),
            BackoffOptimizer(),
            pipeline,
            CheckpointRegistry(directory),
            BackoffScheduler(),
            **{"rollback_on_degradation": True, "judge": EvidenceJudge(CONFIG), **options},
        )
        self.events: list[Event] = []

    async def __call__(self) -> RunReport:
        async with self.controller.events(buffer_size=100_000) as events:
            report = await self.controller.run()
            self.events = [event async for event in events]
        assert not self.of(CheckpointFailed)
        assert_balanced(self.controller.statistics())
        return report

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


async def test_a_damaged_policy_is_compared_found_guilty_and_rolled_back(tmp_path: Path) -> None:
    agent = Skilled(damaged_on=30)
    run = Run(agent, Windows(70), tmp_path)
    report = await run()
    (started,), (degraded,), (rolled_back,) = run.of(SwitchbackStarted), run.of(Degraded), run.of(RolledBack)
    assert 31 <= started.window < 36
    assert degraded.cause == "policy"
    assert "below the reference of" in degraded.evidence
    assert "the best policy does better: it scores" in degraded.evidence
    assert rolled_back.window == degraded.window == started.window
    assert agent.skill == 10.0
    assert report.statistics.dropped["switchback"] == 2 * started.windows_each * STEPS
    compared = range(started.window + 1, started.window + 1 + 2 * started.windows_each)
    assert not set(agent.learned) & set(compared), "nothing is learned while policies are compared"
    assert report.windows == 70


async def test_where_the_world_has_changed_nothing_is_rolled_back(tmp_path: Path) -> None:
    agent = Skilled()
    run = Run(agent, Windows(100, changes_at=30), tmp_path)
    await run()
    (degraded,) = run.of(Degraded)
    assert degraded.cause == "environment"
    assert "the best policy fell too" in degraded.evidence
    assert not run.of(RolledBack)
    best = run.controller.best_snapshot
    assert best is not None
    assert best.eval_metrics.primary_score == pytest.approx(3.0, abs=0.5), "the best of the world as it is now"


async def test_a_live_source_cannot_be_compared_in_so_the_rollback_itself_must_show_it(tmp_path: Path) -> None:
    run = Run(Skilled(), Windows(100, changes_at=40, is_live=True), tmp_path)
    await run()
    assert not run.of(SwitchbackStarted)
    assert [event.cause for event in run.of(Degraded)] == [None, "environment"]
    assert len(run.of(RolledBack)) == 1
    assert "going back to the best policy has not helped" in run.of(Degraded)[1].evidence


async def test_a_drift_wakes_the_watchdog(tmp_path: Path) -> None:
    run = Run(Skilled(), Windows(200, changes_at=120, is_live=True), tmp_path)
    await run()
    assert run.of(WatchdogStarted)[0].window < 120
    woken = [event for event in run.of(StateChanged) if event.old is LoopState.WATCHDOG]
    assert woken[0].new is LoopState.ACTIVE
    assert 120 <= woken[0].window < 130
    assert "below the reference" in woken[0].evidence


async def test_a_comparison_that_is_cut_short_changes_nothing(tmp_path: Path) -> None:
    agent = Skilled(damaged_on=30)
    run = Run(agent, Windows(70), tmp_path, max_episodes=36, rollback_on_degradation=True)
    report = await run()
    assert report.windows == 36
    assert report.reason == "max_episodes"


async def test_without_rollback_nothing_is_compared_and_the_best_is_restored_at_the_end(tmp_path: Path) -> None:
    agent = Skilled(damaged_on=30)
    run = Run(agent, Windows(60), tmp_path, rollback_on_degradation=False)
    await run()
    assert not run.of(SwitchbackStarted)
    assert [event.cause for event in run.of(Degraded)] == [None]
    assert len(run.of(WindowLearned)) == len(run.of(WindowScored)) == 60
    assert agent.skill == 10.0


async def test_a_trained_live_run_may_learn_less_and_learns_again_when_it_wakes(tmp_path: Path) -> None:
    agent = Skilled()
    run = Run(agent, Windows(200, changes_at=150, is_live=True), tmp_path, watchdog_learning=0.25)
    report = await run()
    trained = run.of(WatchdogStarted)[0].window + 1
    woken = next(event.window for event in run.of(StateChanged) if event.old is LoopState.WATCHDOG)
    on_watch = [window for window in agent.learned if trained <= window <= woken]
    assert len(on_watch) == pytest.approx(0.25 * (woken - trained), abs=1)
    assert report.statistics.dropped["watchdog"] > 0
    assert len(run.of(WindowScored)) == 200, "every window is scored"
    assert [window for window in agent.learned if window < trained] == list(range(trained))


async def test_a_validation_source_is_what_counts_and_is_never_learned_from(tmp_path: Path) -> None:
    agent = Skilled()
    validation = Windows(1000, changes_at=25)
    run = Run(agent, Windows(110), tmp_path, validation=validation)
    report = await run()
    (degraded,) = run.of(Degraded)
    assert 25 <= degraded.window < 30
    assert degraded.cause == "environment", "compared in the validation source, too"
    assert agent.learned == list(range(report.windows))
    assert "switchback" not in report.statistics.dropped
    statistics = validation.statistics()
    assert statistics.learned == 0
    assert statistics.dropped["validation"] > report.windows * STEPS
    assert_balanced(statistics)


async def test_a_validation_source_that_cannot_wait_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="validation: expected a pipeline that can be paused"):
        Run(Skilled(), Windows(10), tmp_path, validation=Windows(10, is_live=True))
    with pytest.raises(ConfigurationError, match="watchdog_learning: expected a share from 0 to 1, got 2"):
        Run(Skilled(), Windows(10), tmp_path, watchdog_learning=2.0)
