"""Small transitions and windows to feed to whatever is being checked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from optix_stream.types import EpisodeData, StreamId, Transition


def make_transition(
    index: int = 0,
    *,
    reward: float | None = None,
    terminated: bool = False,
    truncated: bool = False,
    stream: StreamId = 0,
    time: float | None = None,
) -> Transition:
    """Step number ``index`` of a stream in which each observation is one above the last.

    Args:
        index: the step; its observation is ``[index]``, the next one ``[index + 1]``.
        reward: by default ``index``.
        terminated: the episode ends here by itself.
        truncated: the episode is cut off here.
        stream: whose step it is.
        time: seconds; by default ``index``.
    """
    return Transition(
        observation=np.array([index], np.float32),
        action=np.int64(index % 2),
        reward=float(index) if reward is None else reward,
        next_observation=np.array([index + 1], np.float32),
        terminated=terminated,
        truncated=truncated,
        stream=stream,
        time=float(index) if time is None else time,
    )


def make_window(
    rewards: Sequence[float], *, window_id: int = 0, observation_shape: tuple[int, ...] = (2,), seed: int = 0
) -> EpisodeData:
    """A window of one stream whose last row is terminated.

    Args:
        rewards: one a row.
        window_id: its number in its run.
        observation_shape: of one observation; the values are random.
        seed: of those values.
    """
    rng = np.random.default_rng(seed)
    length = len(rewards)
    observations = rng.normal(size=(length + 1, *observation_shape)).astype(np.float32)
    terminated = np.zeros(length, np.bool_)
    terminated[-1:] = True
    return EpisodeData(
        observations=observations[:-1],
        actions=rng.integers(0, 2, length),
        rewards=np.asarray(rewards, np.float64),
        terminated=terminated,
        truncated=np.zeros(length, np.bool_),
        infos=[{} for _ in range(length)],
        episode_id=window_id,
        next_observations=observations[1:],
    )
