"""Unpaced streams: how many 64-token answers a second the whole path carries.

The echo engine answers at once, so everything else is measured: HTTP, admission, routing,
transport, encoding and the durable settlement. Beside it, in turn, runs bare uvicorn; with
`--litellm` also LiteLLM's proxy in front of that same uvicorn, from an environment of its own
that pip makes in a temporary folder.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import (
    STREAM_TOKENS,
    CpuMeter,
    Market,
    bare_uvicorn,
    chat_body,
    free_port,
    load_client,
    market,
    server,
)
from benchmarks.figures import Report, Spread, interleave, ratio_of, read_options, spread_of
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
        ports = {"coster": 0, "bare uvicorn": bare}
        if asked.own.litellm:
            ports["litellm"] = stack.enter_context(_litellm(bare))
        running = stack.enter_context(
            market("--engine", "echo", "--gateways", str(asked.own.gateways))
        )
        running.await_macs(2)
        ports["coster"] = running.port
        client = stack.enter_context(load_client())
        report.fact("market", f"2 echo Macs, {asked.own.gateways} gateways, niceness 0")
        for clients in CLIENTS[:1] if asked.quick else CLIENTS:
            _measure(report, running, client, ports, clients, asked.rounds, asked.seconds)
    report.show()


def _flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--litellm", action="store_true", help="measure LiteLLM's proxy too")
    parser.add_argument("--gateways", type=int, default=2, help="gateway replicas [default: 2]")


def _measure(
    report: Report,
    running: Market,
    client: Worker,
    ports: dict[str, int],
    clients: int,
    rounds: int,
    seconds: float,
) -> None:
    specs = {
        name: Spec(port, running.key, (chat_body(),), clients, seconds)
        for name, port in ports.items()
    }
    for spec in specs.values():
        client.round(spec)  # connections, caches and codecs are warm afterwards
    meter = CpuMeter(running)
    busy: dict[str, float] = {}
    streams = 0

    def ours() -> dict[str, Any]:
        nonlocal streams
        meter.start()
        played = client.round(specs["coster"])
        for kind, used_s in meter.read()[0].items():
            busy[kind] = busy.get(kind, 0.0) + used_s
        streams += played["streams"]
        return played

    sides = {name: partial(client.round, spec) for name, spec in specs.items()}
    found = interleave({**sides, "coster": ours}, rounds)
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
    for kind, used_s in sorted(busy.items(), key=lambda item: -item[1]):
        report.row(f"{clients} clients, CPU: {kind}", 1e3 * used_s / streams, "ms/stream")


@contextmanager
def _litellm(backend_port: int) -> Iterator[int]:
    """LiteLLM's proxy in front of the yardstick; gives its port."""
    with tempfile.TemporaryDirectory(prefix="coster-bench-") as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
        python = folder / "venv" / "bin" / "python"
        subprocess.run([str(python), "-m", "pip", "install", "-q", LITELLM], check=True)
        config = folder / "config.yaml"
        config.write_text(LITELLM_CONFIG.format(port=backend_port))
        port = free_port()
        command = [str(python.with_name("litellm")), "--config", str(config)]
        command += ["--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
        quiet = {"LITELLM_LOG": "ERROR", "LITELLM_TELEMETRY": "False", "PYTHONPATH": ""}
        with server(command, port, env=quiet, log=folder / "log"):
            yield port


if __name__ == "__main__":
    main()
