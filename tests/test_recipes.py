from __future__ import annotations

from typing import Any

import pytest

from optix_stream.errors import ConfigurationError
from optix_stream.recipes import AgentRecipe, find, recipe_of
from optix_stream.testing import NullAgent, RecordingAgent


class Made(NullAgent):
    @classmethod
    def of(cls, action: int) -> Made:
        return cls(action)


def test_a_recipe_makes_an_agent() -> None:
    agent = AgentRecipe("optix_stream.testing:RecordingAgent", {"learning_rate": 0.25}).make()
    assert isinstance(agent, RecordingAgent)
    assert agent.get_hyperparams().params == {"learning_rate": 0.25}


def test_the_recipe_of_a_class_method_names_the_class_it_was_called_on() -> None:
    recipe = recipe_of(Made.of, {"action": 3})
    assert recipe is not None
    assert recipe.factory == f"{__name__}:Made.of"


def test_what_no_other_process_can_import_has_no_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    def local() -> Any: ...

    assert recipe_of(local, {}) is None
    monkeypatch.setattr(Made, "__module__", "__main__")
    assert recipe_of(Made.of, {}) is None


@pytest.mark.parametrize("factory", ["", "json", "json:", ":loads", "a b:c", "__main__:make", "json:loads()", "os.:a"])
def test_a_factory_is_module_and_callable(factory: str) -> None:
    with pytest.raises(ConfigurationError, match=r"factory: expected 'importable\.module:callable'"):
        AgentRecipe(factory)


@pytest.mark.parametrize("path", ["no_such_module:make", "json:no_such_name", "json:loads.no_such_name"])
def test_a_factory_that_is_not_there_is_named(path: str) -> None:
    with pytest.raises(ConfigurationError, match=f"cannot find {path}"):
        find(path)
