"""The two files an operator deploys with are accepted by Ray's own validators.

Ray is asked in a process of its own, so that nothing of it stays behind in the test run.
"""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from actors.ray_env import RayPorts, ray_environment

ROOT = Path(__file__).resolve().parent.parent.parent

VALIDATE_CLUSTER = """
import sys, yaml
from ray.autoscaler._private.util import prepare_config, validate_config
validate_config(prepare_config(yaml.safe_load(sys.stdin)))
"""
# Serve's schema ignores a key it does not know, so what it understood is compared with the text.
VALIDATE_SERVE = """
import sys, yaml
from ray.serve.schema import ServeDeploySchema

def keys(value):
    if isinstance(value, dict):
        return {name: keys(inner) for name, inner in value.items()}
    return [keys(inner) for inner in value] if isinstance(value, list) else None

given = yaml.safe_load(sys.stdin)
understood = ServeDeploySchema.model_validate(given).model_dump(exclude_unset=True)
assert keys(given) == keys(understood), f"{keys(given)} is not {keys(understood)}"
"""


def _validate(script: str, text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        input=text,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def _cluster() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text("utf-8"))


@pytest.mark.parametrize(
    ("script", "path"),
    [(VALIDATE_CLUSTER, "cluster.yaml"), (VALIDATE_SERVE, "serve_app/serve.yaml")],
    ids=["cluster.yaml", "serve.yaml"],
)
def test_ray_accepts_the_file_and_refuses_a_broken_one(script: str, path: str) -> None:
    """Ray's validator takes the file as it stands, and refuses it with a key it never had."""
    text = (ROOT / path).read_text("utf-8")

    accepted = _validate(script, text)
    refused = _validate(script, text + "\nno_such_key: 1\n")

    assert accepted.returncode == 0, accepted.stderr
    assert refused.returncode != 0
    assert "no_such_key" in refused.stderr


def test_every_node_authenticates_and_asks_for_the_same_things() -> None:
    """Head and workers agree on each setting both of them name, token authentication first."""
    head, worker = (_settings(_start_command(f"{role}_start_ray_commands")) for role in ROLES)

    shared = head.keys() & worker.keys()

    assert head["RAY_AUTH_MODE"] == "token"
    assert shared >= {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_USAGE_STATS_ENABLED"}
    assert {name: head[name] for name in shared} == {name: worker[name] for name in shared}


def test_the_cluster_runs_with_the_settings_of_the_embedded_market() -> None:
    """What both the file and `coster up` set for Ray, they set alike; only paths differ."""
    ports = RayPorts(*range(1, 1 + len(dataclasses.fields(RayPorts))))
    embedded = ray_environment(Path("run"), Path("token"), ports, loopback=False, haproxy=True)
    del embedded["RAY_AUTH_TOKEN_PATH"], embedded["RAY_SERVE_ENABLE_HA_PROXY"]
    head = _settings(_start_command("head_start_ray_commands"))

    shared = head.keys() & embedded.keys()

    assert len(shared) > 10
    assert {name: head[name] for name in shared} == {name: embedded[name] for name in shared}


def test_the_head_listens_where_the_workers_look() -> None:
    """The address workers are given is the one the head is told to take."""
    head_ip = _cluster()["provider"]["head_ip"]

    assert f"--node-ip-address={head_ip} " in _start_command("head_start_ray_commands")


def test_no_home_folder_hides_behind_an_equals_sign() -> None:
    """A shell expands `~` only at the start of a word or of a variable's value."""
    commands = [
        command for value in _cluster().values() if isinstance(value, list) for command in value
    ]

    assert [c for c in commands if re.search(r"--[\w-]+=~", c)] == []


def test_head_and_worker_ports_never_collide() -> None:
    """A head and a worker may share one machine: no port or range is pinned twice."""
    ports = [
        port
        for role in ROLES
        for port in re.findall(r"-port=(\d+)", _start_command(f"{role}_start_ray_commands"))
    ]

    assert len(ports) == len(set(ports))


ROLES = ("head", "worker")


def _start_command(key: str) -> str:
    return next(command for command in _cluster()[key] if "ray start" in command)


def _settings(command: str) -> dict[str, str]:
    return {
        name: value.strip('"') for name, value in re.findall(r'\b(RAY_\w+)=("[^"$]*"|\S+)', command)
    }
