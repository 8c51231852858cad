"""How long ``import optix_stream`` takes in a fresh interpreter, beside what it is built on.

python tests/benchmarks/import_time.py
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

BAR_SEC = 0.150
_TIMED = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def import_sec(module: str) -> float:
    """Seconds that one import takes in an interpreter of its own."""
    result = subprocess.run(
        [sys.executable, "-c", _TIMED.format(module)], capture_output=True, text=True, check=True, timeout=60
    )
    return float(result.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    modules = ("numpy", "anyio", "msgspec", "optix_stream")
    times: dict[str, list[float]] = {module: [] for module in modules}
    for _ in range(rounds):
        for module in modules:
            times[module].append(import_sec(module))
    medians = {module: statistics.median(values) for module, values in times.items()}
    for module, median in medians.items():
        print(f"import {module:<14} {median * 1e3:7.1f} ms")
    ours = medians["optix_stream"]
    print(f"RATIO to numpy alone {ours / medians['numpy']:.2f}x")
    print(f"{ours * 1e3:.0f} ms  < {BAR_SEC * 1e3:g} ms  {'met' if ours < BAR_SEC else 'MISSED'}")


if __name__ == "__main__":
    main()
