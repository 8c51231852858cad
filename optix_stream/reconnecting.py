"""How a lost source is tried again."""

from __future__ import annotations

import random

import msgspec

from optix_stream.errors import ConfigurationError


class ReconnectPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Capped exponential backoff with jitter.

    Attributes:
        initial_sec: wait before the first attempt.
        factor: growth of the wait from attempt to attempt.
        max_sec: cap of the wait.
        jitter: share of the wait that is random, 0 to 1.
        max_attempts: attempts in a row that deliver nothing before the run fails; None for ever.
    """

    initial_sec: float = 0.5
    factor: float = 2.0
    max_sec: float = 30.0
    jitter: float = 0.5
    max_attempts: int | None = 20

    def __post_init__(self) -> None:
        if not (0 <= self.initial_sec <= self.max_sec and self.factor >= 1 and 0 <= self.jitter <= 1):
            raise ConfigurationError(f"expected 0 <= initial_sec <= max_sec, factor >= 1, 0 <= jitter <= 1, got {self}")

    def wait_sec(self, attempt: int, rng: random.Random) -> float:
        """Seconds to wait before this attempt, the first being 1."""
        # The exponent is capped because a float power overflows after a thousand attempts.
        wait = min(self.max_sec, self.initial_sec * self.factor ** min(attempt - 1, 64))
        return wait * (1 - self.jitter * rng.random())
