"""The loop as a whole, on scripted transitions whose rewards are the scores."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from optix_stream.boundaries import every_n_steps
from optix_stream.callbacks import LoopCallback
from optix_stream.checkpoints import CheckpointRegistry
from optix_stream.contracts import BaseEvaluator, BaseOptimizer, Producer
from optix_stream.controller import LoopController
from optix_stream.errors import AlreadyRunningError, ConfigurationError, LearningFailedError, ScoreError
from optix_stream.events import (
    CheckpointFailed,
    CheckpointSaved,
    Degraded,
    Event,
    HyperparamsChanged,
    Improved,
    LearningFailed,
    LoopStarted,
    LoopStopped,
    PlateauReached,
    RolledBack,
    RunSaved,
    StateChanged,
    WatchdogStarted,
    WentDormant,
    WindowAssembled,
    WindowLearned,
    WindowScored,
)
from optix_stream.optimizers import BackoffOptimizer, PairedBlockTuner
from optix_stream.optimizers.parameters import Bounds
from optix_stream.pipeline import StreamPipeline
from optix_stream.scheduler import BackoffScheduler
from optix_stream.testing import NullAgent, RecordingAgent, ScriptedProducer, assert_balanced, make_transition
from optix_stream.types import EpisodeData, EvalMetrics, HyperparamSet, LoopState, PolicySnapshot, RunReport

pytestmark = pytest.mark.anyio

STEPS = 4


class ScriptedPipeline(StreamPipeline):
    """Windows of four steps, each with the given reward."""

    def __init__(self, scores: Sequence[float], *, is_live: bool = False, stays_open: bool = False) -> None:
        super().__init__(boundary=every_n_steps(STEPS), capacity=STEPS, overflow="block", lockstep=True)
        self._scores = scores
        self._is_live = is_live
        self._stays_open = stays_open

    @property
    def is_live(self) -> bool:
        return self._is_live

    def producers(self) -> Sequence[Producer]:
        script = [
            make_transition(number, reward=score) for number, score in enumerate(self._scores) for _ in range(STEPS)
        ]
        return [ScriptedProducer(script, stays_open=self._stays_open)]


class MeanReward(BaseEvaluator):
    def score(self, episode_data: EpisodeData, train_diagnostics: dict[str, float]) -> EvalMetrics | None:
        return EvalMetrics(float(episode_data.rewards.mean()), {}, episode_data.episode_id)


class Run:
    """A controller, its events and the report of its run."""

    def __init__(self, scores: Sequence[float], directory: Path, **options: Any) -> None:
        pipeline_options = {name: options.pop(name) for name in ("is_live", "stays_open") if name in options}
        scheduler = BackoffScheduler(
            plateau_threshold=options.pop("plateau_threshold", 2), dormant_threshold=options.pop("dormant_threshold", 4)
        )
        self.agent = options.pop("agent", None) or RecordingAgent()
        self.pipeline = options.pop("pipeline", None) or ScriptedPipeline(scores, **pipeline_options)
        self.controller = LoopController(
            agent=self.agent,
            evaluator=options.pop("evaluator", None) or MeanReward(),
            optimizer=options.pop("optimizer", None) or BackoffOptimizer(),
            pipeline=self.pipeline,
            checkpoint_registry=CheckpointRegistry(directory, max_snapshots=3),
            backoff_scheduler=options.pop("backoff_scheduler", None) or scheduler,
            **options,
        )
        self.events: list[Event] = []

    async def __call__(self) -> RunReport:
        async with self.controller.events(buffer_size=100_000) as events:
            try:
                return await self.controller.run()
            finally:
                assert_balanced(self.controller.statistics())
                with anyio.CancelScope(shield=True):
                    # When a run's state has been written depends on the disk.
                    self.events = [event async for event in events if not isinstance(event, RunSaved)]

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


async def test_runs_until_the_source_ends(tmp_path: Path) -> None:
    run = Run([1.0, 2.0], tmp_path)
    report = await run()
    assert (report.reason, report.state, report.windows, report.transitions) == ("source_ended", LoopState.ACTIVE, 2, 8)
    assert [type(event) for event in run.events] == [
        LoopStarted,
        *[WindowAssembled, WindowLearned, WindowScored, CheckpointSaved],
        *[WindowAssembled, WindowLearned, WindowScored, CheckpointSaved, Improved],
        LoopStopped,
    ]
    assert run.events[-1] == LoopStopped(reason="source_ended")
    assert run.of(LoopStopped)[0].report == report


async def test_every_window_is_scored_however_far_tuning_backs_off(tmp_path: Path) -> None:
    # The original scored one window in a hundred once it had backed off, and so saw a collapse late.
    run = Run([5.0] * 12, tmp_path, plateau_threshold=2, dormant_threshold=50)
    await run()
    assert [event.window for event in run.of(WindowScored)] == list(range(12))
    assert run.of(WindowScored)[-1].interval == 100


async def test_a_pausable_run_stops_when_dormant_with_the_best_policy(tmp_path: Path) -> None:
    run = Run([1.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0], tmp_path)
    report = await run()
    assert (report.reason, report.state, report.windows) == ("dormant", LoopState.DORMANT, 6)
    assert [(event.old, event.new) for event in run.of(StateChanged)] == [
        (LoopState.ACTIVE, LoopState.COOLING),
        (LoopState.COOLING, LoopState.DORMANT),
    ]
    assert [event.window for event in run.of(PlateauReached)] == [3]
    assert [event.window for event in run.of(WentDormant)] == [5]
    assert report.best_snapshot is not None
    assert report.best_snapshot.episode_id == 1
    assert run.agent.weight == 0.5 * (1.0 + 9.0), "the weight as it was when the best was saved"


async def test_a_live_run_goes_on_to_watchdog_and_wakes_on_degradation(tmp_path: Path) -> None:
    scores = [9.0] * 8 + [1.0, 1.0]
    run = Run(scores, tmp_path, is_live=True)
    report = await run()
    assert report.reason == "source_ended"
    assert [event.window for event in run.of(WatchdogStarted)] == [4]
    assert run.of(WindowScored)[7].state is LoopState.WATCHDOG
    assert [event.window for event in run.of(Degraded)][:1] == [8]
    assert run.of(WindowScored)[8].state is LoopState.ACTIVE


async def test_rollback_restores_weights_and_hyperparameters(tmp_path: Path) -> None:
    class Doubling(BaseOptimizer):
        def suggest(self, current_hyperparams: HyperparamSet, metrics_history: Sequence[EvalMetrics]) -> HyperparamSet:
            return HyperparamSet({"learning_rate": current_hyperparams.params["learning_rate"] * 2})

    run = Run([10.0, 1.0], tmp_path, optimizer=Doubling(), rollback_on_degradation=True, max_episodes=2)
    seen: list[tuple[float, float]] = []

    class Watch(LoopCallback):
        def on_hyperparam_update(self, old_params: dict[str, Any], new_params: dict[str, Any]) -> None:
            seen.append((old_params["learning_rate"], new_params["learning_rate"]))

    run = Run(
        [10.0, 1.0], tmp_path, optimizer=Doubling(), rollback_on_degradation=True, max_episodes=2, callbacks=[Watch()]
    )
    await run()
    assert [event.snapshot.episode_id for event in run.of(RolledBack)] == [0]
    # Saved with 0.5; doubled to 1.0 after window 0; the rollback took it back, and 0.5 was doubled again.
    assert seen == [(0.5, 1.0), (0.5, 1.0)]
    assert run.agent.weight == 5.0
    assert run.agent.get_hyperparams().params == {"learning_rate": 0.5}


async def test_without_rollback_the_weights_stay(tmp_path: Path) -> None:
    run = Run([10.0, 1.0], tmp_path, max_episodes=2)
    await run()
    assert run.of(Degraded)
    assert not run.of(RolledBack)


async def test_max_episodes_counts_windows(tmp_path: Path) -> None:
    report = await Run([1.0, 2.0, 3.0, 4.0], tmp_path, max_episodes=3, stays_open=True)()
    assert (report.reason, report.windows) == ("max_episodes", 3)


async def test_stop_from_a_hook_ends_after_the_current_window(tmp_path: Path) -> None:
    class Stopper(LoopCallback):
        def on_episode_end(self, episode_id: int, eval_metrics: EvalMetrics | None) -> None:
            if episode_id == 1:
                run.controller.stop()

    run = Run([1.0, 2.0, 3.0], tmp_path, callbacks=[Stopper()])
    report = await run()
    assert (report.reason, report.windows) == ("stopped", 2)


async def test_stop_does_not_wait_for_a_quiet_source(tmp_path: Path) -> None:
    run = Run([1.0], tmp_path, stays_open=True, is_live=True)
    reports: list[RunReport] = []

    async def run_it() -> None:
        reports.append(await run())

    async with anyio.create_task_group() as tasks, run.controller.events() as events:
        tasks.start_soon(run_it)
        async for event in events:
            if isinstance(event, CheckpointSaved):
                await anyio.wait_all_tasks_blocked()
                run.controller.stop()
    assert reports[0].reason == "stopped"


async def test_the_partial_last_window_is_learned_when_the_source_ends(tmp_path: Path) -> None:
    class Pipeline(ScriptedPipeline):
        def producers(self) -> Sequence[Producer]:
            return [ScriptedProducer([make_transition(n) for n in range(STEPS + 1)])]

    report = await Run([], tmp_path, pipeline=Pipeline([]))()
    assert (report.windows, report.transitions) == (2, STEPS + 1)


async def test_a_failing_learn_leaves_the_weights_and_is_an_event(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run([1.0, 2.0, 4.0], tmp_path, agent=RecordingAgent(fail_on=frozenset({1})))
    with caplog.at_level(logging.ERROR):
        report = await run()
    failed = run.of(LearningFailed)
    assert [(event.window, event.transitions, event.failures) for event in failed] == [(1, STEPS, 1)]
    assert "told to fail on window 1" in failed[0].error
    assert caplog.records[0].exc_info is not None
    assert run.agent.weight == 0.5 * (1.0 + 4.0)
    assert report.statistics.dropped == {"learning_failed": STEPS}


async def test_learning_that_keeps_failing_stops_the_run_and_names_the_cause(tmp_path: Path) -> None:
    run = Run([1.0] * 6, tmp_path, agent=RecordingAgent(fail_on=frozenset({1, 2})), max_learning_failures=2)
    with pytest.raises(LearningFailedError, match=r"2 windows in a row, last on window 2.*told to fail") as caught:
        await run()
    assert caught.value.failures == 2
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert run.events[-1] == LoopStopped(reason="failed")


async def test_a_failing_source_raises_its_own_error_after_what_came_was_learned(tmp_path: Path) -> None:
    class Pipeline(ScriptedPipeline):
        def producers(self) -> Sequence[Producer]:
            return [ScriptedProducer([make_transition(n) for n in range(STEPS)], error=OSError("unplugged"))]

    run = Run([], tmp_path, pipeline=Pipeline([]))
    with pytest.raises(OSError, match="unplugged"):
        await run()
    assert [event.transitions for event in run.of(WindowLearned)] == [STEPS]


@pytest.mark.parametrize("part", ["evaluator", "optimizer"])
async def test_a_failing_part_raises_its_own_error(tmp_path: Path, part: str) -> None:
    class BadEvaluator(MeanReward):
        def score(self, episode_data: EpisodeData, train_diagnostics: dict[str, float]) -> EvalMetrics | None:
            raise ArithmeticError("bad evaluator")

    class BadOptimizer(BaseOptimizer):
        def suggest(self, current_hyperparams: HyperparamSet, metrics_history: Sequence[EvalMetrics]) -> HyperparamSet:
            raise ArithmeticError("bad optimizer")

    bad = BadEvaluator() if part == "evaluator" else BadOptimizer()
    with pytest.raises(ArithmeticError, match=f"bad {part}"):
        await Run([1.0], tmp_path, **{part: bad})()


async def test_a_save_that_fails_is_an_event_and_the_run_goes_on(tmp_path: Path) -> None:
    class Unsavable(RecordingAgent):
        def save_weights(self, path: str) -> None:
            raise OSError("disk full")

    run = Run([1.0, 2.0], tmp_path, agent=Unsavable())
    report = await run()
    assert report.best_snapshot is None
    assert ["disk full" in event.error for event in run.of(CheckpointFailed)] == [True, True, True]
    assert report.transitions == 2 * STEPS


async def test_windows_without_evidence_are_not_judged(tmp_path: Path) -> None:
    class Sometimes(MeanReward):
        def score(self, episode_data: EpisodeData, train_diagnostics: dict[str, float]) -> EvalMetrics | None:
            return super().score(episode_data, train_diagnostics) if episode_data.episode_id % 2 == 0 else None

    run = Run([5.0] * 6, tmp_path, evaluator=Sometimes())
    report = await run()
    assert [event.metrics is None for event in run.of(WindowScored)] == [False, True] * 3
    assert report.state is LoopState.COOLING, "two windows without improvement, not five"


async def test_a_new_basis_starts_the_judgement_afresh(tmp_path: Path) -> None:
    class TwoBases(MeanReward):
        def score(self, episode_data: EpisodeData, train_diagnostics: dict[str, float]) -> EvalMetrics | None:
            basis = "reward" if episode_data.episode_id == 0 else "return"
            return EvalMetrics(float(episode_data.rewards[0]), {}, episode_data.episode_id, basis)

    run = Run([100.0, 1.0, 2.0], tmp_path, evaluator=TwoBases())
    report = await run()
    assert not run.of(Degraded)
    assert report.best_snapshot is not None
    assert report.best_snapshot.eval_metrics.primary_score == 2.0


async def test_probe_windows_are_not_judged_and_are_decided_in_the_next_window(tmp_path: Path) -> None:
    optimizer = BackoffOptimizer({"learning_rate": (0.0, 1.0)}, perturbation_scale=0.1)
    run = Run([5.0] * 5, tmp_path, optimizer=optimizer, plateau_threshold=10, dormant_threshold=20)
    await run()
    assert [event.is_probe for event in run.of(WindowScored)] == [False, True, False, True, False][:5]
    changes = [event.new["learning_rate"] for event in run.of(HyperparamsChanged)]
    assert changes[:2] == pytest.approx([0.55, 0.5])


async def test_nothing_is_tuned_once_dormant(tmp_path: Path) -> None:
    optimizer = BackoffOptimizer({"learning_rate": (0.0, 1.0)})
    run = Run([9.0] * 20, tmp_path, optimizer=optimizer, is_live=True, plateau_threshold=1, dormant_threshold=2)
    await run()
    dormant_at = run.of(WentDormant)[0].window
    assert all(event.window < dormant_at for event in run.of(HyperparamsChanged))


async def test_a_comparison_goes_on_while_tuning_backs_off_and_is_given_up_once_dormant(tmp_path: Path) -> None:
    class Comparing(BaseOptimizer):
        def __init__(self) -> None:
            self.calls: list[tuple[str, int]] = []

        @property
        def is_comparing(self) -> bool:
            return ("settle", 0) not in self.calls

        def suggest(self, current_hyperparams: HyperparamSet, metrics_history: Sequence[EvalMetrics]) -> HyperparamSet:
            self.calls.append(("suggest", len(metrics_history)))
            return current_hyperparams

        def settle(self, current_hyperparams: HyperparamSet) -> HyperparamSet:
            self.calls.append(("settle", 0))
            return HyperparamSet({**current_hyperparams.params, "learning_rate": 0.25})

        def on_plateau(self, metrics_history: Sequence[EvalMetrics]) -> None:
            self.calls.append(("plateau", len(metrics_history)))

    optimizer = Comparing()
    run = Run([9.0] * 8, tmp_path, optimizer=optimizer, is_live=True, plateau_threshold=2, dormant_threshold=4)
    await run()
    assert optimizer.calls == [
        ("suggest", 1),
        ("suggest", 2),
        ("plateau", 3),
        ("suggest", 3),
        ("suggest", 4),
        ("plateau", 5),
        ("settle", 0),
    ]
    assert [event.new["learning_rate"] for event in run.of(HyperparamsChanged)] == [0.25]


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        (
            {"lrr": (0.1, 1.0), "learning_rate": (0.1, 1.0), "gama": (0.9, 1.0)},
            [
                "the tuner has bounds for lrr, gama, which the agent does not have: "
                "its hyperparameters are learning_rate"
            ],
        ),
        ({"learning_rate": (0.1, 1.0)}, []),
        ({}, []),
        (None, []),
    ],
)
async def test_bounds_for_what_the_agent_does_not_have_are_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, bounds: Bounds | None, said: list[str]
) -> None:
    """A name with a slip in it once tuned nothing, and said nothing."""
    with caplog.at_level(logging.WARNING, "optix_stream"):
        await Run([1.0, 2.0, 3.0], tmp_path, optimizer=PairedBlockTuner(bounds))()
    assert caplog.messages == said


async def test_a_tuner_of_one_s_own_has_no_bounds_to_be_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Idle(BaseOptimizer):
        def suggest(self, current_hyperparams: HyperparamSet, metrics_history: Sequence[EvalMetrics]) -> HyperparamSet:
            return current_hyperparams

    with caplog.at_level(logging.WARNING, "optix_stream"):
        await Run([1.0, 2.0], tmp_path, optimizer=Idle())()
    assert not caplog.messages


async def test_hooks_sync_and_async_see_the_run(tmp_path: Path) -> None:
    class Recorder(LoopCallback):
        def __init__(self) -> None:
            self.calls: list[str] = []

    class Plain(Recorder):
        def on_loop_start(self) -> None:
            self.calls.append("start")

        def on_improvement(self, snapshot: PolicySnapshot) -> None:
            self.calls.append(f"improved {snapshot.eval_metrics.primary_score}")

        def on_plateau(self, episode_id: int, state: LoopState) -> None:
            self.calls.append(f"plateau {episode_id} {state.value}")

        def on_dormant(self, episode_id: int) -> None:
            self.calls.append(f"dormant {episode_id}")

        def on_loop_stop(self) -> None:
            self.calls.append("stop")

    class Async(Recorder):
        async def on_improvement(self, snapshot: PolicySnapshot) -> None:
            await anyio.lowlevel.checkpoint()
            self.calls.append(f"improved {snapshot.eval_metrics.primary_score}")

        async def on_loop_stop(self) -> None:
            await anyio.lowlevel.checkpoint()
            self.calls.append("stop")

    plain, asynchronous = Plain(), Async()
    await Run([1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0], tmp_path, callbacks=[plain, asynchronous])()
    assert plain.calls == ["start", "improved 2.0", "plateau 3 cooling", "dormant 5", "stop"]
    assert asynchronous.calls == ["improved 2.0", "stop"]


async def test_one_run_at_a_time_and_then_again(tmp_path: Path) -> None:
    run = Run([1.0, 2.0], tmp_path)

    class Again(LoopCallback):
        async def on_loop_start(self) -> None:
            with pytest.raises(AlreadyRunningError):
                await run.controller.run()

    run = Run([1.0, 2.0], tmp_path, callbacks=[Again()])
    first = await run()
    second = await run()
    assert (first.windows, second.windows) == (2, 2)
    assert second.statistics.received == 2 * STEPS


async def test_a_second_run_finds_a_best_of_its_own(tmp_path: Path) -> None:
    runs = iter([[5.0] + [9.0] * 6, [2.0, 3.0, 1.0]])

    class Another(ScriptedPipeline):
        def producers(self) -> Sequence[Producer]:
            return ScriptedPipeline(next(runs)).producers()

    run = Run([], tmp_path, pipeline=Another([]))
    first = await run()
    assert first.reason == "dormant"
    second = await run()
    assert (second.reason, second.windows, second.state) == ("source_ended", 3, LoopState.ACTIVE)
    assert second.best_snapshot is not None
    assert second.best_snapshot.eval_metrics.primary_score == 3.0
    assert [event.snapshot.eval_metrics.primary_score for event in run.of(Improved)] == [3.0]


async def test_numbers_of_numpy_s_are_as_good_as_any(tmp_path: Path) -> None:
    class Sum(MeanReward):
        def score(self, episode_data: EpisodeData, train_diagnostics: dict[str, float]) -> EvalMetrics | None:
            total = sum(episode_data.rewards)
            assert isinstance(total, np.float64)
            return EvalMetrics(total, {"total_reward": total, "most": episode_data.rewards.max()}, 0)

    class Tuned(RecordingAgent):
        def get_hyperparams(self) -> HyperparamSet:
            return HyperparamSet({"rate": np.float32(0.5), "layers": np.int64(2)})

    run = Run([1.0, 2.0], tmp_path, evaluator=Sum(), agent=Tuned())
    report = await run()
    assert run.of(CheckpointFailed) == []
    assert report.best_snapshot is not None
    assert report.best_snapshot.eval_metrics.primary_score == 8.0
    assert CheckpointRegistry(tmp_path).best == report.best_snapshot


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (3.0, "got 3.0"),
        (EvalMetrics("high", {}, 0), "got primary_score 'high'"),  # type: ignore[arg-type]
        (EvalMetrics(float("nan"), {}, 0), "got primary_score nan"),
        (EvalMetrics(float("inf"), {}, 0), "got primary_score inf"),
    ],
)
async def test_an_answer_that_is_no_score_is_named(tmp_path: Path, answer: Any, text: str) -> None:
    class Odd(MeanReward):
        def score(self, episode_data: EpisodeData, train_diagnostics: dict[str, float]) -> EvalMetrics | None:
            return answer  # type: ignore[no-any-return]

    run = Run([1.0, 2.0], tmp_path, evaluator=Odd())
    with pytest.raises(ScoreError, match=f"window 0: expected EvalMetrics with a finite primary_score.* {text}"):
        await run()
    assert run.of(CheckpointSaved) == []


async def test_any_number_of_controllers_in_one_loop(tmp_path: Path) -> None:
    reports: list[RunReport] = []

    async def run_one(name: str) -> None:
        reports.append(await Run([1.0, 2.0, 3.0], tmp_path / name)())

    async with anyio.create_task_group() as tasks:
        for name in "abc":
            tasks.start_soon(run_one, name)
    assert [report.transitions for report in reports] == [3 * STEPS] * 3


async def test_a_slow_subscriber_misses_events_and_is_told(tmp_path: Path) -> None:
    run = Run([float(n) for n in range(30)], tmp_path)
    async with run.controller.events(buffer_size=4, name="slow") as slow:
        await run()
        kinds = [type(event).__name__ async for event in slow]
    assert kinds[0] == "SubscriberLagging"
    assert len(kinds) == 5
    assert kinds[-1] == "LoopStopped"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_episodes": 0}, "max_episodes: expected at least 1 window, got 0"),
        ({"max_learning_failures": 0}, "max_learning_failures: expected at least 1, got 0"),
        ({"pipeline": object()}, r"pipeline: expected one such as BatchPipeline\(env\), got <object"),
        ({"checkpoint_every": 5}, r"checkpoint_every: expected how often, such as CheckpointEvery\(windows=5\)"),
        ({"callbacks": [3]}, r"callbacks\[0\]: expected a LoopCallback, got 3"),
        ({"evaluator": object()}, "evaluator: expected a BaseEvaluator, got <object"),
        ({"backoff_scheduler": 3}, "backoff_scheduler: expected a BackoffScheduler, got 3"),
        ({"agent": NullAgent}, "agent: expected a BaseAgent or an AgentRecipe, got <class"),
    ],
)
async def test_bad_limits_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Run([], tmp_path, **change)


async def test_a_pipeline_made_for_another_agent_is_refused(tmp_path: Path) -> None:
    pipeline = ScriptedPipeline([])
    pipeline.agent = NullAgent()
    with pytest.raises(ConfigurationError, match="another agent"):
        Run([], tmp_path, pipeline=pipeline)


async def test_the_same_script_gives_the_same_events(tmp_path: Path) -> None:
    def make(name: str) -> Run:
        return Run(
            [1.0, 4.0, 3.0, 4.0, 5.0, 5.0, 5.0],
            tmp_path / name,
            optimizer=BackoffOptimizer({"learning_rate": (0.1, 1.0)}),
            rollback_on_degradation=True,
        )

    first, second = make("a"), make("b")
    await first()
    await second()
    assert first.events == second.events
