"""What a learner's two processes say to each other: one request, then one reply to it.

Windows, hyperparameters and whatever else holds arrays are bytes of ``optix_stream.wire``.
"""

from __future__ import annotations

import json
from typing import Any, TypeAlias

import msgspec
import numpy as np

from optix_stream.learner.shared_weights import WeightsLayout


class Start(msgspec.Struct, frozen=True, tag=True):
    """Make the agent.

    Attributes:
        recipe: factory and arguments.
        weights: what ``save_weights`` wrote, to be loaded; None: as the recipe makes it.
        hyperparams: to be put in force; None: as they are.
        generator: state of what the policy explores by; None: the agent's own.
    """

    recipe: bytes
    weights: str | None
    hyperparams: bytes | None
    generator: str | None


class Learn(msgspec.Struct, frozen=True, tag=True):
    """Learn from a window.

    Attributes:
        window: the window.
        commit: where to save the agent afterwards; None: nowhere.
        generator: state of what the policy explores by, as of now.
    """

    window: bytes
    commit: str | None
    generator: str | None


class LearnIncrement(msgspec.Struct, frozen=True, tag=True):
    """Learn from the next rows of the window that is filling."""

    part: bytes


class Publish(msgspec.Struct, frozen=True, tag=True):
    """Publish the present weights."""


class Save(msgspec.Struct, frozen=True, tag=True):
    """``agent.save_weights(path)``, with the generator's state as of now."""

    path: str
    generator: str | None


class Load(msgspec.Struct, frozen=True, tag=True):
    """``agent.load_weights(path)``, then save to ``commit``."""

    path: str
    commit: str


class SetHyperparams(msgspec.Struct, frozen=True, tag=True):
    """``agent.set_hyperparams``."""

    hyperparams: bytes


class Structure(msgspec.Struct, frozen=True):
    """What publications have in common.

    Attributes:
        builder: see ``PolicyExport``.
        structure: see ``PolicyExport``.
        layout: of the arrays in the shared memory.
    """

    builder: str
    structure: bytes
    layout: WeightsLayout


class Done(msgspec.Struct, frozen=True, tag=True):
    """It worked.

    Attributes:
        hyperparams: in force.
        diagnostics: what ``learn`` said.
        has_published: there are new weights in the shared memory.
        structure: of what was published, where that is not as before.
        generator: state of what the policy explores by, where the agent has set it.
        commit_error: why the agent could not be saved; None: it was, or need not be.
        increment: of an agent that learns while a window fills, after ``Start``.
    """

    hyperparams: bytes
    diagnostics: dict[str, float] = {}
    has_published: bool = False
    structure: Structure | None = None
    generator: str | None = None
    commit_error: str | None = None
    increment: int | None = None


class Failed(msgspec.Struct, frozen=True, tag=True):
    """An exception.

    Attributes:
        kind: ``checkpoint`` or ``configuration`` for the framework's own errors of these names, else ``agent``.
        error: the exception as text.
        trace: its traceback.
    """

    kind: str
    error: str
    trace: str


Request: TypeAlias = Start | Learn | LearnIncrement | Publish | Save | Load | SetHyperparams
Reply: TypeAlias = Done | Failed

_encoder = msgspec.msgpack.Encoder()
_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_replies: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def encode_message(message: Request | Reply) -> bytes:
    """A message as bytes."""
    return _encoder.encode(message)


def decode_request(data: bytes) -> Request:
    """The request that was encoded."""
    return _requests.decode(data)


def decode_reply(data: bytes) -> Reply:
    """The reply that was encoded."""
    return _replies.decode(data)


def generator_state(generator: np.random.Generator) -> str:
    """The state of a generator, which another thread may be drawing from, as text."""
    with generator.bit_generator.lock:
        state = generator.bit_generator.state
    # JSON, because the numbers have more than 64 bits.
    return json.dumps(state, default=_as_list)


def set_generator_state(generator: np.random.Generator, state: str) -> None:
    """Go on from a state."""
    value = json.loads(state)
    with generator.bit_generator.lock:
        generator.bit_generator.state = value


def make_generator(state: str) -> np.random.Generator:
    """A generator in a state, of the kind that the state is of."""
    kinds = {kind.__name__: kind for kind in (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.SFC64)}
    generator = np.random.Generator(kinds[json.loads(state)["bit_generator"]]())
    set_generator_state(generator, state)
    return generator


def _as_list(value: Any) -> Any:
    return value.tolist()
