"""The check for pipelines, and for the conservation law."""

from __future__ import annotations

from optix_stream.contracts import BasePipeline, Policy, as_policy
from optix_stream.testing.agents import NullAgent
from optix_stream.testing.recording import RecordingEvents
from optix_stream.types import EpisodeData, Statistics


def assert_balanced(statistics: Statistics) -> None:
    """Check that ``received = learned + held + dropped + rejected``.

    Raises:
        AssertionError: it does not add up; the text has every term.
    """
    dropped, rejected = sum(statistics.dropped.values()), sum(statistics.rejected.values())
    total = statistics.learned + statistics.held + dropped + rejected
    assert statistics.received == total, (
        f"expected received = learned + held + dropped + rejected, got {statistics.received} != {total} "
        f"= {statistics.learned} + {statistics.held} + {dropped} + {rejected} in {statistics}"
    )


async def check_pipeline(
    pipeline: BasePipeline, *, policy: Policy | None = None, windows: int = 3, runs: int = 2
) -> list[EpisodeData]:
    """Open a pipeline, take windows and leave it, more than once, and check that nothing vanishes.

    Windows are alternately recorded as learned and as dropped; at every step the conservation law
    must hold, and after a run nothing is held any more.

    Args:
        pipeline: what to check.
        policy: what its producers act by; by default one that always does 0.
        windows: how many to take a run; the source may end before.
        runs: how often to open it.

    Returns:
        The windows of the last run.

    Raises:
        AssertionError: a promise is broken; the text says which.
    """
    taken: list[EpisodeData] = []
    for run in range(runs):
        taken = await _check_run(pipeline, policy if policy is not None else as_policy(NullAgent()), windows, run)
    return taken


async def _check_run(pipeline: BasePipeline, policy: Policy, windows: int, run: int) -> list[EpisodeData]:
    taken: list[EpisodeData] = []
    learned = 0
    async with pipeline.open(policy, RecordingEvents()) as source:
        while len(taken) < windows:
            window = await source.next_window()
            if window is None:
                break
            where = f"run {run}, window {len(taken)}"
            assert window.length > 0, f"{where}: expected transitions, got none"
            assert window.episode_id == len(taken), f"{where}: expected that episode_id, got {window.episode_id}"
            held = pipeline.statistics().held_in_learner
            assert held == window.length, f"{where}: expected {window.length} held in the learner, got {held}"
            assert_balanced(pipeline.statistics())
            if len(taken) % 2:
                source.record_dropped(window, "check")
            else:
                source.record_learned(window)
                learned += window.length
            assert_balanced(pipeline.statistics())
            taken.append(window)
    statistics = pipeline.statistics()
    assert taken, f"run {run}: expected windows, got none"
    assert_balanced(statistics)
    assert statistics.held == 0, f"run {run}: expected nothing held afterwards, got {statistics.held}"
    assert statistics.learned == learned, f"run {run}: expected {learned} learned, got {statistics.learned}"
    return taken
