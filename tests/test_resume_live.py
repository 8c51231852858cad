"""A live run that goes on: what was held is learned, its streams have a gap, and every transition is accounted for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import anyio
import pytest

from optix_stream.boundaries import every_n_steps
from optix_stream.checkpointing import CheckpointEvery
from optix_stream.contracts import StreamItem
from optix_stream.errors import CheckpointError
from optix_stream.events import Event, GapDetected, RunResumed, WindowLearned
from optix_stream.pipeline import LivePipeline
from optix_stream.rl_optimizer import RLOptimizer
from optix_stream.testing import FakeClock, RecordingAgent, ScriptedProducer, assert_balanced, make_transition
from optix_stream.types import RunReport

pytestmark = pytest.mark.anyio

WINDOW = 4


def ticks(first: int, end: int, time: float = 0.0) -> list[StreamItem]:
    return [make_transition(number, time=time + number) for number in range(first, end)]


def make(
    agent: RecordingAgent,
    script: Iterable[StreamItem | anyio.Event],
    directory: Path,
    *,
    producers: int = 1,
    stays_open: bool = False,
    clock: FakeClock | None = None,
) -> RLOptimizer:
    scripts = [list(script), *[[] for _ in range(producers - 1)]]
    pipeline = LivePipeline(
        [ScriptedProducer(each, name=f"{number}", stays_open=stays_open) for number, each in enumerate(scripts)],
        episode_boundary_fn=every_n_steps(WINDOW),
        overflow="block",
        clock=clock,
    )
    return RLOptimizer(
        agent, pipeline, checkpoint_dir=directory, resume=True, checkpoint_every=CheckpointEvery(), learner="thread"
    )


async def run(optimizer: RLOptimizer) -> tuple[RunReport, list[Event]]:
    async with optimizer.events(10_000) as events:
        report = await optimizer.run()
        assert_balanced(optimizer.statistics())
        return report, [event async for event in events]


async def run_until(optimizer: RLOptimizer, *, windows: int, held: int) -> RunReport:
    """Stop it when so many windows are learned and so many transitions wait."""
    reports: list[RunReport] = []

    async def stop() -> None:
        async with optimizer.events() as events:
            async for event in events:
                if isinstance(event, WindowLearned) and event.window == windows - 1:
                    break
        while optimizer.statistics().held_in_window < held:
            await anyio.lowlevel.checkpoint()
        optimizer.stop()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stop)
        await anyio.lowlevel.checkpoint()
        reports.append(await optimizer.run())
    return reports[0]


def rewards(agent: RecordingAgent) -> list[list[float]]:
    return [[float(reward) for reward in window.rewards] for window in agent.windows]


async def test_what_was_held_when_it_stopped_is_learned_when_it_goes_on(tmp_path: Path) -> None:
    first = RecordingAgent()
    report = await run_until(make(first, ticks(0, 11), tmp_path, stays_open=True), windows=2, held=3)
    assert rewards(first) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert report.statistics.dropped == {"stopped": 3}

    second = RecordingAgent()
    report, events = await run(make(second, ticks(11, 16), tmp_path))
    assert rewards(second) == [[8, 9, 10], [11, 12, 13, 14], [15]]
    assert [window.gaps.tolist() for window in second.windows] == [[False, False, True], [False] * 4, [False]]
    assert [window.episode_id for window in second.windows] == [2, 3, 4]
    assert [event.window for event in events if isinstance(event, RunResumed)] == [1]
    assert [event.stream for event in events if isinstance(event, GapDetected)] == [0]
    # Those three are learned now, and not lost any more.
    assert (report.statistics.received, report.statistics.learned, report.statistics.dropped) == (16, 16, {})
    means = [sum(window) / len(window) for window in rewards(first) + rewards(second)]
    assert second.weight == pytest.approx(0.5 * sum(means))


async def test_the_clock_may_have_begun_anew(tmp_path: Path) -> None:
    first = make(RecordingAgent(), ticks(0, 6, 1000.0), tmp_path, stays_open=True, clock=FakeClock(1000.0))
    await run_until(first, windows=1, held=2)
    agent = RecordingAgent()
    await run(make(agent, ticks(6, 8, 5.0), tmp_path, clock=FakeClock(5.0)))
    assert agent.windows[0].times.tolist() == [9.0, 10.0], "as far from now as they were"


async def test_another_pipeline_cannot_go_on(tmp_path: Path) -> None:
    await run(make(RecordingAgent(), ticks(0, 6), tmp_path))
    with pytest.raises(CheckpointError, match="pipeline: expected the state of one like it"):
        await make(RecordingAgent(), ticks(6, 8), tmp_path, producers=2).run()
