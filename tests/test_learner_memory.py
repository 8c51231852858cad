"""A learner that wants more memory than there is: killed by the kernel, or refused by it. Real limits, both."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from optix_stream.clock import SystemClock
from optix_stream.contracts import BaseAgent
from optix_stream.errors import AgentFailedError
from optix_stream.events import LearnerLost, LearnerRestarted
from optix_stream.learner import ProcessLearner, ProcessOptions
from optix_stream.recipes import AgentRecipe
from optix_stream.testing import RecordingEvents, make_window
from optix_stream.types import EpisodeData

pytestmark = pytest.mark.anyio

MEGABYTE = 2**20
LIMIT = 256 * MEGABYTE


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _agents_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "importable"))


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group whose memory is limited, version 1 or 2."""
    root = Path("/sys/fs/cgroup")
    old = (root / "memory" / "memory.limit_in_bytes").exists()
    made = (root / "memory" if old else root) / f"optix-stream-{os.getpid()}"
    try:
        made.mkdir()
    except OSError as error:
        pytest.skip(f"needs to make a control group: {error}")
    try:
        try:
            (made / ("memory.limit_in_bytes" if old else "memory.max")).write_text(str(LIMIT))
        except OSError as error:
            pytest.skip(f"needs a control group with a memory limit: {error}")
        yield made
    finally:
        made.rmdir()


def window(number: int) -> EpisodeData:
    return make_window(np.random.default_rng(number).normal(size=6).tolist(), window_id=number, seed=number)


def learner_of(marks: Path, does: str) -> ProcessLearner:
    recipe = AgentRecipe("elsewhere:Learns", {"seed": 4, "does": {"1": does}, "marks": str(marks)})
    return ProcessLearner(recipe, SystemClock(), ProcessOptions())


async def test_a_learner_that_eats_all_memory_is_killed_and_goes_on_from_its_commit(
    group: Path, tmp_path: Path
) -> None:
    (tmp_path / "group").write_text(str(group))
    learner, events = learner_of(tmp_path, "eat"), RecordingEvents()
    async with learner.open(events):
        await learner.learn(window(0))
        policy = learner.policy
        diagnostics = await learner.learn(window(1))
        # It acted all the while, and the window that was too much the first time was learned the second time.
        assert policy.act(np.zeros((1, 2), np.float32)).actions.shape == (1,)
        assert diagnostics["learned"] == 12.0
    assert events.events == [
        LearnerLost(reason="killed by SIGKILL", transitions=6, forgotten=0, losses=1),
        LearnerRestarted(windows=1),
    ]


async def test_a_learner_that_is_refused_memory_is_as_before(tmp_path: Path) -> None:
    learner, events = learner_of(tmp_path, "starve"), RecordingEvents()

    async def weights(name: str) -> bytes:
        def saved(agent: BaseAgent) -> bytes:
            agent.save_weights(str(tmp_path / name))
            return (tmp_path / name).read_bytes()

        return await learner.call(saved)

    async with learner.open(events):
        await learner.learn(window(0))
        before = await weights("before")
        with pytest.raises(AgentFailedError, match="MemoryError"):
            await learner.learn(window(1))
        assert await weights("after") == before
        await learner.learn(window(2))
    assert not events.events
