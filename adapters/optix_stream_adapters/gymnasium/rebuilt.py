"""``RebuiltEnv``: an environment that is made anew when it fails or hangs."""

from __future__ import annotations

import copy
import logging
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import gymnasium as gym
import numpy as np

from optix_stream.errors import ConfigurationError, SourceFailedError

logger = logging.getLogger(__name__)

T = TypeVar("T")
FAILURE = "env_failure"
"""Key in the info of a step that failed; says how."""


class EnvHungError(Exception):
    """A step or a reset did not return in time."""


class RebuiltEnv(gym.Wrapper[Any, Any, Any, Any]):
    """Steps what ``make`` makes; what raises or hangs is given up, and another one made in its place.

    The episode is truncated at the observation before: the step that failed counts as one that changed nothing and
    earned nothing, and its info says so by ``"env_failure"``. In a vector environment the others go on::

        SyncVectorEnv([lambda: RebuiltEnv(make_simulator, deadline_sec=5.0)] * 8)

    Args:
        make: makes the environment; called again after each failure.
        deadline_sec: for each step and reset, which run in a thread then; one that hangs cannot be stopped and is left
            behind. None: no deadline, and no thread.
        max_failures: in a row, without a step that worked in between, before the error is raised.

    Raises:
        ConfigurationError: a limit that cannot be.
    """

    def __init__(
        self, make: Callable[[], gym.Env[Any, Any]], *, deadline_sec: float | None = None, max_failures: int = 10
    ) -> None:
        if max_failures < 1:
            raise ConfigurationError(f"max_failures: expected at least 1, got {max_failures}")
        if deadline_sec is not None and not deadline_sec > 0.0:
            raise ConfigurationError(f"deadline_sec: expected more than 0 seconds, got {deadline_sec}")
        self._make = make
        self._deadline_sec = deadline_sec
        self._max_failures = max_failures
        self._failures = 0
        self._caller: _Caller | None = None
        self._last: Any = None
        # A new environment begins by a seed that follows from the first.
        self._seeds = np.random.default_rng()
        self._seed: int | None = None
        super().__init__(make())

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self._seeds = np.random.default_rng(seed)
            self._seed = seed
        while True:
            try:
                observation, info = self._call(partial(self.env.reset, seed=self._seed, options=options))
            except Exception as error:
                self._rebuild(error)
                continue
            self._seed = None
            self._last = copy.deepcopy(observation)
            return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        try:
            observation, reward, terminated, truncated, info = self._call(partial(self.env.step, action))
        except Exception as error:
            self._rebuild(error)
            return self._last, 0.0, False, True, {FAILURE: repr(error)}
        self._failures = 0
        self._last = copy.deepcopy(observation)
        return observation, reward, terminated, truncated, info

    def _call(self, function: Callable[[], T]) -> T:
        if self._deadline_sec is None:
            return function()
        if self._caller is None:
            self._caller = _Caller()
        return self._caller.call(function, self._deadline_sec)

    def _rebuild(self, error: Exception) -> None:
        self._failures += 1
        logger.warning("environment failed, %d in a row", self._failures, exc_info=error)
        if self._failures >= self._max_failures:
            raise SourceFailedError(type(self.env).__name__, self._failures) from error
        if isinstance(error, EnvHungError):
            self._caller = None  # Its thread, and with it the environment, is still busy.
        else:
            try:
                self.env.close()
            except Exception:
                logger.warning("what failed cannot be closed either", exc_info=True)
        self.env = self._make()
        self._seed = int(self._seeds.integers(2**31))


class _Caller:
    """Calls functions in a thread of its own, which does not keep the process from ending."""

    def __init__(self) -> None:
        self._functions: queue.Queue[Callable[[], Any]] = queue.Queue(maxsize=1)
        self._outcomes: queue.Queue[tuple[Any, Exception | None]] = queue.Queue(maxsize=1)
        threading.Thread(target=self._work, name="environment", daemon=True).start()

    def call(self, function: Callable[[], T], deadline_sec: float) -> T:
        self._functions.put(function)
        try:
            outcome, error = self._outcomes.get(timeout=deadline_sec)
        except queue.Empty:
            raise EnvHungError(f"no answer within {deadline_sec:g} s") from None
        if error is not None:
            raise error
        return outcome  # type: ignore[no-any-return]

    def _work(self) -> None:
        while True:
            try:
                self._outcomes.put((self._functions.get()(), None))
            except Exception as error:
                self._outcomes.put((None, error))
