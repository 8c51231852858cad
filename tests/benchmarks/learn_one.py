"""What one transition costs a streaming agent, beside the same algorithm in plain numpy; and what it leaves behind.

Stream AC with two layers of 128 units acts and learns in CartPole, without the loop around it. Both are timed in the
same process, in alternating rounds; what is compared is the median over the rounds of their ratio.

    pip install 'optix-stream[gymnasium]'
    OMP_NUM_THREADS=1 python tests/benchmarks/learn_one.py
    OMP_NUM_THREADS=1 python tests/benchmarks/learn_one.py --ticks 1000000
"""

from __future__ import annotations

import argparse
import gc
import itertools
import math
import os
import statistics
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gymnasium
import numpy as np

from optix_stream import StreamACAgent, Transition
from optix_stream.contracts import act_one_of
from optix_stream.types import Array

LEARN_BAR_MS = 0.40
TICK_BAR_MS = 0.45
HEAP_BAR_BYTES = 64 * 1024
HIDDEN = (128, 128)


class Learner(Protocol):
    def act(self, observation: Array) -> Any: ...

    def learn(self, transition: Transition) -> object: ...


class Ours:
    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        agent = StreamACAgent.for_spaces(env.observation_space, env.action_space, hidden=HIDDEN, seed=0)
        self._act_one = act_one_of(agent.live_policy())
        self.learn = agent.learn_one

    def act(self, observation: Array) -> Any:
        return self._act_one(observation)[0]


class Plain:
    """The equations as they would be written down first: a list of arrays a network, new arrays everywhere."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        self._rng = np.random.default_rng(0)
        size = int(np.prod(env.observation_space.shape or ()))
        self._policy, self._value = self._network(size, 2), self._network(size, 1)
        self._traces: list[list[Array]] | None = None
        self._count, self._mean, self._squares = 0, np.zeros(size), np.zeros(size)
        self._returns = [0, 0.0, 0.0]
        self._discounted = 0.0
        self._inputs: Array | None = None

    def _network(self, inputs: int, outputs: int) -> list[Array]:
        layers: list[Array] = []
        for before, after in itertools.pairwise((inputs, *HIDDEN, outputs)):
            drawn = self._rng.uniform(-1.0, 1.0, (after, before)) / math.sqrt(before)
            layers += [np.where(self._rng.random((after, before)) < 0.1, drawn, 0.0), np.zeros(after)]
        return layers

    def _forward(self, layers: list[Array], inputs: Array) -> tuple[Array, list[Any]]:
        kept: list[Any] = []
        values = inputs
        for index in range(0, len(layers), 2):
            affine = layers[index] @ values + layers[index + 1]
            if index == len(layers) - 2:
                return affine, [*kept, (values, None, None)]
            deviation = np.sqrt(affine.var() + 1e-5)
            normal = (affine - affine.mean()) / deviation
            kept.append((values, normal, deviation))
            values = np.where(normal > 0.0, normal, 0.01 * normal)
        raise AssertionError("a network has layers")

    def _backward(self, layers: list[Array], kept: list[Any], flowing: Array) -> list[Array]:
        gradients: list[Array] = []
        for index in range(len(layers) - 2, -1, -2):
            values, normal, deviation = kept[index // 2]
            if normal is not None:
                flowing = flowing * np.where(normal > 0.0, 1.0, 0.01)
                flowing = (flowing - flowing.mean() - normal * (flowing * normal).mean()) / deviation
            gradients = [np.outer(flowing, values), flowing, *gradients]
            flowing = layers[index].T @ flowing
        return gradients

    def _standardise(self, observation: Array, *, update: bool) -> Array:
        if update:
            self._count += 1
            distance = observation - self._mean
            self._mean = self._mean + distance / self._count
            self._squares = self._squares + distance * (observation - self._mean)
        deviation = np.sqrt(np.maximum(self._squares / max(self._count - 1, 1), 1e-30)) if self._count > 1 else 1.0
        return np.clip((observation - self._mean) / deviation, -10.0, 10.0)

    def _probabilities(self, logits: Array) -> Array:
        weights = np.exp(logits - logits.max())
        return np.asarray(weights / weights.sum())

    def act(self, observation: Array) -> int:
        logits, _ = self._forward(self._policy, self._standardise(observation, update=False))
        return int(self._rng.choice(len(logits), p=self._probabilities(logits)))

    def learn(self, transition: Transition) -> None:
        if self._inputs is None:
            self._inputs = self._standardise(transition.observation, update=True)
            self._traces, self._discounted = None, 0.0
        following = self._standardise(transition.next_observation, update=True)
        self._discounted = 0.99 * self._discounted + transition.reward
        self._returns[0] += 1
        distance = self._discounted - self._returns[1]
        self._returns[1] += distance / self._returns[0]
        self._returns[2] += distance * (self._discounted - self._returns[1])
        variance = self._returns[2] / (self._returns[0] - 1) if self._returns[0] > 1 else 0.0
        reward = transition.reward / math.sqrt(variance) if variance > 0.0 else transition.reward
        logits, policy_kept = self._forward(self._policy, self._inputs)
        value, value_kept = self._forward(self._value, self._inputs)
        next_value, _ = self._forward(self._value, following)
        delta = float(reward + (0.0 if transition.terminated else 0.99 * next_value[0]) - value[0])
        probabilities = self._probabilities(logits)
        logs = np.log(probabilities)
        entropy = -(probabilities * logs).sum()
        wanted = -probabilities - 0.01 * np.sign(delta) * probabilities * (logs + entropy)
        wanted[transition.action] += 1.0
        gradients = [
            self._backward(self._policy, policy_kept, wanted),
            self._backward(self._value, value_kept, np.ones(1)),
        ]
        if self._traces is None:
            self._traces = gradients
        else:
            decay = 0.99 * 0.8
            self._traces = [
                [decay * trace + gradient for trace, gradient in zip(*pair, strict=True)]
                for pair in zip(self._traces, gradients, strict=True)
            ]
        for layers, traces, kappa in zip((self._policy, self._value), self._traces, (3.0, 2.0), strict=True):
            norm = sum(float(np.abs(trace).sum()) for trace in traces)
            step = delta / max(1.0, kappa * max(abs(delta), 1.0) * norm)
            for layer, trace in zip(layers, traces, strict=True):
                layer += step * trace
        self._inputs = None if transition.terminated or transition.truncated else following


class Loop:
    """Acts and learns in CartPole."""

    def __init__(self, make: Callable[[gymnasium.Env[Any, Any]], Learner]) -> None:
        self._env = gymnasium.make("CartPole-v1")
        self._learner = make(self._env)
        self._observation, _ = self._env.reset(seed=0)

    def run(self, ticks: int) -> tuple[list[float], list[float]]:
        """Seconds that learning took, and acting and learning, at each tick."""
        learning, both = [], []
        learner, env, now = self._learner, self._env, time.perf_counter
        for _ in range(ticks):
            start = now()
            action = learner.act(self._observation)
            acted = now()
            following, reward, terminated, truncated, _ = env.step(action)
            transition = Transition(self._observation, action, float(reward), following, terminated, truncated)
            begun = now()
            learner.learn(transition)
            took = now() - begun
            learning.append(took)
            both.append(acted - start + took)
            self._observation = env.reset()[0] if terminated or truncated else following
        return learning, both


def report_speed(rounds: int, ticks: int) -> None:
    ours, plain = Loop(Ours), Loop(Plain)
    names = ("learn", "tick", "plain learn", "plain tick")
    times: dict[str, list[float]] = {name: [] for name in names}
    tails: list[float] = []
    for index in range(rounds + 1):
        samples = (*ours.run(ticks), *plain.run(ticks))
        # The first round warms up.
        if index:
            for name, sample in zip(names, samples, strict=True):
                times[name].append(statistics.median(sample))
            tails.append(statistics.quantiles(samples[0], n=100)[98])
    learn, tick, plain_learn, plain_tick = (statistics.median(times[name]) * 1e3 for name in names)
    print(f"learn_one                   p50 {learn:.3f} ms   p99 {statistics.median(tails) * 1e3:.3f} ms")
    print(f"  in plain numpy            p50 {plain_learn:.3f} ms")
    print(f"acting and learn_one        p50 {tick:.3f} ms")
    print(f"  in plain numpy            p50 {plain_tick:.3f} ms")
    ratio, tick_ratio = (
        statistics.median(mine / other for mine, other in zip(times[name], times[f"plain {name}"], strict=True))
        for name in ("learn", "tick")
    )
    print(f"RATIO  learn_one {ratio:.2f}x, with acting {tick_ratio:.2f}x of plain numpy")
    print(f"learn_one <= {LEARN_BAR_MS:g} ms  {'MET' if learn <= LEARN_BAR_MS else 'MISSED'}")
    print(f"with acting <= {TICK_BAR_MS:g} ms  {'MET' if tick <= TICK_BAR_MS else 'MISSED'}")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def report_memory(ticks: int) -> None:
    """Allocated by Python and numpy, and resident, after ``ticks`` more than after a tenth of them."""
    loop = Loop(Ours)

    def run(count: int) -> None:
        for _ in range(0, count, 1000):
            loop.run(1000)

    run(2000)
    tracemalloc.start()
    run(ticks // 10)
    gc.collect()
    traced, resident = tracemalloc.get_traced_memory()[0], resident_bytes()
    run(ticks)
    gc.collect()
    grown, resident_grown = tracemalloc.get_traced_memory()[0] - traced, resident_bytes() - resident
    tracemalloc.stop()
    print(f"heap after {ticks:,} ticks     {grown:+,} bytes   resident {resident_grown / 2**20:+.2f} MB")
    verdict = "MET" if grown <= HEAP_BAR_BYTES else "MISSED"
    print(f"heap growth <= {HEAP_BAR_BYTES // 1024} KB (what caches hold varies by less)  {verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3000, help="ticks in each round")
    parser.add_argument("--ticks", type=int, default=20_000, help="ticks over which memory is watched")
    arguments = parser.parse_args()
    report_speed(arguments.rounds, arguments.steps)
    report_memory(arguments.ticks)


if __name__ == "__main__":
    main()
