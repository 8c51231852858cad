"""Both live demos inside an app that has tasks of its own: the market's trader and the robots' bridge, side by side.

The app owns the event loop, its tasks and its end; each controller is one more awaitable in it. The app's heartbeat
beats fifty times a second and is told how late it was at worst, its status line asks the controllers how they are,
and when each has learned enough the app stops it, which leaves nothing unaccounted for.

    pip install '.[all,demos]' && python demos/embedded_live.py
    python demos/embedded_live.py --quick
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass

import live_market
import robot_bridge
from market import eurusd_series

from optix_stream import RLOptimizer, RunReport, WindowLearned


@dataclass(frozen=True)
class Arguments:
    """What can be set from the command line."""

    windows: int = 30  # that each is to learn from
    robots: int = 4
    seed: int = 0


class App:
    """Stands for yours: it has things to do, and two controllers to look after."""

    def __init__(self, controllers: dict[str, RLOptimizer]) -> None:
        self._controllers = controllers
        self._beats: list[float] = []

    async def run(self, windows: int) -> None:
        async with asyncio.TaskGroup() as tasks:
            own = [tasks.create_task(self._heartbeat()), tasks.create_task(self._status())]
            running = [tasks.create_task(self._run(controller, windows)) for controller in self._controllers.values()]
            reports = [await task for task in running]
            for task in own:
                task.cancel()
        late = sorted(self._beats)
        print(f"heartbeat: {len(late)} beats, late by {late[len(late) // 2] * 1e3:.1f} ms in the median")
        for name, report in zip(self._controllers, reports, strict=True):
            counts = report.statistics
            lost = sum(counts.dropped.values()) + sum(counts.rejected.values())
            print(
                f"{name}: {report.reason} after {report.windows} windows; "
                f"received {counts.received} = learned {counts.learned} + held {counts.held} + lost {lost}"
            )

    async def _run(self, controller: RLOptimizer, windows: int) -> RunReport:
        async with controller.events(kinds=[WindowLearned]) as events, asyncio.TaskGroup() as tasks:
            run = tasks.create_task(controller.run())
            learned = 0
            async for event in events:
                learned += isinstance(event, WindowLearned)
                if learned == windows:
                    controller.stop()
            return await run

    async def _heartbeat(self) -> None:
        loop, period = asyncio.get_running_loop(), 0.02
        while True:
            due = loop.time() + period
            await asyncio.sleep(period)
            self._beats.append(loop.time() - due)

    async def _status(self) -> None:
        while True:
            await asyncio.sleep(2.0)
            told = (
                f"{name} {c.state.value}, {c.statistics().learned} learned" for name, c in self._controllers.items()
            )
            print("; ".join(told))


async def main(arguments: Arguments) -> None:
    training = eurusd_series(3000).part(0, 3000)
    endless = live_market.Arguments(seed=arguments.seed, ticks=10**9, window=512)
    robots = robot_bridge.Arguments(seed=arguments.seed, robots=arguments.robots, seconds=10**6, window=400)
    async with AsyncExitStack() as stack:
        first, second = (stack.enter_context(tempfile.TemporaryDirectory()) for _ in range(2))
        robots_url = stack.enter_context(robot_bridge.robots_in_a_process(robots))
        market_url = await stack.enter_async_context(live_market.trading(training, endless))
        trader = live_market.Trader(market_url, training.features.shape[1], endless, first)
        bridge = robot_bridge.Bridge(robots, robots_url)
        await App({"market": trader.optimizer, "robots": bridge.optimizer(second)}).run(arguments.windows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, item in Arguments.__dataclass_fields__.items():
        parser.add_argument(f"--{name}", type=type(item.default), default=item.default)
    parser.add_argument("--quick", action="store_true", help="a short run, as the tests make it")
    given = vars(parser.parse_args())
    if given.pop("quick"):
        given["windows"] = 3
    asyncio.run(main(Arguments(**given)))
