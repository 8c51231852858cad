"""Is a changed world told from a damaged policy? CartPole whose signs or channels change, or weights turned to noise.

    OMP_NUM_THREADS=1 python tests/benchmarks/drift_decisions.py --seeds 10

Each run is the loop itself with the streaming actor-critic, the evidence judge and rollback. At step 25,600 the world
changes in one of three ways, of which nothing in observations or rewards tells, or the agent's weights are overwritten
by those of an untrained network. Windows are short, because this agent recovers within some thousand steps. A change
counts only if a frozen copy of the policy from right before it falls below half; else the case is void. Right is: a
changed world is detected, nothing is rolled back, and the score is back at 90 %; a damaged policy is rolled back, with
the policy named as the cause.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import anyio
import gymnasium
import numpy as np
from optix_stream_adapters.gymnasium import BatchPipeline, evaluate_policy

from optix_stream import (
    Degraded,
    EpisodeData,
    EpisodeReturnEvaluator,
    EvalMetrics,
    EvidenceConfig,
    RLOptimizer,
    RolledBack,
    WindowScored,
)
from optix_stream.agents import StreamACAgent

ENV = "CartPole-v1"
WINDOW = 64
BEFORE, AFTER = 400, 320
"""Windows before and after."""
SHARE, IN_A_ROW = 0.9, 3
CONFIG = EvidenceConfig(reference_windows=16, minimal_effect=0.5)
DETECTED_BAR, RECOVERED_BAR, SPARED_BAR, ROLLED_BACK_BAR = 0.9, 0.8, 0.8, 0.9


class Changing(gymnasium.Wrapper[Any, Any, Any, Any]):
    """CartPole that becomes another one.

    Args:
        env: CartPole.
        change: which other one; see ``CHANGES``.
        at: its own steps until then.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], change: str, at: int) -> None:
        super().__init__(env)
        self._change = change
        self._left = at

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(**options)
        return self._seen(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self._left -= 1
        flips = self._change == "action sign" and self._left < 0
        observation, reward, terminated, truncated, info = self.env.step(1 - action if flips else action)
        return self._seen(observation), reward, terminated, truncated, info

    def _seen(self, observation: Any) -> Any:
        return observation if self._left >= 0 else CHANGES[self._change](observation)


def _swap(observation: Any) -> Any:
    return observation[[0, 3, 2, 1]]


def _negate(observation: Any) -> Any:
    return observation * np.array([1.0, 1.0, -1.0, 1.0], np.float32)


CHANGES: Mapping[str, Callable[[Any], Any]] = {
    "action sign": lambda observation: observation,
    "observation sign": _negate,
    "channels swapped": _swap,
}
DAMAGE = "weights to noise"


class Watch(EpisodeReturnEvaluator):
    """Scores as usual, and calls something after a certain window."""

    def __init__(self, at: int, then: Callable[[], None]) -> None:
        super().__init__()
        self._at = at
        self._then = then

    def score(self, episode_data: EpisodeData, train_diagnostics: dict[str, float]) -> EvalMetrics | None:
        if episode_data.episode_id == self._at:
            self._then()
        return super().score(episode_data, train_diagnostics)


@dataclass(kw_only=True)
class Result:
    """One run.

    Attributes:
        earlier: mean score right before the change.
        frozen: of a copy from then, right after it.
        delay: windows until degradation was told; None: it never was.
        cause: that was told.
        rolled_back: whether it was.
        recovery: windows until the score was back, from the change; None: not in time.
    """

    case: str
    seed: int
    earlier: float = math.nan
    frozen: float = math.nan
    delay: int | None = None
    cause: str | None = None
    rolled_back: bool = False
    recovery: int | None = None
    false_alarms: int = 0
    wall_sec: float = 0.0
    scores: list[tuple[int, float]] = field(default_factory=list)


async def run(case: str, seed: int) -> Result:
    """One case with one seed."""
    result, start = Result(case=case, seed=seed), time.perf_counter()
    change = case if case in CHANGES else "action sign"
    at = BEFORE * WINDOW
    env = Changing(gymnasium.make(ENV), change, at if case in CHANGES else 10**9)
    agent = StreamACAgent.for_spaces(env.observation_space, env.action_space, seed=seed)

    def at_the_change() -> None:
        if case == DAMAGE:
            with tempfile.TemporaryDirectory() as directory:
                untrained = StreamACAgent.for_spaces(env.observation_space, env.action_space, seed=seed + 1000)
                untrained.save_weights(str(Path(directory, "weights")))
                agent.load_weights(str(Path(directory, "weights")))
        changed = Changing(gymnasium.make(ENV), change, 0 if case in CHANGES else 10**9)
        policy = agent.publish_policy(deterministic=True)
        result.frozen = float(np.mean(evaluate_policy(policy, changed, 10, seed=50_000 + seed)))

    with tempfile.TemporaryDirectory() as directory:
        optimizer = RLOptimizer(
            agent,
            BatchPipeline(env, window_size=WINDOW, seed=seed),
            evaluator=Watch(BEFORE - 1, at_the_change),
            checkpoint_dir=directory,
            rollback_on_degradation=True,
            max_episodes=BEFORE + AFTER,
            judge=CONFIG,
        )
        async with optimizer.events(buffer_size=10_000) as events:
            report = await optimizer.run()
            told = [event async for event in events]
    assert report.statistics.is_balanced
    _read(result, told)
    result.wall_sec = time.perf_counter() - start
    return result


def _read(result: Result, told: list[Any]) -> None:
    result.scores = [
        (event.window, event.metrics.primary_score)
        for event in told
        if isinstance(event, WindowScored) and event.metrics is not None
    ]
    before = [score for window, score in result.scores if window < BEFORE]
    result.earlier = statistics.fmean(before[-10:])
    falls = [event for event in told if isinstance(event, Degraded)]
    result.false_alarms = sum(event.window < BEFORE for event in falls)
    first = next((event for event in falls if event.window >= BEFORE), None)
    if first is not None:
        result.delay, result.cause = first.window - BEFORE + 1, first.cause
    result.rolled_back = any(isinstance(event, RolledBack) and event.window >= BEFORE for event in told)
    after = [(window, score) for window, score in result.scores if window >= BEFORE]
    lows = [index for index, (_, score) in enumerate(after) if score < 0.5 * result.earlier]
    begin = lows[0] if lows else len(after)
    for index in range(begin, len(after) - IN_A_ROW + 1):
        if min(score for _, score in after[index : index + IN_A_ROW]) >= SHARE * result.earlier:
            result.recovery = after[index][0] - BEFORE + 1
            break


def report(case: str, results: list[Result]) -> bool:
    valid = [result for result in results if result.frozen < 0.5 * result.earlier]
    print(f"\n{case}: {len(valid)} of {len(results)} valid (a frozen copy falls below half)")
    if not valid:
        return False
    count = len(valid)
    delays = [result.delay for result in valid if result.delay is not None]
    print(
        f"  score before {statistics.median(r.earlier for r in valid):.0f}, frozen copy "
        f"{statistics.median(r.frozen for r in valid):.0f}, told after {_median(delays)} windows, back after "
        f"{_median([r.recovery for r in valid if r.recovery is not None])}; "
        f"false alarms before {sum(r.false_alarms for r in valid)}"
    )
    shares: list[tuple[str, int, float]]
    if case == DAMAGE:
        right = sum(result.rolled_back and result.cause == "policy" for result in valid)
        shares = [("rolled back, cause 'policy'", right, ROLLED_BACK_BAR)]
    else:
        shares = [
            ("detected", len(delays), DETECTED_BAR),
            (f"back at {SHARE:.0%}", sum(result.recovery is not None for result in valid), RECOVERED_BAR),
            ("not rolled back", sum(not r.rolled_back and r.cause == "environment" for r in valid), SPARED_BAR),
        ]
    for what, number, bar in shares:
        print(f"  {what}: {number} of {count} >= {bar:.0%}  {'MET' if number >= bar * count else 'MISSED'}")
    return all(number >= bar * count for _, number, bar in shares) and count == len(results)


def _median(values: list[int]) -> str:
    return f"{statistics.median(values):g}" if values else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--cases", default=",".join([*CHANGES, DAMAGE]), help="which, with commas between them")
    arguments = parser.parse_args()
    is_met = True
    for case in arguments.cases.split(","):
        results = []
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            result = anyio.run(run, case, seed)
            results.append(result)
            print(
                f"  {case}, seed {seed}: {result.earlier:.0f}, frozen {result.frozen:.0f}, told after {result.delay} "
                f"({result.cause}), rolled back {result.rolled_back}, back after {result.recovery}, "
                f"{result.wall_sec:.0f} s",
                file=sys.stderr,
                flush=True,
            )
        is_met = report(case, results) and is_met
    sys.exit(not is_met)


if __name__ == "__main__":
    main()
