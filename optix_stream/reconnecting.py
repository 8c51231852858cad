"""How a lost source is tried again, and when it is left alone for a while."""

from __future__ import annotations

import random
from collections import deque

import msgspec

from optix_stream.errors import ConfigurationError


class BreakerPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When a source that fails again and again is left alone. Nygard, *Release It!*: the circuit breaker.

    Attributes:
        failures: that many within ``window_sec`` open the circuit.
        window_sec: how far back failures count; and how long the attempt after a cool-down must last, or it is the
            next failure that opens the circuit.
        cool_down_sec: how long nothing is tried then.

    Raises:
        ConfigurationError: fewer than 1 failure, or a time that is not above 0.
    """

    failures: int = 10
    window_sec: float = 60.0
    cool_down_sec: float = 60.0

    def __post_init__(self) -> None:
        if not (self.failures >= 1 and self.window_sec > 0 and self.cool_down_sec > 0):
            raise ConfigurationError(f"expected at least 1 failure and times above 0, got {self}")


class CircuitBreaker:
    """Counts a source's failures; backoff alone does not slow down a source that delivers a little and dies again."""

    def __init__(self, policy: BreakerPolicy) -> None:
        self.policy = policy
        self._failures: deque[float] = deque(maxlen=policy.failures)
        self._trial: float | None = None

    def record_failure(self, now: float) -> bool:
        """Whether this failure opens the circuit; after ``cool_down_sec`` the source may be tried once."""
        policy = self.policy
        is_trial = self._trial is not None and now - self._trial < policy.window_sec
        self._trial = None
        self._failures.append(now)
        is_full = len(self._failures) == policy.failures and now - self._failures[0] <= policy.window_sec
        if is_trial or is_full:
            self._failures.clear()
            self._trial = now + policy.cool_down_sec
            return True
        return False


class ReconnectPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Capped exponential backoff with jitter.

    Attributes:
        initial_sec: wait before the first attempt.
        factor: growth of the wait from attempt to attempt.
        max_sec: cap of the wait.
        jitter: share of the wait that is random, 0 to 1.
        max_attempts: attempts in a row that deliver nothing before the run fails; None for ever.
        breaker: when to leave the source alone for longer; None: never.
    """

    initial_sec: float = 0.5
    factor: float = 2.0
    max_sec: float = 30.0
    jitter: float = 0.5
    max_attempts: int | None = 20
    breaker: BreakerPolicy | None = BreakerPolicy()

    def __post_init__(self) -> None:
        if not (0 <= self.initial_sec <= self.max_sec and self.factor >= 1 and 0 <= self.jitter <= 1):
            raise ConfigurationError(f"expected 0 <= initial_sec <= max_sec, factor >= 1, 0 <= jitter <= 1, got {self}")

    def wait_sec(self, attempt: int, rng: random.Random) -> float:
        """Seconds to wait before this attempt, the first being 1."""
        # The exponent is capped because a float power overflows after a thousand attempts.
        wait = min(self.max_sec, self.initial_sec * self.factor ** min(attempt - 1, 64))
        return wait * (1 - self.jitter * rng.random())
