"""How an agent is made, as plain data: what another process needs in order to make one like it."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from optix_stream.errors import ConfigurationError

_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*\Z")


class AgentRecipe(msgspec.Struct, frozen=True):
    """What to call to make an agent.

    Attributes:
        factory: ``"module:callable"``, such as ``"optix_stream_adapters.tensorflow:PPOAgent.for_spaces"``; another
            process imports the module, so it cannot be the script itself.
        arguments: keywords for it: numbers, text, lists, tuples, dicts, arrays and Gymnasium spaces.

    Raises:
        ConfigurationError: a ``factory`` of another form.
    """

    factory: str
    arguments: Mapping[str, Any] = {}

    def __post_init__(self) -> None:
        if not _PATH.match(self.factory) or self.factory.startswith("__main__:"):
            raise ConfigurationError(f"factory: expected 'importable.module:callable', got {self.factory!r}")

    def make(self) -> Any:
        """Import the factory and call it.

        Raises:
            ConfigurationError: there is no such factory.
            Exception: what it raised.
        """
        return find(self.factory)(**self.arguments)


def recipe_of(function: Callable[..., Any], arguments: Mapping[str, Any]) -> AgentRecipe | None:
    """The recipe of a call, None where no other process could import ``function``."""
    owner = getattr(function, "__self__", None)
    name = f"{owner.__qualname__}.{function.__name__}" if isinstance(owner, type) else function.__qualname__
    module = (owner if isinstance(owner, type) else function).__module__
    path = f"{module}:{name}"
    return AgentRecipe(path, arguments) if _PATH.match(path) and module != "__main__" else None


def find(path: str) -> Any:
    """What ``"module:name"`` names.

    Raises:
        ConfigurationError: there is no such thing.
    """
    module, _, names = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for name in names.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"cannot find {path}: {error}") from error
    return found
