"""`coster up` that cannot become a market: what it says, its exit code, and nothing left.

The whole command runs in a process of its own; only Ray and its actors are played.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

UP = """
import sys
from actors import cluster
from actors.calls import ActorAway, ActorNotStarted
from actors.process import CouldNotStart
from coster.main import app
from serve_app import deployment

asked = []

async def accountant(method, *args, timeout_s=None):
    asked.append(method)
    if len(asked) == 1:
        raise ActorAway("accountant did not answer")
    if len(asked) > 2:
        raise KeyError("it was asked again, of no use")
    raise ActorNotStarted("accountant", sys.argv[1])

def start(*_, **__):
    if sys.argv[1] == "no ray":
        raise RuntimeError("no Ray today")

cluster.start_local_ray = start
cluster.ensure_market = lambda *_: (accountant, accountant)
deployment.start_http = lambda *_: None
app(sys.argv[2:])
"""
IN_USE = "The ledger db.example:5432/market is in use by coster accountant, pid 7. Stop it first."


def up(data: Path, said: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", UP, said, "up", "--engine", "echo", "--data", str(data)]
    return subprocess.run(
        [*command, *words], capture_output=True, text=True, timeout=100, check=False
    )


def test_books_that_cannot_be_opened_end_the_start_in_their_own_words(tmp_path: Path) -> None:
    """The accountant's reason is the error, as for books refused before; nobody waits on."""
    data = tmp_path / "data"
    done = up(data, IN_USE, "--json")

    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["error"] == {
        "message": IN_USE,
        "type": "invalid_request",
        "param": "data",
        "code": "data_unusable",
    }
    assert not (data / "run.json").exists()


def test_an_accountant_that_gives_no_reason_is_told_with_its_log(tmp_path: Path) -> None:
    """A defect's text stays in the log: it may quote anything."""
    done = up(tmp_path, "")

    assert done.returncode == 1
    assert f"The accountant could not start; {tmp_path / 'logs' / 'accountant.log'}" in done.stderr


def test_a_start_that_failed_leaves_no_record_of_a_market(tmp_path: Path) -> None:
    """run.json tells of a market that runs, so it goes with a start that came to nothing."""
    done = up(tmp_path, "no ray")

    assert done.returncode == 1
    assert "The market could not start: RuntimeError: no Ray today" in done.stderr
    assert not (tmp_path / "run.json").exists()
