"""The wall clock may jump: deadlines, reconnects and windows go by the monotonic one. By libfaketime, in a process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

# A feed of 40 steps 5 ms apart, cut once; windows of 50 ms; a checkpoint each 50 ms; and the jump in the middle.
RUN = """
import asyncio, json, tempfile, time
import numpy as np
from optix_stream import ActDeadline, CheckpointEvery, FeedOptions, LivePipeline, ReconnectPolicy, RLOptimizer
from optix_stream import RunSaved, DeadlineMissed, SourceLost, every_n_seconds
from optix_stream.testing import RecordingAgent

real = time.time
JUMPS = {10: 86400.0 * 365, 20: -86400.0 * 365, 30: 3600.0}
jumped = 0.0
if not __FAKED__:
    time.time = lambda: real() + jumped

class Feed:
    async def stream(self):
        global jumped
        for number in range(40):
            jumped += JUMPS.get(number, 0.0)
            await asyncio.sleep(0.005)
            yield np.array([number], np.float32), 0.0, False, False, None

async def main():
    agent = RecordingAgent()
    pipeline = LivePipeline(
        Feed(), episode_boundary_fn=every_n_seconds(0.05), reconnect_on_disconnect=False,
        options=FeedOptions(deadline=ActDeadline(act_sec=600.0)),
    )
    with tempfile.TemporaryDirectory() as directory:
        optimizer = RLOptimizer(
            agent, pipeline, checkpoint_dir=directory, checkpoint_every=CheckpointEvery(sec=0.05), journal=True
        )
        async with optimizer.events(1000) as events:
            report = await optimizer.run()
            seen = [event async for event in events]
    times = np.concatenate([window.times for window in agent.windows])
    print(json.dumps({
        "learned": report.statistics.learned, "balanced": report.statistics.is_balanced,
        "windows": report.windows, "missed": sum(isinstance(event, DeadlineMissed) for event in seen),
        "saved": sum(isinstance(event, RunSaved) for event in seen), "longest": float(np.diff(times).max()),
        "forwards": bool((np.diff(times) >= 0).all()), "wall_sec": report.wall_sec,
    }))

asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["patched", "libfaketime"])
def test_a_wall_clock_that_jumps_changes_nothing(how: str) -> None:
    prefix: list[str] = []
    if how == "libfaketime":
        if shutil.which("faketime") is None:
            pytest.skip("needs faketime, of libfaketime")
        # Ten thousand times as fast, and only the wall clock.
        prefix = ["env", "FAKETIME_DONT_FAKE_MONOTONIC=1", "faketime", "-f", "+0 x10000"]
    script = RUN.replace("__FAKED__", str(how == "libfaketime"))
    command = [*prefix, sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["learned"] == 39
    assert seen["balanced"]
    assert seen["forwards"]
    assert seen["missed"] == 0
    assert seen["saved"] >= 2
    assert seen["windows"] >= 2
    # Far less than any of the jumps.
    assert seen["longest"] < 600.0
    assert 0.0 < seen["wall_sec"] < 600.0
