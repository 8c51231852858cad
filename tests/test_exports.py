from __future__ import annotations

import ast
import inspect
import itertools
from pathlib import Path
from types import ModuleType

import pytest

import optix_stream
import optix_stream.agents
import optix_stream.optimizers
import optix_stream.testing
from optix_stream import events

MODULES = [optix_stream, optix_stream.agents, optix_stream.optimizers, optix_stream.testing]


def imported_names(module: ModuleType) -> set[str]:
    """What a package's ``__init__`` imports from its own modules."""
    assert module.__file__ is not None
    tree = ast.parse(Path(module.__file__).read_text())
    # Of conditions there is one at most: what only type checkers import, because it is loaded when it is asked for.
    nodes = itertools.chain(tree.body, *(node.body for node in tree.body if isinstance(node, ast.If)))
    return {
        alias.asname or alias.name
        for node in nodes
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("optix_stream")
        for alias in node.names
    }


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_the_list_of_exports_is_exact(module: ModuleType) -> None:
    exported: list[str] = module.__all__
    assert set(exported) == imported_names(module)
    assert len(exported) == len(set(exported))
    assert all(hasattr(module, name) for name in exported)
    assert set(exported) <= set(dir(module))


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="module 'optix_stream' has no attribute 'StreamXAgent'"):
        _ = optix_stream.StreamXAgent


def test_every_event_is_exported() -> None:
    defined = {
        name for name, value in vars(events).items() if inspect.isclass(value) and issubclass(value, optix_stream.Event)
    }
    assert defined <= set(optix_stream.__all__)


@pytest.mark.parametrize(("module", "name"), [(module, name) for module in MODULES for name in module.__all__], ids=str)
def test_every_public_name_is_documented(module: ModuleType, name: str) -> None:
    value = getattr(module, name)
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        pytest.skip("an alias has no docstring of its own")
    assert value.__doc__
    # A dataclass without a docstring gets its signature for one.
    assert not value.__doc__.startswith(f"{name}(")
