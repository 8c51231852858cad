from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from optix_stream.bus import EventBus
from optix_stream.callbacks import CallbackRunner, LoopCallback
from optix_stream.events import (
    Degraded,
    Event,
    GapDetected,
    HyperparamsChanged,
    Improved,
    LoopStarted,
    LoopStopped,
    PlateauReached,
    SubscriberFailed,
    SubscriberLagging,
    WentDormant,
    WindowScored,
)
from optix_stream.testing import FakeClock
from optix_stream.types import EvalMetrics, HyperparamSet, LoopState, PolicySnapshot

pytestmark = pytest.mark.anyio

METRICS = EvalMetrics(1.0, {}, 3)
SNAPSHOT = PolicySnapshot("snapshot-0", METRICS, HyperparamSet({}), "snapshot-0/weights", 3)
SCORED = WindowScored(window=3, metrics=METRICS, state=LoopState.ACTIVE, interval=1, is_probe=False)
STARTED, STOPPED = LoopStarted(is_live=False), LoopStopped(reason="test")


@asynccontextmanager
async def running(callbacks: Sequence[LoopCallback]) -> AsyncIterator[EventBus]:
    """A bus whose events reach the callbacks; leaving waits for their async hooks."""
    bus = EventBus(FakeClock())
    runner = CallbackRunner(callbacks, bus, FakeClock(), grace_sec=20.0)
    async with anyio.create_task_group() as tasks:
        await tasks.start(runner.run)
        yield bus
        runner.finish()


class Recorder(LoopCallback):
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def on_loop_start(self) -> None:
        self.calls.append(("on_loop_start",))

    def on_loop_stop(self) -> None:
        self.calls.append(("on_loop_stop",))

    def on_episode_end(self, episode_id: int, eval_metrics: EvalMetrics | None) -> None:
        self.calls.append(("on_episode_end", episode_id, eval_metrics))

    def on_improvement(self, snapshot: PolicySnapshot) -> None:
        self.calls.append(("on_improvement", snapshot))

    def on_plateau(self, episode_id: int, state: LoopState) -> None:
        self.calls.append(("on_plateau", episode_id, state))

    def on_dormant(self, episode_id: int) -> None:
        self.calls.append(("on_dormant", episode_id))

    def on_degradation(self, episode_id: int, eval_metrics: EvalMetrics) -> None:
        self.calls.append(("on_degradation", episode_id, eval_metrics))

    def on_hyperparam_update(self, old_params: dict[str, Any], new_params: dict[str, Any]) -> None:
        self.calls.append(("on_hyperparam_update", old_params, new_params))


async def test_each_of_the_eight_hooks_is_called_with_what_happened() -> None:
    recorder = Recorder()
    async with running([recorder]) as bus:
        for event in (
            STARTED,
            SCORED,
            Improved(window=3, snapshot=SNAPSHOT, evidence=""),
            PlateauReached(window=4, state=LoopState.COOLING, evidence=""),
            WentDormant(window=5, evidence=""),
            Degraded(window=6, metrics=METRICS, evidence=""),
            HyperparamsChanged(window=7, old={"x": 1}, new={"x": 2}),
            GapDetected(stream=0, reason="no hook for this"),
            STOPPED,
        ):
            bus.emit(event)
    assert recorder.calls == [
        ("on_loop_start",),
        ("on_episode_end", 3, METRICS),
        ("on_improvement", SNAPSHOT),
        ("on_plateau", 4, LoopState.COOLING),
        ("on_dormant", 5),
        ("on_degradation", 6, METRICS),
        ("on_hyperparam_update", {"x": 1}, {"x": 2}),
        ("on_loop_stop",),
    ]


async def test_a_callback_need_not_override_anything() -> None:
    heard: list[Event] = []
    async with running([LoopCallback()]) as bus:
        bus.listen(heard.append)
        for event in (STARTED, SCORED, STOPPED):
            bus.emit(event)
    assert heard == [STARTED, SCORED, STOPPED]


class Failing(LoopCallback):
    def on_loop_start(self) -> None:
        raise ZeroDivisionError("plain")


class AsyncFailing(LoopCallback):
    async def on_loop_start(self) -> None:
        await anyio.lowlevel.checkpoint()
        raise ZeroDivisionError("async")


@pytest.mark.parametrize(("callback", "text"), [(Failing(), "plain"), (AsyncFailing(), "async")])
async def test_a_hook_that_raises_hurts_no_one_and_is_reported(
    callback: LoopCallback, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder()
    heard: list[Event] = []
    async with running([callback, recorder]) as bus:
        bus.listen(heard.append)
        bus.emit(STARTED)
        bus.emit(STOPPED)
    assert recorder.calls == [("on_loop_start",), ("on_loop_stop",)]
    failure = SubscriberFailed(
        subscriber=type(callback).__name__, hook="on_loop_start", error=f"ZeroDivisionError('{text}')"
    )
    assert failure in heard
    (record,) = (record for record in caplog.records if record.levelno == logging.ERROR)
    assert record.getMessage() == f"{type(callback).__name__}.on_loop_start failed"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ZeroDivisionError)


async def test_async_hooks_run_one_at_a_time_in_order_and_hold_nobody_up() -> None:
    """The original system never awaited them."""
    clock = FakeClock()

    class Slow(LoopCallback):
        def __init__(self) -> None:
            self.finished: list[tuple[float, int]] = []

        async def on_dormant(self, episode_id: int) -> None:
            await clock.sleep(1.0)
            self.finished.append((clock.now(), episode_id))

    slow, recorder = Slow(), Recorder()
    async with running([slow, recorder]) as bus:
        for window in range(3):
            bus.emit(WentDormant(window=window, evidence=""))
        assert recorder.calls == [("on_dormant", window) for window in range(3)]
        await clock.advance(10.0)
    assert slow.finished == [(1.0, 0), (2.0, 1), (3.0, 2)]


async def test_hooks_that_are_under_way_when_the_loop_stops_are_finished() -> None:
    class Slow(LoopCallback):
        finished = False

        async def on_loop_stop(self) -> None:
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
            self.finished = True

    slow = Slow()
    async with running([slow]) as bus:
        bus.emit(STOPPED)
    assert slow.finished


async def test_hooks_that_never_end_are_cancelled_after_the_grace_period(caplog: pytest.LogCaptureFixture) -> None:
    class Stuck(LoopCallback):
        async def on_loop_stop(self) -> None:
            await anyio.sleep_forever()

    bus = EventBus(FakeClock())
    runner = CallbackRunner([Stuck()], bus, FakeClock(), grace_sec=0.0)
    async with anyio.create_task_group() as tasks:
        await tasks.start(runner.run)
        bus.emit(STOPPED)
        runner.finish()
    assert "async hooks were still running 0 s after the loop and were cancelled" in caplog.messages


async def test_hooks_that_pile_up_are_skipped_and_said() -> None:
    """Memory stays bounded however slow a hook is."""
    started: list[int] = []
    release = anyio.Event()

    class Slow(LoopCallback):
        async def on_dormant(self, episode_id: int) -> None:
            started.append(episode_id)
            await release.wait()

    heard: list[Event] = []
    async with running([Slow()]) as bus:
        bus.listen(heard.append)
        for window in range(1000):
            bus.emit(WentDormant(window=window, evidence=""))
        release.set()
    missed = sum(event.missed for event in heard if isinstance(event, SubscriberLagging))
    assert missed > 0
    assert len(started) + missed == 1000


async def test_a_callback_that_is_given_twice_is_called_twice() -> None:
    class Counting(LoopCallback):
        count = 0

        async def on_loop_start(self) -> None:
            await anyio.lowlevel.checkpoint()
            self.count += 1

    counting = Counting()
    async with running([counting, counting]) as bus:
        bus.emit(STARTED)
    assert counting.count == 2
