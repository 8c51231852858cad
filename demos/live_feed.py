"""A live feed from an async generator: observations come, actions go back at once, rewards answer the action before.

The feed is a tank that drains and that a valve refills; the agent keeps the level in the middle by opening and closing
the valve. It has never seen a tank: it remembers what each valve position earned at each level. You will see state
events as they happen, the mean reward of early and late windows, and where every transition went.

    python demos/live_feed.py
    python demos/live_feed.py --quick
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from optix_stream import (
    BaseAgent,
    EpisodeData,
    HyperparamSet,
    LivePipeline,
    RLOptimizer,
    StateChanged,
    WindowScored,
)


@dataclass(frozen=True)
class Arguments:
    """What can be set from the command line."""

    seed: int = 0
    ticks: int = 20_000
    rate: float = 4000.0  # ticks a second; a real tank would be slower
    window: int = 200


class Tank:
    """The feed. It does not wait for anybody: the valve stays as it was until ``send`` moves it."""

    def __init__(self, arguments: Arguments) -> None:
        self._arguments = arguments
        self._random = random.Random(arguments.seed)
        self._valve = 0

    async def stream(self) -> AsyncIterator[tuple[Any, float, bool, bool, dict[str, Any]]]:
        level, reward = 5.0, 0.0
        for _ in range(self._arguments.ticks):
            # The reward is for the valve's position since the observation before.
            yield [level], reward, False, False, {}
            await asyncio.sleep(1 / self._arguments.rate)
            level += 1.0 * self._valve - 0.5 + self._random.gauss(0.0, 0.1)
            level = min(max(level, 0.0), 10.0)
            reward = -abs(level - 5.0)

    async def send(self, action: int) -> None:
        self._valve = int(action)


class Table(BaseAgent):
    """What each action earned, on average and recently, at each level rounded to a whole number."""

    def __init__(self, seed: int) -> None:
        self.values = np.zeros((11, 2))
        self._random = random.Random(seed)
        self._params: dict[str, Any] = {"rate": 0.1, "curiosity": 0.1}

    def act(self, observation: Any) -> int:
        if self._random.random() < self._params["curiosity"]:
            return self._random.randrange(2)
        return int(self.values[round(float(observation[0]))].argmax())

    def learn(self, episode_data: EpisodeData) -> dict[str, float]:
        levels = np.rint(episode_data.observations[:, 0]).astype(int)
        values = self.values.copy()
        for level, action, reward in zip(levels, episode_data.actions, episode_data.rewards, strict=True):
            values[level, action] += self._params["rate"] * (reward - values[level, action])
        # One assignment: act() goes on meanwhile, and never sees a table that is half-way.
        self.values = values
        return {"mean_value": float(values.mean())}

    def get_hyperparams(self) -> HyperparamSet:
        return HyperparamSet(dict(self._params))

    def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        self._params = dict(hyperparams.params)

    def save_weights(self, path: str) -> None:
        Path(path).write_text(json.dumps(self.values.tolist()))

    def load_weights(self, path: str) -> None:
        self.values = np.array(json.loads(Path(path).read_text()))


async def main(arguments: Arguments) -> None:
    pipeline = LivePipeline(
        Tank(arguments),
        episode_boundary_fn=LivePipeline.every_n_steps(arguments.window),
        reconnect_on_disconnect=False,  # The end of this feed is the end of the run.
    )
    scores: list[float] = []
    with tempfile.TemporaryDirectory() as checkpoints:
        optimizer = RLOptimizer(Table(arguments.seed), pipeline, checkpoint_dir=checkpoints)

        async def watch() -> None:
            async with optimizer.events() as events:
                async for event in events:
                    if isinstance(event, WindowScored) and event.metrics is not None:
                        scores.append(event.metrics.primary_score)
                    elif isinstance(event, StateChanged):
                        print(f"window {event.window:4}: {event.old.name} -> {event.new.name}")

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(watch())
            report = await optimizer.run()
    third = max(1, len(scores) // 3)
    early, late = float(np.mean(scores[:3])), float(np.mean(scores[-third:]))
    print(f"reward a step: {early:.2f} in the first windows, {late:.2f} in the last ones")
    s = report.statistics
    print(
        f"received {s.received} = learned {s.learned} + held {s.held} "
        f"+ dropped {sum(s.dropped.values())} + rejected {sum(s.rejected.values())}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=Arguments.seed)
    parser.add_argument("--quick", action="store_true", help="a short run")
    options = parser.parse_args()
    asyncio.run(main(Arguments(seed=options.seed, ticks=4000 if options.quick else Arguments.ticks)))
