"""Whole runs on CartPole: one seed is one run, and what is shipped learns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import gymnasium
import keras
import numpy as np
import pytest
import tensorflow as tf
from optix_stream_adapters.gymnasium import BatchPipeline
from optix_stream_adapters.tensorflow import PPOAgent, TFAgent

from optix_stream import RLOptimizer
from optix_stream.cli import main
from optix_stream.events import Event, LearningFailed, LoopStopped, WindowLearned
from optix_stream.types import Array, EpisodeData, HyperparamSet, RunReport


async def watched(optimizer: RLOptimizer) -> tuple[RunReport, list[Event]]:
    """Run it to its end; the report and every event."""
    async with optimizer.events(buffer_size=10_000) as events:
        report = await optimizer.run()
        return report, [event async for event in events]


AGENTS: dict[str, tuple[type[TFAgent], dict[str, Any]]] = {
    "reinforce": (TFAgent, {"value_updates": 3}),
    "ppo": (
        PPOAgent,
        {"epochs": 2, "minibatch_size": 32, "normalize_observations": True, "normalize_rewards": True},
    ),
}


def one_run(name: str, seed: int, num_envs: int, directory: Path) -> tuple[list[Event], list[Array], RunReport]:
    kind, config = AGENTS[name]
    env: Any = gymnasium.make("CartPole-v1") if num_envs == 1 else gymnasium.make_vec("CartPole-v1", num_envs=num_envs)
    space = gymnasium.make("CartPole-v1")
    agent = kind.for_spaces(space.observation_space, space.action_space, hidden=(16,), seed=seed, **config)
    optimizer = RLOptimizer(
        agent,
        BatchPipeline(env, window_size=64, seed=seed),
        checkpoint_dir=directory,
        max_episodes=6,
        rollback_on_degradation=True,
    )
    report, events = anyio.run(watched, optimizer)
    env.close()
    weights = [
        np.array(variable.value.numpy())
        for variable in (
            *agent.model.variables,
            *agent.value_model.variables,
            *agent.optimizer.variables,
            *agent.value_optimizer.variables,
        )
    ]
    return events, weights, report


@pytest.mark.parametrize(("name", "num_envs"), [("reinforce", 1), ("ppo", 3)])
def test_one_seed_is_one_run_bit_for_bit(name: str, num_envs: int, tmp_path: Path) -> None:
    events, weights, report = one_run(name, 1, num_envs, tmp_path / "first")
    events_again, weights_again, _ = one_run(name, 1, num_envs, tmp_path / "again")
    events_other, weights_other, _ = one_run(name, 2, num_envs, tmp_path / "other")
    assert sum(isinstance(event, WindowLearned) for event in events) == 6
    assert isinstance(events[-1], LoopStopped)
    assert events == events_again
    for one, again in zip(weights, weights_again, strict=True):
        np.testing.assert_array_equal(one, again)
    assert events != events_other
    assert not all(np.array_equal(one, other) for one, other in zip(weights, weights_other, strict=True))
    assert report.transitions == 6 * 64
    assert report.statistics.is_balanced


def test_a_window_that_breaks_learning_is_given_up_and_the_run_goes_on(tmp_path: Path) -> None:
    seen: dict[int, list[Array]] = {}

    def compute_loss(model: Any, window: EpisodeData, returns: Any) -> Any:
        seen[window.episode_id] = [np.array(weight) for weight in model.get_weights()]
        log_probs = tf.nn.log_softmax(model(window.observations))
        chosen = tf.reduce_sum(log_probs * tf.one_hot(window.actions, 2), axis=1)
        return -tf.reduce_mean(chosen * returns) * (float("nan") if window.episode_id == 2 else 1.0)

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    agent = TFAgent(model, keras.optimizers.Adam(), HyperparamSet({"learning_rate": 0.01}), compute_loss, seed=0)
    env = gymnasium.make("CartPole-v1")
    optimizer = RLOptimizer(agent, BatchPipeline(env, window_size=32, seed=0), checkpoint_dir=tmp_path, max_episodes=5)
    report, events = anyio.run(watched, optimizer)
    env.close()
    failed = [event for event in events if isinstance(event, LearningFailed)]
    assert [event.window for event in failed] == [2]
    assert "learning diverged" in failed[0].error
    assert report.statistics.dropped == {"learning_failed": 32}
    assert report.statistics.learned == 4 * 32
    changes = [
        any(not np.array_equal(one, other) for one, other in zip(seen[number], seen[number + 1], strict=True))
        for number in range(4)
    ]
    assert changes == [True, True, False, True]


def train(capsys: pytest.CaptureFixture[str], directory: Path, seed: int, *arguments: str) -> dict[str, Any]:
    """The report of ``optix-stream train CartPole-v1`` with the settings it has by default."""
    options = ("--seed", str(seed), "--json", "--quiet", "--checkpoint-dir", str(directory), *arguments)
    assert main(["train", "CartPole-v1", *options]) == 0
    facts: dict[str, Any] = json.loads(capsys.readouterr().out)
    return facts


def test_it_learns_to_balance_a_pole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = train(capsys, tmp_path, 0, "--max-steps", str(20 * 1024))
    assert (facts["reason"], facts["transitions"]) == ("max_episodes", 20 * 1024)
    # A random policy earns 22, the best there is 500.
    assert facts["evaluation"]["mean"] > 150.0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_trains_until_nothing_more_is_to_be_gained(
    seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = train(capsys, tmp_path, seed)
    assert facts["reason"] == "dormant"
    assert facts["transitions"] <= 200_000
    assert facts["evaluation"]["mean"] >= 475.0
