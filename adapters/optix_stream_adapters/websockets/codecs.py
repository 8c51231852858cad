"""Messages to steps and actions to messages. What arrives is checked against the spaces before anything sees it.

A message is an object with ``observation`` and, as far as they apply, ``reward``, ``terminated``, ``truncated``,
``info``, ``stream``, ``sequence`` and ``time``; or ``decision_id`` and ``reward`` for a reward that comes later.
An action goes back as ``{"action": …, "stream": …, "decision_id": …}``. Arrays are lists.
No action goes back for the last observation of an episode (``terminated`` or ``truncated``) or for a message that is
refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec
import numpy as np
from gymnasium import Space, spaces

from optix_stream.alignment import FeedStep
from optix_stream.delayed_rewards import DelayedReward
from optix_stream.errors import ConfigurationError
from optix_stream.feed_session import FeedAction
from optix_stream.types import Array, Tree


class Codec(Protocol):
    """What a feed needs to know of its messages; any pair of functions of these shapes will do."""

    def decode(self, message: bytes) -> Any:
        """One message: a step, a ``DelayedReward``, a list of them, or None for one that says nothing.

        Raises:
            Exception: the message cannot be used; it is counted, and told with this text.
        """
        ...

    def encode(self, action: FeedAction) -> str | bytes:
        """The message that carries an action."""
        ...


class _SpaceCodec:
    """What both formats share."""

    def __init__(self, observation_space: Space[Any], action_space: Space[Any]) -> None:
        if not isinstance(action_space, spaces.Discrete | spaces.Box):
            raise ConfigurationError(f"action space: expected Discrete or Box, got {action_space}")
        shape, self._convert = _reader_of(observation_space)
        self._message_type = msgspec.defstruct(
            "Message",
            [
                ("observation", shape | None, None),
                ("reward", float | None, None),
                ("terminated", bool, False),
                ("truncated", bool, False),
                ("info", dict[str, Any] | None, None),
                ("stream", str | int | None, None),
                ("sequence", int | None, None),
                ("time", float | None, None),
                ("decision_id", int | None, None),
            ],
        )

    def _step(self, message: Any) -> FeedStep | DelayedReward:
        if message.observation is None:
            if message.decision_id is None or message.reward is None:
                raise ValueError("expected an observation, or a decision_id with its reward, got neither")
            return DelayedReward(message.decision_id, message.reward, message.stream)
        # Made as a tuple is: the class's own constructor takes twice the time.
        return tuple.__new__(
            FeedStep,
            (
                self._convert(message.observation),
                message.reward,
                message.terminated,
                message.truncated,
                message.info,
                message.stream,
                message.sequence,
                message.time,
            ),
        )

    @staticmethod
    def _facts(action: FeedAction) -> dict[str, Any]:
        value = action.action
        if isinstance(value, np.ndarray | np.generic):
            value = value.tolist()
        stream = action.stream.item() if isinstance(action.stream, np.generic) else action.stream
        return {"action": value, "stream": stream, "decision_id": action.decision_id}


class JsonCodec(_SpaceCodec):
    """Messages in JSON, typed; numbers that are not finite do not exist there.

    Args:
        observation_space: what observations must fit.
        action_space: of the actions, Discrete or Box.

    Raises:
        ConfigurationError: an action space of another kind.
    """

    def __init__(self, observation_space: Space[Any], action_space: Space[Any]) -> None:
        super().__init__(observation_space, action_space)
        self._decoder = msgspec.json.Decoder(self._message_type)
        self._encoder = msgspec.json.Encoder()

    def decode(self, message: bytes) -> FeedStep | DelayedReward:
        return self._step(self._decoder.decode(message))

    def encode(self, action: FeedAction) -> str:
        return self._encoder.encode(self._facts(action)).decode()


class MessagePackCodec(_SpaceCodec):
    """Messages in MessagePack, for the same fields; arguments as of ``JsonCodec``."""

    def __init__(self, observation_space: Space[Any], action_space: Space[Any]) -> None:
        super().__init__(observation_space, action_space)
        self._decoder = msgspec.msgpack.Decoder(self._message_type)
        self._encoder = msgspec.msgpack.Encoder()

    def decode(self, message: bytes) -> FeedStep | DelayedReward:
        return self._step(self._decoder.decode(message))

    def encode(self, action: FeedAction) -> bytes:
        return self._encoder.encode(self._facts(action))


def _reader_of(space: Space[Any]) -> tuple[Any, Callable[[Any], Tree]]:
    """The type of an observation in a message, and what makes an element of ``space`` of it.

    What it makes raises ValueError where the value does not fit; the text says what was expected.
    """
    if isinstance(space, spaces.Box) and len(space.shape) == 1 and space.dtype.kind == "f":
        return list[float], _vector_reader(space)
    return Any, lambda value: _to_space(space, value)


def _vector_reader(space: spaces.Box) -> Callable[[list[float]], Array]:
    """The usual case: the message's type has made sure that these are numbers."""
    length, dtype = space.shape[0], space.dtype
    is_bounded = bool(space.bounded_below.any() or space.bounded_above.any())

    def read(value: list[float]) -> Array:
        if len(value) != length:
            raise ValueError(f"observation: expected {dtype}[{length}], got {_shorten(value)}")
        array: Array = np.array(value, dtype)
        if is_bounded:
            _check_bounds(space, array, value)
        return array

    return read


def _to_space(space: Space[Any], value: Any) -> Tree:
    if isinstance(space, spaces.Dict):
        if not isinstance(value, Mapping) or value.keys() != space.spaces.keys():
            raise ValueError(f"observation: expected the keys {sorted(space.spaces)}, got {_shorten(value)}")
        return {name: _to_space(part, value[name]) for name, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        if not isinstance(value, list | tuple) or len(value) != len(space.spaces):
            raise ValueError(f"observation: expected {len(space.spaces)} parts, got {_shorten(value)}")
        return tuple(_to_space(part, item) for part, item in zip(space.spaces, value, strict=True))
    return _to_array(space, value)


def _to_array(space: Space[Any], value: Any) -> Array:
    try:
        array = np.array(value)
    except ValueError:  # Ragged.
        array = np.empty(0, object)
    dtype = np.dtype(space.dtype)
    # Whole numbers may stand for floats, not the other way round; truth values only for themselves.
    kinds = "iuf" if dtype.kind == "f" else "iub" if isinstance(space, spaces.MultiBinary) else "iu"
    if array.shape != space.shape or array.dtype.kind not in kinds:
        raise ValueError(f"observation: expected {dtype}{list(space.shape or ())}, got {_shorten(value)}")
    array = array.astype(dtype, copy=False)
    if isinstance(space, spaces.Box):
        _check_bounds(space, array, value)
    elif not space.contains(array if array.shape else array[()]):
        raise ValueError(f"observation: expected an element of {space}, got {_shorten(value)}")
    return array


def _check_bounds(space: spaces.Box, array: Array, value: Any) -> None:
    if (array < space.low).any() or (array > space.high).any():
        raise ValueError(f"observation: expected values from {space.low} to {space.high}, got {_shorten(value)}")


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
