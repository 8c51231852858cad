"""An environment as a source of windows."""

from __future__ import annotations

from collections.abc import Sequence

from optix_stream.boundaries import every_n_steps
from optix_stream.clock import Clock
from optix_stream.contracts import BaseAgent, Producer
from optix_stream.errors import ConfigurationError
from optix_stream.pipeline import MAX_REJECTED, StreamPipeline
from optix_stream_adapters.gymnasium.environment_state import Env
from optix_stream_adapters.gymnasium.producer import GymProducer


class BatchPipeline(StreamPipeline):
    """Steps an environment without end and yields windows of ``window_size`` transitions.

    A window does not end with an episode, nor an episode with a window. The environment is stepped
    in a worker thread, so that one that blocks does not hold up the event loop; it is reset at the
    start of a run, and closing it is left to whoever made it.

    Args:
        env: a Gymnasium environment or vector environment (any autoreset mode).
        agent: may be given as in the original system; must be the controller's agent then.
        window_size: transitions a window, over all sub-environments.
        seed: of the first reset; None: not seeded.
        lockstep: the environment waits while a window is learned from, so that every window is
            acted with the newest weights and one seed gives one run, bit for bit. False: it goes
            on, at most four windows ahead of the one that is learned from.
        clock: the run's clock.
        max_rejected: transitions rejected in a row, such as those with NaN, after which the run fails with
            ``UnusableSourceError``.

    Raises:
        ConfigurationError: an unsupported space, or a window or a limit below 1.
    """

    def __init__(
        self,
        env: Env,
        agent: BaseAgent | None = None,
        window_size: int = 200,
        *,
        seed: int | None = None,
        lockstep: bool = True,
        clock: Clock | None = None,
        max_rejected: int = MAX_REJECTED,
    ) -> None:
        if window_size < 1:
            raise ConfigurationError(f"window_size: expected at least 1 transition, got {window_size}")
        chunk = window_size if lockstep else max(1, min(64, window_size // 4))
        super().__init__(
            boundary=every_n_steps(window_size),
            # What is in flight: as much again drained into windows, and one chunk that waits for room.
            capacity=max(1, 2 * window_size - chunk),
            overflow="block",
            lockstep=lockstep,
            clock=clock,
            max_rejected=max_rejected,
        )
        self.agent = agent
        self.env = env
        self._producer = GymProducer(env, chunk_size=chunk, seed=seed, clock=self.clock, keeps_place=lockstep)

    @property
    def is_live(self) -> bool:
        return False

    def producers(self) -> Sequence[Producer]:
        return [self._producer]
