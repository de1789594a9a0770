"""A market over several nodes: one provider per labelled node, whatever happens to them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.several_nodes import MACHINES

pytestmark = pytest.mark.cluster

STORY_S_MAX = 280


def test_the_market_follows_its_nodes(tmp_path: Path) -> None:
    """One provider per labelled node; a killed one costs no request, for no gateway is on it; a new
    one joins.
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.cluster.several_nodes", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=STORY_S_MAX,
        check=False,
    )
    steps = {
        told["step"]: told
        for told in (json.loads(line) for line in done.stdout.splitlines() if line[:1] == "{")
    }

    assert done.returncode == 0, done.stderr[-3000:]
    first, second, third = MACHINES
    assert steps["started"]["ready"] == [first, second]
    assert steps["started"]["answers"] == {"200": 6}
    assert steps["gateways"]["nodes"] == [steps["gateways"]["head"]] * 2
    assert steps["node killed"]["answers"] == {"200": 6}
    assert steps["noticed"]["ready"] == [second]
    assert steps["node added"]["ready"] == [second, third]
    assert steps["node added"]["answers"] == {"200": 6}
    assert steps["node back"]["ready"] == [first, second, third]
    assert steps["node back"]["answers"] == {"200": 6}
    assert (steps["books"]["ok"], steps["books"]["problems"]) == (True, [])
