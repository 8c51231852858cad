"""Every Python snippet of the README runs, in its order, as one program would."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import optix_stream

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


class ShortRLOptimizer(optix_stream.RLOptimizer):
    """The same, ended after three windows where the snippet runs until the plateau."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{**options, "max_episodes": options.get("max_episodes") or 3})


@pytest.fixture
def _somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(optix_stream, "RLOptimizer", ShortRLOptimizer)


@pytest.mark.usefixtures("_somewhere_else")
def test_every_snippet_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(SNIPPETS) >= 7
    namespace: dict[str, Any] = {"__name__": "readme"}
    for number, snippet in enumerate(SNIPPETS):
        code = compile(snippet, f"README snippet {number}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = eval(code, namespace)
        if inspect.iscoroutine(result):
            asyncio.run(result)
    printed = capsys.readouterr().out
    assert "max_episodes 600" in printed, "the first snippet's report"
    statistics = namespace["report"].statistics
    assert statistics.learned == 300
    assert statistics.is_balanced


def test_every_file_that_it_names_exists() -> None:
    for path in re.findall(r"\]\(([\w./]+)\)", README):
        assert (ROOT / path).exists(), path
