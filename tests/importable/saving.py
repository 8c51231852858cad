"""Saves once, in a process that may be killed or starved meanwhile: ``python saving.py DIRECTORY policy|run``.

What is between two looks at ``/begins`` and ``/ends``, which are not there, is the save. One line of JSON says what
became of it, and of one more.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from optix_stream.agents import StreamACAgent
from optix_stream.checkpoints import CheckpointRegistry
from optix_stream.errors import CheckpointError
from optix_stream.types import EvalMetrics, Transition


class Box:
    shape = (2,)


class Discrete:
    n = 2
    start = 0


def make_agent(windows: int) -> StreamACAgent:
    """An agent that has learned for so long."""
    agent = StreamACAgent.for_spaces(Box(), Discrete(), hidden=(4,), seed=0)
    for window in range(windows):
        agent.learn_one(Transition(np.array([window, 1.0]), 0, 1.0, np.array([window + 1.0, 1.0])))
    return agent


def knowledge(agent: StreamACAgent) -> bytes:
    """Everything that was learned."""
    state = agent.capture_state()
    return bytes(state.parameters.tobytes()) + repr((state.steps, state.rng)).encode()


def make_registry(directory: Path) -> CheckpointRegistry:
    """One that has something to remove at each save."""
    return CheckpointRegistry(directory, max_snapshots=2)


def save(registry: CheckpointRegistry, window: int, kind: str) -> None:
    """Save what was learned in so many windows, which is better than before."""
    agent = make_agent(window)
    if kind == "policy":
        registry.save(agent, EvalMetrics(float(window), {}, window), agent.get_hyperparams())
    else:
        registry.commit_run(registry.stage_run(agent, window, {"window": window, "rows": np.arange(1000)}))


def try_to_save(registry: CheckpointRegistry, window: int, kind: str) -> list[str]:
    """What went wrong."""
    try:
        save(registry, window, kind)
    except CheckpointError as error:
        return [str(error), *map(str, registry.take_reports())]
    return [str(report) for report in registry.take_reports()]


def fill(directory: Path) -> None:
    """As many as are kept."""
    registry = make_registry(directory)
    registry.begin_run()
    for window in (1, 2):
        for kind in ("policy", "run"):
            save(registry, window, kind)
    registry.end_run()


def main(directory: Path, kind: str) -> None:
    """Save once as it may be, and once more."""
    with tempfile.TemporaryDirectory() as elsewhere:
        fill(Path(elsewhere))  # Whatever is imported late is imported now.
    registry = make_registry(directory)
    registry.resume_run(lambda checkpoint, state: None, make_agent(0))
    os.access("/begins", os.F_OK)
    first = try_to_save(registry, 3, kind)
    os.access("/ends", os.F_OK)
    print(json.dumps({"first": first, "second": try_to_save(registry, 4, kind)}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
