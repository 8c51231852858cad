"""The streaming agents with real environments and spaces, and without TensorFlow."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from optix_stream_adapters.gymnasium import BatchPipeline, evaluate_policy

from optix_stream import RLOptimizer, StreamACAgent, StreamQAgent
from optix_stream.agents.encoding import ObservationEncoder
from optix_stream.agents.heads import make_head
from optix_stream.trees import as_tree, stack

pytestmark = pytest.mark.anyio


async def train(agent: StreamACAgent | StreamQAgent, env_id: str, steps: int, directory: Path) -> None:
    pipeline = BatchPipeline(gymnasium.make(env_id), window_size=1000, seed=0)
    optimizer = RLOptimizer(agent, pipeline, checkpoint_dir=directory, max_episodes=steps // 1000)
    report = await optimizer.run()
    assert report.statistics.learned == steps
    assert report.statistics.is_balanced


def score(agent: StreamACAgent | StreamQAgent, env_id: str, episodes: int) -> float:
    returns = evaluate_policy(
        agent.publish_policy(deterministic=True), gymnasium.make(env_id), episodes=episodes, seed=1000
    )
    return float(np.mean(returns))


def for_env(agent_class: Any, env_id: str, **config: Any) -> Any:
    env = gymnasium.make(env_id)
    return agent_class.for_spaces(env.observation_space, env.action_space, seed=0, **config)


async def test_the_actor_critic_learns_to_balance(tmp_path: Path) -> None:
    agent = for_env(StreamACAgent, "CartPole-v1", hidden=(64,))
    await train(agent, "CartPole-v1", 5000, tmp_path)
    assert score(agent, "CartPole-v1", 5) > 200


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("seed", [0, 1, 2])
async def test_the_actor_critic_masters_balancing(seed: int, tmp_path: Path) -> None:
    env = gymnasium.make("CartPole-v1")
    agent = StreamACAgent.for_spaces(env.observation_space, env.action_space, seed=seed)
    await train(agent, "CartPole-v1", 20_000, tmp_path)
    assert score(agent, "CartPole-v1", 20) >= 475


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_action_values_learn_to_balance(tmp_path: Path) -> None:
    agent = for_env(StreamQAgent, "CartPole-v1")
    await train(agent, "CartPole-v1", 40_000, tmp_path)
    assert score(agent, "CartPole-v1", 10) > 100


async def test_continuous_actions_work_in_a_real_environment(tmp_path: Path) -> None:
    agent = for_env(StreamACAgent, "Pendulum-v1", hidden=(16,))
    await train(agent, "Pendulum-v1", 1000, tmp_path)
    decision = agent.publish_policy().act(np.zeros((5, 3), np.float32))
    assert decision.actions.shape == (5, 1)
    assert gymnasium.make("Pendulum-v1").action_space.contains(decision.actions[0])


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1.0, 1.0, (2, 3)),
        spaces.Discrete(4, start=-1),
        spaces.MultiDiscrete([2, 3], start=[1, 0]),
        spaces.MultiBinary(3),
        spaces.Dict(b=spaces.Discrete(2), a=spaces.Tuple((spaces.Box(0.0, 1.0, (1,)), spaces.MultiBinary([2, 2])))),
    ],
    ids=lambda space: type(space).__name__,
)
def test_observations_of_real_spaces_are_encoded_as_gymnasium_flattens_them(space: Any) -> None:
    space.seed(0)
    encoder = ObservationEncoder(space)
    samples = [space.sample() for _ in range(20)]
    expected = np.stack([np.asarray(spaces.flatten(space, sample)) for sample in samples])
    assert encoder.size == spaces.flatdim(space)
    np.testing.assert_allclose(np.stack([encoder.encode_one(sample) for sample in samples]), expected)
    np.testing.assert_allclose(encoder(stack([as_tree(sample) for sample in samples])), expected)


@pytest.mark.parametrize("space", [spaces.Discrete(3, start=2), spaces.Box(-2.0, 1.0, (2,), np.float64)], ids=str)
def test_actions_belong_to_their_space(space: Any) -> None:
    head = make_head(space)
    rng = np.random.default_rng(0)
    for outputs in rng.normal(0.0, 3.0, (50, head.units)).astype(np.float32):
        action, _ = head.sample(outputs, rng)
        assert space.contains(np.int64(action) if isinstance(action, int) else action)
        for generator in (rng, None):
            assert space.contains(head.decide(outputs[None], generator).actions[0])


WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = sys.modules["keras"] = None
from optix_stream.cli import main
sys.exit(main(sys.argv[1:]))
"""


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW, *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def facts_of(*arguments: str) -> Mapping[str, Any]:
    done = command(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    facts: Mapping[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts


def test_the_command_trains_checkpoints_and_evaluates_without_tensorflow(tmp_path: Path) -> None:
    directory = str(tmp_path / "run")
    trained = facts_of(
        "train", "CartPole-v1", "--agent", "stream-ac", "--max-steps", "3072", "--quiet", "--checkpoint-dir", directory
    )
    assert trained["agent"] == "stream-ac"
    assert trained["statistics"]["learned"] == 3072
    assert trained["statistics"]["is_balanced"]
    evaluated = facts_of("evaluate", directory, "--episodes", "20")
    assert evaluated["agent"] == "stream-ac"
    assert evaluated["mean"] == trained["evaluation"]["mean"]
    # Chance gives 22.
    assert evaluated["mean"] > 100


def test_the_agents_that_need_tensorflow_say_so(tmp_path: Path) -> None:
    done = command("train", "CartPole-v1", "--agent", "ppo", "--checkpoint-dir", str(tmp_path))
    assert done.returncode != 0
    assert "optix-stream[tensorflow]" in done.stderr
