from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ["tensorflow", "keras", "gymnasium", "websockets", "torch", "matplotlib", "rich", "optix_stream_adapters"]

# Whatever imports one of these from a file of the framework is caught, whoever imported it before.
GUARD = """
import builtins, sys
forbidden = {forbidden!r}
original = builtins.__import__
def guarded(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {{}}).get("__name__") or ""
    if importer.split(".")[0] == "optix_stream" and level == 0 and name.split(".")[0] in forbidden:
        raise ImportError(f"{{importer}} imports {{name}}")
    return original(name, globals, locals, fromlist, level)
builtins.__import__ = guarded
{body}
"""


def run(body: str, forbidden: list[str]) -> subprocess.CompletedProcess[str]:
    code = GUARD.format(forbidden=forbidden, body=body)
    return subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("module", ["optix_stream", "optix_stream.agents", "optix_stream.testing"])
def test_importing_the_framework_loads_nothing_heavy(module: str) -> None:
    result = run(f"import {module}; print(sorted(set({HEAVY!r}) & set(sys.modules)))", [])
    assert (result.stdout.strip(), result.stderr) == ("[]", "")


def test_agents_are_loaded_when_they_are_asked_for() -> None:
    body = """
import sys, optix_stream
dir(optix_stream)
assert not any(name.startswith("optix_stream.agents") for name in sys.modules)
from optix_stream import StreamACAgent, StreamQAgent
assert StreamACAgent is sys.modules["optix_stream.agents"].StreamACAgent
"""
    result = run(body, [])
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("module", ["optix_stream", "optix_stream.agents", "optix_stream.testing"])
def test_no_module_of_the_framework_imports_an_event_loop_or_a_socket(module: str) -> None:
    result = run(f"import {module}", ["asyncio", "socket", "trio", "sniffio", "pytest", *HEAVY])
    assert (result.returncode, result.stderr) == (0, "")


def test_the_guard_itself_works() -> None:
    result = run("exec('import asyncio', {'__name__': 'optix_stream.bad'})", ["asyncio"])
    assert "optix_stream.bad imports asyncio" in result.stderr
