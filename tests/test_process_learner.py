"""The learner in a process of its own: a real one, which is killed, hangs, and is asked to do the impossible."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import numpy as np
import pytest

from optix_stream.boundaries import every_n_steps
from optix_stream.checkpoints import CheckpointRegistry
from optix_stream.clock import SystemClock
from optix_stream.contracts import BaseAgent, BaseOptimizer
from optix_stream.controller import LoopController
from optix_stream.errors import (
    AgentFailedError,
    CheckpointError,
    ConfigurationError,
    LearnerLostError,
    LearningFailedError,
)
from optix_stream.evaluators import EpisodeReturnEvaluator
from optix_stream.events import (
    CheckpointFailed,
    Event,
    LearnerLost,
    LearnerRestarted,
    LearningFailed,
    LoopStopped,
    RunSaved,
    WindowLearned,
)
from optix_stream.learner import ProcessLearner, ProcessOptions, ThreadLearner, make_learner
from optix_stream.optimizers import BackoffOptimizer
from optix_stream.pipeline import LivePipeline
from optix_stream.recipes import AgentRecipe
from optix_stream.rl_optimizer import RLOptimizer
from optix_stream.testing import (
    NullAgent,
    RecordingAgent,
    RecordingEvents,
    assert_balanced,
    make_window,
)
from optix_stream.testing.comparing import same_tree
from optix_stream.types import EpisodeData, EvalMetrics, HyperparamSet, RunReport

pytestmark = pytest.mark.anyio

IMPORTABLE = Path(__file__).parent / "importable"
OBSERVATIONS = np.random.default_rng(5).normal(size=(6, 2)).astype(np.float32)
BOTH = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _agents_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(IMPORTABLE))


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the learners of a test keep their commits."""
    directory = tmp_path / "work"
    directory.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(directory))
    return directory


def names(directory: Path) -> list[str]:
    return os.listdir(directory)


def recipe(name: str = "Learns", **arguments: Any) -> AgentRecipe:
    return AgentRecipe(f"elsewhere:{name}", arguments)


def window(number: int, length: int = 6) -> EpisodeData:
    rewards = np.random.default_rng(number).normal(size=length)
    return make_window(rewards.tolist(), window_id=number, seed=number)


def learner_of(made: AgentRecipe, agent: BaseAgent | None = None, **options: Any) -> ProcessLearner:
    return ProcessLearner(made, SystemClock(), ProcessOptions(**options), agent)


@asynccontextmanager
async def opened(learner: ProcessLearner) -> AsyncIterator[RecordingEvents]:
    events = RecordingEvents()
    with anyio.fail_after(60):
        async with learner.open(events):
            yield events


def child_pid(learner: ProcessLearner) -> int:
    assert learner._child is not None
    return learner._child.pid


def is_gone(pid: int) -> bool:
    """Ended and reaped."""
    return not Path(f"/proc/{pid}").exists()


async def save(learner: ProcessLearner | ThreadLearner, path: Path) -> bytes:
    def saved(agent: BaseAgent) -> bytes:
        agent.save_weights(str(path))
        return path.read_bytes()

    return await learner.call(saved)


# --- as in a thread ------------------------------------------------------------------------------


@BOTH
async def test_it_learns_bit_for_bit_what_a_thread_learns(tmp_path: Path) -> None:
    thread = ThreadLearner(recipe(seed=3).make())
    process = learner_of(recipe(seed=3))
    async with opened(process) as events, thread.open(events):
        for number in range(4):
            assert await process.learn(window(number)) == await thread.learn(window(number))
            decisions = [learner.policy.act(OBSERVATIONS) for learner in (process, thread)]
            assert same_tree(*([decision.actions, decision.extras] for decision in decisions))
            assert process.policy.version == thread.policy.version
        saved = [await save(learner, tmp_path / name) for name, learner in (("p", process), ("t", thread))]
        assert saved[0] == saved[1]
        # Going back puts what explores back too.
        for learner in (process, thread):
            learner.policy.act(OBSERVATIONS)
            await learner.call(lambda agent: agent.load_weights(str(tmp_path / "t")))
            await learner.publish()
        decisions = [learner.policy.act(OBSERVATIONS) for learner in (process, thread)]
        assert same_tree(*([decision.actions, decision.extras] for decision in decisions))
        assert events.of(LearnerLost) == []
    assert same_tree(
        process.deterministic_policy().act(OBSERVATIONS).actions,
        thread.deterministic_policy().act(OBSERVATIONS).actions,
    )


class CountedFeed:
    """A feed whose rewards depend on what it is sent, and which ends."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self.actions: list[int] = []

    async def stream(self) -> AsyncIterator[Any]:
        rng = np.random.default_rng(0)
        for step in range(self._steps):
            paid = float(self.actions[-1] == step % 2) if self.actions else 0.0
            yield rng.normal(size=2).astype(np.float32), paid, step % 7 == 6, False, {"step": step}

    async def send(self, action: Any) -> None:
        self.actions.append(int(action))


async def run_whole(learner: str, directory: Path, steps: int = 200) -> tuple[RunReport, list[Event], list[int]]:
    feed = CountedFeed(steps)
    pipeline = LivePipeline(
        feed,
        episode_boundary_fn=every_n_steps(20),
        reconnect_on_disconnect=False,
        overflow="block",
        lockstep=True,
        name="feed",
    )
    agent: Any = recipe(seed=1)
    optimizer = RLOptimizer(
        agent,
        pipeline,
        optimizer=BackoffOptimizer(param_bounds={"learning_rate": (0.01, 1.0)}, min_samples=2),
        checkpoint_dir=directory,
        rollback_on_degradation=True,
        degradation_threshold=0.9,
        learner="process" if learner == "process" else "thread",
    )
    seen: list[Event] = []
    reports: list[RunReport] = []

    async def watch() -> None:
        async with optimizer.events() as events:
            # When a run's state has been written depends on the disk.
            seen.extend([event async for event in events if not isinstance(event, RunSaved)])

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            await anyio.lowlevel.checkpoint()
            reports.append(await optimizer.run())
    return reports[0], seen, feed.actions


def without_times(report: RunReport) -> Any:
    snapshot = report.best_snapshot
    assert snapshot is not None
    return (report.reason, report.state, report.windows, report.statistics, snapshot.snapshot_id, snapshot.hyperparams)


async def test_one_seed_gives_one_run_wherever_it_learns(tmp_path: Path) -> None:
    results = [await run_whole(name, tmp_path / name) for name in ("thread", "process")]
    (report, events, actions), (other, other_events, other_actions) = results
    assert actions == other_actions
    assert without_times(report) == without_times(other)
    assert [event for event in events if isinstance(event, WindowLearned)]
    assert [type(event) for event in events] == [type(event) for event in other_events]
    comparable = [index for index, event in enumerate(events) if isinstance(event, WindowLearned)]
    assert [events[index] for index in comparable] == [other_events[index] for index in comparable]
    for name in os.listdir(tmp_path / "thread"):
        if name.startswith("snapshot-"):
            weights = [(tmp_path / side / name / "weights").read_bytes() for side in ("thread", "process")]
            assert weights[0] == weights[1]


async def test_what_an_agent_is_when_the_run_begins_and_ends(tmp_path: Path, work: Path) -> None:
    """The process goes on from the agent that was given, which afterwards holds what was learned."""
    agent, twin = recipe(seed=2).make(), recipe(seed=2).make()
    for each in (agent, twin):
        each.learn(window(0))
        each.set_hyperparams(HyperparamSet({"learning_rate": 0.25}))
    learner, thread = learner_of(recipe(seed=2), agent), ThreadLearner(twin)
    async with opened(learner) as events, thread.open(events):
        await learner.learn(window(1))
        await thread.learn(window(1))
        await learner.call(lambda agent: agent.set_hyperparams(HyperparamSet({"learning_rate": 0.125})))
    agent.save_weights(str(tmp_path / "agent"))
    twin.save_weights(str(tmp_path / "twin"))
    assert (tmp_path / "agent").read_bytes() == (tmp_path / "twin").read_bytes()
    assert agent.get_hyperparams().params == {"learning_rate": 0.125}
    assert names(work) == []
    assert learner.deterministic_policy().act(OBSERVATIONS).extras == {}


async def test_a_second_run_goes_on_where_the_first_ended() -> None:
    learner, thread = learner_of(recipe()), ThreadLearner(recipe().make())
    for number in range(2):
        async with opened(learner):
            assert await learner.learn(window(number)) == await thread.learn(window(number))


async def test_snapshots_and_hyperparameters_go_through_it(tmp_path: Path) -> None:
    registry = CheckpointRegistry(tmp_path / "snapshots")
    learner = learner_of(recipe())
    async with opened(learner):
        await learner.call(lambda agent: registry.begin_run())
        assert (await learner.call(lambda agent: agent.get_hyperparams())).params == {"learning_rate": 0.5}
        await learner.call(lambda agent: agent.set_hyperparams(HyperparamSet({"learning_rate": 0.1})))
        await learner.learn(window(0))
        metrics = EvalMetrics(1.0, {}, 0)
        snapshot = await learner.call(lambda agent: registry.save(agent, metrics, agent.get_hyperparams()))
        assert snapshot.hyperparams.params == {"learning_rate": 0.1}
        before = await save(learner, tmp_path / "before")
        await learner.call(lambda agent: agent.set_hyperparams(HyperparamSet({"learning_rate": 0.9})))
        await learner.learn(window(1))
        await learner.call(registry.load_best)
        assert await save(learner, tmp_path / "after") == before
        assert (await learner.call(lambda agent: agent.get_hyperparams())).params == {"learning_rate": 0.1}
        with pytest.raises(CheckpointError, match="No such file"):
            await learner.call(lambda agent: agent.load_weights(str(tmp_path / "nothing")))
        assert await save(learner, tmp_path / "untouched") == before


async def test_a_window_may_be_larger_than_any_pipe() -> None:
    rewards = np.zeros(200_000)
    large = dataclasses.replace(make_window(rewards.tolist()), infos=[{"note": "x" * 20}] * len(rewards))
    learner = learner_of(recipe())
    async with opened(learner):
        assert (await learner.learn(large))["learned"] == len(rewards)


async def test_a_policy_may_change_its_shape(tmp_path: Path) -> None:
    learner = learner_of(recipe(does={"1": "grow"}, marks=str(tmp_path)))
    async with opened(learner):
        for number in range(3):
            assert learner.policy.act(OBSERVATIONS).actions.max() <= (1 if number < 2 else 3)
            await learner.learn(window(number))
            choices = learner.policy.act(np.repeat(OBSERVATIONS, 50, axis=0)).actions
            assert set(choices) == (set(range(2)) if number < 1 else set(range(4)))


# --- an agent that raises ------------------------------------------------------------------------


async def test_what_the_agent_raises_comes_back_and_nothing_was_learned(tmp_path: Path) -> None:
    learner = learner_of(recipe(does={"1": "raise"}, marks=str(tmp_path)))
    async with opened(learner) as events:
        await learner.learn(window(0))
        before, version = await save(learner, tmp_path / "before"), learner.policy.version
        with pytest.raises(AgentFailedError, match=r"^FloatingPointError\('learning diverged'\)") as raised:
            await learner.learn(window(1))
        assert "elsewhere.py" in raised.value.__notes__[0]
        assert await save(learner, tmp_path / "after") == before
        assert learner.policy.version == version
        assert (await learner.learn(window(1)))["learned"] == 12.0
        assert events.of(LearnerLost) == []


# --- a process that dies -------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ("what", "reason"),
    [("die", "killed by SIGKILL"), ("exit", "exit status 3: out of luck"), ("hang", "no answer within 0.5 s")],
)
async def test_a_process_that_is_lost_is_replaced_and_learns_the_window_again(
    what: str, reason: str, tmp_path: Path
) -> None:
    undisturbed = ThreadLearner(recipe(seed=4).make())
    learner = learner_of(
        recipe(seed=4, does={"1": what}, marks=str(tmp_path)), learn_deadline_sec=0.5 if what == "hang" else 60.0
    )
    diagnostics: dict[str, float] = {}
    async with opened(learner) as events:
        for number in range(3):
            await undisturbed.learn(window(number))
            first = child_pid(learner)
            diagnostics = await learner.learn(window(number))
            assert is_gone(first) == (number == 1)
        assert diagnostics["learned"] == 18.0
        assert await save(learner, tmp_path / "one") == await save(undisturbed, tmp_path / "two")
        assert events.events == [
            LearnerLost(reason=reason, transitions=6, forgotten=0, losses=1),
            LearnerRestarted(windows=1),
        ]


async def test_acting_goes_on_with_the_last_policy_while_there_is_no_learner(tmp_path: Path) -> None:
    learner = learner_of(recipe(does={"load": "hang!"}), start_deadline_sec=60.0)
    with anyio.fail_after(60):
        async with learner.open(events := RecordingEvents()):
            await learner.learn(window(0))
            expected = learner.deterministic_policy().act(OBSERVATIONS).actions
            version = learner.policy.version
            os.kill(child_pid(learner), signal.SIGKILL)
            while not events.of(LearnerLost):
                await anyio.lowlevel.checkpoint()
            # The next one hangs before it is ready, for as long as we like.
            for _ in range(20):
                assert len(learner.policy.act(OBSERVATIONS).actions) == 6
            assert learner.policy.version == version
            assert events.of(LearnerRestarted) == []
            assert same_tree(learner.deterministic_policy().act(OBSERVATIONS).actions, expected)


@BOTH
async def test_one_that_dies_while_it_has_nothing_to_do_is_replaced_at_once(tmp_path: Path) -> None:
    learner = learner_of(recipe())
    async with opened(learner) as events:
        await learner.learn(window(0))
        await learner.call(lambda agent: agent.set_hyperparams(HyperparamSet({"learning_rate": 0.75})))
        before = await save(learner, tmp_path / "before")
        os.kill(child_pid(learner), signal.SIGKILL)
        while not events.of(LearnerRestarted):
            await anyio.lowlevel.checkpoint()
        assert events.of(LearnerLost) == [LearnerLost(reason="killed by SIGKILL", transitions=0, forgotten=0, losses=1)]
        assert await save(learner, tmp_path / "after") == before
        assert (await learner.call(lambda agent: agent.get_hyperparams())).params == {"learning_rate": 0.75}


async def test_a_window_that_takes_the_process_with_it_twice_is_given_up(tmp_path: Path) -> None:
    learner = learner_of(recipe(does={"1": "die!"}))
    async with opened(learner) as events:
        await learner.learn(window(0))
        with pytest.raises(LearnerLostError, match=r"2 times in a row while it learned from the same window") as raised:
            await learner.learn(window(1))
        assert not raised.value.is_final
        assert (await learner.learn(window(2)))["learned"] == 12.0
        assert [event.losses for event in events.of(LearnerLost)] == [1, 2]
        assert len(events.of(LearnerRestarted)) == 2


async def test_one_that_is_lost_too_often_in_a_row_is_not_started_again(tmp_path: Path) -> None:
    learner = learner_of(recipe(does={"load": "exit!"}), max_restarts=2)
    async with opened(learner) as events:
        await learner.learn(window(0))
        version = learner.policy.version
        os.kill(child_pid(learner), signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(LearnerLostError, match=r"3 times in a row and was not started again: exit") as raised:
                await learner.learn(window(1))
            assert raised.value.is_final
        assert [event.losses for event in events.of(LearnerLost)] == [1, 2, 3]
        learner.policy.act(OBSERVATIONS)
        assert learner.policy.version == version


async def test_what_was_learned_after_the_last_commit_is_told_to_be_forgotten(tmp_path: Path) -> None:
    learner = learner_of(recipe(does={"4": "die"}, marks=str(tmp_path)), commit_every=3)
    diagnostics: dict[str, float] = {}
    async with opened(learner) as events:
        for number in range(5):
            diagnostics = await learner.learn(window(number))
        assert events.events == [
            LearnerLost(reason="killed by SIGKILL", transitions=6, forgotten=6, losses=1),
            LearnerRestarted(windows=3),
        ]
        assert diagnostics["learned"] == 24.0


async def test_a_commit_that_cannot_be_written_is_an_event_and_learning_goes_on(work: Path) -> None:
    learner = learner_of(recipe())
    async with opened(learner) as events:
        directory = work / names(work)[0]
        directory.rename(work / "moved")
        assert (await learner.learn(window(0)))["learned"] == 6.0
        (failed,) = events.of(CheckpointFailed)
        assert failed.window == 0
        (work / "moved").rename(directory)
        assert (await learner.learn(window(1)))["learned"] == 12.0
        assert len(events.of(CheckpointFailed)) == 1


async def test_increments_that_were_lost_are_learned_with_their_window(tmp_path: Path) -> None:
    """A commit is made after whole windows only, so a window that was begun is learned as a whole again."""
    whole = window(0)
    parts = [
        dataclasses.replace(
            whole,
            **{
                name: getattr(whole, name)[start : start + 2]
                for name in (
                    "observations",
                    "actions",
                    "rewards",
                    "terminated",
                    "truncated",
                    "gaps",
                    "streams",
                    "times",
                )
            },
            next_observations=None,
            infos=[{}, {}],
        )
        for start in (0, 2)
    ]
    learner = learner_of(recipe("LearnsEarly", does={"increment 4": "die"}, marks=str(tmp_path)))
    async with opened(learner) as events:
        intake = learner.intake()
        assert intake is not None
        assert intake.increment == 2
        assert intake.learn_increment is not None
        for part in parts:
            await intake.learn_increment(part)
        (lost,) = events.of(LearnerLost)
        assert lost.transitions == 2
        diagnostics = await learner.learn(dataclasses.replace(whole, rows_learned=4))
        assert diagnostics["learned"] == 6.0
        assert diagnostics["norm"] == pytest.approx(2 * abs(float(np.sum(whole.rewards))), rel=1e-5)


# --- the loop ------------------------------------------------------------------------------------


def controller_of(made: AgentRecipe, directory: Path, *, windows: int, **options: Any) -> LoopController:
    class Endless(CountedFeed):
        def __init__(self) -> None:
            super().__init__(10**9)

    return LoopController(
        made,
        EpisodeReturnEvaluator(),
        KeepsAll(),
        LivePipeline(Endless(), episode_boundary_fn=every_n_steps(20), overflow="block", lockstep=True),
        CheckpointRegistry(directory),
        make_scheduler(),
        max_episodes=windows,
        learner=ProcessOptions(**options),
    )


class KeepsAll(BaseOptimizer):
    def suggest(self, current_hyperparams: HyperparamSet, metrics_history: Any) -> HyperparamSet:
        return current_hyperparams


def make_scheduler() -> Any:
    from optix_stream.scheduler import BackoffScheduler

    return BackoffScheduler()


async def run_recorded(controller: LoopController) -> tuple[RunReport | Exception, list[Event]]:
    seen: list[Event] = []
    result: list[RunReport | Exception] = []

    async def watch() -> None:
        async with controller.events(buffer_size=10_000) as events:
            seen.extend([event async for event in events])

    with anyio.fail_after(120):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            await anyio.lowlevel.checkpoint()
            try:
                result.append(await controller.run())
            except Exception as error:
                result.append(error)
    return result[0], seen


async def test_nothing_vanishes_when_the_process_does(tmp_path: Path) -> None:
    does = {"1": "die", "2": "raise", "3": "exit!"}
    controller = controller_of(recipe(does=does, marks=str(tmp_path)), tmp_path / "snapshots", windows=6)
    report, events = await run_recorded(controller)
    assert isinstance(report, RunReport)
    assert_balanced(report.statistics)
    assert report.statistics.learned == 4 * 20
    assert report.statistics.dropped["learning_failed"] == 20
    assert report.statistics.dropped["learner_lost"] == 20
    failed = [event for event in events if isinstance(event, LearningFailed)]
    assert [event.window for event in failed] == [2, 3]
    assert isinstance(events[-1], LoopStopped)


async def test_a_run_without_a_learner_fails_and_says_why(tmp_path: Path) -> None:
    controller = controller_of(recipe(does={"2": "die!"}), tmp_path / "snapshots", windows=6, max_restarts=1)
    error, events = await run_recorded(controller)
    assert isinstance(error, LearnerLostError)
    assert error.is_final
    assert_balanced(controller.statistics())
    assert controller.statistics().dropped["learner_lost"] == 20
    assert isinstance(events[-1], LoopStopped)
    assert events[-1].reason == "failed"


async def test_an_agent_that_always_raises_ends_the_run_as_in_a_thread(tmp_path: Path) -> None:
    does = {str(number): "raise!" for number in range(9)}
    error, _ = await run_recorded(controller_of(recipe(does=does), tmp_path / "snapshots", windows=9))
    assert isinstance(error, LearningFailedError)
    assert error.failures == 3
    assert isinstance(error.__cause__, AgentFailedError)


async def kill_at_moments(count: int, directory: Path) -> None:
    """Kill the process at random moments of a live run: it learns on, and every transition is accounted for."""
    windows = 3 * count
    controller = controller_of(recipe(seed=6), directory, windows=windows, max_restarts=5)
    learner = controller._learner
    assert isinstance(learner, ProcessLearner)
    rng = np.random.default_rng(0)
    reports: list[RunReport] = []
    killed = 0

    async def kill() -> None:
        nonlocal killed
        async with controller.events(buffer_size=10_000) as events:
            async for event in events:
                if isinstance(event, WindowLearned) and event.window % 3 == 0 and killed < count:
                    # Somewhere in what follows: learning, committing, publishing, saving, or nothing at all.
                    await anyio.to_thread.run_sync(_spin, float(rng.uniform(0.0, 0.02)))
                    if learner._child is not None:
                        learner._child.kill()
                        killed += 1

    with anyio.fail_after(300):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(kill)
            await anyio.lowlevel.checkpoint()
            reports.append(await controller.run())
            tasks.cancel_scope.cancel()
    (report,) = reports
    assert killed >= count - 1
    assert report.windows == windows
    assert_balanced(report.statistics)
    assert report.statistics.learned == windows * 20 - report.statistics.dropped.get("learner_lost", 0)


def _spin(seconds: float) -> None:
    clock = SystemClock()
    end = clock.now() + seconds
    while clock.now() < end:
        pass


async def test_killed_at_random_moments(tmp_path: Path) -> None:
    await kill_at_moments(3, tmp_path)


@pytest.mark.slow
async def test_killed_at_twenty_random_moments(tmp_path: Path) -> None:
    await kill_at_moments(20, tmp_path)


# --- nothing is left behind ----------------------------------------------------------------------


@BOTH
async def test_cancelling_a_learner_that_hangs_is_clean(tmp_path: Path, work: Path) -> None:
    agent = recipe(does={"0": "hang"}, marks=str(tmp_path / "work")).make()
    learner = learner_of(agent.recipe, agent)
    pids = []
    descriptors = len(os.listdir("/proc/self/fd"))
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:

            async def run() -> None:
                async with learner.open(RecordingEvents()):
                    pids.append(child_pid(learner))
                    await learner.learn(window(0))

            tasks.start_soon(run)
            while not (work / "0").exists():
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
    assert is_gone(pids[0])
    assert names(work) == ["0"]
    assert len(os.listdir("/proc/self/fd")) == descriptors


@BOTH
async def test_cancelling_while_the_process_is_being_started_is_clean(work: Path) -> None:
    learner = learner_of(recipe())
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:

            async def run() -> None:
                async with learner.open(RecordingEvents()):
                    raise AssertionError("it was cancelled before")

            tasks.start_soon(run)
            await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
    assert learner._child is None
    assert names(work) == []


ORPHAN = """
import sys, anyio
from optix_stream.clock import SystemClock
from optix_stream.learner import ProcessLearner, ProcessOptions
from optix_stream.recipes import AgentRecipe
from optix_stream.testing import RecordingEvents, make_window

async def main():
    learner = ProcessLearner(AgentRecipe("elsewhere:Learns", {"does": {"0": "hang!"}}), SystemClock())
    async with learner.open(RecordingEvents()):
        print(learner._child.pid, flush=True)
        await learner.learn(make_window([1.0]))

anyio.run(main)
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="waits for a process that is not its child")
def test_the_process_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    import select

    path = os.pathsep.join([str(IMPORTABLE), *sys.path])
    with subprocess.Popen(
        [sys.executable, "-c", ORPHAN],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "TMPDIR": str(tmp_path)},
    ) as parent:
        assert parent.stdout is not None
        child = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    poll = select.poll()
    poll.register(child, select.POLLIN)
    assert poll.poll(30_000), "it still runs"
    os.close(child)


# --- what cannot be ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nothing", "cannot find elsewhere:nothing"),
        ("no_agent", "expected a BaseAgent, got str"),
        ("never_made", "there is no such agent today"),
        ("LearnsEach", r"needs learner='thread'"),
        ("null_agent", r"publishes no policy .* needs learner='thread'"),
        ("ActsInPerson", r"only plain stacks of dense layers can\), which needs learner='thread'"),
    ],
)
async def test_what_cannot_learn_in_a_process_says_so_at_the_start(name: str, text: str) -> None:
    learner = learner_of(recipe(name))
    with pytest.raises(ConfigurationError, match=f"cannot make the agent in a process of its own: .*{text}"):
        async with learner.open(RecordingEvents()):
            raise AssertionError("it was open")
    assert learner._child is None


async def test_a_learner_that_is_not_open_does_nothing() -> None:
    learner = learner_of(recipe())
    with pytest.raises(ConfigurationError, match="the learner is not open"):
        await learner.learn(window(0))
    with pytest.raises(ConfigurationError, match="there is no policy yet"):
        learner.policy.act(OBSERVATIONS)


@pytest.mark.parametrize(
    "options",
    [{"learn_deadline_sec": 0.0}, {"start_deadline_sec": -1.0}, {"max_restarts": -1}, {"commit_every": 0}],
    ids=str,
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="expected"):
        ProcessOptions(**options)


# --- which learner a run gets --------------------------------------------------------------------


def made(agent: BaseAgent | AgentRecipe, placement: Any, is_live: bool) -> str:
    learner = make_learner(agent, placement, is_live=is_live, clock=SystemClock(), max_failures=3)
    return {ThreadLearner: "thread", ProcessLearner: "process"}[type(learner)]


@pytest.mark.parametrize(
    ("make", "live"),
    [
        (recipe, "process"),
        (lambda: recipe().make(), "process"),
        (lambda: recipe("LearnsEach").make(), "thread"),
        (lambda: recipe("ActsInPerson").make(), "thread"),
        (lambda: RecordingAgent(), "thread"),
        (lambda: NullAgent(), "thread"),
    ],
)
def test_what_is_live_and_can_gets_a_process(make: Callable[[], Any], live: str) -> None:
    assert made(make(), None, is_live=True) == live
    assert made(make(), None, is_live=False) == "thread"
    assert made(make(), "thread", is_live=True) == "thread"


def test_a_process_for_an_agent_that_nobody_can_make_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"learner='process': expected an AgentRecipe.* got RecordingAgent"):
        made(RecordingAgent(), "process", is_live=True)
    with pytest.raises(ConfigurationError, match=r"learner: expected 'thread', 'process' or ProcessOptions"):
        made(recipe(), "cloud", is_live=True)
    with pytest.raises(ConfigurationError, match="elsewhere:no_agent: expected a BaseAgent, got str"):
        made(recipe("no_agent"), "thread", is_live=True)
