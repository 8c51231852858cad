"""Learning as one more task of an app that has its own event loop, its own tasks and its own way to shut down.

The app beats 100 times a second, prints its status every second and listens to what the learner has to say. You will
see all of that go on while PPO learns CartPole beside it; then, after some seconds or on Ctrl-C, the app stops the
learner, which finishes the window it is at, and shuts down. At the end: how late the heartbeat was.

    python demos/embed_in_app.py
    python demos/embed_in_app.py --quick

`TF_CPP_MIN_LOG_LEVEL=3` in the environment keeps TensorFlow's own log off the screen.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import tempfile
from collections import deque
from dataclasses import dataclass

import gymnasium
import numpy as np
from optix_stream_adapters.gymnasium import BatchPipeline
from optix_stream_adapters.tensorflow import PPOAgent

from optix_stream import Improved, RLOptimizer, RunReport, StateChanged

BEAT_SEC = 0.01


@dataclass(frozen=True)
class Arguments:
    """What can be set from the command line."""

    seed: int = 0
    seconds: float = 20.0  # that the app lives


class App:
    """Stands for yours: a few tasks that know nothing of learning, and two lines that plug the learner in."""

    def __init__(self, learner: RLOptimizer, arguments: Arguments) -> None:
        self.learner = learner
        self.arguments = arguments
        self.beats = 0
        self.late_sec: deque[float] = deque(maxlen=10_000)

    async def run(self) -> RunReport:
        """Live until it is time to shut down."""
        async with asyncio.TaskGroup() as tasks:
            own_tasks = [tasks.create_task(self.beat()), tasks.create_task(self.print_status())]
            tasks.create_task(self.print_events())  # Ends by itself when the learner does.
            tasks.create_task(self.shut_down_in_time())
            report = await self.learner.run()
            for task in own_tasks:
                task.cancel()
        return report

    async def shut_down_in_time(self) -> None:
        """Signals are the app's business: the learner installs no handlers."""
        ctrl_c = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, ctrl_c.set)
        try:
            async with asyncio.timeout(self.arguments.seconds):
                await ctrl_c.wait()
            print("Ctrl-C: stopping the learner")
        except TimeoutError:
            print("time is up: stopping the learner")
        self.learner.stop()

    async def beat(self) -> None:
        """A task that wants to run on time."""
        now = asyncio.get_running_loop().time
        while True:
            due = now() + BEAT_SEC
            await asyncio.sleep(BEAT_SEC)
            self.beats += 1
            self.late_sec.append(now() - due)

    async def print_status(self) -> None:
        """What a status page would show."""
        while True:
            await asyncio.sleep(1.0)
            statistics = self.learner.statistics()
            print(
                f"status: {self.learner.state.value}, {self.beats} beats, "
                f"{statistics.learned} transitions learned, {statistics.held} on their way"
            )

    async def print_events(self) -> None:
        """Has a buffer of its own, so that even a slow listener never holds up the learner."""
        async with self.learner.events() as events:
            async for event in events:
                if isinstance(event, Improved):
                    print(f"window {event.window}: {event.evidence}")
                elif isinstance(event, StateChanged):
                    print(f"window {event.window}: {event.old.value} -> {event.new.value}")


async def run_app(arguments: Arguments, checkpoint_dir: str) -> None:
    """Put the app together, run it, and tell how it went."""
    env = gymnasium.make_vec("CartPole-v1", num_envs=8, vectorization_mode="sync")
    agent = PPOAgent.for_spaces(env.single_observation_space, env.single_action_space, seed=arguments.seed)
    pipeline = BatchPipeline(env, window_size=2048, seed=arguments.seed)
    app = App(RLOptimizer(agent, pipeline, checkpoint_dir=checkpoint_dir), arguments)
    report = await app.run()
    env.close()

    best = report.best_snapshot
    score = "no window was scored" if best is None else f"best mean return {best.eval_metrics.primary_score:.1f}"
    print(f"learner: {report.reason} after {report.windows} windows, {report.transitions} transitions, {score}")
    p50, p99, worst = np.percentile(app.late_sec, [50, 99, 100]) * 1000
    print(f"heartbeat: {app.beats} beats, late by {p50:.1f} ms (median), {p99:.1f} ms (p99), {worst:.1f} ms (worst)")


def main() -> None:
    """Read the arguments and run the app, in the app's own event loop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=Arguments.seed)
    parser.add_argument("--seconds", type=float, default=Arguments.seconds)
    parser.add_argument("--quick", action="store_const", dest="seconds", const=4.0, help="a few seconds")
    with tempfile.TemporaryDirectory() as checkpoint_dir:
        asyncio.run(run_app(Arguments(**vars(parser.parse_args())), checkpoint_dir))


if __name__ == "__main__":
    main()
