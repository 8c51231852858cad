"""Transitions a second from producer through queue and assembler to the controller.

The agent does nothing, so that what is measured is the line itself: ready-made transitions one at a time and
in batches (the bars), and, for comparison, feeds that must also be acted on and aligned. The reference is the
LivePipeline and LoopController of tensor-optix 0.1.0 on the same feed with the same window, in the same run:
repetitions are interleaved and medians compared. The clock runs from the first window's ``learn`` to
the last one's, so that start-up and shutdown are left out on both sides.

    pip install 'optix-stream[benchmark]'
    python tests/benchmarks/ingest.py
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

import anyio
import numpy as np

from optix_stream import (
    BackoffScheduler,
    BaseAgent,
    BaseEvaluator,
    BaseOptimizer,
    BasePipeline,
    CheckpointRegistry,
    EpisodeData,
    EvalMetrics,
    HyperparamSet,
    LivePipeline,
    LoopController,
    Policy,
    Producer,
    StreamPipeline,
    Transition,
    TransitionBatch,
    TransitionSink,
    every_n_steps,
)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    transitions: int = 400_000
    """In each repetition; ten times as many in batches."""
    repetitions: int = 5
    window: int = 8192
    """Small windows measure the hop to the learner's thread and back instead, about 0.2 ms each."""
    batch: int = 64
    """Rows a batch in the batched variant."""
    json: bool = False


BARS = {"single items": 2.5, "batches": 30.0}
REFERENCE = "tensor-optix 0.1.0"


class NullAgent(BaseAgent):
    """Learns nothing and notes when it was asked to. Its six methods serve both systems."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, int]] = []

    def act(self, observation: Any) -> int:
        return 0

    def learn(self, episode_data: EpisodeData) -> dict[str, float]:
        self.calls.append((time.perf_counter(), episode_data.length))
        return {}

    def get_hyperparams(self) -> HyperparamSet:
        return HyperparamSet({})

    def set_hyperparams(self, hyperparams: HyperparamSet) -> None: ...

    def save_weights(self, path: str) -> None: ...

    def load_weights(self, path: str) -> None: ...

    def transitions_per_sec(self) -> float:
        start, end = self.calls[0][0], self.calls[-1][0]
        return sum(length for _, length in self.calls[1:]) / (end - start)


class NullEvaluator(BaseEvaluator):
    def score(self, episode_data: EpisodeData, train_diagnostics: dict[str, float]) -> EvalMetrics:
        return EvalMetrics(0.0, {}, episode_data.episode_id)


class NullOptimizer(BaseOptimizer):
    def suggest(self, current_hyperparams: HyperparamSet, metrics_history: Sequence[EvalMetrics]) -> HyperparamSet:
        return current_hyperparams


# --- sources -----------------------------------------------------------------------------------


def feed_steps(count: int) -> Iterator[tuple[Any, ...]]:
    steps: list[tuple[Any, ...]] = [
        (row, 1.0, False, False, {}) for row in np.random.default_rng(0).random((1024, 4), np.float32)
    ]
    for index in range(count):
        yield steps[index & 1023]


class PlainFeed:
    def __init__(self, count: int) -> None:
        self._count = count

    def stream(self) -> Iterator[tuple[Any, ...]]:
        return feed_steps(self._count)


class AsyncFeed:
    def __init__(self, count: int) -> None:
        self._count = count

    async def stream(self) -> AsyncIterator[tuple[Any, ...]]:
        for step in feed_steps(self._count):
            yield step


class ReadyMade(StreamPipeline):
    """A producer that has its transitions at hand and pushes them as fast as it can."""

    def __init__(self, window: int) -> None:
        super().__init__(boundary=every_n_steps(window), capacity=2 * window, overflow="block", lockstep=False)

    @property
    def is_live(self) -> bool:
        return True

    def producers(self) -> Sequence[Producer]:
        return [self]

    @property
    @abstractmethod
    def name(self) -> str: ...

    @abstractmethod
    async def run(self, policy: Policy, sink: TransitionSink) -> None: ...


class SingleItems(ReadyMade):
    def __init__(self, count: int, window: int) -> None:
        super().__init__(window)
        self._count = count

    @property
    def name(self) -> str:
        return "single items"

    async def run(self, policy: Policy, sink: TransitionSink) -> None:
        rows = list(np.random.default_rng(0).random((1024, 4), np.float32))
        for index in range(self._count):
            await sink.push(
                Transition(rows[index & 1023], 0, 1.0, rows[(index + 1) & 1023], False, False, None, 0, None, 0.0)
            )


class Batches(ReadyMade):
    def __init__(self, count: int, rows: int, window: int) -> None:
        super().__init__(window)
        self._count = count // rows
        self._rows = rows

    @property
    def name(self) -> str:
        return "batches"

    async def run(self, policy: Policy, sink: TransitionSink) -> None:
        rows = self._rows
        observations, next_observations = np.random.default_rng(0).random((2, rows, 4), np.float32)
        actions = np.zeros(rows, np.int64)
        rewards, times = np.ones(rows), np.zeros(rows)
        flags = np.zeros(rows, np.bool_)
        streams = np.zeros(rows, np.int32)
        for _ in range(self._count):
            await sink.push(
                TransitionBatch(
                    observations,
                    actions,
                    rewards,
                    next_observations,
                    flags,
                    flags,
                    streams,
                    (0,),
                    {},
                    None,
                    times,
                )
            )


# --- one repetition ----------------------------------------------------------------------------


def run_ours(pipeline: BasePipeline) -> float:
    agent = NullAgent()
    with tempfile.TemporaryDirectory() as directory:
        controller = LoopController(
            agent,
            NullEvaluator(),
            NullOptimizer(),
            pipeline,
            CheckpointRegistry(directory),
            BackoffScheduler(),
        )
        report = anyio.run(controller.run)
    assert report.statistics.is_balanced
    assert report.statistics.learned == report.statistics.received
    return agent.transitions_per_sec()


def run_reference(arguments: Arguments) -> float:
    # Imported by name, so that type checkers do not ask for a package that only this file needs.
    pipelines = importlib.import_module("tensor_optix.pipeline.live_pipeline")
    types = importlib.import_module("tensor_optix.core.types")
    agent = NullAgent()
    pipeline = pipelines.LivePipeline(
        PlainFeed(arguments.transitions),
        agent=agent,
        episode_boundary_fn=pipelines.LivePipeline.every_n_steps(arguments.window),
        reconnect_on_disconnect=False,
    )
    evaluator = SimpleNamespace(
        score=lambda window, diagnostics: types.EvalMetrics(0.0, {}, window.episode_id),
        compare=lambda candidate, baseline: candidate.beats(baseline),
    )
    with tempfile.TemporaryDirectory() as directory:
        controller = importlib.import_module("tensor_optix.core.loop_controller").LoopController(
            agent=agent,
            evaluator=evaluator,
            optimizer=SimpleNamespace(suggest=lambda params, history: params, on_plateau=lambda history: None),
            pipeline=pipeline,
            checkpoint_registry=importlib.import_module("tensor_optix.core.checkpoint_registry").CheckpointRegistry(
                directory
            ),
            backoff_scheduler=importlib.import_module("tensor_optix.core.backoff_scheduler").BackoffScheduler(),
        )
        controller.run()
    return agent.transitions_per_sec()


# --- the command -------------------------------------------------------------------------------


def variants(arguments: Arguments) -> dict[str, Callable[[], float]]:
    def live(feed: PlainFeed | AsyncFeed) -> LivePipeline:
        return LivePipeline(
            feed,
            episode_boundary_fn=every_n_steps(arguments.window),
            reconnect_on_disconnect=False,
            overflow="block",
            buffer_size=2 * arguments.window,
        )

    # The first message of a feed completes no transition.
    count = arguments.transitions + 1
    found: dict[str, Callable[[], float]] = {
        "single items": lambda: run_ours(SingleItems(arguments.transitions, arguments.window)),
        "batches": lambda: run_ours(Batches(10 * arguments.transitions, arguments.batch, arguments.window)),
        "async feed": lambda: run_ours(live(AsyncFeed(count))),
        "plain feed": lambda: run_ours(live(PlainFeed(count))),
    }
    if importlib.util.find_spec("tensor_optix") is not None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        found = {REFERENCE: lambda: run_reference(arguments)} | found
    return found


def main() -> None:
    arguments = parse_arguments()
    chosen = variants(arguments)
    rates: dict[str, list[float]] = {name: [] for name in chosen}
    for _ in range(arguments.repetitions):
        for name, measure in chosen.items():
            rates[name].append(measure())
    medians = {name: statistics.median(values) for name, values in rates.items()}
    reference = medians.get(REFERENCE)
    ratios = {name: rate / reference for name, rate in medians.items() if name != REFERENCE} if reference else {}
    if arguments.json:
        print(json.dumps({"transitions_per_sec": rates, "medians": medians, "ratios": ratios, "bars": BARS}))
        return
    print(f"{'variant':<20} {'transitions/s':>14} {'µs each':>8} {'RATIO':>7}  bar")
    for name, rate in medians.items():
        judged = f"{ratios[name]:6.2f}x" if name in ratios else ""
        if name in BARS and name in ratios:
            judged += f"  >= {BARS[name]:g}x  {'met' if ratios[name] >= BARS[name] else 'MISSED'}"
        print(f"{name:<20} {rate:>14,.0f} {1e6 / rate:>8.2f} {judged}")
    if not reference:
        print("no RATIO: the reference is not installed; pip install 'optix-stream[benchmark]'", file=sys.stderr)


def parse_arguments() -> Arguments:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in fields(Arguments):
        option = f"--{field.name.replace('_', '-')}"
        if isinstance(field.default, bool):
            parser.add_argument(option, action=argparse.BooleanOptionalAction, default=field.default)
        else:
            parser.add_argument(option, type=type(field.default), default=field.default)
    return Arguments(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
