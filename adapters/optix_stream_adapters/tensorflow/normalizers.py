"""Running statistics for observations and rewards; part of an agent's checkpoint."""

from __future__ import annotations

import numpy as np

from optix_stream.types import Array, EpisodeData, FloatArray, StreamId
from optix_stream_adapters.tensorflow.returns import Segments, accumulated_rewards

_EPSILON = 1e-8


class RunningMoments:
    """Mean and variance of all rows seen, merged a batch at a time.

    Chan, Golub & LeVeque 1983, equation 2.1. Before the first row: mean 0, variance 1.

    Args:
        size: width of a row.
    """

    def __init__(self, size: int) -> None:
        self.count = np.zeros((), np.float64)
        self.mean: FloatArray = np.zeros(size, np.float64)
        self.variance: FloatArray = np.ones(size, np.float64)

    def update(self, rows: Array) -> None:
        """Take ``[N, size]`` more rows."""
        added = len(rows)
        if not added:
            return
        rows = np.asarray(rows, np.float64)
        mean, variance = rows.mean(axis=0), rows.var(axis=0)
        total = float(self.count) + added
        difference = mean - self.mean
        spread = self.variance * self.count + variance * added + difference**2 * (float(self.count) * added / total)
        self.mean = self.mean + difference * (added / total)
        self.variance = spread / total
        self.count = np.asarray(total)

    def tensors(self) -> dict[str, Array]:
        """The state, by name; never changed in place."""
        return {"count": self.count, "mean": self.mean, "variance": self.variance}

    def restore(self, tensors: dict[str, Array]) -> None:
        """Be as when ``tensors`` was taken."""
        self.count, self.mean, self.variance = tensors["count"], tensors["mean"], tensors["variance"]


class ObservationNormalizer(RunningMoments):
    """Running moments of encoded observations, by which they are standardised."""

    def standardization(self) -> tuple[Array, Array]:
        """What to subtract and what to multiply by, float32 ``[size]`` each, as ``EncodedInput`` takes them."""
        inverse = (1.0 / np.sqrt(self.variance + _EPSILON)).astype(np.float32)
        return self.mean.astype(np.float32), inverse


class RewardScaler(RunningMoments):
    """Divides rewards by the running standard deviation of the discounted return, clipped to ±10.

    Engstrom et al. 2020 (arXiv 2005.12729), section 3, "reward scaling": the mean is left in place.
    """

    def __init__(self) -> None:
        super().__init__(1)
        self.gathered: dict[StreamId, float] = {}
        """By stream, the discounted sum of its episode so far."""

    def scale(self, window: EpisodeData, segments: Segments, gamma: float) -> FloatArray:
        """Take the window's rewards into account and return them scaled; ``[T]``."""
        ids = window.stream_ids
        before = np.asarray([self.gathered.get(stream, 0.0) for stream in ids], np.float64)
        sums = accumulated_rewards(segments, window.rewards, before[window.streams], gamma)
        self.update(sums[:, None])
        order = segments.order
        streams = window.streams[order]
        last = order[np.append(streams[1:] != streams[:-1], True)[: len(order)]]
        is_over = window.dones | window.gaps
        gathered = dict(self.gathered)
        gathered.update((ids[window.streams[row]], 0.0 if is_over[row] else float(sums[row])) for row in last)
        self.gathered = gathered
        scaled: FloatArray = np.clip(window.rewards / np.sqrt(self.variance[0] + _EPSILON), -10.0, 10.0)
        return scaled
