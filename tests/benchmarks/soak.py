"""A live run with every fault at once, for as long as you like: does it crash, does it grow, does it lose count?

A server in a process of its own cuts connections (also within a frame), stalls, sends garbage, NaN, wrong shapes,
frames of 3 MB, duplicates, disorder and bursts. Meanwhile ``learn`` and ``learn_one`` raise now and then, one
subscriber sleeps and another raises, the disk with the checkpoints and the journal is full now and then (a small file
system of its own, where the system permits mounting one), and the run is stopped and resumed every few minutes.

    pip install 'optix-stream[websockets,gymnasium]'
    python tests/benchmarks/soak.py --minutes 60
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from hostile_feed import hostile_feed
from optix_stream_adapters.websockets import ConnectionOptions, MessagePackCodec, WebSocketFeed

from optix_stream import (
    BreakerPolicy,
    CheckpointEvery,
    EpisodeData,
    Event,
    JournalOptions,
    LivePipeline,
    LoopCallback,
    ReconnectPolicy,
    RLOptimizer,
    StreamQAgent,
    SubscriberLagging,
    Transition,
    TransitionsDropped,
    every_n_steps,
)
from optix_stream.types import Statistics

BAR_MB_PER_HOUR = 1.0
WARM_UP = 0.25
LONG_ENOUGH_MINUTES = 20.0
"""A slope of less than that is noise."""
SPACE, ACTIONS = spaces.Box(-np.inf, np.inf, (4,), np.float32), spaces.Discrete(3)


class MoodyAgent(StreamQAgent):
    """Learns, and raises on some transitions and some windows."""

    transitions = windows = 0

    def learn_one(self, transition: Transition) -> Any:
        self.transitions += 1
        if self.transitions % 4999 == 0:
            raise RuntimeError("learn_one raises now and then")
        return super().learn_one(transition)

    def learn(self, episode_data: EpisodeData) -> dict[str, float]:
        self.windows += 1
        if self.windows % 97 == 0:
            raise RuntimeError("learn raises now and then")
        return super().learn(episode_data)


class RaisingHook(LoopCallback):
    """A subscriber that fails."""

    def on_episode_end(self, episode_id: int, eval_metrics: Any) -> None:
        if episode_id % 50 == 0:
            raise RuntimeError("a hook raises now and then")


class Watch:
    """Takes notes on the run, once a second.

    Attributes:
        kinds: events by type, and drops by reason.
        notes: seconds since the start, and resident megabytes.
        unbalanced: statistics that did not add up.
    """

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.notes: list[tuple[float, float]] = []
        self.unbalanced: list[Statistics] = []
        self.crashes: list[str] = []
        self.transitions = 0
        self.runs = 0
        self._start = time.monotonic()

    def note(self, statistics: Statistics) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.notes.append((time.monotonic() - self._start, pages * os.sysconf("SC_PAGE_SIZE") / 2**20))
        if not statistics.is_balanced:
            self.unbalanced.append(statistics)

    def see(self, event: Event) -> None:
        name = type(event).__name__
        self.kinds[f"{name} ({event.reason})" if isinstance(event, TransitionsDropped) else name] += 1

    def slope_mb_per_hour(self) -> float:
        """Of a line through the notes after the warm-up, by least squares."""
        end = self.notes[-1][0]
        notes = [(sec, mb) for sec, mb in self.notes if sec >= WARM_UP * end]
        if len(notes) < 2:
            return float("nan")
        sec, mb = np.array(notes).T
        return float(np.polyfit(sec / 3600.0, mb, 1)[0])


@contextmanager
def small_disk(size: str) -> Iterator[tuple[Path, bool]]:
    """A directory, where possible on a file system of its own that is soon full, and whether it is."""
    with tempfile.TemporaryDirectory() as directory:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", directory], capture_output=True, check=False
        )
        try:
            yield Path(directory), mounted.returncode == 0
        finally:
            if mounted.returncode == 0:
                subprocess.run(["umount", "-l", directory], check=True)


async def fill_now_and_then(disk: Path) -> None:
    """Leave no room for three seconds in fifteen."""
    ballast = disk / "ballast"
    while True:
        await asyncio.sleep(12.0)
        with contextlib.suppress(OSError), ballast.open("wb") as file:
            while True:
                file.write(b"\x00" * 2**16)
                file.flush()
        await asyncio.sleep(3.0)
        ballast.unlink()


async def subscribe(optimizer: RLOptimizer, watch: Watch) -> None:
    async with optimizer.events(buffer_size=4096) as events:
        async for event in events:
            watch.see(event)


async def sleep_over_events(optimizer: RLOptimizer, watch: Watch) -> None:
    async with optimizer.events(buffer_size=8) as events:
        async for event in events:
            if isinstance(event, SubscriberLagging):
                watch.see(event)
            await asyncio.sleep(0.5)


def assemble(url: str, directory: Path) -> RLOptimizer:
    codec = MessagePackCodec(SPACE, ACTIONS)
    agent = MoodyAgent(SPACE, ACTIONS, seed=0)
    feed = WebSocketFeed(
        url,
        decode=codec.decode,
        encode=codec.encode,
        reconnect=ReconnectPolicy(
            initial_sec=0.05, max_sec=0.5, max_attempts=None, breaker=BreakerPolicy(failures=20, cool_down_sec=2.0)
        ),
        connection=ConnectionOptions(idle_timeout_sec=1.0, max_message_bytes=2**20, patience_sec=0.05),
    )
    return RLOptimizer(
        agent,
        LivePipeline(feed, episode_boundary_fn=every_n_steps(64), buffer_size=512),
        checkpoint_dir=directory,
        max_snapshots=3,
        callbacks=[RaisingHook()],
        checkpoint_every=CheckpointEvery(sec=2.0),
        journal=JournalOptions(max_bytes=2**20),
        resume=True,
    )


async def soak(url: str, directory: Path, watch: Watch, seconds: float, run_sec: float) -> None:
    """Run, stop and resume until the time is over."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        optimizer = assemble(url, directory)
        watch.runs += 1
        async with asyncio.TaskGroup() as tasks:
            watching = [
                tasks.create_task(subscribe(optimizer, watch)),
                tasks.create_task(sleep_over_events(optimizer, watch)),
                tasks.create_task(note_often(optimizer, watch)),
            ]
            stop = asyncio.get_running_loop().call_later(min(left, run_sec), optimizer.stop)
            try:
                report = await optimizer.run()
                watch.transitions = report.statistics.learned
            except Exception:
                watch.crashes.append(traceback.format_exc())
                print(watch.crashes[-1], file=sys.stderr, flush=True)
                await asyncio.sleep(1.0)
            finally:
                stop.cancel()
                for task in watching:
                    task.cancel()
        watch.note(optimizer.statistics())


async def note_often(optimizer: RLOptimizer, watch: Watch) -> None:
    while True:
        await asyncio.sleep(1.0)
        gc.collect()
        watch.note(optimizer.statistics())


def report(watch: Watch, minutes: float, *, is_full_now_and_then: bool) -> bool:
    """Print what was seen; whether every bar that can be judged is met."""
    slope = watch.slope_mb_per_hour()
    print(f"{minutes:g} minutes, {watch.runs} runs, {watch.transitions:,} transitions learned from")
    for kind, count in sorted(watch.kinds.items()):
        print(f"  {kind:45} {count:9,}")
    if not is_full_now_and_then:
        print("the disk was never full: mounting a file system of its own is not permitted here")
    print(f"resident memory {watch.notes[0][1]:.1f} MB at first, {watch.notes[-1][1]:.1f} MB in the end")
    is_long_enough = minutes >= LONG_ENOUGH_MINUTES
    verdicts = {
        f"crashes {len(watch.crashes)}  bar 0": not watch.crashes,
        f"slope {slope:+.2f} MB/h after warm-up  bar {BAR_MB_PER_HOUR:g}": slope < BAR_MB_PER_HOUR,
        f"unbalanced statistics {len(watch.unbalanced)} of {len(watch.notes)}  bar 0": not watch.unbalanced,
    }
    for statistics in watch.unbalanced[:3]:
        print(statistics)
    passed = True
    for text, is_met in verdicts.items():
        is_judged = is_long_enough or not text.startswith("slope")
        print(f"{text}  {'pass' if is_met else 'MISS'}" if is_judged else f"{text}  not judged: too short")
        passed &= is_met or not is_judged
    return passed


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=150.0, help="ticks a second, bursts aside")
    parser.add_argument("--ticks-between-faults", type=float, default=60.0)
    parser.add_argument("--run-sec", type=float, default=240.0, help="until a run is stopped and resumed")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    watch = Watch()
    with (
        hostile_feed(arguments.seed, arguments.rate, arguments.ticks_between_faults) as url,
        small_disk("8m") as (disk, is_small),
    ):
        async with asyncio.TaskGroup() as tasks:
            filling = tasks.create_task(fill_now_and_then(disk)) if is_small else None
            await soak(url, disk / "run", watch, arguments.minutes * 60.0, arguments.run_sec)
            if filling is not None:
                filling.cancel()
    return 0 if report(watch, arguments.minutes, is_full_now_and_then=is_small) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
