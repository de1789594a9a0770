"""`cluster.yaml` is run, not only read: its commands, verbatim, as a head and a Mac.

They run in namespaces of their own (processes, network, Ray's temporary folders), so that
fixed ports and `ray stop` meet nothing else on this machine, and all of it ends with them.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
RUN_S_MAX = 240

UNSHARE = ["unshare", "--pid", "--fork", "--mount-proc", "--net", "--mount", "--kill-child"]
if os.geteuid() != 0:
    UNSHARE += ["--user", "--map-root-user"]

# What `ray up` does with the file before it reaches the head.
PREPARE = """
import sys, yaml
from ray.autoscaler._private.util import prepare_config
config = prepare_config(yaml.safe_load(sys.stdin))
yaml.safe_dump(config | {"cluster_synced_files": []}, sys.stdout)
"""

NODES = """
import json, sys, time
import ray

ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
deadline_s = time.monotonic() + 60
while sum(node["Alive"] for node in ray.nodes()) < 2 and time.monotonic() < deadline_s:
    time.sleep(0.2)
print(json.dumps([{"alive": n["Alive"], "labels": n["Labels"]} for n in ray.nodes()]))
"""

# A consumer of the deployed market: an account, a key, a question.
ASK = """
import json, time
import httpx2

base, deadline_s = "http://127.0.0.1:8000", time.monotonic() + 150
while time.monotonic() < deadline_s:
    try:
        ready = httpx2.get(base + "/readyz", timeout=5)
        if ready.status_code == 200:
            break
        seen = ready.text
    except httpx2.TransportError as error:
        seen = repr(error)
    time.sleep(0.5)
else:
    raise SystemExit(f"the market did not open: {seen}")
post = lambda path, key, body: httpx2.post(
    base + path, json=body, headers={"authorization": f"Bearer {key}"}, timeout=60
).json()
account = post("/v1/accounts", "nobody", {"name": "first customer"})
key = post("/v1/keys", account["management_key"]["key"], {"name": "laptop"})["key"]
question = {"role": "user", "content": "What is the capital of France?"}
body = {"model": "coster/demo", "temperature": 0, "messages": [question]}
print(json.dumps(post("/v1/chat/completions", key, body)))
"""


def _can_unshare() -> bool:
    if not shutil.which("unshare") or not shutil.which("ip"):
        return False
    probe = subprocess.run(
        [*UNSHARE, "ip", "link", "set", "lo", "up"], capture_output=True, timeout=20, check=False
    )
    return probe.returncode == 0


@pytest.mark.cluster
@pytest.mark.skipif(not _can_unshare(), reason="needs Linux namespaces and iproute2's ip")
def test_the_commands_open_a_market_on_a_labelled_mac(tmp_path: Path) -> None:
    """Run as they stand, they make a head and a Mac; `serve deploy` opens a market on them."""
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text("utf-8"))
    home = _home(tmp_path)

    done = subprocess.run(
        [*UNSHARE, "bash", "-euo", "pipefail", "-c", _script(config, home)],
        env={"HOME": str(home), "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=RUN_S_MAX,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    nodes, answer = (json.loads(line) for line in done.stdout.splitlines() if line[:1] in "[{")
    assert "Paris" in answer["choices"][0]["message"]["content"], answer
    assert [node["alive"] for node in nodes] == [True, True]
    labels = [node["labels"] for node in nodes]
    assert [found.get("coster-role") for found in labels].count("ledger") == 1
    machines = [found["coster-machine"] for found in labels if "coster-machine" in found]
    assert len(machines) == 1
    assert machines[0].startswith("mac_")
    assert machines[0] in (home / ".coster" / "labels.yaml").read_text("utf-8")


def _home(folder: Path) -> Path:
    """A user's home as `ray up` leaves it: the environment, the token, the prepared file."""
    coster = folder / ".coster"
    coster.mkdir(mode=0o700)
    (coster / "env").symlink_to(sys.prefix)
    (coster / "ray-token").write_text("0123456789abcdef0123456789abcdef")
    (coster / "ray-token").chmod(0o600)
    prepared = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PREPARE],
        input=(ROOT / "cluster.yaml").read_text("utf-8"),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    (folder / "ray_bootstrap_config.yaml").write_text(prepared.stdout)
    return folder


def _script(config: dict[str, Any], home: Path) -> str:
    head_ip = config["provider"]["head_ip"]
    head = config["head_setup_commands"] + config["head_start_ray_commands"]
    worker = config["worker_setup_commands"] + config["worker_start_ray_commands"]
    # One machine plays both: the worker's `ray stop` would end the head.
    worker = [command for command in worker if not command.endswith("ray stop")]
    lines = ["ip link set lo up", f"ip address add {head_ip}/32 dev lo"]
    for folder in ("/tmp/ray", "/tmp/r"):
        lines += [f"mkdir -p {folder}", f"mount -t tmpfs tmpfs {folder}"]
    lines += [f"bash -c {shlex.quote(command)}" for command in head]
    lines += [f"RAY_HEAD_IP={head_ip} bash -c {shlex.quote(command)}" for command in worker]
    token = home / ".coster" / "ray-token"
    probe = f"{shlex.quote(sys.executable)} -W ignore -c {shlex.quote(NODES)} {head_ip}:6379"
    guarded = f"RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={token}"
    lines.append(f"{guarded} {probe}")
    deploy = f"{home}/.coster/env/bin/serve deploy {ROOT}/serve_app/serve.yaml"
    lines.append(f"{guarded} {deploy} >&2")
    ask = f"{shlex.quote(sys.executable)} -W ignore -c {shlex.quote(ASK)}"
    told = f"{guarded} {home}/.coster/env/bin/serve status >&2"
    lines.append(f"{ask} || {{ {told}; tail -n 20 {home}/.coster/data/logs/*.log >&2; exit 1; }}")
    return "\n".join(lines)
