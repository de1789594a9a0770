"""A sweep on a Ray cluster: the same files as at home, whoever did the runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from simulator.results import folders

pytestmark = pytest.mark.cluster

STORY_S_MAX = 280


def digests(folder: Path) -> dict[str, str]:
    """Of every file that equal runs have in common, by its place."""
    return {
        str(path.relative_to(folder)): folders.digest_of(path)
        for name in folders.COMPARED
        for path in folder.glob(f"runs/*/*/{name}")
    }


def test_a_sweep_on_a_cluster_is_the_sweep_at_home(tmp_path: Path) -> None:
    """Runs done by other nodes come back to the byte as this machine would do them, and can be
    verified there; what is wrong with a plan, and a cluster that is not there, is told like
    anything else.
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.cluster.lab_cluster", str(tmp_path)],
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
    for step in ("away", "here", "verified"):
        assert steps[step]["code"] == 0, steps[step]["errors"]
    away = digests(tmp_path / "away")
    assert len(away) == 2 * 2 * len(folders.COMPARED)
    assert away == digests(tmp_path / "here")
    assert folders.read_manifest(tmp_path / "away")["complete"]
    assert steps["verified"]["answer"]["same"]
    assert "policy" in steps["wrong"]["answer"]["error"]["message"]
    assert steps["no cluster"]["code"] == 1
    assert "No Ray cluster answers" in steps["no cluster"]["answer"]["error"]["message"]
