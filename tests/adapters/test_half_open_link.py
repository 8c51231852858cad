"""A link that goes dead without a word is found out, by silence or by the keepalive, and there is a gap."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "importable" / "half_open.py"


@pytest.mark.parametrize("means", ["idle", "keepalive"])
def test_a_half_open_link(means: str) -> None:
    probe = ["unshare", "-n", "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1"]
    try:
        permitted = subprocess.run(probe, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        permitted = False
    if not permitted:
        pytest.skip("needs unshare and ip, and the right to make network namespaces")
    command = ["unshare", "-n", sys.executable, str(SCRIPT), means]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert 0.0 < seen["lost_after_sec"] < 5.0
    assert seen["torn"] == 0
    assert seen["in_order"]
    assert seen["is_balanced"]
