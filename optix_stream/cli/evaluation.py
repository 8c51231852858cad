"""``optix-stream evaluate``, and the evaluation that ends a training run."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from optix_stream.checkpoints import CheckpointRegistry
from optix_stream.cli.formatting import counted, score, score_and_spread
from optix_stream.cli.loading import gymnasium_adapter, make_agent, make_env
from optix_stream.cli.record import read_record
from optix_stream.contracts import BaseAgent, Policy
from optix_stream.errors import CheckpointError
from optix_stream.learner import deterministic_policy
from optix_stream.types import PolicySnapshot

SEED_OFFSET = 10_000
"""Keeps the episodes of an evaluation apart from those of training."""
EPISODE_LIMIT = 30_000
"""Steps after which an episode of an evaluation is cut off: some environments never end one."""


class Evaluation(msgspec.Struct, frozen=True):
    """Returns of episodes, acted without exploration.

    Attributes:
        mean: of the undiscounted returns.
        std: their standard deviation over the episodes.
        episodes: how many.
        cut_off: how many of them were cut off after ``EPISODE_LIMIT`` steps; they count as they are.
    """

    mean: float
    std: float
    episodes: int
    cut_off: int

    @classmethod
    def of(cls, returns: Sequence[float], cut_off: int = 0) -> Evaluation:
        """Summarise returns; at least one."""
        return cls(float(np.mean(returns)), float(np.std(returns)), len(returns), cut_off)

    def __str__(self) -> str:
        cut_off = f", {self.cut_off:,} cut off after {EPISODE_LIMIT:,} steps" if self.cut_off else ""
        return f"{score_and_spread(self.mean, self.std)} over {counted(self.episodes, 'episode')}{cut_off}"


class Examiner:
    """Plays one episode after another in a fresh environment. A context manager; blocking.

    Args:
        env_id: the environment.
        policy: what acts.
        seed: of the first episode; each next one adds 1.

    Attributes:
        returns: of the episodes so far.
        cut_off: how many of them were cut off after ``EPISODE_LIMIT`` steps.
    """

    def __init__(self, env_id: str, policy: Policy, seed: int) -> None:
        self._policy = policy
        self._seed = seed
        self._adapter = gymnasium_adapter()
        self._env: Any = make_env(env_id)
        self.returns: list[float] = []
        self.cut_off = 0

    def __enter__(self) -> Examiner:
        return self

    def __exit__(self, *details: object) -> None:
        self._env.close()

    def play(self, goes_on: Callable[[], bool] = lambda: True) -> None:
        """The next episode, which does not count if it does not go on to its end.

        Args:
            goes_on: asked before each step.
        """
        seed = self._seed + len(self.returns)
        played = self._adapter.play_episode(
            self._policy, self._env, seed=seed, max_steps=EPISODE_LIMIT, goes_on=goes_on
        )
        if played is not None:
            self.returns.append(played.total)
            self.cut_off += not played.is_whole


def evaluate(directory: Path, episodes: int, seed: int | None, as_json: bool) -> None:
    """Rebuild the agent of a checkpoint directory, give it the best snapshot, and evaluate it.

    Raises:
        CheckpointError: the directory holds no run, or what it holds cannot be loaded.
        ConfigurationError: the environment or the agent cannot be made here.
    """
    record = read_record(directory)
    registry = CheckpointRegistry(directory)
    best = registry.best
    if best is None:
        raise next(iter(registry.damaged.values()), CheckpointError(f"{directory} holds no snapshot"))
    with contextlib.closing(make_env(record.env_id)) as env:
        agent = make_agent(
            record.agent,
            env.observation_space,
            env.action_space,
            seed=record.seed,
            config=record.settings.get("agent", {}),
        )
    _load(registry, agent, best)
    first_seed = SEED_OFFSET + record.seed if seed is None else seed
    with Examiner(record.env_id, deterministic_policy(agent), first_seed) as examiner:
        while len(examiner.returns) < episodes:
            examiner.play()
    _report(directory, record.env_id, record.agent, best, first_seed, examiner, as_json)


def _load(registry: CheckpointRegistry, agent: BaseAgent, snapshot: PolicySnapshot) -> None:
    try:
        registry.load(agent, snapshot)
    except CheckpointError:
        raise
    except Exception as error:
        # Damaged weights show as whatever the agent's file format raises.
        raise CheckpointError(f"cannot load {snapshot.snapshot_id} from {registry.checkpoint_dir}: {error}") from error


def _report(
    directory: Path,
    env_id: str,
    agent: str,
    best: PolicySnapshot,
    seed: int,
    examiner: Examiner,
    as_json: bool,
) -> None:
    returns = examiner.returns
    evaluation = Evaluation.of(returns, examiner.cut_off)
    training_score = best.eval_metrics.primary_score
    if as_json:
        facts = {
            "env": env_id,
            "agent": agent,
            "checkpoint_dir": str(directory),
            "snapshot": best.snapshot_id,
            "training_score": training_score,
            "seed": seed,
            **msgspec.to_builtins(evaluation),
            "returns": returns,
        }
        sys.stdout.write(msgspec.json.encode(facts).decode() + "\n")
        return
    sys.stdout.write(
        f"{env_id} · {agent} · {best.snapshot_id}, saved after window {best.episode_id}\n"
        f"  evaluation      {evaluation}, without exploration\n"
        f"  lowest, highest {score(min(returns))}, {score(max(returns))}\n"
        f"  training score  {score(training_score)}\n"
    )
