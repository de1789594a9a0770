"""`kill -9` of an accountant in the middle of its commits, again and again.

By default 30 kills; COSTER_LONG=1 makes it 1,000, COSTER_LEDGER_KILLS any other number.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.chaos

ROOT = Path(__file__).resolve().parents[2]
LONG = os.environ.get("COSTER_LONG") == "1"
KILLS = int(os.environ.get("COSTER_LEDGER_KILLS", "1000" if LONG else "30"))


def test_no_kill_takes_or_doubles_what_was_answered(tmp_path: Path) -> None:
    """Every durable answer is there in the next life, once, and every ledger left balances."""
    nursery = subprocess.run(
        [sys.executable, "-m", "tests.support.kill_nursery", str(tmp_path), str(KILLS), "7"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        check=True,
        timeout=60 + 2 * KILLS,
    )
    toll = json.loads(nursery.stdout)

    print(
        f"\n{toll['kills']} kills, {toll['answers']} durable answers, "
        f"{toll['repeated']} asked again: {len(toll['lost'])} lost"
    )
    assert (toll["lost"], toll["problems"]) == ([], [])
    assert toll["kills"] == KILLS
    assert toll["answers"] > KILLS
    assert toll["repeated"] > 0
