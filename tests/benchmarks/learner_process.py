"""What acting notices of a learner's process: while it trains without a break, and while it is killed again and again.

A ticker steps eight CartPoles in turn, at 500 ticks a second together and so each at 62.5, in the event loop that acts
for them. The time of an action runs from the moment at which its tick was due, timer included, to the moment at which
the feed is handed the action.

*Trains*: rounds of a loop whose PPO learns in a process, in turn with rounds of the same loop and policy with
nothing to learn. *Killed*: the process is killed (signal 9) at random moments, also while it starts; the run must go
on, with no pause of a pole above three of its ticks, reach its score, and account for every transition.

    pip install 'optix-stream[all]'
    python tests/benchmarks/learner_process.py
    python tests/benchmarks/learner_process.py --parts killed --kills 3 --seconds 60
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import gymnasium
import numpy as np
from optix_stream_adapters.gymnasium import evaluate_policy

from optix_stream import BaseAgent, LivePipeline, Policy, PolicyPublisher, RLOptimizer, RunReport, WindowLearned
from optix_stream.cli.loading import agent_recipe
from optix_stream.events import WindowAssembled
from optix_stream.judges import ThresholdJudge
from optix_stream.learner import LearnerPlacement
from optix_stream.recipes import AgentRecipe
from optix_stream.testing import NullAgent

ENV = "CartPole-v1"
POLES = 8
P99_BAR, P999_BAR, PAUSE_BAR, SCORE_BAR = 1.25, 2.0, 3.0, 475.0
TEST_SEED, TEST_EPISODES = 90_000, 100


class Ticker:
    """CartPoles, stepped in turn at a fixed rate whether there is an action or not.

    Args:
        rate: ticks a second.
        seconds: until the stream ends.

    Attributes:
        delays_sec: of each action since its tick was due.
        acted_at: when, on ``time.perf_counter``.
        begun: with the first tick.
    """

    def __init__(self, rate: float, seconds: float) -> None:
        self._period = 1.0 / rate
        self._ticks = int(rate * seconds)
        self._envs = [gymnasium.make(ENV) for _ in range(POLES)]
        self._actions = [0] * POLES
        self._turn = 0
        self._due = 0.0
        self.delays_sec: list[float] = []
        self.acted_at: list[float] = []
        self.begun = anyio.Event()

    async def stream(self) -> AsyncIterator[tuple[Any, ...]]:
        start = time.perf_counter()
        self.begun.set()
        for tick in range(self._ticks):
            self._due = start + tick * self._period
            await anyio.sleep(max(0.0, self._due - time.perf_counter()))
            turn = self._turn = tick % POLES
            env = self._envs[turn]
            is_over = tick < POLES
            if not is_over:
                observation, reward, terminated, truncated, info = env.step(self._actions[turn])
                yield observation, reward, terminated, truncated, info, turn
                is_over = terminated or truncated
            if is_over:
                observation, info = env.reset(seed=tick if tick < POLES else None)
                yield observation, 0.0, False, False, info, turn

    async def send(self, action: Any) -> None:
        self._actions[self._turn] = int(action)
        now = time.perf_counter()
        self.delays_sec.append(now - self._due)
        self.acted_at.append(now)


class Frozen(NullAgent, PolicyPublisher):
    """Acts by a policy that was learned elsewhere, and learns nothing."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self._policy = policy

    def publish_policy(self, *, deterministic: bool = False) -> Policy:
        return self._policy


def ppo(**config: Any) -> AgentRecipe:
    """How the learner's process makes its agent; TensorFlow is imported there alone."""
    env = gymnasium.make(ENV)
    settings = {
        "epochs": 20, "minibatch_size": 256, "gamma": 0.98, "gae_lambda": 0.8, "learning_rate": 1e-3,
        "max_grad_norm": 5.0, "normalize_observations": True,
    }  # fmt: skip
    return agent_recipe("ppo", env.observation_space, env.action_space, seed=0, config=settings | config)


@dataclass(kw_only=True)
class Outcome:
    """One run.

    Attributes:
        delays_sec: of the actions after the warm-up.
        acted_at: of all actions.
        busy: share of the time after the warm-up in which the learner learned.
        counts: events of each kind.
        policy: the best that was found.
    """

    delays_sec: list[float]
    acted_at: list[float]
    busy: float
    counts: Mapping[str, int]
    policy: Policy
    report: RunReport


class Kills:
    """Kills the learner's process at random moments.

    Args:
        moments_sec: since the first tick, in order.
    """

    def __init__(self, moments_sec: list[float]) -> None:
        self._moments = moments_sec
        self.done = 0

    async def run(self, ticker: Ticker) -> None:
        await ticker.begun.wait()
        start = time.perf_counter()
        for moment in self._moments:
            await anyio.sleep(max(0.0, start + moment - time.perf_counter()))
            for pid in _learners():
                os.kill(pid, signal.SIGKILL)
                self.done += 1


def _learners() -> list[int]:
    """The learners' processes among our children, dead ones left out."""
    children = [int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()]
    return [pid for pid in children if b"learner.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@dataclass
class _Watch:
    """What the events say of learning."""

    counts: dict[str, int] = field(default_factory=dict)
    spans: list[tuple[float, float]] = field(default_factory=list)
    begun: float = 0.0

    def note(self, event: object) -> None:
        name = type(event).__name__
        self.counts[name] = self.counts.get(name, 0) + 1
        if isinstance(event, WindowAssembled):
            self.begun = event.time
        elif isinstance(event, WindowLearned):
            self.spans.append((self.begun, event.time))

    def busy(self, warm_up: int) -> float:
        spans = self.spans[warm_up:]
        return sum(end - begun for begun, end in spans) / (spans[-1][1] - spans[0][0]) if spans else 0.0


async def run(
    agent: BaseAgent | AgentRecipe,
    ticker: Ticker,
    window: int,
    learner: LearnerPlacement,
    warm_up: int,
    kills: Kills | None = None,
) -> Outcome:
    """The loop until the ticker ends; the first ``warm_up`` windows do not count."""
    watch = _Watch()
    pipeline = LivePipeline(
        ticker,
        episode_boundary_fn=LivePipeline.every_n_steps(window),
        buffer_size=4 * window,
        reconnect_on_disconnect=False,
    )
    with tempfile.TemporaryDirectory() as directory:
        optimizer = RLOptimizer(
            agent,
            pipeline,
            checkpoint_dir=directory,
            plateau_threshold=10**9,
            dormant_threshold=10**9 + 1,
            judge=ThresholdJudge(smoothing=40),
            learner=learner,
        )
        reports: list[RunReport] = []
        skipped = 0
        async with optimizer.events(buffer_size=100_000) as events, anyio.create_task_group() as tasks:

            async def listen() -> None:
                nonlocal skipped
                async for event in events:
                    watch.note(event)
                    if isinstance(event, WindowLearned) and len(watch.spans) == warm_up:
                        skipped = len(ticker.delays_sec)

            tasks.start_soon(listen)
            if kills is not None:
                tasks.start_soon(kills.run, ticker)
            reports.append(await optimizer.run())
    report = reports[0]
    assert report.statistics.is_balanced, report.statistics
    return Outcome(
        delays_sec=ticker.delays_sec[skipped:],
        acted_at=ticker.acted_at,
        busy=watch.busy(warm_up),
        counts=watch.counts,
        policy=optimizer.deterministic_policy(),
        report=report,
    )


def quantile_ms(values: list[float], share: float) -> float:
    return float(np.quantile(values, share)) * 1e3


def describe(name: str, delays: list[float], busy: float) -> None:
    parts = "   ".join(
        f"{text} {quantile_ms(delays, q):6.3f}" for text, q in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))
    )
    print(f"{name:<24} {parts} ms   {len(delays):,} actions   learner busy {busy:.0%}", flush=True)


def verdict(what: str, value: float, bar: float, *, at_least: bool = False) -> None:
    is_met = value >= bar if at_least else value <= bar
    print(f"{what:<44} {value:8.3f}  {'>=' if at_least else '<='} {bar:g}  {'MET' if is_met else 'MISSED'}", flush=True)


def measure_training(rate: float, seconds: float, rounds: int) -> dict[str, Any]:
    """Alternating rounds of ``seconds`` each; what counts is the median over them of what each pair says."""
    # Long updates, so that there is hardly a moment at which nobody learns.
    recipe, window = ppo(epochs=150, minibatch_size=64), int(rate)
    warm_up, policy = 2, None
    facts: dict[str, list[Any]] = {"no_learner_ms": [], "learning_ms": [], "busy": []}
    shares = (0.5, 0.99, 0.999, 1.0)
    for _ in range(rounds):
        outcome = anyio.run(run, recipe, Ticker(rate, seconds + 4.0), window, "process", warm_up)
        policy = outcome.policy if policy is None else policy
        frozen = anyio.run(run, Frozen(policy), Ticker(rate, seconds + 4.0), window, "thread", warm_up)
        describe("no learner", frozen.delays_sec, 0.0)
        describe("learning in a process", outcome.delays_sec, outcome.busy)
        facts["no_learner_ms"].append([quantile_ms(frozen.delays_sec, share) for share in shares])
        facts["learning_ms"].append([quantile_ms(outcome.delays_sec, share) for share in shares])
        facts["busy"].append(outcome.busy)
    ratios = np.median(np.divide(facts["learning_ms"], facts["no_learner_ms"]), axis=0)
    verdict("p99 over that without learner", ratios[1], P99_BAR)
    verdict("p99.9 over that without learner", ratios[2], P999_BAR)
    return {"part": "training", "rate": rate, "quantiles": shares, "ratios": ratios.tolist(), **facts}


def measure_killing(rate: float, seconds: float, kills: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    moments = sorted(rng.uniform(0.0, 0.9 * seconds, kills).tolist())
    killer = Kills(moments)
    outcome = anyio.run(run, ppo(), Ticker(rate, seconds), 256, "process", 1, killer)
    acted_at = np.asarray(outcome.acted_at)
    # Every tick has its action, so that each pole's are every eighth.
    pauses = (acted_at[POLES:] - acted_at[:-POLES]) * rate / POLES
    score = float(np.mean(evaluate_policy(outcome.policy, gymnasium.make(ENV), TEST_EPISODES, seed=TEST_SEED)))
    counts, statistics = outcome.counts, outcome.report.statistics
    print(
        f"killed {killer.done} times: {counts.get('LearnerLost', 0)} losses seen, "
        f"{counts.get('LearnerRestarted', 0)} restarts, {outcome.report.windows} windows learned from"
    )
    print(f"{statistics}")
    print(f"longest pause between any two actions {np.diff(acted_at).max() * 1e3:.1f} ms")
    verdict("longest pause of a pole, in its ticks", float(pauses.max()), PAUSE_BAR)
    verdict("score of the best policy", score, SCORE_BAR, at_least=True)
    verdict("received - learned - held - dropped - rejected", float(not statistics.is_balanced), 0.0)
    return {
        "part": "killed", "rate": rate, "moments_sec": moments, "score": score, "counts": dict(counts),
        "pauses_in_ticks": {str(q): float(np.quantile(pauses, q)) for q in (0.5, 0.99, 0.999, 1.0)},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="training,killed")
    parser.add_argument("--rate", type=float, default=500.0, help="ticks a second")
    parser.add_argument("--seconds", type=float, default=240.0, help="of the run with kills")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5, help="of training")
    parser.add_argument("--round-seconds", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0, help="of the kills' moments")
    parser.add_argument("--json", type=Path, help="write the figures there")
    arguments = parser.parse_args()
    facts = []
    if "training" in arguments.parts:
        facts.append(measure_training(arguments.rate, arguments.round_seconds, arguments.rounds))
    if "killed" in arguments.parts:
        facts.append(measure_killing(arguments.rate, arguments.seconds, arguments.kills, arguments.seed))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
