"""A live market: hourly EURUSD over a websocket, an agent that holds -1, 0 or +1, costs inside the reward.

A local server replays the series, tick by tick, as fast as it is answered, and keeps the agent's position. Five
walk-forward folds: the agent learns on the past alone, scalers included, and is judged on what follows, beside doing
nothing, buying and holding, and changing position at random as often as it does. Expect no profit: the series has next
to no signal, and a large one would mean a fault. That it can learn is shown by ``--synthetic``: a price that returns
to its mean, whose best policy is known, and a martingale, where the best is to stay out.

    pip install '.[all,demos]' && python demos/live_market.py
    python demos/live_market.py --synthetic
    python demos/live_market.py --quick
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

import numpy as np
from gymnasium import spaces
from market import POSITIONS, Array, Choose, Series, eurusd_series, flat, hold, optimal, random_with, synthetic, trade
from optix_stream_adapters.tensorflow import PPOAgent
from optix_stream_adapters.websockets import JsonCodec, WebSocketFeed
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from optix_stream import LivePipeline, RLOptimizer, StateChanged, ThresholdJudge


@dataclass(frozen=True)
class Arguments:
    """What can be set from the command line."""

    seed: int = 0
    folds: int = 5
    ticks: int = 60_000  # that an agent learns from, in episodes of the training part
    window: int = 2048
    episode: int = 256
    synthetic: bool = False


# --- the market ------------------------------------------------------------------------------------


class Exchange:
    """Replays a series over a websocket, keeps the position, and pays what it earned less costs."""

    def __init__(self, series: Series, arguments: Arguments) -> None:
        self._series = series
        self._arguments = arguments

    async def converse(self, socket: ServerConnection) -> None:
        rng = np.random.default_rng(self._arguments.seed)
        # Whoever has seen enough hangs up.
        with suppress(ConnectionClosed):
            for _ in range(self._arguments.ticks // self._arguments.episode):
                start = int(rng.integers(len(self._series) - self._arguments.episode))
                await self._replay(socket, self._series.part(start, start + self._arguments.episode + 1))

    @staticmethod
    async def _replay(socket: ServerConnection, series: Series) -> None:
        held, reward = 0, None
        for tick in range(len(series)):
            is_last = tick == len(series) - 1
            observation = [*series.features[tick].tolist(), float(held)]
            await socket.send(json.dumps({"observation": observation, "reward": reward, "truncated": is_last}))
            if not is_last:
                position = POSITIONS[json.loads(await socket.recv())["action"]]
                reward = position * series.moves[tick] - series.cost * abs(position - held)
                held = position


@asynccontextmanager
async def trading(series: Series, arguments: Arguments) -> AsyncIterator[str]:
    """The address of an exchange on this machine."""
    async with serve(Exchange(series, arguments).converse, "127.0.0.1", 0, compression=None) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


# --- the trader ------------------------------------------------------------------------------------


class Trader:
    """An agent and its feed, ready to run in any app."""

    def __init__(self, url: str, features: int, arguments: Arguments, directory: str) -> None:
        observed, actions = spaces.Box(-np.inf, np.inf, (features + 1,)), spaces.Discrete(len(POSITIONS))
        agent = PPOAgent.for_spaces(
            observed, actions, seed=arguments.seed, gamma=0.9, gae_lambda=0.9, learning_rate=1e-3,
            epochs=5, minibatch_size=512, entropy_coef=0.01, schedule_steps=arguments.ticks,
        )  # fmt: skip
        codec = JsonCodec(observed, actions)
        pipeline = LivePipeline(
            WebSocketFeed(url, decode=codec.decode, encode=codec.encode, reconnect=None),
            episode_boundary_fn=LivePipeline.every_n_steps(arguments.window),
            overflow="block",
            lockstep=True,  # A replay can wait: the same seed gives the same trader.
        )
        judge = ThresholdJudge(smoothing=8)
        self.optimizer = RLOptimizer(agent, pipeline, checkpoint_dir=directory, judge=judge)

    async def learn(self) -> None:
        """Until the exchange closes; tells what state the loop is in meanwhile."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tell())
            await self.optimizer.run()

    async def _tell(self) -> None:
        async with self.optimizer.events(kinds=[StateChanged]) as events:
            async for event in events:
                if isinstance(event, StateChanged):
                    print(f"    window {event.window}: {event.old.value} -> {event.new.value}")

    def choice(self) -> Choose:
        """What the policy that was found would do, without exploring."""
        policy = self.optimizer.deterministic_policy()

        def choose(features: Array, held: int) -> int:
            decision = policy.act(np.array([[*features, held]], np.float32))
            return POSITIONS[int(decision.actions[0])]

        return choose


async def train(series: Series, arguments: Arguments) -> Choose:
    """Learn on a series; the policy that came of it."""
    with tempfile.TemporaryDirectory() as directory:
        async with trading(series, arguments) as url:
            trader = Trader(url, series.features.shape[1], arguments, directory)
            await trader.learn()
        counts = trader.optimizer.statistics()
        print(f"    received {counts.received} = learned {counts.learned} + dropped {sum(counts.dropped.values())}")
        return trader.choice()


# --- the report ------------------------------------------------------------------------------------


async def walk_forward(arguments: Arguments) -> None:
    """Learn on the past, trade what follows, move on."""
    total = len(eurusd_series(1000))
    length = int(total * 0.6 / arguments.folds)
    first = total - arguments.folds * length
    table: dict[str, list[float]] = {"agent": [], "flat": [], "buy and hold": [], "random": []}
    for fold in range(arguments.folds):
        end = first + fold * length
        series = eurusd_series(end)
        print(f"fold {fold + 1}: learns on {end} hours, trades the next {length}")
        choose = await train(series.part(0, end), arguments)
        test = series.part(end, end + length)
        mine = trade(test, choose)
        rng = np.random.default_rng(arguments.seed)
        others = [trade(test, random_with(mine.turnover, rng)).profit for _ in range(20)]
        row = {"agent": mine.profit, "flat": trade(test, flat).profit, "buy and hold": trade(test, hold).profit}
        row["random"] = float(np.mean(others))
        low, high = np.percentile(others, [5, 95])
        for name, profit in row.items():
            table[name].append(profit)
            print(f"    {name:13}{profit:9.1f}")
        print(f"    its turnover is {mine.turnover:.3f} a tick; 90 of 100 random ones: {low:.1f} to {high:.1f}")
    print("profit in standard deviations of one hour, after costs, all folds:")
    for name, profits in table.items():
        spread = float(np.std(profits)) * len(profits) ** 0.5
        print(f"  {name:13}{sum(profits):9.1f} ± {spread:.1f}")


async def known_optimum(arguments: Arguments) -> None:
    """Where there is something to find, and where there is nothing."""
    persistence, cost, length = 0.8, 0.1, 20_000
    print("a price that returns to its mean")
    choose = await train(synthetic(length, persistence, cost, arguments.seed), arguments)
    test = synthetic(length, persistence, cost, arguments.seed + 1000)
    best, mine = trade(test, optimal(persistence, cost)), trade(test, choose)
    print(f"share of the optimal profit: {100 * mine.profit / best.profit:.1f} %")
    print("a martingale")
    choose = await train(synthetic(length, 1.0, cost, arguments.seed), arguments)
    mine = trade(synthetic(length, 1.0, cost, arguments.seed + 1000), choose)
    costs = cost * mine.turnover * length
    noise = 2 * length**0.5
    print(f"profit where there is none to make: {mine.profit:.1f}; its costs {costs:.1f}, chance ± {noise:.1f}")


def parse() -> Arguments:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, item in Arguments.__dataclass_fields__.items():
        if isinstance(item.default, bool):
            parser.add_argument(f"--{name}", action="store_true")
        else:
            parser.add_argument(f"--{name}", type=type(item.default), default=item.default)
    parser.add_argument("--quick", action="store_true", help="a short run, as the tests make it")
    given = vars(parser.parse_args())
    quick = given.pop("quick")
    arguments = Arguments(**given)
    return replace(arguments, folds=2, ticks=4096, window=512) if quick else arguments


if __name__ == "__main__":
    arguments = parse()
    asyncio.run(known_optimum(arguments) if arguments.synthetic else walk_forward(arguments))
