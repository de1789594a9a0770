"""Unpaced streams: how many 64-token answers a second the whole path carries.

The echo engine answers at once, so everything else is measured: HTTP, admission, routing,
transport, encoding and the durable settlement. Beside it, in turn, runs bare uvicorn; with
`--litellm` also LiteLLM's proxy in front of that same uvicorn, from an environment of its own
that pip makes in a temporary folder.
"""

from __future__ import annotations

import argparse
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import (
    STREAM_TOKENS,
    Bare,
    CpuMeter,
    Market,
    bare_uvicorn,
    chat_body,
    free_port,
    load_client,
    market,
    server,
)
from benchmarks.figures import Report, Round, Spread, interleave, ratio_of, read_options, spread_of
from benchmarks.load import Spec
from benchmarks.worker import Worker

CLIENTS = (16, 100)
AIM = {16: "≥ 0.20", 100: "≥ 0.35"}
LITELLM = "litellm[proxy]>=1.80,<2"
LITELLM_CONFIG = """\
model_list:
  - model_name: coster/demo
    litellm_params:
      model: openai/coster-demo
      api_base: http://127.0.0.1:{port}/v1
      api_key: none
"""


def main() -> None:
    asked = read_options(str(__doc__).split("\n", maxsplit=1)[0], add=_flags)
    report = Report("streams", "64-token streams a second, all at once, against bare uvicorn")
    with ExitStack() as stack:
        bare = stack.enter_context(bare_uvicorn())
        doors = {"coster": (0, ""), "bare uvicorn": (bare.port, "none")}
        if asked.own.litellm:
            doors["litellm"] = stack.enter_context(_litellm(bare.port))
        running = stack.enter_context(
            market("--engine", "echo", "--gateways", str(asked.own.gateways))
        )
        running.await_macs(2)
        doors["coster"] = (running.port, running.key)
        client = stack.enter_context(load_client())
        report.fact("market", f"2 echo Macs, {asked.own.gateways} gateways, niceness 0")
        for clients in CLIENTS[:1] if asked.quick else CLIENTS:
            setting = Setting(running, bare, client, doors, clients)
            _measure(report, setting, asked.rounds, asked.seconds)
    report.show()


def _flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--litellm", action="store_true", help="measure LiteLLM's proxy too")
    parser.add_argument("--gateways", type=int, default=2, help="gateway replicas [default: 2]")


@dataclass(slots=True)
class Setting:
    """What runs, and the CPU seconds it has used in the rounds so far, by process."""

    market: Market
    bare: Bare
    client: Worker
    doors: dict[str, tuple[int, str]]  # each side's port and key
    clients: int
    busy_s: dict[str, float] = field(default_factory=dict)

    def ours(self, spec: Spec) -> dict[str, Any]:
        meter = CpuMeter(self.market)
        played = self.client.round(spec)
        used = meter.read()[0]
        for kind, used_s in used.items():
            self.busy_s[kind] = self.busy_s.get(kind, 0.0) + used_s
        return {**played, "cpu_ms": 1e3 * sum(used.values()) / played["streams"]}

    def theirs(self, spec: Spec) -> dict[str, Any]:
        before_s = self.bare.cpu_s()
        played = self.client.round(spec)
        return {**played, "cpu_ms": 1e3 * (self.bare.cpu_s() - before_s) / played["streams"]}


def _measure(report: Report, setting: Setting, rounds: int, seconds: float) -> None:
    clients, client = setting.clients, setting.client
    specs = {
        name: Spec(port, key, (chat_body(),), clients, seconds)
        for name, (port, key) in setting.doors.items()
    }
    for spec in specs.values():
        client.round(spec)  # connections, caches and codecs are warm afterwards
    sides: dict[str, Round] = {name: partial(client.round, spec) for name, spec in specs.items()}
    sides["coster"] = partial(setting.ours, specs["coster"])
    sides["bare uvicorn"] = partial(setting.theirs, specs["bare uvicorn"])
    found = interleave(sides, rounds)
    for name, played in found.items():
        complete = all(p["tokens_min"] == p["tokens_max"] == STREAM_TOKENS for p in played)
        if not complete:
            raise RuntimeError(f"{name} did not send {STREAM_TOKENS} tokens in every stream")
        rate = Spread.of([p["tokens_per_s"] / STREAM_TOKENS for p in played])
        report.row(f"{clients} clients, {name}", rate, "streams/s")
    for name in list(found)[1:]:
        ratio = ratio_of(found["coster"], found[name], "tokens_per_s")
        aim = AIM[clients] if name == "bare uvicorn" else "≥ 10"
        report.row(f"{clients} clients, coster / {name}", ratio, "×", aim)
    report.row(f"{clients} clients, TTFT p50", spread_of(found["coster"], "ttft_ms_p50"), "ms")
    for name in ("bare uvicorn", "coster"):
        report.row(f"{clients} clients, CPU: {name}", spread_of(found[name], "cpu_ms"), "ms/stream")
    streams = sum(played["streams"] for played in found["coster"])
    for kind, used_s in sorted(setting.busy_s.items(), key=lambda item: -item[1]):
        report.row(f"{clients} clients, of it {kind}", 1e3 * used_s / streams, "ms/stream")


@contextmanager
def _litellm(backend_port: int) -> Iterator[tuple[int, str]]:
    """LiteLLM's proxy in front of the yardstick; gives its port and a key made for it."""
    with tempfile.TemporaryDirectory(prefix="coster-bench-") as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
        python = folder / "venv" / "bin" / "python"
        subprocess.run([str(python), "-m", "pip", "install", "-qqq", LITELLM], check=True)
        config = folder / "config.yaml"
        config.write_text(LITELLM_CONFIG.format(port=backend_port))
        port, key = free_port(), f"sk-{secrets.token_hex(16)}"
        command = [str(python.with_name("litellm")), "--config", str(config)]
        command += ["--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
        env = {"LITELLM_LOG": "ERROR", "LITELLM_MASTER_KEY": key, "PYTHONPATH": ""}
        with server(command, port, env=env, log=folder / "log"):
            yield port, key


if __name__ == "__main__":
    main()
