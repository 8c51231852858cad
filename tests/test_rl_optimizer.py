"""The front door: the original's flat parameters, names and defaults."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from optix_stream.boundaries import every_n_steps
from optix_stream.callbacks import LoopCallback
from optix_stream.contracts import Producer
from optix_stream.errors import ConfigurationError, DirectoryInUseError
from optix_stream.events import CheckpointSaved, HyperparamsChanged, LoopStopped, WindowScored
from optix_stream.optimizers import PairedBlockTuner
from optix_stream.pipeline import StreamPipeline
from optix_stream.rl_optimizer import RLOptimizer
from optix_stream.testing import RecordingAgent, ScriptedProducer, assert_balanced, make_transition
from optix_stream.types import LoopState


class Pipeline(StreamPipeline):
    def __init__(self) -> None:
        super().__init__(boundary=every_n_steps(2), capacity=2, overflow="block", lockstep=True)

    @property
    def is_live(self) -> bool:
        return False

    def producers(self) -> Sequence[Producer]:
        return [ScriptedProducer([make_transition(n, terminated=n % 2 == 1) for n in range(8)])]


def test_names_and_defaults_are_the_original_ones() -> None:
    # From "Full Configuration" in the original's README.
    expected = {
        "evaluator": None,
        "optimizer": None,
        "checkpoint_dir": "./checkpoints",
        "max_snapshots": 10,
        "rollback_on_degradation": False,
        "improvement_margin": 0.0,
        "max_episodes": None,
        "base_interval": 1,
        "backoff_factor": 2.0,
        "max_interval_episodes": 100,
        "plateau_threshold": 5,
        "dormant_threshold": 20,
        "degradation_threshold": 0.95,
        "callbacks": None,
    }
    parameters = inspect.signature(RLOptimizer).parameters
    assert list(parameters)[:2] == ["agent", "pipeline"]
    assert {name: parameters[name].default for name in expected} == expected


@pytest.mark.anyio
async def test_runs_with_everything_defaulted(tmp_path: Path) -> None:
    agent = RecordingAgent()
    optimizer = RLOptimizer(agent, Pipeline(), checkpoint_dir=tmp_path)
    assert optimizer.state is LoopState.ACTIVE
    assert optimizer.best_snapshot is None
    async with optimizer.events() as events:
        report = await optimizer.run()
        kinds = [type(event) async for event in events]
    assert (kinds.count(CheckpointSaved), kinds[-1]) == (2, LoopStopped), "the first, and the last that is as good"
    assert report.transitions == 8
    assert optimizer.best_snapshot == report.best_snapshot
    assert report.best_snapshot is not None
    assert report.best_snapshot.eval_metrics.primary_score == (1.0 + 5.0 + 9.0 + 13.0) / 4, "the mean of the returns"
    assert_balanced(optimizer.statistics())


@pytest.mark.anyio
async def test_the_second_of_two_that_write_to_the_default_directory_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was told that the directory is in use by a process, which was its own."""
    monkeypatch.chdir(tmp_path)

    class Open(Pipeline):
        def producers(self) -> Sequence[Producer]:
            return [ScriptedProducer([make_transition(n) for n in range(2)], stays_open=True)]

    first, second = RLOptimizer(RecordingAgent(), Open()), RLOptimizer(RecordingAgent(), Pipeline())
    async with anyio.create_task_group() as tasks, first.events() as events:
        tasks.start_soon(first.run)
        async for event in events:
            if isinstance(event, WindowScored):
                break
        said = r"checkpoints is in use by another run of this same process, .*: give each a checkpoint_dir of its own$"
        with pytest.raises(DirectoryInUseError, match=said):
            await second.run()
        first.stop()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"evaluator": 3}, "evaluator: expected a BaseEvaluator, got 3"),
        ({"optimizer": 3}, "optimizer: expected a BaseOptimizer, such as PairedBlockTuner(), got 3"),
        (
            {"optimizer": PairedBlockTuner},
            "optimizer: expected a BaseOptimizer, such as PairedBlockTuner(), got <class",
        ),
        ({"checkpoint_dir": 3}, "checkpoint_dir: expected a path, got 3"),
        ({"checkpoint_dir": None}, "checkpoint_dir: expected a path, got None"),
        ({"checkpoint_every": 5}, "checkpoint_every: expected how often, such as CheckpointEvery(windows=5)"),
        ({"checkpoint_every": None}, "CheckpointEvery(sec=60), got None"),
        ({"callbacks": [LoopCallback(), 3]}, "callbacks[1]: expected a LoopCallback, got 3"),
        ({"callbacks": LoopCallback()}, "callbacks: expected a list of LoopCallback, got <"),
    ],
)
def test_an_argument_of_another_type_is_refused_by_name_at_once(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        RLOptimizer(RecordingAgent(), Pipeline(), **{"checkpoint_dir": tmp_path, **change})


def test_bounds_are_for_the_tuner_that_it_makes(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="param_bounds: expected none beside an optimizer"):
        RLOptimizer(
            RecordingAgent(),
            Pipeline(),
            checkpoint_dir=tmp_path,
            optimizer=PairedBlockTuner(),
            param_bounds={"x": (0.0, 1.0)},
        )


@pytest.mark.anyio
async def test_bounds_alone_make_the_default_tuner_work(tmp_path: Path) -> None:
    class Longer(Pipeline):
        def producers(self) -> Sequence[Producer]:
            return [ScriptedProducer([make_transition(n, terminated=n % 2 == 1) for n in range(160)])]

    bounds = {"learning_rate": (1e-6, 1e6)}
    optimizer = RLOptimizer(RecordingAgent(), Longer(), checkpoint_dir=tmp_path, param_bounds=bounds)
    async with optimizer.events(buffer_size=10_000) as events:
        await optimizer.run()
        changes = [event async for event in events if isinstance(event, HyperparamsChanged)]
    assert changes
    assert {name for change in changes for name, value in change.new.items() if value != change.old[name]} == {
        "learning_rate"
    }
