"""Agents for the tests of the process learner, whose process imports them from here."""

from __future__ import annotations

import json
import os
import resource
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from optix_stream.contracts import (
    BaseAgent,
    IncrementalLearner,
    Policy,
    PolicyPublisher,
    Reproducible,
    Restorable,
    TransitionLearner,
)
from optix_stream.policies import CategoricalSampler, ComposedPolicy, DenseLayer, DenseNetwork, EncodedInput
from optix_stream.recipes import AgentRecipe
from optix_stream.testing import NullAgent
from optix_stream.types import Array, EpisodeData, HyperparamSet, Transition, Tree


class Learns(BaseAgent, PolicyPublisher, Reproducible, Restorable):
    """A small agent in numpy that draws at random when it acts and when it learns.

    Args:
        seed: of both.
        does: on windows (by number, as text) the first time that they are met, or every time where it ends in "!".
        marks: directory in which it notes what it has met, across its lives.
        weights: how many numbers it learns besides those that it acts by.
    """

    def __init__(
        self, seed: int = 0, does: Mapping[str, str] | None = None, marks: str | None = None, weights: int = 1
    ) -> None:
        self._acting, self._learning = (np.random.default_rng([seed, index]) for index in range(2))
        self._does = dict(does or {})
        self._marks = marks
        self.kernel: Array = np.zeros((2, 2), np.float32)
        self.others: Array = np.zeros(weights, np.float32)
        self.learned = 0
        self._version = 0
        self._params: dict[str, Any] = {"learning_rate": 0.5}
        self._recipe = AgentRecipe(
            "elsewhere:Learns", {"seed": seed, "does": self._does, "marks": marks, "weights": weights}
        )

    @property
    def recipe(self) -> AgentRecipe | None:
        return self._recipe

    def act(self, observation: Tree) -> Any:
        return int(self.publish_policy().act(np.asarray(observation)[None]).actions[0])

    def publish_policy(self, *, deterministic: bool = False) -> Policy:
        self._version += 1
        return ComposedPolicy(
            self._version,
            EncodedInput((2,)),
            DenseNetwork([DenseLayer(self.kernel.copy(), np.zeros(self.kernel.shape[1], np.float32), "tanh")]),
            CategoricalSampler(self.kernel.shape[1], 0, None if deterministic else self._acting),
        )

    def learn(self, episode_data: EpisodeData) -> dict[str, float]:
        print("what an agent prints is no reply")
        self._learn(episode_data)
        self.misbehave(str(episode_data.episode_id))
        return {"learned": float(self.learned), "norm": float(np.abs(self.kernel).sum())}

    def _learn(self, data: EpisodeData) -> None:
        step = np.float32(float(self._params["learning_rate"]) * data.rewards.mean())
        self.kernel += step * self._learning.standard_normal(self.kernel.shape, np.float32)
        self.kernel += np.asarray(data.observations.sum(axis=0), np.float32)[:, None] * np.float32(0.01)
        self.learned += data.length

    def misbehave(self, occasion: str) -> None:
        what = self._does.get(occasion)
        if what is None:
            return
        if not what.endswith("!"):
            assert self._marks is not None
            mark = Path(self._marks) / occasion
            if mark.exists():
                return
            mark.touch()
        match what.rstrip("!"):
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                os.write(2, b"out of luck\n")
                os._exit(3)
            case "hang":
                # Where a test can see that it has come to that.
                threading.Event().wait()
            case "raise":
                self.kernel[:] = np.nan
                raise FloatingPointError("learning diverged")
            case "eat":
                # All the memory of a control group that the test has made.
                assert self._marks is not None
                group = Path((Path(self._marks) / "group").read_text())
                (group / "cgroup.procs").write_text(str(os.getpid()))
                hoard: list[Array] = []
                while True:
                    hoard.append(np.ones(2**20))
            case "starve":
                limits = resource.getrlimit(resource.RLIMIT_AS)
                in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
                resource.setrlimit(resource.RLIMIT_AS, (in_use + 2**24, limits[1]))
                try:
                    self.kernel[:] = np.nan
                    np.ones(2**26)
                finally:
                    resource.setrlimit(resource.RLIMIT_AS, limits)
            case "grow":
                self.kernel = np.concatenate([self.kernel, self.kernel], axis=1)

    def get_hyperparams(self) -> HyperparamSet:
        return HyperparamSet(dict(self._params))

    def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        self._params = dict(hyperparams.params)

    def save_weights(self, path: str) -> None:
        state = {
            "kernel": self.kernel.tolist(),
            "learned": self.learned,
            "acting": self._acting.bit_generator.state,
            "learning": self._learning.bit_generator.state,
        }
        Path(path).write_text(json.dumps(state))

    def load_weights(self, path: str) -> None:
        self.misbehave("load")
        state = json.loads(Path(path).read_text())
        self.kernel = np.asarray(state["kernel"], np.float32)
        self.learned = state["learned"]
        self._acting.bit_generator.state = state["acting"]
        self._learning.bit_generator.state = state["learning"]

    def capture_state(self) -> Any:
        return self.kernel.copy(), self.learned, self._learning.bit_generator.state

    def restore_state(self, state: Any) -> None:
        self.kernel, self.learned, self._learning.bit_generator.state = state


class LearnsEarly(Learns, IncrementalLearner):
    """Learns from two new rows at a time; ``learn`` takes the rest."""

    @property
    def increment(self) -> int:
        return 2

    def learn_increment(self, part: EpisodeData) -> Mapping[str, float]:
        self._learn(part)
        self.misbehave(f"increment {self.learned}")
        return {}

    def _learn(self, data: EpisodeData) -> None:
        self.learned += data.length - data.rows_learned
        self.kernel[0] += np.float32(data.rewards[data.rows_learned :].sum())


class LearnsEach(Learns, TransitionLearner):
    def live_policy(self) -> Policy:
        return self.publish_policy()

    def learn_one(self, transition: Transition) -> Mapping[str, float]:
        return {}


class ActsInPerson(Learns):
    """Its policy cannot be described."""

    def publish_policy(self, *, deterministic: bool = False) -> Policy:
        def forward(inputs: Array) -> Array:
            return inputs

        return ComposedPolicy(0, EncodedInput((2,)), forward, CategoricalSampler(2, 0, None))


def no_agent() -> Any:
    return "no agent"


def never_made() -> Any:
    raise RuntimeError("there is no such agent today")


def null_agent() -> NullAgent:
    return NullAgent()
