"""Refuses an argument that is of another type than what it is for, by its name and when it is given."""

from __future__ import annotations

from optix_stream.errors import ConfigurationError


def expect(name: str, given: object, kind: type | tuple[type, ...], expected: str) -> None:
    """Make sure of an argument's type.

    Args:
        name: of the argument.
        given: what came.
        kind: what it must be an instance of.
        expected: the same in words.

    Raises:
        ConfigurationError: it is none.
    """
    if not isinstance(given, kind):
        raise ConfigurationError(f"{name}: expected {expected}, got {given!r}")
