"""Cancelled at every await there is: nothing lost, nothing doubled, no task left, every time."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from optix_stream.boundaries import BoundaryFn, every_n_steps
from optix_stream.callbacks import LoopCallback
from optix_stream.checkpointing import CheckpointEvery
from optix_stream.contracts import BaseEvaluator, Policy, Producer, StreamItem, TransitionSink
from optix_stream.events import LoopStopped
from optix_stream.pipeline import LivePipeline, StreamPipeline
from optix_stream.queue import OverflowPolicy, TransitionQueue
from optix_stream.rl_optimizer import RLOptimizer
from optix_stream.testing import Canceller, RecordingAgent, assert_balanced, cancel_everywhere, make_transition
from optix_stream.types import EpisodeData, EvalMetrics, Statistics

pytestmark = pytest.mark.anyio

STEPS = 14
WINDOW = 4


class DrivenProducer:
    """A producer whose awaits count too."""

    def __init__(self, producer: Producer, canceller: Canceller) -> None:
        self._producer = producer
        self._canceller = canceller

    @property
    def name(self) -> str:
        return self._producer.name

    async def run(self, policy: Policy, sink: TransitionSink) -> None:
        await self._canceller.drive(self._producer.run(policy, sink))


class CountingProducer:
    """Pushes numbered transitions and knows how many it has handed over."""

    name = "counting"

    def __init__(self) -> None:
        self.handed_over = 0

    async def run(self, policy: Policy, sink: TransitionSink) -> None:
        for number in range(STEPS):
            self.handed_over += 1
            await sink.push(make_transition(number))
            await anyio.lowlevel.checkpoint()


class Pipeline(StreamPipeline):
    def __init__(self, canceller: Canceller, *, lockstep: bool, overflow: OverflowPolicy) -> None:
        boundary: BoundaryFn = every_n_steps(WINDOW)
        super().__init__(boundary=boundary, capacity=3, overflow=overflow, lockstep=lockstep)
        self.producer = CountingProducer()
        self._driven = DrivenProducer(self.producer, canceller)

    @property
    def is_live(self) -> bool:
        return False

    def producers(self) -> Sequence[Producer]:
        return [self._driven]


class AsyncHook(LoopCallback):
    async def on_episode_end(self, episode_id: int, eval_metrics: EvalMetrics | None) -> None:
        await anyio.lowlevel.checkpoint()


def check_conservation(statistics: Statistics, agent: RecordingAgent) -> None:
    assert_balanced(statistics)
    assert statistics.held == 0, "after a run, nothing is on its way any more"
    learned = [float(reward) for window in agent.windows for reward in window.rewards]
    assert len(learned) == statistics.learned
    assert len(set(learned)) == len(learned), "nothing was learned twice"
    assert learned == sorted(learned)


@pytest.mark.parametrize(
    ("lockstep", "overflow"), [(True, "block"), (False, "block"), (False, "drop_oldest"), (False, "drop_newest")]
)
async def test_a_run_cancelled_at_every_await(tmp_path: Path, lockstep: bool, overflow: OverflowPolicy) -> None:
    async def run(canceller: Canceller) -> None:
        agent = RecordingAgent()
        pipeline = Pipeline(canceller, lockstep=lockstep, overflow=overflow)
        optimizer = RLOptimizer(agent, pipeline, checkpoint_dir=tmp_path, callbacks=[AsyncHook()])
        async with optimizer.events(buffer_size=10_000) as events:
            with canceller.scope:
                await canceller.drive(optimizer.run())
            statistics = optimizer.statistics()
            check_conservation(statistics, agent)
            assert statistics.received == pipeline.producer.handed_over
            seen = [event async for event in events]
            assert isinstance(seen[-1], LoopStopped)

    assert await cancel_everywhere(run) > 20


async def test_a_live_feed_cancelled_at_every_await(tmp_path: Path) -> None:
    async def run(canceller: Canceller) -> None:
        class Feed:
            async def stream(self) -> AsyncIterator[tuple[Any, ...]]:
                for number in range(STEPS):
                    await canceller.drive(anyio.lowlevel.checkpoint())
                    yield make_transition(number).observation, float(number), number % 5 == 4, False, None

            async def send(self, action: Any) -> None:
                await canceller.drive(anyio.lowlevel.checkpoint())

        agent = RecordingAgent()
        pipeline = LivePipeline(
            Feed(),
            episode_boundary_fn=every_n_steps(WINDOW),
            buffer_size=3,
            overflow="block",
            reconnect_on_disconnect=False,
        )
        optimizer = RLOptimizer(agent, pipeline, checkpoint_dir=tmp_path)
        with canceller.scope:
            await canceller.drive(optimizer.run())
        check_conservation(optimizer.statistics(), agent)

    assert await cancel_everywhere(run) > 20


class NotingAgent(RecordingAgent):
    """Its weights are what it has learned from, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[float] = []

    def learn(self, episode_data: EpisodeData) -> dict[str, float]:
        self.noted.extend(map(float, episode_data.rewards))
        return super().learn(episode_data)

    def save_weights(self, path: str) -> None:
        Path(path).write_text(json.dumps(self.noted))

    def load_weights(self, path: str) -> None:
        self.noted = json.loads(Path(path).read_text())


class NoScore(BaseEvaluator):
    """So that the weights in the end are the last ones, and not the best."""

    def score(self, episode_data: EpisodeData, train_diagnostics: dict[str, float]) -> EvalMetrics | None:
        return None


async def test_a_run_with_a_journal_cancelled_at_every_await_and_resumed(tmp_path: Path) -> None:
    runs = 0

    async def run(canceller: Canceller) -> None:
        nonlocal runs
        runs += 1
        directory = tmp_path / str(runs)
        producer = CountingProducer()
        driven = DrivenProducer(producer, canceller)
        pipeline = LivePipeline(driven, episode_boundary_fn=every_n_steps(WINDOW), buffer_size=3, overflow="block")
        options: dict[str, Any] = {
            "evaluator": NoScore(), "checkpoint_dir": directory, "checkpoint_every": CheckpointEvery(windows=1)
        }  # fmt: skip
        optimizer = RLOptimizer(NotingAgent(), pipeline, journal=True, **options)
        with canceller.scope:
            await canceller.drive(optimizer.run())
        statistics = optimizer.statistics()
        assert_balanced(statistics)
        assert statistics.held == 0
        assert statistics.received == producer.handed_over
        # What was refused because the run was ending was not accepted.
        most = statistics.received - statistics.dropped.get("closed", 0)
        agent = NotingAgent()
        await RLOptimizer(agent, LivePipeline(NoMore()), journal=True, resume=True, **options).run()
        assert agent.noted == list(range(len(agent.noted))), "everything once, and in order"
        assert most - 1 <= len(agent.noted) <= most, "at most one waited for room in the queue"

    assert await cancel_everywhere(run) > 20


class NoMore:
    """A source that has ended."""

    name = "no more"

    async def run(self, policy: Policy, sink: TransitionSink) -> None:
        await anyio.lowlevel.checkpoint()


async def test_cancelled_after_any_number_of_turns_of_the_event_loop(tmp_path: Path) -> None:
    # The driver above sees the awaits of the tasks it drives; this one cancels between any two turns.
    for turns in range(120):
        canceller = Canceller(-1)
        agent = RecordingAgent()
        pipeline = Pipeline(canceller, lockstep=False, overflow="block")
        optimizer = RLOptimizer(agent, pipeline, checkpoint_dir=tmp_path)

        async def cancel_after(turns: int, scope: anyio.CancelScope) -> None:
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel_after, turns, tasks.cancel_scope)
            await optimizer.run()
            tasks.cancel_scope.cancel()
        check_conservation(optimizer.statistics(), agent)
        assert optimizer.statistics().received == pipeline.producer.handed_over


async def test_a_queue_cancelled_at_every_await() -> None:
    async def run(canceller: Canceller) -> None:
        queue = TransitionQueue(capacity=2)
        got: list[StreamItem] = []
        sent = 0

        async def produce() -> None:
            nonlocal sent
            for number in range(7):
                sent += 1
                await queue.push(make_transition(number))
                await queue.wait_settled()
            queue.close()

        async def consume() -> None:
            while items := await queue.drain():
                got.extend(items)

        with canceller.scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(canceller.drive, produce())
                tasks.start_soon(canceller.drive, consume())
        ledger = queue.ledger
        assert ledger.received == sent
        assert ledger.received == len(got) + queue.size + sum(ledger.dropped.values())

    assert await cancel_everywhere(run) > 5
