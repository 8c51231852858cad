"""An agent's intake that can be shut for a while."""

from __future__ import annotations

from collections.abc import Callable

from optix_stream.contracts import Intake
from optix_stream.types import EpisodeData, Transition


def gated(intake: Intake, is_open: Callable[[], bool]) -> Intake:
    """The same intake, from which nothing is learned while it is not open.

    Args:
        intake: what the agent wants to learn from before a window is complete.
        is_open: asked for each transition or increment, by whoever brings it.
    """
    learn_one, learn_increment = intake.learn_one, intake.learn_increment

    def maybe_learn_one(transition: Transition) -> None:
        if learn_one is not None and is_open():
            learn_one(transition)

    async def maybe_learn_increment(part: EpisodeData) -> None:
        if learn_increment is not None and is_open():
            await learn_increment(part)

    return Intake(
        None if learn_one is None else maybe_learn_one,
        intake.increment,
        None if learn_increment is None else maybe_learn_increment,
    )
