"""The lab's commands on a Ray cluster of two nodes, told as lines of JSON on standard output.

Run by `test_lab_cluster.py` in a process of its own, because Ray reads its environment when it
is imported. The commands are those of a user, in processes of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from actors.ray_env import ray_environment
from coster.paths import MarketPaths
from coster.ports import choose_ports
from tests.support.lab_world import SCENARIO

COMMAND_S_MAX = 200


def tell(**facts: Any) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def sim(folder: Path, *words: str) -> dict[str, Any]:
    """One command and what it answered."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "coster", "sim", *words, "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=COMMAND_S_MAX,
        check=False,
    )
    line = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "{}"
    return {"code": done.returncode, "answer": json.loads(line), "errors": done.stderr[-2000:]}


def main(folder: Path) -> None:
    """The story; each step's outcome is told."""
    (folder / "small.toml").write_text(SCENARIO)
    paths = MarketPaths(folder / "data")
    paths.prepare()
    ports = choose_ports("127.0.0.1", None, str(folder))
    paths.secret("ray_token")
    os.environ |= ray_environment(
        paths.run_dir, paths.secret_file("ray_token"), ports.ray, loopback=False, haproxy=False
    )
    from ray.cluster_utils import Cluster

    head = {
        "num_cpus": 1,
        "include_dashboard": False,
        "temp_dir": tempfile.mkdtemp(prefix="cr-", dir="/tmp"),
        "object_store_memory": 80 * 2**20,
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
        address = str(cluster.address)
        words = ("sweep", "small.toml", "--set", "run.requests=40", "--repeat", "2")
        varied = ("--set", "workload.0.rate_per_s=0.5,1.0")
        tell(step="away", **sim(folder, *words, *varied, "--out", "away", "--ray", address))
        tell(step="here", **sim(folder, *words, *varied, "--out", "here", "--jobs", "1"))
        tell(step="verified", **sim(folder, "verify", "away", "--cells", "1", "--ray", address))
        compare = ("compare", "small.toml", "--policies", "coster,none", "--repeat", "2")
        tell(step="wrong", **sim(folder, *compare, "--out", "bad", "--ray", address))
    finally:
        cluster.shutdown()
    nowhere = ("--out", "none", "--ray", "127.0.0.1:9")
    tell(step="no cluster", **sim(folder, *words, *varied, *nowhere))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
