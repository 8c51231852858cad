"""A run that stops and goes on in another process does what it would have done without the stop, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from optix_stream_adapters.gymnasium import BatchPipeline, Env
from saved_state import last_checkpoint

from optix_stream.agents import StreamACAgent
from optix_stream.checkpointing import CheckpointEvery
from optix_stream.contracts import BaseAgent
from optix_stream.events import CheckpointFailed, Event, GapDetected, RunResumed, RunSaved, WindowAssembled
from optix_stream.rl_optimizer import RLOptimizer
from optix_stream.testing import assert_balanced
from optix_stream.types import EpisodeData, HyperparamSet, RunReport, Tree
from optix_stream.wire import encode_window

pytestmark = pytest.mark.anyio

STEPS = 50


class Wanderer(BaseAgent):
    """Acts at random, leaning towards what it learned; keeps what it was shown.

    Attributes:
        windows: as bytes.
    """

    def __init__(self, space: gym.Space[Any]) -> None:
        self._space = space
        self._rng = np.random.default_rng(0)
        self._lean = 0.0
        self.windows: list[bytes] = []

    def act(self, observation: Tree) -> Any:
        if isinstance(self._space, gym.spaces.Discrete):
            return int(self._rng.integers(self._space.n))
        assert isinstance(self._space, gym.spaces.Box)
        return np.clip(self._rng.normal(self._lean, 1.0, self._space.shape), -1.0, 1.0).astype(np.float32)

    def learn(self, episode_data: EpisodeData) -> dict[str, float]:
        self._lean = 0.9 * self._lean + 0.01 * float(episode_data.rewards.mean())
        self.windows.append(encode_window(without_clock(episode_data)))
        return {"lean": self._lean}

    def get_hyperparams(self) -> HyperparamSet:
        return HyperparamSet({})

    def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        pass

    def save_weights(self, path: str) -> None:
        Path(path).write_text(json.dumps([self._lean, self._rng.bit_generator.state]))

    def load_weights(self, path: str) -> None:
        self._lean, self._rng.bit_generator.state = json.loads(Path(path).read_text())


def without_clock(window: EpisodeData) -> EpisodeData:
    values = {name: getattr(window, name) for name in EpisodeData.__dataclass_fields__}
    return EpisodeData(**{**values, "times": np.zeros(window.length), "timestamp": 0.0})


def vector(env_id: str, mode: AutoresetMode = AutoresetMode.NEXT_STEP) -> Env:
    return SyncVectorEnv([lambda: gym.make(env_id)] * 3, autoreset_mode=mode)


ENVIRONMENTS: Mapping[str, Callable[[], Env]] = {
    "one": lambda: gym.make("CartPole-v1"),
    "continuous": lambda: gym.make("Pendulum-v1", max_episode_steps=30),
    "side by side": lambda: vector("CartPole-v1"),
    "reset at once": lambda: vector("CartPole-v1", AutoresetMode.SAME_STEP),
    "reset by hand": lambda: vector("CartPole-v1", AutoresetMode.DISABLED),
    "arrays": lambda: gym.make_vec("CartPole-v1", num_envs=3),
}


class Piece:
    """A part of a run, in a process of its own as it were: everything is made anew.

    Attributes:
        events: what it told.
        windows: what its agent learned from.
    """

    def __init__(self, make_env: Callable[[], Env], directory: Path, *, resume: bool, until: int | None) -> None:
        self.env = make_env()
        space = getattr(self.env, "single_action_space", self.env.action_space)
        self.agent = Wanderer(space)
        self.optimizer = RLOptimizer(
            self.agent,
            BatchPipeline(self.env, window_size=STEPS, seed=3),
            checkpoint_dir=directory,
            max_episodes=until,
            dormant_threshold=1000,
            resume=resume,
            checkpoint_every=CheckpointEvery(windows=1),
        )
        self.events: list[Event] = []

    async def run(self) -> RunReport:
        async with self.optimizer.events(buffer_size=10_000) as events:
            try:
                report = await self.optimizer.run()
            finally:
                self.env.close()
            assert_balanced(self.optimizer.statistics())
            self.events = [event async for event in events]
        return report

    @property
    def windows(self) -> list[bytes]:
        return self.agent.windows

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.mark.parametrize("name", ENVIRONMENTS)
async def test_a_run_in_pieces_is_the_run_in_one(name: str, tmp_path: Path) -> None:
    whole = Piece(ENVIRONMENTS[name], tmp_path / "whole", resume=True, until=9)
    report = await whole.run()
    windows: list[bytes] = []
    for until in (2, 3, 7, 9):
        piece = Piece(ENVIRONMENTS[name], tmp_path / "pieces", resume=True, until=until)
        last = await piece.run()
        windows += piece.windows
        assert piece.of(GapDetected) == piece.of(CheckpointFailed) == []
        assert [event.fresh for event in piece.of(RunResumed)] in ([], [()])
        assert [event.window for event in piece.of(RunResumed)] == (
            [len(windows) - len(piece.windows) - 1] if until > 2 else []
        )
    assert windows == whole.windows
    assert last.statistics == report.statistics
    assert (last.windows, last.state, best_of(last)) == (report.windows, report.state, best_of(report))


def best_of(report: RunReport) -> tuple[Any, ...]:
    best = report.best_snapshot
    assert best is not None
    return best.snapshot_id, best.eval_metrics, best.hyperparams


@pytest.mark.parametrize("name", ["one", "side by side", "arrays"])
async def test_a_run_that_is_stopped_in_the_midst_of_a_window_goes_on_in_it(name: str, tmp_path: Path) -> None:
    whole = Piece(ENVIRONMENTS[name], tmp_path / "whole", resume=True, until=4)
    await whole.run()
    windows: list[bytes] = []
    for _ in range(3):
        piece = Piece(ENVIRONMENTS[name], tmp_path / "pieces", resume=True, until=None)
        async with anyio.create_task_group() as tasks:

            async def stop(piece: Piece = piece) -> None:
                async with piece.optimizer.events() as events:
                    async for event in events:
                        if isinstance(event, WindowAssembled):
                            break
                # The next window has begun, somewhere.
                while piece.optimizer.statistics().held_in_learner:
                    await anyio.lowlevel.checkpoint()
                piece.optimizer.stop()

            tasks.start_soon(stop)
            await piece.run()
        windows += piece.windows
    piece = Piece(ENVIRONMENTS[name], tmp_path / "pieces", resume=True, until=max(4, len(windows)))
    await piece.run()
    windows += piece.windows
    assert windows[:4] == whole.windows[: len(windows)]


async def test_what_was_saved_last_is_where_it_goes_on(tmp_path: Path) -> None:
    piece = Piece(ENVIRONMENTS["one"], tmp_path, resume=False, until=3)
    await piece.run()
    assert [event.window for event in piece.of(RunSaved)][-1] == 2
    again = Piece(ENVIRONMENTS["one"], tmp_path, resume=True, until=3)
    report = await again.run()
    assert (report.reason, report.windows, again.windows) == ("max_episodes", 3, [])


async def test_without_resume_a_run_begins_anew(tmp_path: Path) -> None:
    first = Piece(ENVIRONMENTS["one"], tmp_path, resume=False, until=2)
    await first.run()
    second = Piece(ENVIRONMENTS["one"], tmp_path, resume=False, until=2)
    await second.run()
    assert first.windows == second.windows
    assert second.of(RunResumed) == []


class Forgetful(gym.Wrapper[Any, Any, Any, Any]):
    """Its rewards depend on more than its episode."""

    steps = 0

    def step(self, action: Any) -> Any:
        observation, *others = self.env.step(action)
        self.steps += 1
        return (observation + self.steps, *others)


@pytest.mark.parametrize(
    ("make_env", "reason"),
    [
        (lambda: Forgetful(gym.make("CartPole-v1")), "its episode, had once more, came to another end"),
        (lambda: AsyncVectorEnv([lambda: gym.make("CartPole-v1")] * 2), "neither numbers nor arrays"),
    ],
    ids=["not deterministic", "in processes"],
)
async def test_an_environment_that_cannot_be_put_back_begins_anew_and_says_so(
    make_env: Callable[[], Env], reason: str, tmp_path: Path
) -> None:
    await Piece(make_env, tmp_path, resume=True, until=2).run()
    piece = Piece(make_env, tmp_path, resume=True, until=4)
    report = await piece.run()
    assert report.windows == 4
    gaps = piece.of(GapDetected)
    assert gaps
    assert all(reason in gap.reason for gap in gaps)


async def test_the_environments_are_left_as_they_were_found(tmp_path: Path) -> None:
    piece = Piece(ENVIRONMENTS["side by side"], tmp_path, resume=True, until=1)
    assert isinstance(piece.env, SyncVectorEnv)
    before = list(piece.env.envs)
    await piece.run()
    assert piece.env.envs == before


async def test_an_agent_that_learns_from_each_step_goes_on_likewise(tmp_path: Path) -> None:
    async def run(directory: Path, until: int) -> None:
        env = gym.make("CartPole-v1")
        agent = StreamACAgent.for_spaces(env.observation_space, env.action_space, hidden=(8,), seed=1)
        pipeline = BatchPipeline(env, window_size=STEPS, seed=3)
        await RLOptimizer(
            agent, pipeline, checkpoint_dir=directory, max_episodes=until, dormant_threshold=1000, resume=True
        ).run()

    await run(tmp_path / "whole", 6)
    for until in (1, 4):
        await run(tmp_path / "pieces", until)
    await run(tmp_path / "pieces", 6)
    assert last_checkpoint(tmp_path / "pieces") == last_checkpoint(tmp_path / "whole")
