from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
from blockbuster import blockbuster_ctx

# The same examples every time: a test passes or fails, it does not do both.
hypothesis.settings.register_profile("deterministic", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("deterministic")


@pytest.fixture(params=[pytest.param("asyncio", id="asyncio"), pytest.param("trio", id="trio")])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(autouse=True, scope="session")
def _nothing_blocks_the_event_loop() -> Iterator[None]:
    """Blocking calls that the framework makes on an asyncio event loop raise ``BlockingError``."""
    with blockbuster_ctx(scanned_modules=["optix_stream"]) as blockers:
        # Opening a checkpoint directory is part of putting a loop together, not of running it.
        for blocker in blockers.functions.values():
            blocker.can_block_in("optix_stream/checkpoints/registry.py", {"__init__"})
            # What measures the coverage takes a lock of its own, inside whatever line it measures.
            blocker.can_block_in("coverage/collector.py", {"lock_data"})
        yield
