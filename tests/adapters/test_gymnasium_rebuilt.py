"""An environment that raises or hangs costs its episode, and nothing else."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from optix_stream_adapters.gymnasium import BatchPipeline, RebuiltEnv

from optix_stream import RLOptimizer
from optix_stream.errors import ConfigurationError, SourceFailedError
from optix_stream.testing import NullAgent, assert_balanced
from optix_stream.types import EpisodeData

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Simulator(gym.Env[np.ndarray, np.int64]):
    """Counts its steps, in observations and rewards; the one at which it fails is the first to be tried."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, fail_at: int | None = None, fail: Callable[[], Any] | None = None) -> None:
        self._fail_at = fail_at
        self._fail = fail
        self._steps = 0
        self.seed: int | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        self.seed = seed
        self._steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        if self._steps == self._fail_at and self._fail is not None:
            self._fail()
        return np.full(1, self._steps, np.float32), 1.0, False, self._steps == 10, {}


def crash() -> None:
    raise OSError("the simulator is gone")


def hang() -> None:
    threading.Event().wait()


class Watching(NullAgent):
    def __init__(self) -> None:
        super().__init__(np.int64(0))
        self.windows: list[EpisodeData] = []

    def learn(self, episode_data: EpisodeData) -> dict[str, float]:
        self.windows.append(episode_data)
        return {}


def fails_first(fail: Callable[[], Any], fail_at: int) -> Callable[[], gym.Env[Any, Any]]:
    """Makes one that fails, then ones that do not."""
    made = itertools.count()
    return lambda: Simulator(fail_at if next(made) == 0 else None, fail)


@pytest.mark.parametrize(("fail", "deadline_sec"), [(crash, None), (crash, 5.0), (hang, 0.2)])
async def test_the_episode_is_truncated_and_a_new_environment_goes_on(
    fail: Callable[[], Any], deadline_sec: float | None, tmp_path: Path
) -> None:
    agent = Watching()
    env = RebuiltEnv(fails_first(fail, 4), deadline_sec=deadline_sec)
    optimizer = RLOptimizer(agent, BatchPipeline(env, agent, 14, seed=0), checkpoint_dir=tmp_path, max_episodes=1)
    await optimizer.run()
    (window,) = agent.windows
    # Three steps, the one that failed, and an episode of the new environment.
    assert window.next_observations[:, 0].tolist() == [1, 2, 3, 3, *range(1, 11)]
    assert window.rewards.tolist() == [1, 1, 1, 0, *[1] * 10]
    assert np.flatnonzero(window.truncated).tolist() == [3, 13]
    assert not window.terminated.any()
    assert "env_failure" in window.infos[3]
    assert_balanced(optimizer.statistics())


async def test_the_other_environments_go_on(tmp_path: Path) -> None:
    agent = Watching()
    make = fails_first(crash, 4)
    env = SyncVectorEnv([Simulator, lambda: RebuiltEnv(make), Simulator])
    optimizer = RLOptimizer(agent, BatchPipeline(env, agent, 30, seed=0), checkpoint_dir=tmp_path, max_episodes=1)
    await optimizer.run()
    (window,) = agent.windows
    for stream in (0, 2):
        rows = window.streams == window.stream_ids.index(stream)
        count = int(rows.sum())
        assert window.next_observations[rows, 0].tolist() == [1 + step % 10 for step in range(count)]
    rows = window.streams == window.stream_ids.index(1)
    assert np.flatnonzero(window.truncated[rows]).tolist()[0] == 3
    assert_balanced(optimizer.statistics())


def test_one_that_never_works_is_given_up() -> None:
    env = RebuiltEnv(lambda: Simulator(1, crash), max_failures=3)
    env.reset(seed=1)
    for _ in range(2):
        assert env.step(np.int64(0))[3]
        env.reset()
    with pytest.raises(SourceFailedError, match="3 times in a row"):
        env.step(np.int64(0))


def test_the_seeds_of_new_environments_follow_from_the_first() -> None:
    def seeds() -> list[int | None]:
        made: list[Simulator] = []

        def make() -> Simulator:
            made.append(Simulator(2, crash))
            return made[-1]

        env = RebuiltEnv(make)
        env.reset(seed=5)
        for _ in range(3):
            env.step(np.int64(0))
            env.step(np.int64(0))
            env.reset()
        return [each.seed for each in made]

    first = seeds()
    assert first == seeds()
    assert first[0] == 5
    assert len(set(first)) == 4


@pytest.mark.parametrize("options", [{"max_failures": 0}, {"deadline_sec": 0.0}])
def test_limits_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="expected"):
        RebuiltEnv(Simulator, **options)
