"""How long ``import optix_stream`` takes in a fresh interpreter, beside what it is built on.

    python tests/benchmarks/import_time.py

Modules are compiled before the first round, as pip does it when it installs; the rounds go through the imports
in turn, so that a busy machine slows all of them alike.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

BAR_SEC = 0.150
IMPORTS = ("numpy", "anyio", "numpy, anyio, msgspec", "optix_stream")

_TIMED = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def import_sec(modules: str, bytecode_dir: str) -> float:
    """Seconds that importing ``modules`` takes in an interpreter of its own."""
    env = os.environ | {"PYTHONPYCACHEPREFIX": bytecode_dir}
    # Where this is set, an interpreter compiles whatever was never installed anew each time.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    result = subprocess.run(
        [sys.executable, "-c", _TIMED.format(modules)], capture_output=True, text=True, check=True, timeout=60, env=env
    )
    return float(result.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds: int = parser.parse_args().rounds
    times: dict[str, list[float]] = {modules: [] for modules in IMPORTS}
    with tempfile.TemporaryDirectory() as bytecode_dir:
        for modules in IMPORTS:
            import_sec(modules, bytecode_dir)
        for _ in range(rounds):
            for modules in IMPORTS:
                times[modules].append(import_sec(modules, bytecode_dir))
    medians = {modules: statistics.median(values) for modules, values in times.items()}
    for modules, median in medians.items():
        print(f"import {modules:<22} median {median * 1e3:6.1f} ms   fastest {min(times[modules]) * 1e3:6.1f} ms")
    ours = medians["optix_stream"]
    print(f"RATIO  {ours / medians['numpy']:.2f}x numpy alone")
    print(f"import optix_stream: {ours * 1e3:.0f} ms  < {BAR_SEC * 1e3:g} ms  {'met' if ours < BAR_SEC else 'MISSED'}")


if __name__ == "__main__":
    main()
