"""Laws of the Python API in scripts of people who know nothing of processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import lab_world

ROOT = Path(__file__).parents[2]
PLAIN = """
from simulator.runs.executors import LocalProcesses
from simulator.runs.experiment import compare

print("once")
both = compare("small.toml", ["coster", "random"], 2, "both", executor=LocalProcesses(2),
               world="tests.support.lab_world:sketch")
print(both.difference("random", "e2e_s.mean")["verdict"], __file__, __spec__)
"""
OWN = """
from market.policy.registry import custom
from simulator.runs.executors import LocalProcesses
from simulator.runs.experiment import compare

def mine(view):
    return view.candidates["in_flight"]

compare("small.toml", ["coster", custom("mine", mine)], 2, "both", executor=LocalProcesses(2),
        world="tests.support.lab_world:sketch")
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    text = lab_world.SCENARIO.replace("requests = 400", "requests = 50")
    (tmp_path / "small.toml").write_text(text)
    return tmp_path


def ran(place: Path, text: str) -> subprocess.CompletedProcess[str]:
    (place / "plain.py").write_text(text)
    return subprocess.run(
        [sys.executable, "plain.py"], cwd=place, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_a_plain_script_is_run_once(place: Path) -> None:
    """Whoever compares on several cores from an unguarded script gets the comparison; no worker
    runs the script again, and the script is afterwards what it was.
    """
    done = ran(place, PLAIN)

    assert done.stderr == ""
    once, told = done.stdout.splitlines()
    assert once == "once"
    assert told == f"worse {place / 'plain.py'} None"


def test_a_function_that_no_other_process_can_find_is_refused(place: Path) -> None:
    """It is said before anything runs, with the two ways out; nothing about memory."""
    done = ran(place, OWN)

    assert "leave out the executor" in done.stderr
    assert "memory" not in done.stderr
