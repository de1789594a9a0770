"""A market over several Ray nodes of one machine, told as lines of JSON on standard output.

Run by `test_several_nodes.py` in a process of its own, because Ray reads its environment when
it is imported. The applications are those that `serve.yaml` names.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2

from actors.calls import first_answer
from actors.ray_env import ray_environment
from coster.compose import admin_key, gateway, load_settings, operations
from coster.paths import MarketPaths
from coster.ports import choose_ports

MACHINES = ("mac_" + "a" * 24, "mac_" + "b" * 24, "mac_" + "c" * 24)
WAIT_S_MAX = 90


def tell(**facts: Any) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def labels_of(machine: str) -> dict[str, str]:
    return {
        "coster-machine": machine,
        "coster-chip": "M4-Max",
        "coster-memory-gb": "64",
        "coster-gpu-cores": "40",
        "coster-cpu-cores": "16",
        "coster-bandwidth-gbs": "546",
    }


def main(folder: Path) -> None:
    """The story; each step's outcome is told."""
    paths, config = prepare(folder)
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=head_arguments())
    nodes = {machine: add_node(cluster, machine) for machine in MACHINES[:2]}
    ray.init(address=cluster.address, log_to_driver=False, namespace="coster")
    try:
        market = open_market(paths, config)
        market.until_ready(MACHINES[:2])
        tell(step="started", ready=market.ready(), answers=market.ask(6))
        tell(step="gateways", nodes=market.gateway_nodes(), head=cluster.head_node.node_id)

        cluster.remove_node(nodes[MACHINES[0]], allow_graceful=False)
        tell(step="node killed", answers=market.ask(6))
        market.until_ready(MACHINES[1:2])
        tell(step="noticed", ready=market.ready())

        add_node(cluster, MACHINES[2])
        market.until_ready(MACHINES[1:3])
        tell(step="node added", ready=market.ready(), answers=market.ask(6))

        add_node(cluster, MACHINES[0])
        market.until_ready(MACHINES)
        tell(step="node back", ready=market.ready(), answers=market.ask(6))
        tell(step="books", **market.verify())
        ray.serve.shutdown()
    finally:
        ray.shutdown()
        cluster.shutdown()


def prepare(folder: Path) -> tuple[MarketPaths, Path]:
    """The market's folders, its market.toml, and the environment Ray is imported in."""
    paths = MarketPaths(folder / "data")
    paths.prepare()
    ports = choose_ports("127.0.0.1", None, str(folder))
    config = folder / "market.toml"
    config.write_text(
        f'data_dir = "{paths.data}"\nport = {ports.http}\nadmin_port = {ports.admin}\n'
        'gateways = 2\n[engine]\nkind = "echo"\n'
    )
    paths.secret("ray_token")
    os.environ |= ray_environment(
        paths.run_dir, paths.secret_file("ray_token"), ports.ray, loopback=False, haproxy=False
    )
    return paths, config


def head_arguments() -> dict[str, Any]:
    """The head keeps the ledger; a killed node is noticed within a second or two."""
    return {
        "num_cpus": 4,
        "include_dashboard": False,
        "labels": {"coster-role": "ledger"},
        "temp_dir": tempfile.mkdtemp(prefix="cr-", dir="/tmp"),
        "object_store_memory": 80 * 2**20,
        "_system_config": {
            "health_check_initial_delay_ms": 0,
            "health_check_period_ms": 500,
            "health_check_timeout_ms": 1000,
            "health_check_failure_threshold": 2,
        },
    }


def open_market(paths: MarketPaths, config: Path) -> Story:
    """Deploy the two applications of serve.yaml and open an account."""
    from ray import serve

    from serve_app.deployment import ADMIN_APP, GATEWAY_APP, start_http

    args = {"config": str(config)}
    settings = load_settings(config)
    start_http(settings)
    serve.run_many(
        [
            serve.RunTarget(gateway(args), name=GATEWAY_APP, route_prefix="/"),
            serve.RunTarget(operations(args), name=ADMIN_APP, route_prefix=None),
        ]
    )
    admin = httpx2.Client(
        base_url=f"http://127.0.0.1:{settings.admin_port}",
        headers={"authorization": f"Bearer {admin_key(paths)}"},
        timeout=10,
    )
    return Story(f"http://127.0.0.1:{settings.port}/v1", admin, asyncio.run(open_account()))


def add_node(cluster: Any, machine: str) -> Any:
    return cluster.add_node(num_cpus=2, labels=labels_of(machine), object_store_memory=80 * 2**20)


async def open_account() -> str:
    """An account with promo credit and an inference key, straight from the accountant."""
    from actors.cluster import ACCOUNTANT, NamedActor

    await first_answer(NamedActor(ACCOUNTANT), "describe", WAIT_S_MAX)
    accountant = NamedActor(ACCOUNTANT)
    account, _, _ = await accountant("create_account", "cluster test")
    _, key = await accountant("create_key", account, "test")
    return str(key)


class Story:
    """The market as its user and its operator see it."""

    def __init__(self, base: str, admin: httpx2.Client, key: str) -> None:
        self._base = base
        self._admin = admin
        self._key = key

    def ready(self) -> list[str]:
        machines = self._admin.get("/admin/status").json()["machines"]
        return sorted(
            m["machine"] for m in machines if m["state"] == "ready" and m["health"] == "ok"
        )

    def gateway_nodes(self) -> list[str]:
        """Where each gateway runs."""
        actors = self._admin.get("/admin/status").json()["actors"]
        return [actor["node"] for actor in actors if actor["role"] == "gateway"]

    def verify(self) -> dict[str, Any]:
        report: dict[str, Any] = self._admin.post("/admin/ledger/verify").json()
        return report

    def until_ready(self, machines: tuple[str, ...]) -> None:
        self._until(lambda: self.ready() == sorted(machines), f"ready: {machines}")

    def ask(self, count: int) -> dict[str, int]:
        """How `count` questions were answered: statuses, with the body of any but 200."""
        statuses: dict[str, int] = {}
        for number in range(count):
            answer = httpx2.post(
                f"{self._base}/chat/completions",
                headers={"authorization": f"Bearer {self._key}"},
                json={
                    "model": "coster/demo",
                    "max_tokens": 4,
                    "messages": [{"role": "user", "content": f"Hello {number}"}],
                },
                timeout=60,
            )
            name = str(answer.status_code)
            if answer.status_code != 200:
                name += f" {answer.text[:200]}"
            statuses[name] = statuses.get(name, 0) + 1
        return statuses

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        give_up = time.monotonic() + WAIT_S_MAX
        while time.monotonic() < give_up:
            try:
                if condition():
                    return
            except (httpx2.TransportError, KeyError, ValueError):
                pass
            time.sleep(0.3)
        raise AssertionError(f"{what} did not come; ready are {self.ready()}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
