"""A whole market as a user runs it: `coster up --json` in a process of its own.

The suites that need a real market share this. It is addressed over HTTP only; processes are
killed by the pids that `coster status` reports.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

UP_S_MAX = 180
DOWN_S_MAX = 60


def coster(
    *words: str, timeout_s: float = 60, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run one command as a user would."""
    return subprocess.run(
        [sys.executable, "-m", "coster", *words],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=check,
    )


@dataclass
class LiveMarket:
    """A running market and how to reach it."""

    process: subprocess.Popen[str]
    data: Path
    ready: dict[str, Any]
    stderr: list[str] = field(default_factory=list)

    @property
    def base(self) -> str:
        return str(self.ready["api_base"])

    @property
    def key(self) -> str:
        return str(self.ready["api_key"])

    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    def client(self, **options: Any) -> httpx2.Client:
        return httpx2.Client(base_url=self.base, headers=self.headers(), timeout=60, **options)

    def operate(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the operator's listener; the answer's JSON, whatever its status."""
        return httpx2.request(
            method,
            f"{self.ready['admin_base']}{path}",
            headers={"authorization": f"Bearer {self.ready['admin_key']}"},
            json=body,
            timeout=30,
        ).json()

    def status(self) -> dict[str, Any]:
        done = coster("status", "--json", "--data", str(self.data), check=False)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def pids(self, role: str) -> list[int]:
        return [
            int(a["pid"]) for a in self.status()["actors"] if a["role"] == role and a.get("pid")
        ]

    def verify(self) -> dict[str, Any]:
        done = coster("ledger", "verify", "--json", "--data", str(self.data), check=False)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def until(self, condition: Callable[[], object], seconds: float = 60) -> None:
        """Wait for something that must come; the error tells what the market last said."""
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            try:
                if condition():
                    return
            except (httpx2.TransportError, json.JSONDecodeError, KeyError):
                pass
            time.sleep(0.2)
        raise AssertionError(f"it did not come within {seconds} s: {''.join(self.stderr[-20:])}")


def start_market(
    data: Path, *words: str, env: dict[str, str] | None = None, program: str = "coster"
) -> LiveMarket:
    """Start one and wait for its ready line. `program` is a module that understands the same."""
    process = subprocess.Popen(
        [sys.executable, "-m", program, "up", "--json", "--data", str(data), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
        start_new_session=True,
    )
    said: list[str] = []
    assert process.stderr is not None
    threading.Thread(target=lambda: said.extend(process.stderr or ()), daemon=True).start()
    timer = threading.Timer(UP_S_MAX, process.kill)
    timer.start()
    assert process.stdout is not None
    line = process.stdout.readline()
    timer.cancel()
    if not line:
        process.wait(timeout=30)
        raise AssertionError(f"coster up ended with {process.returncode}: {''.join(said)}")
    return LiveMarket(process, data, json.loads(line), said)


def stop_market(market: LiveMarket) -> int:
    """End it as Ctrl-C would; returns its exit code."""
    if market.process.poll() is None:
        market.process.send_signal(signal.SIGTERM)
    try:
        code = market.process.wait(timeout=DOWN_S_MAX)
    except subprocess.TimeoutExpired:
        market.process.kill()
        code = market.process.wait(timeout=10)
    coster("down", "--data", str(market.data), check=False)
    for pipe in (market.process.stdout, market.process.stderr):
        if pipe is not None:
            pipe.close()
    return code


@contextmanager
def live_market(
    data: Path, *words: str, env: dict[str, str] | None = None, program: str = "coster"
) -> Iterator[LiveMarket]:
    """A market for the length of a with-block."""
    market = start_market(data, *words, env=env, program=program)
    try:
        yield market
    finally:
        stop_market(market)
