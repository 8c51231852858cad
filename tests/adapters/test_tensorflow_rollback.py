"""A rollback of an agent that learns from replay: what the bad policy did is not learned from again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gymnasium import spaces
from optix_stream_adapters.tensorflow import DQNAgent

from optix_stream.checkpoints import CheckpointRegistry
from optix_stream.replay_buffer import ReplayBuffer
from optix_stream.testing import make_window
from optix_stream.types import EvalMetrics

GOOD, BAD = 1.0, -777.0


def test_a_rollback_forgets_what_was_remembered_since_the_best(tmp_path: Path) -> None:
    agent = DQNAgent.for_spaces(
        spaces.Box(-np.inf, np.inf, (2,)),
        spaces.Discrete(2),
        hidden=(8,),
        seed=0,
        batch_size=8,
        increment=16,
        learning_starts=1000,
        buffer_size=100,
    )
    registry = CheckpointRegistry(tmp_path / "registry")
    agent.learn(make_window([GOOD] * 48))
    registry.save(agent, EvalMetrics(1.0, {}, 0), agent.get_hyperparams(), is_best=True)
    agent.learn(make_window([BAD] * 48, window_id=1))
    assert remembered(agent, tmp_path / "before") == {GOOD, BAD}
    registry.load_best(agent)
    assert remembered(agent, tmp_path / "after") == {GOOD}


def remembered(agent: DQNAgent, directory: Path) -> set[float]:
    """The rewards that it may draw."""
    agent.save_weights(str(directory))
    buffer = ReplayBuffer(100, (2,), (), np.int32)
    buffer.load(str(directory / "replay"))
    return {float(reward) for reward in buffer.draw(1000, 0.9, np.random.default_rng(0)).returns}
