"""A live run with a journal is killed at random moments and resumed: is every accepted tick learned exactly once?

A feed numbers its ticks. The run's process gets SIGKILL at a moment drawn at random (while it starts, resumes, learns,
saves), again and again; after each kill the journal is read for what had been accepted. The agent's weights are the
list of the numbers that it learned from, so that they say what the weights that go on have learned: of each connection
every tick from the first to the last that was accepted, once, and in order.

    pip install 'optix-stream[websockets,gymnasium]'
    python tests/benchmarks/journal.py --kills 100
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from gymnasium import spaces
from optix_stream_adapters.websockets import JsonCodec, WebSocketFeed
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from optix_stream import (
    BaseEvaluator,
    CheckpointEvery,
    EpisodeData,
    EvalMetrics,
    LivePipeline,
    ReconnectPolicy,
    RLOptimizer,
    Transition,
    TransitionBatch,
    TransitionLearner,
    every_n_steps,
)
from optix_stream.contracts import Policy, as_policy
from optix_stream.journal.store import JournalStore
from optix_stream.testing import NullAgent

SPACE, ACTIONS = spaces.Box(-np.inf, np.inf, (1,), np.float64), spaces.Discrete(2)
LONGEST_LIFE_SEC = 3.0
LAST_TICKS = 100
END_SEC = 60.0


# --- the process that is killed ------------------------------------------------------------------


class NotingAgent(NullAgent):
    """Its weights are the numbers of the ticks that it learned from, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[int] = []

    def learn(self, episode_data: EpisodeData) -> dict[str, float]:
        self.numbers.extend(episode_data.observations[:, 0].astype(int).tolist())
        return {}

    def save_weights(self, path: str) -> None:
        Path(path).write_bytes(msgspec.json.encode(self.numbers))

    def load_weights(self, path: str) -> None:
        self.numbers = msgspec.json.decode(Path(path).read_bytes(), type=list[int])


class NotingEachAgent(NotingAgent, TransitionLearner):
    """The same, learning from each tick as it comes."""

    def live_policy(self) -> Policy:
        return as_policy(self)

    def learn_one(self, transition: Transition) -> dict[str, float]:
        self.numbers.append(int(transition.observation[0]))
        return {}

    def learn(self, episode_data: EpisodeData) -> dict[str, float]:
        return {}


class NoScore(BaseEvaluator):
    """So that the weights in the end are the last ones, and not the best."""

    def score(self, episode_data: EpisodeData, train_diagnostics: dict[str, float]) -> EvalMetrics | None:
        return None


async def live(url: str, directory: str, *, learns_each: bool, is_last: bool) -> None:
    """Run, or go on; the last process ends with its feed, and prints what it has learned."""
    codec = JsonCodec(SPACE, ACTIONS)
    agent = NotingEachAgent() if learns_each else NotingAgent()
    reconnect = None if is_last else ReconnectPolicy(initial_sec=0.02, max_sec=0.1, max_attempts=None, breaker=None)
    feed = WebSocketFeed(url, decode=codec.decode, encode=codec.encode, reconnect=reconnect)
    report = await RLOptimizer(
        agent,
        LivePipeline(feed, episode_boundary_fn=every_n_steps(16), buffer_size=100_000),
        evaluator=NoScore(),
        checkpoint_dir=directory,
        checkpoint_every=CheckpointEvery(sec=0.1),
        journal=True,
        resume=True,
    ).run()
    facts = {"numbers": agent.numbers, "statistics": report.statistics, "is_balanced": report.statistics.is_balanced}
    print(msgspec.json.encode(facts).decode())


# --- the feed, and who kills ---------------------------------------------------------------------


@dataclass
class Feed:
    """Sends numbered ticks to whoever is connected.

    Attributes:
        rate: ticks a second.
        next: the number that comes next; none is sent twice.
        firsts: the first number of each connection.
        left: ticks until the feed ends; None: it goes on.
    """

    rate: float
    rng: random.Random
    next: int = 0
    firsts: list[int] = field(default_factory=list)
    left: int | None = None

    async def serve(self, socket: ServerConnection) -> None:
        async def read() -> None:
            async for _ in socket:
                pass

        reading = asyncio.create_task(read())
        self.firsts.append(self.next)
        # The client is killed at any moment.
        with suppress(ConnectionClosed):
            while self.left is None or self.left > 0:
                number, self.next = self.next, self.next + 1
                self.left = None if self.left is None else self.left - 1
                await socket.send(json.dumps({"observation": [number], "reward": 0.0}))
                await asyncio.sleep(self.rng.expovariate(self.rate))
        reading.cancel()
        await asyncio.wait([reading])


def accepted_in(directory: Path) -> set[int]:
    """The ticks in the journal, read from a copy, as a kill has left it."""
    numbers: set[int] = set()
    with tempfile.TemporaryDirectory() as name:
        copies = [shutil.copy(file, name) for file in directory.glob("journal.sqlite*")]
        if copies:
            store = JournalStore(Path(name) / "journal.sqlite")
            for batch in store.read(0, sys.maxsize, sys.maxsize):
                assert batch.items is not None, "expected a whole batch"
                for item in batch.items:
                    if isinstance(item, TransitionBatch):
                        numbers.update(item.observations[:, 0].astype(int).tolist())
            store.close()
    return numbers


async def start(url: str, directory: Path, *options: str) -> asyncio.subprocess.Process:
    arguments = [__file__, "--live", url, "--directory", str(directory), *options]
    return await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)


def judge(numbers: list[int], accepted: set[int], feed: Feed) -> tuple[list[int], list[int], bool]:
    """What was lost, what was learned twice, and whether the rest was in order."""
    counts = Counter(numbers)
    twice = [number for number, count in counts.items() if count > 1]
    lost: set[int] = accepted - counts.keys()
    for first, end in zip(feed.firsts, [*feed.firsts[1:], feed.next], strict=True):
        learned = [number for number in range(first, end) if number in counts]
        # Accepted in order: what is missing before the last one was accepted too.
        lost |= set(range(first, learned[-1] + 1)) - counts.keys() if learned else set()
    return sorted(lost), twice, numbers == sorted(numbers)


async def kill_again_and_again(arguments: argparse.Namespace) -> bool:
    rng = random.Random(arguments.seed)
    feed = Feed(arguments.rate, rng)
    accepted: set[int] = set()
    options = ["--each"] if arguments.each else []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "run"
        async with serve(feed.serve, "127.0.0.1", 0, compression=None) as server:
            url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
            for kill in range(arguments.kills):
                process = await start(url, directory, *options)
                await asyncio.sleep(rng.uniform(0.0, LONGEST_LIFE_SEC))
                assert process.returncode is None, (
                    f"expected a process to kill, got one that ended: {process.returncode}"
                )
                process.send_signal(signal.SIGKILL)
                await process.wait()
                before = len(accepted)
                accepted |= accepted_in(directory)
                print(f"kill {kill + 1:3}: {len(accepted) - before:5} more accepted", file=sys.stderr, flush=True)
            feed.left = LAST_TICKS
            process = await start(url, directory, *options, "--last")
            async with asyncio.timeout(END_SEC):
                out, _ = await process.communicate()
    assert process.returncode == 0, f"expected the last process to end well, got {process.returncode}"
    facts: dict[str, Any] = msgspec.json.decode(out)
    lost, twice, is_ordered = judge(facts["numbers"], accepted, feed)
    learned, statistics = len(facts["numbers"]), facts["statistics"]
    is_exact = facts["is_balanced"] and statistics["learned"] == learned
    print(f"{arguments.kills} kills, {len(feed.firsts)} connections, {feed.next} ticks sent, {learned} learned from")
    print(f"in order: {is_ordered}; statistics exact: {is_exact} {statistics}")
    passed = not lost and not twice and is_ordered and is_exact and learned > 0
    print(f"{len(lost)} lost, {len(twice)} twice  bar 0, 0  {'pass' if passed else 'MISS'}")
    return passed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--each", action="store_true", help="an agent that learns from each tick, not from windows")
    parser.add_argument("--rate", type=float, default=500.0, help="ticks a second")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--live", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--directory", help=argparse.SUPPRESS)
    parser.add_argument("--last", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.live is not None:
        asyncio.run(live(arguments.live, arguments.directory, learns_each=arguments.each, is_last=arguments.last))
        return 0
    return 0 if asyncio.run(kill_again_and_again(arguments)) else 1


if __name__ == "__main__":
    sys.exit(main())
