"""Spaces as plain data, so that they can travel to where Gymnasium is, or be used where it is not.

A description is a dict with the ``kind`` of the space and its attributes by their names in Gymnasium.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from optix_stream.errors import ConfigurationError

SpaceDescription: TypeAlias = Mapping[str, Any]

_KINDS = ("Box", "Discrete", "MultiDiscrete", "MultiBinary", "Dict", "Tuple")


def is_space(value: Any) -> bool:
    """Whether it is a Gymnasium space of a kind that can be described."""
    return bool(_kind_of(value))


def describe_space(space: Any, what: str = "space") -> SpaceDescription:
    """A Gymnasium space, known by the name of its class and by its attributes, as data.

    Args:
        space: the space.
        what: names it in an error.

    Raises:
        ConfigurationError: a space of another kind.
    """
    kind = _kind_of(space)
    match kind:
        case "Box":
            return {"kind": kind, "low": space.low, "high": space.high, "dtype": np.dtype(space.dtype).str}
        case "Discrete":
            return {"kind": kind, "n": int(space.n), "start": int(space.start)}
        case "MultiDiscrete":
            return {"kind": kind, "nvec": space.nvec, "start": space.start, "dtype": np.dtype(space.dtype).str}
        case "MultiBinary":
            return {"kind": kind, "n": [int(size) for size in space.shape]}
        case "Dict":
            return {"kind": kind, "spaces": {name: describe_space(part, what) for name, part in space.spaces.items()}}
        case "Tuple":
            return {"kind": kind, "spaces": [describe_space(part, what) for part in space.spaces]}
    raise ConfigurationError(f"{what}: expected Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple, got {space}")


def make_space(description: SpaceDescription) -> Any:
    """The Gymnasium space that was described; needs Gymnasium.

    Raises:
        ConfigurationError: no description of a space.
        ImportError: Gymnasium is not installed.
    """
    # By name: nothing else in the framework needs Gymnasium.
    spaces = importlib.import_module("gymnasium.spaces")
    match description:
        case {"kind": "Box", "low": low, "high": high, "dtype": dtype}:
            return spaces.Box(low, high, dtype=np.dtype(dtype).type)
        case {"kind": "Discrete", "n": n, "start": start}:
            return spaces.Discrete(n, start=start)
        case {"kind": "MultiDiscrete", "nvec": nvec, "start": start, "dtype": dtype}:
            return spaces.MultiDiscrete(nvec, dtype=np.dtype(dtype).type, start=start)
        case {"kind": "MultiBinary", "n": n}:
            return spaces.MultiBinary(n[0] if len(n) == 1 else n)
        case {"kind": "Dict", "spaces": parts}:
            # Pairs, because a plain dict would be sorted.
            return spaces.Dict([(name, make_space(part)) for name, part in parts.items()])
        case {"kind": "Tuple", "spaces": parts}:
            return spaces.Tuple([make_space(part) for part in parts])
    raise ConfigurationError(f"space: expected the description of a space, got {description!r}")


def name_space(description: SpaceDescription) -> str:
    """A described space as text for an error message."""
    match description:
        case {"kind": "Dict", "spaces": parts}:
            return "Dict(" + ", ".join(f"{name}: {name_space(part)}" for name, part in parts.items()) + ")"
        case {"kind": "Tuple", "spaces": parts}:
            return "Tuple(" + ", ".join(map(name_space, parts)) + ")"
        case {"kind": "Box", "low": low, "dtype": dtype}:
            return f"Box {np.dtype(dtype)}{list(np.shape(low))}"
        case {"kind": "Discrete", "n": n, "start": start}:
            return f"Discrete {start} to {start + n - 1}"
        case {"kind": kind, "nvec": sizes} | {"kind": kind, "n": sizes}:
            return f"{kind} {np.asarray(sizes).tolist()}"
    return repr(description)


def _kind_of(space: Any) -> str:
    return next((base.__name__ for base in type(space).__mro__ if base.__name__ in _KINDS), "")
