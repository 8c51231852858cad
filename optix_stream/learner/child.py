"""The learner's process, seen from the one that acts: started, asked, killed. Blocking; for worker threads."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass

from optix_stream.errors import ConfigurationError
from optix_stream.learner.messages import Reply, Request, decode_reply, encode_message
from optix_stream.learner.shared_weights import SharedWeights, WeightsLayout, create_memory
from optix_stream.wire import frame, read_frame

logger = logging.getLogger(__name__)

_LAST_LINES = 20
_LISTEN_SEC = 1.0
"""For the last words of a process that has ended; one of its own making may still hold the pipe."""
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessOptions:
    """How a learner's process is run.

    Attributes:
        learn_deadline_sec: within which an answer must come, the learning of a window included.
        start_deadline_sec: within which the agent must be made, imports and compilation included.
        max_restarts: starts in a row that may fail, or end before a window has been learned from.
        commit_every: windows after which the agent is saved, to be restarted from.
        niceness: added to that of this process, so that acting goes first.
        threads: that numeric libraries may use there; None: as they like.
    """

    learn_deadline_sec: float = 300.0
    start_deadline_sec: float = 120.0
    max_restarts: int = 5
    commit_every: int = 1
    niceness: int = 5
    threads: int | None = 1

    def __post_init__(self) -> None:
        if self.learn_deadline_sec <= 0.0 or self.start_deadline_sec <= 0.0:
            raise ConfigurationError(
                f"expected deadlines above 0 s, got {self.learn_deadline_sec} and {self.start_deadline_sec}"
            )
        if self.max_restarts < 0 or self.commit_every < 1:
            raise ConfigurationError(
                "expected max_restarts of at least 0 and commit_every of at least 1, "
                f"got {self.max_restarts} and {self.commit_every}"
            )


class ChildLostError(Exception):
    """The process ended, or did not answer in time and was killed; the text says which."""


class ChildProcess:
    """One life of the learner's process.

    Args:
        options: how it is run.

    Attributes:
        memory: file descriptor of the memory that it publishes in.
    """

    def __init__(self, options: ProcessOptions) -> None:
        self.memory = create_memory()
        self._deadline = 0.0
        self._verdict: str | None = None
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        try:
            self._process = subprocess.Popen(  # noqa: S603  # This interpreter and a module of this package.
                # What is importable here is importable there: by the path, not by the working directory.
                [sys.executable, "-P", "-m", "optix_stream.learner.worker", str(self.memory), str(options.niceness)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[self.memory],
                env=_environment(options),
                bufsize=0,
            )
        except OSError:
            os.close(self.memory)
            raise
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._replies = self._process.stdin, self._process.stdout
        os.set_blocking(self._requests.fileno(), False)
        self._listener = threading.Thread(target=self._listen, name="optix-stream-learner-stderr", daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def request(self, request: Request, deadline_sec: float) -> Reply:
        """Ask and wait for the answer.

        Raises:
            ChildLostError: there is none; the process is no more.
        """
        # Of this machine's clock: what a deadline guards against does not run by a simulated one.
        self._deadline = time.monotonic() + deadline_sec
        try:
            self._write(frame(encode_message(request)))
            data = read_frame(self._read)
        except TimeoutError:
            self._verdict = f"no answer within {deadline_sec:g} s"
            raise self.end() from None
        except (BrokenPipeError, ConnectionError, ConfigurationError):
            raise self.end() from None
        if data is None:
            raise self.end()
        return decode_reply(data)

    def view(self, layout: WeightsLayout) -> SharedWeights:
        """The weights that it publishes."""
        return SharedWeights(self.memory, layout)

    def kill(self) -> None:
        """End it at once; never blocks."""
        self._process.kill()

    def wait(self) -> None:
        """Block until it has ended."""
        self._process.wait()

    def end(self) -> ChildLostError:
        """Kill it if it still runs, and say how it ended."""
        self.kill()
        code = self._process.wait()
        self._listener.join(_LISTEN_SEC)
        if self._verdict is None:
            said = f": {self._last_lines[-1]}" if self._last_lines else ""
            self._verdict = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}{said}"
        return ChildLostError(self._verdict)

    def close(self) -> None:
        """End it and let go of everything; nobody may be waiting for an answer."""
        self.kill()
        self._process.wait()
        self._listener.join(_LISTEN_SEC)
        self._requests.close()
        self._replies.close()
        os.close(self.memory)

    def _listen(self) -> None:
        stderr = self._process.stderr
        assert stderr is not None
        with os.fdopen(os.dup(stderr.fileno()), encoding="utf-8", errors="replace") as lines:
            stderr.close()
            for line in lines:
                logger.debug("learner process %d: %s", self._process.pid, line.rstrip())
                self._last_lines.append(line.strip())

    def _write(self, data: bytes) -> None:
        descriptor, view = self._requests.fileno(), memoryview(data)
        while view:
            self._await(descriptor, select.POLLOUT)
            with contextlib.suppress(BlockingIOError):  # Room for less than is written in one piece.
                view = view[os.write(descriptor, view) :]

    def _read(self, size: int) -> bytes:
        descriptor, parts = self._replies.fileno(), []
        while size:
            self._await(descriptor, select.POLLIN)
            part = os.read(descriptor, size)
            if not part:
                break
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _await(self, descriptor: int, event: int) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        if not poll.poll(max(0.0, self._deadline - time.monotonic()) * 1000.0):
            raise TimeoutError


def _environment(options: ProcessOptions) -> dict[str, str]:
    path = os.pathsep.join(entry or str(os.curdir) for entry in sys.path)
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ, "PYTHONPATH": path}
    if options.threads is not None:
        environment.update(dict.fromkeys(_THREAD_VARIABLES, str(options.threads)))
    return environment
