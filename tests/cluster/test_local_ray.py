"""The Ray that `coster up` starts: who hears a signal to the group, and why an actor is not there.

It runs in a process and a session of its own, so that the signal meets nobody else.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from typing import Any

import pytest

pytestmark = pytest.mark.cluster

# What waits for the accountant asks late: by then Ray has given it up, and forgotten its name.
DRIVER = """
import asyncio, json, os, signal, sys, time
from pathlib import Path
import psutil, ray
from actors import cluster
from actors.calls import ActorNotStarted, first_answer
from market.settings import MarketSettings, ModelSource
from market.types import ModelId

def told(call):
    try:
        return asyncio.run(first_answer(call, "describe", 20))
    except ActorNotStarted as error:
        return [error.name, error.reason]

signal.signal(signal.SIGTERM, lambda *_: None)
data = sys.argv[1]
cluster.start_local_ray(Path(sys.argv[2]), num_cpus=1)
signal.signal(signal.SIGTERM, lambda *_: None)
books = "mysql://olga:" + "hush" + "@db.example/market"
settings = MarketSettings(data, (ModelSource(ModelId("coster/demo")),), "test", database=books)
accountant, _ = cluster.ensure_market(settings, b"w" * 32)
give_up_s = time.monotonic() + 60
while time.monotonic() < give_up_s:
    try:
        ray.get_actor(cluster.ACCOUNTANT, namespace=cluster.NAMESPACE)
    except ValueError:
        break
    time.sleep(0.2)
reason = told(accountant)

before = psutil.Process().children()
os.killpg(os.getpgid(0), signal.SIGTERM)
gone, _ = psutil.wait_procs(before, timeout=3)
answers = ray.get(ray.remote(num_cpus=0)(lambda: 7).remote(), timeout=30) if not gone else None
print(json.dumps({"reason": reason, "before": len(before), "gone": len(gone), "answers": answers}))
sys.stdout.flush()
cluster.stop_local_ray()
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the driver saw."""
    data = tmp_path_factory.mktemp("ray") / "data"
    with tempfile.TemporaryDirectory(prefix="ray-") as place:  # its sockets want a short path
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", DRIVER, str(data), place],
            capture_output=True,
            text=True,
            timeout=150,
            start_new_session=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def test_an_actor_that_could_not_begin_says_why(seen: dict[str, Any]) -> None:
    """Its own words cross Ray, whole and without the password, however late they are asked for."""
    name, reason = seen["reason"]
    assert name == "accountant"
    assert reason.startswith("--database must look like postgresql+asyncpg://")
    assert reason.endswith("names a database.")
    assert "hush" not in reason


@pytest.mark.skipif(sys.platform == "darwin", reason="there the group is how Ray ends with us")
def test_a_signal_to_the_group_leaves_ray_to_be_stopped_in_order(seen: dict[str, Any]) -> None:
    """`timeout`, a supervisor or a shell may signal all of a group: Ray lives until we end it."""
    assert seen["before"] >= 2
    assert (seen["gone"], seen["answers"]) == (0, 7)
