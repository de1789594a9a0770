"""What the benchmarks share: a real market, servers to compare it with, and CPU by process.

The market is what a user gets: `coster up --json` in a process of its own, on free ports and
a temporary folder, reached over HTTP only. Everything started here is ended here, whatever
happens in between.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from benchmarks.worker import Worker

ROOT = Path(__file__).resolve().parent.parent
MODEL = "coster/demo"
STREAM_TOKENS = 64
PROMPT = "one two three four five six seven eight nine ten eleven twelve"
"""Plain words: the echo engine says them back, a piece of text with every token."""
UP_S_MAX = 300
DOWN_S_MAX = 90
LISTEN_S_MAX = 60.0
MACS_S_MAX = 300.0


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Our own environment, with this checkout first on the path."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, **(extra or {})}


def chat_body(prompt: str = PROMPT, tokens: int = STREAM_TOKENS, **more: Any) -> str:
    """A streaming chat request."""
    call = {
        "model": MODEL,
        "stream": True,
        "max_tokens": tokens,
        "messages": [{"role": "user", "content": prompt}],
        **more,
    }
    return json.dumps(call)


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def worker(module: str, *words: str, env: Mapping[str, str] | None = None) -> Iterator[Worker]:
    """A module of ours that plays rounds in a process of its own."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *words]
    with Worker(command, cwd=ROOT, env=environment(env)) as playing:
        yield playing


@contextmanager
def load_client() -> Iterator[Worker]:
    """A load client for the length of a with-block."""
    with worker("load") as client:
        yield client


# ── processes ─────────────────────────────────────────────────────────────────────────


def end(process: subprocess.Popen[Any], patience_s: float = 10.0) -> None:
    """Ask a process to end, then make it, with all it started."""
    try:
        started = psutil.Process(process.pid).children(recursive=True)
    except psutil.Error:
        started = []
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in started:
        try:
            child.kill()  # psutil compares start times: a reused pid is left alone
        except psutil.Error:
            continue
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


@contextmanager
def server(
    command: list[str], port: int, *, env: Mapping[str, str] | None = None, log: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A server process that listens on `port`, for the length of a with-block."""
    with (log or Path(os.devnull)).open("ab") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=environment(env), stdout=out, stderr=out)
        try:
            _await_listening(process, port, log)
            yield process
        finally:
            end(process)


def _await_listening(process: subprocess.Popen[bytes], port: int, log: Path | None) -> None:
    give_up_s = time.monotonic() + LISTEN_S_MAX
    while time.monotonic() < give_up_s:
        if process.poll() is not None:
            said = log.read_text(errors="replace")[-2000:] if log is not None else ""
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}\n{said}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"nothing listens on port {port} after {LISTEN_S_MAX:.0f} s")


@dataclass(frozen=True, slots=True)
class Bare:
    """The yardstick server."""

    port: int
    process: psutil.Process

    def cpu_s(self) -> float:
        return _cpu_s(self.process)


@contextmanager
def bare_uvicorn(pace_ms: float = 0.0) -> Iterator[Bare]:
    """The yardstick server for the length of a with-block."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.bare", "--port", str(port)]
    with server([*command, "--pace-ms", str(pace_ms)], port) as process:
        yield Bare(port, psutil.Process(process.pid))


# ── the market ────────────────────────────────────────────────────────────────────────


@dataclass
class Market:
    """A running market. `ready` is its ready line, `up_s` the seconds until it came."""

    process: subprocess.Popen[str]
    data: Path
    ready: dict[str, Any]
    up_s: float
    said: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(urlsplit(self.ready["api_base"]).port or 0)

    @property
    def key(self) -> str:
        return str(self.ready["api_key"])

    def status(self) -> dict[str, Any]:
        done = coster("status", "--json", "--data", str(self.data))
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def pid_of(self, role: str) -> int:
        return next(int(a["pid"]) for a in self.status()["actors"] if a["role"] == role)

    def await_macs(self, count: int) -> None:
        """Wait until so many Macs take work; `coster up` is ready with the first."""
        give_up_s = time.monotonic() + MACS_S_MAX
        while time.monotonic() < give_up_s:
            actors = self.status().get("actors", [])
            ready = [a for a in actors if a["role"] == "provider" and a.get("state") == "ready"]
            if len(ready) >= count:
                return
            time.sleep(1.0)
        raise RuntimeError(f"{count} Macs did not become ready within {MACS_S_MAX:.0f} s")

    def processes(self) -> list[psutil.Process]:
        """`coster up` and everything it started, also what has detached itself."""
        found = {self.process.pid: psutil.Process(self.process.pid)}
        found |= {p.pid: p for p in found[self.process.pid].children(recursive=True)}
        recorded = json.loads((self.data / "run.json").read_text())["processes"]
        for pid, started_s in recorded:
            try:
                process = psutil.Process(pid)
                if abs(process.create_time() - started_s) < 1.0:
                    found.setdefault(pid, process)
            except psutil.Error:
                continue
        return list(found.values())


def coster(*words: str) -> subprocess.CompletedProcess[str]:
    """One command, as a user would run it."""
    return subprocess.run(
        [sys.executable, "-m", "coster", *words],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@contextmanager
def market(*words: str, env: Mapping[str, str] | None = None) -> Iterator[Market]:
    """A market for the length of a with-block; leaves no process and no file."""
    from coster.paths import MarketPaths

    data = Path(tempfile.mkdtemp(prefix="coster-bench-")).resolve()
    started_s = time.monotonic()
    command = [sys.executable, "-m", "coster", "up", "--json", "--data", str(data)]
    process = subprocess.Popen(
        [*command, "--port", str(free_port()), *words],
        cwd=ROOT,
        env=environment(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield _await_ready(process, data, started_s)
    finally:
        end(process, DOWN_S_MAX)
        coster("down", "--data", str(data))
        for folder in (data, MarketPaths(data).run_dir):
            shutil.rmtree(folder, ignore_errors=True)


def _await_ready(process: subprocess.Popen[str], data: Path, started_s: float) -> Market:
    said: list[str] = []
    stderr, stdout = process.stderr, process.stdout
    assert stderr is not None
    assert stdout is not None
    threading.Thread(target=lambda: said.extend(stderr), daemon=True).start()
    timer = threading.Timer(UP_S_MAX, process.kill)
    timer.start()
    try:
        line = next((text for text in stdout if text.startswith("{")), "")
    finally:
        timer.cancel()  # an interrupted benchmark would wait for it
    if not line:
        raise RuntimeError(f"coster up did not become ready: {''.join(said[-20:])}")
    return Market(process, data, json.loads(line), time.monotonic() - started_s, said)


# ── CPU ───────────────────────────────────────────────────────────────────────────────


class CpuMeter:
    """CPU seconds of a market's processes since the last reading, by what they are."""

    def __init__(self, market: Market) -> None:
        self._market = market
        self._before: dict[int, float] = {}
        self._since_s = 0.0
        self.start()

    def start(self) -> None:
        self._before = {p.pid: _cpu_s(p) for p in self._market.processes()}
        self._since_s = time.monotonic()

    def read(self) -> tuple[dict[str, float], float]:
        """CPU seconds by kind of process, and the seconds that passed."""
        passed_s = time.monotonic() - self._since_s
        used: dict[str, float] = {}
        for process in self._market.processes():
            spent = _cpu_s(process) - self._before.get(process.pid, 0.0)
            kind = _kind(process)
            used[kind] = used.get(kind, 0.0) + max(0.0, spent)
        return used, passed_s


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


_KINDS = (
    ("ServeReplica:market", "gateways"),
    ("ServeReplica", "operations"),
    ("ProviderActor", "providers"),
    ("AccountantActor", "accountant"),
    ("RouterActor", "router"),
    ("haproxy", "haproxy"),
    ("coster up", "coster up"),
)


def _kind(process: psutil.Process) -> str:
    try:
        line = " ".join(process.cmdline())
    except psutil.Error:
        return "ended"
    return next((kind for part, kind in _KINDS if part in line), "ray and serve")
