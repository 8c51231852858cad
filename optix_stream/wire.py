"""Plain data and arrays as bytes, for another process or a later run: no code travels, nothing is unpickled.

MessagePack, with extensions for arrays, tuples and spaces.
"""

from __future__ import annotations

import itertools
import logging
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import msgspec
import numpy as np

from optix_stream.batching import batch_of
from optix_stream.contracts import StreamItem
from optix_stream.errors import ConfigurationError, TransitionMismatchError
from optix_stream.events import GapDetected, TransitionsDropped, TransitionsRejected
from optix_stream.spaces import describe_space, is_space, make_space
from optix_stream.types import Array, CompletedEpisode, EpisodeData, Transition, TransitionBatch

logger = logging.getLogger(__name__)

_ARRAY, _TUPLE, _SPACE = 1, 2, 3
_LENGTH = struct.Struct("<Q")
_HEADER = struct.Struct("<I")
_LARGEST_FRAME = 1 << 33
_LOSSES = (GapDetected, TransitionsDropped, TransitionsRejected)
_LOSSES_BY_NAME = {kind.__name__: kind for kind in _LOSSES}


def encode(value: Any) -> bytes:
    """Dicts, lists, tuples, numbers, text, bytes, arrays and Gymnasium spaces, in any depth.

    Raises:
        ConfigurationError: anything else.
    """
    try:
        return _encoder.encode(_mark(value))
    except (TypeError, OverflowError, RecursionError) as error:
        raise ConfigurationError(f"expected plain data, arrays and spaces, got what cannot travel: {error}") from error


def decode(data: bytes | memoryview) -> Any:
    """What ``encode`` was given; arrays are copies of their own."""
    return _decoder.decode(data)


def join(parts: Iterable[bytes]) -> bytes:
    """Values that have been encoded one by one, as a list of them."""
    return _encoder.encode([msgspec.Raw(part) for part in parts])


def encode_window(window: EpisodeData) -> bytes:
    """A window; of ``infos`` and ``metadata`` what can travel, the rest stays behind with a warning."""
    values = {field.name: getattr(window, field.name) for field in fields(EpisodeData)}
    values["completed"] = [msgspec.to_builtins(episode) for episode in window.completed]
    values["infos"] = _portable_infos(window.infos)
    values["metadata"] = _portable(window.metadata)
    return encode(values)


def decode_window(data: bytes | memoryview) -> EpisodeData:
    """The window that ``encode_window`` was given."""
    values = decode(data)
    length = len(values["rewards"])
    values["infos"] = values["infos"] if values["infos"] is not None else [{} for _ in range(length)]
    values["completed"] = tuple(msgspec.convert(episode, CompletedEpisode) for episode in values["completed"])
    return EpisodeData(**values)


def encode_items(items: Sequence[StreamItem]) -> bytes:
    """Transitions, batches, and the events that say what a stream lost, in order; what else travels is left out."""
    rows: list[Any] = []
    for kind, group in itertools.groupby(items, key=type):
        if kind is Transition:
            singles = [item for item in group if isinstance(item, Transition)]
            try:
                rows.append(_columns_of(batch_of(singles)))
            except TransitionMismatchError:  # Each fits, or does not, by itself.
                rows.extend(_columns_of(batch_of([single])) for single in singles)
        else:
            for item in group:
                if isinstance(item, TransitionBatch):
                    rows.append(_columns_of(item))
                elif isinstance(item, _LOSSES):
                    facts = msgspec.structs.asdict(item)
                    del facts["time"]
                    rows.append([kind.__name__, facts])
    return encode(rows)


def decode_items(data: bytes | memoryview) -> list[StreamItem]:
    """What ``encode_items`` was given, transitions in batches."""
    return [
        TransitionBatch(**row) if isinstance(row, dict) else _LOSSES_BY_NAME[row[0]](**row[1]) for row in decode(data)
    ]


def pack(data: bytes) -> Array:
    """``data`` as an array of bytes, as the state of a part of the loop may hold it."""
    return np.frombuffer(data, np.uint8)


def unpack(array: Array) -> bytes:
    """What ``pack`` was given."""
    return np.asarray(array, np.uint8).tobytes()


def frame(data: bytes) -> bytes:
    """``data`` after its length."""
    return _LENGTH.pack(len(data)) + data


def read_frame(read: Callable[[int], bytes]) -> bytes | None:
    """The next frame.

    Args:
        read: gives so many bytes, or fewer where there will be no more.

    Returns:
        Its data; None where the other side has gone.

    Raises:
        ConfigurationError: a length that no frame has: the bytes are not frames.
    """
    head = read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    if length > _LARGEST_FRAME:
        raise ConfigurationError(f"frame: expected at most {_LARGEST_FRAME} bytes, got {length}")
    data = read(length)
    return data if len(data) == length else None


def _mark(value: Any) -> Any:
    """With every tuple marked as one: MessagePack has lists only."""
    if isinstance(value, tuple):
        return msgspec.msgpack.Ext(_TUPLE, _encoder.encode([_mark(part) for part in value]))
    if isinstance(value, list):
        return [_mark(part) for part in value]
    # A Dict space is a mapping too.
    if isinstance(value, Mapping) and not is_space(value):
        return {key: _mark(part) for key, part in value.items()}
    return value


def _encode_other(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        if array.dtype.hasobject or array.dtype.names is not None:
            raise TypeError(f"an array of {array.dtype}")
        header = msgspec.msgpack.encode([array.dtype.str, array.shape, isinstance(value, np.generic)])
        return msgspec.msgpack.Ext(_ARRAY, b"".join((_HEADER.pack(len(header)), header, array.tobytes())))
    if is_space(value):
        return msgspec.msgpack.Ext(_SPACE, _encoder.encode(describe_space(value)))
    raise TypeError(f"{value!r} of type {type(value).__name__}")


def _decode_other(code: int, data: memoryview) -> Any:
    match code:
        case 1:
            start = _HEADER.size + _HEADER.unpack_from(data)[0]
            dtype, shape, is_scalar = msgspec.msgpack.decode(data[_HEADER.size : start])
            array = np.frombuffer(data[start:], np.dtype(dtype)).reshape(shape)
            # A copy is aligned, and its own.
            return array[()] if is_scalar else array.copy()
        case 2:
            return tuple(_decoder.decode(data))
        case 3:
            return make_space(_decoder.decode(data))
    raise ConfigurationError(f"expected an extension of this module, got {code}")


def _columns_of(batch: TransitionBatch) -> dict[str, Any]:
    columns = msgspec.structs.asdict(batch)
    columns["infos"] = None if batch.infos is None else _portable_infos(batch.infos)
    return columns


def _portable_infos(infos: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]] | None:
    """None where all are empty, as most are."""
    return [_portable(info) for info in infos] if any(infos) else None


def _portable(values: Mapping[str, Any]) -> Mapping[str, Any]:
    kept = {}
    for key, value in values.items():
        try:
            encode(value)
        except ConfigurationError:
            logger.warning("%r is a %s and does not travel to a file or another process", key, type(value).__name__)
        else:
            kept[key] = value
    return kept


_encoder = msgspec.msgpack.Encoder(enc_hook=_encode_other)
_decoder = msgspec.msgpack.Decoder(ext_hook=_decode_other)
