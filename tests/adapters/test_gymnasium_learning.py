"""Environments whose agent learns before a window is complete."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from optix_stream_adapters.gymnasium import BatchPipeline

from optix_stream import EpisodeData, IncrementalLearner, Policy, RLOptimizer, Transition, TransitionLearner
from optix_stream.contracts import as_policy
from optix_stream.testing import NullAgent

pytestmark = pytest.mark.anyio


class OneByOne(NullAgent, TransitionLearner):
    def __init__(self, fail_on: int | None = None) -> None:
        super().__init__()
        self.seen: list[Transition] = []
        self.tried = 0
        self.windows: list[EpisodeData] = []
        self._fail_on = fail_on

    def live_policy(self) -> Policy:
        return as_policy(self)

    def learn_one(self, transition: Transition) -> Mapping[str, float]:
        self.tried += 1
        if self.tried - 1 == self._fail_on:
            raise RuntimeError("told to fail")
        self.seen.append(transition)
        return {}

    def learn(self, episode_data: EpisodeData) -> dict[str, float]:
        self.windows.append(episode_data)
        return {}


class InTens(NullAgent, IncrementalLearner):
    def __init__(self) -> None:
        super().__init__()
        self.lengths: list[int] = []
        self.rows: list[np.ndarray] = []
        self.windows: list[EpisodeData] = []

    @property
    def increment(self) -> int:
        return 10

    def learn_increment(self, part: EpisodeData) -> Mapping[str, float]:
        self.lengths.append(part.length)
        self.rows.append(part.observations)
        return {}

    def learn(self, episode_data: EpisodeData) -> dict[str, float]:
        self.lengths.append(episode_data.length - episode_data.rows_learned)
        self.rows.append(episode_data.observations[episode_data.rows_learned :])
        self.windows.append(episode_data)
        return {}


async def test_every_step_of_an_environment_is_learned_from_before_the_next_is_taken(tmp_path: Path) -> None:
    agent = OneByOne()
    pipeline = BatchPipeline(gymnasium.make("CartPole-v1"), window_size=25, seed=0)
    report = await RLOptimizer(agent, pipeline, checkpoint_dir=tmp_path, max_episodes=2).run()
    assert report.statistics.learned == 50
    # The environment may be a little ahead when the run ends, no more.
    assert 50 <= len(agent.seen) <= 75
    windows = np.concatenate([window.observations for window in agent.windows])
    assert np.array_equal(windows, np.stack([transition.observation for transition in agent.seen[:50]]))
    assert all(window.rows_learned == window.length for window in agent.windows)


@pytest.mark.parametrize("num_envs", [1, 3])
async def test_a_step_that_cannot_be_learned_from_leaves_a_gap(num_envs: int, tmp_path: Path) -> None:
    agent = OneByOne(fail_on=40)
    env = gymnasium.make_vec("CartPole-v1", num_envs) if num_envs > 1 else gymnasium.make("CartPole-v1")
    pipeline = BatchPipeline(env, window_size=30, seed=0)
    report = await RLOptimizer(agent, pipeline, checkpoint_dir=tmp_path, max_episodes=4).run()
    assert report.statistics.dropped["learning_failed"] == 1
    assert report.statistics.is_balanced
    assert sum(int(window.gaps.sum()) for window in agent.windows) == 1
    count = sum(window.length for window in agent.windows)
    assert count == report.statistics.learned


@pytest.mark.parametrize("num_envs", [1, 4])
async def test_an_environment_pauses_for_each_increment(num_envs: int, tmp_path: Path) -> None:
    agent = InTens()
    env = gymnasium.make_vec("CartPole-v1", num_envs) if num_envs > 1 else gymnasium.make("CartPole-v1")
    pipeline = BatchPipeline(env, window_size=64, seed=0)
    await RLOptimizer(agent, pipeline, checkpoint_dir=tmp_path, max_episodes=2).run()
    assert np.array_equal(np.concatenate(agent.rows), np.concatenate([window.observations for window in agent.windows]))
    assert all(length < 20 + num_envs for length in agent.lengths)
    assert len(agent.lengths) > 2 * 3
