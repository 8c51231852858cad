"""The learner's own process: ``python -m optix_stream.learner.worker MEMORY NICENESS``.

Requests come on standard input, replies go to standard output, weights into the shared memory whose
file descriptor is ``MEMORY``. Whatever the agent prints goes to standard error. The process ends when
its standard input does, at once and whatever it is doing.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

from optix_stream.contracts import (
    BaseAgent,
    IncrementalLearner,
    Policy,
    PolicyPublisher,
    PortablePolicy,
    TransitionLearner,
)
from optix_stream.errors import CheckpointError, ConfigurationError
from optix_stream.learner.host import AgentHost
from optix_stream.learner.messages import (
    Done,
    Failed,
    Learn,
    LearnIncrement,
    Load,
    Publish,
    Reply,
    Request,
    Save,
    SetHyperparams,
    Start,
    Structure,
    decode_request,
    encode_message,
    generator_state,
    set_generator_state,
)
from optix_stream.learner.shared_weights import SharedWeights
from optix_stream.recipes import AgentRecipe
from optix_stream.types import HyperparamSet
from optix_stream.wire import decode, decode_window, encode, frame, read_frame

_OUT_OF_MEMORY_SCORE = "500"


class Worker:
    """Answers requests; everything but the channel.

    Args:
        memory: file descriptor of the shared memory.
    """

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._weights: SharedWeights | None = None
        self._described: tuple[str, bytes] | None = None
        self._policy: PortablePolicy | None = None
        self._host: AgentHost | None = None
        self._has_published = False
        self._new_structure: Structure | None = None

    def answer(self, request: Request) -> Reply:
        """Do what is asked; what is raised becomes the reply."""
        self._has_published, self._new_structure = False, None
        try:
            return self._start(request) if isinstance(request, Start) else self._do(request)
        except Exception as error:
            kind = "agent"
            if isinstance(error, CheckpointError | OSError) and isinstance(request, Save | Load):
                kind = "checkpoint"
            elif isinstance(error, ConfigurationError):
                kind = "configuration"
            text = str(error) if kind != "agent" else repr(error)
            return Failed(kind, text, "".join(traceback.format_exception(error)))

    def _start(self, request: Start) -> Done:
        recipe = decode(request.recipe)
        agent = AgentRecipe(recipe["factory"], recipe["arguments"]).make()
        if not isinstance(agent, BaseAgent):
            raise ConfigurationError(f"{recipe['factory']}: expected a BaseAgent, got {type(agent).__name__}")
        if isinstance(agent, TransitionLearner):
            raise ConfigurationError("it learns from each transition where it acts, which needs learner='thread'")
        if not isinstance(agent, PolicyPublisher):
            raise ConfigurationError("it publishes no policy that could act elsewhere, which needs learner='thread'")
        self._host = AgentHost(agent, self._publish)
        if request.weights is not None:
            agent.load_weights(request.weights)
        if request.hyperparams is not None:
            agent.set_hyperparams(HyperparamSet(**decode(request.hyperparams)))
        self._publish(self._host.policy())
        if request.generator is not None:
            self._set_generator(request.generator)
        return self._done(
            generator=self._generator(), increment=agent.increment if isinstance(agent, IncrementalLearner) else None
        )

    def _do(self, request: Request) -> Done:
        host = self._host
        assert host is not None, "the first request is Start"
        agent = host.agent
        match request:
            case Learn(window=window, commit=commit, generator=generator):
                self._set_generator(generator)
                diagnostics = {name: float(value) for name, value in host.learn(decode_window(window)).items()}
                return self._done(diagnostics=diagnostics, commit_error=self._commit(agent, commit))
            case LearnIncrement(part=part):
                host.learn_increment(decode_window(part))
            case Publish():
                self._publish(host.policy())
            case Save(path=path, generator=generator):
                self._set_generator(generator)
                agent.save_weights(path)
            case Load(path=path, commit=commit):
                agent.load_weights(path)
                return self._done(generator=self._generator(), commit_error=self._commit(agent, commit))
            case SetHyperparams(hyperparams=hyperparams):
                agent.set_hyperparams(HyperparamSet(**decode(hyperparams)))
        return self._done()

    def _done(
        self,
        *,
        diagnostics: dict[str, float] | None = None,
        generator: str | None = None,
        commit_error: str | None = None,
        increment: int | None = None,
    ) -> Done:
        assert self._host is not None
        return Done(
            encode_hyperparams(self._host.agent.get_hyperparams()),
            diagnostics if diagnostics is not None else {},
            self._has_published,
            self._new_structure,
            generator,
            commit_error,
            increment,
        )

    def _commit(self, agent: BaseAgent, path: str | None) -> str | None:
        """Save the agent, whole or not at all; what it has learned stays learned in any case."""
        if path is None:
            return None
        part = f"{path}.part"
        try:
            agent.save_weights(part)
            Path(part).rename(path)
        except (CheckpointError, OSError) as error:
            return str(error)
        return None

    def _publish(self, policy: Policy) -> None:
        export = policy.export() if isinstance(policy, PortablePolicy) else None
        if export is None or not isinstance(policy, PortablePolicy):
            raise ConfigurationError(
                "its policy cannot act in another process (only plain stacks of dense layers can), "
                "which needs learner='thread'"
            )
        described = (export.builder, encode(export.structure))
        if self._weights is None or described != self._described or not self._weights.fits(export.arrays):
            self._weights = SharedWeights.create(self._memory, export.arrays)
            self._described = described
            self._new_structure = Structure(*described, self._weights.layout)
        else:
            self._weights.write(export.arrays)
        self._has_published = True
        self._policy = policy

    def _generator(self) -> str | None:
        generator = None if self._policy is None else self._policy.generator
        return None if generator is None else generator_state(generator)

    def _set_generator(self, state: str | None) -> None:
        generator = None if self._policy is None else self._policy.generator
        if generator is not None and state is not None:
            set_generator_state(generator, state)


def encode_hyperparams(hyperparams: HyperparamSet) -> bytes:
    """Hyperparameters as bytes; ``HyperparamSet(**decode(data))`` is the way back."""
    return encode(
        {
            "params": hyperparams.params,
            "episode_id": hyperparams.episode_id,
            "timestamp": hyperparams.timestamp,
        }
    )


def main(arguments: list[str]) -> None:
    """Answer requests until standard input ends."""
    memory, niceness = map(int, arguments)
    replies = os.dup(1)
    os.dup2(2, 1)
    # Ctrl-C reaches every process of a terminal; the parent decides when this one ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _step_back(niceness)
    worker = Worker(memory)
    requests: queue.Queue[bytes] = queue.Queue(maxsize=1)
    threading.Thread(target=_read_requests, args=(requests.put,), daemon=True).start()
    while True:
        _write(replies, frame(encode_message(worker.answer(decode_request(requests.get())))))


def _read_requests(put: Callable[[bytes], None]) -> None:
    # A thread of its own: the parent's end is noticed also while the agent learns.
    while True:
        data = read_frame(sys.stdin.buffer.read)
        if data is None:
            os._exit(0)
        put(data)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _step_back(niceness: int) -> None:
    """Whoever acts goes first, for the processor and for memory."""
    os.nice(niceness)
    score = Path("/proc/self/oom_score_adj")
    if score.exists():
        score.write_text(_OUT_OF_MEMORY_SCORE)


if __name__ == "__main__":
    main(sys.argv[1:])
