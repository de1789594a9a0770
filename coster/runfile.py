"""DIR/run.json: who runs this market, so that `up`, `down` and `doctor` find it again.

A pid alone may have been reused, so each is recorded with its start time and both must
match. HAProxy and Ray's agents outlive a killed `up`; this file is how they are found.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from coster.paths import MarketPaths, write_private

START_TOLERANCE_S = 1.0
"""Two clocks of one machine may round a start time differently by less than this."""
END_S_MAX = 5.0


@dataclass(frozen=True, slots=True)
class RunningMarket:
    """What run.json says."""

    pid: int
    started_s: float
    api_base: str
    admin_base: str
    code_version: str
    ready: bool = False
    processes: tuple[tuple[int, float], ...] = field(default=())


def read_run(paths: MarketPaths) -> RunningMarket | None:
    """The recorded run; None when there is none or the file is damaged."""
    try:
        raw = json.loads(paths.run_file.read_text())
        raw["processes"] = tuple((int(pid), float(since)) for pid, since in raw["processes"])
        return RunningMarket(**raw)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write_run(paths: MarketPaths, run: RunningMarket) -> None:
    write_private(paths.run_file, json.dumps(asdict(run), indent=1))


def is_alive(pid: int, started_s: float) -> bool:
    """Whether the very process that was recorded still runs."""
    try:
        process = psutil.Process(pid)
        return bool(
            process.status() != psutil.STATUS_ZOMBIE
            and abs(process.create_time() - started_s) < START_TOLERANCE_S
        )
    except psutil.Error:
        return False


def own_processes() -> tuple[tuple[int, float], ...]:
    """Everything this process started, with start times."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            found.append((child.pid, child.create_time()))
        except psutil.Error:
            continue
    return tuple(found)


def leftovers(run: RunningMarket) -> list[tuple[int, float]]:
    """Recorded processes that still run although their `up` does not, with descendants."""
    alive: dict[int, float] = {}
    for pid, since in run.processes:
        if not is_alive(pid, since):
            continue
        alive[pid] = since
        try:
            for child in psutil.Process(pid).children(recursive=True):
                alive[child.pid] = child.create_time()
        except psutil.Error:
            continue
    return sorted(alive.items())


def end_processes(processes: Iterable[tuple[int, float]]) -> int:
    """Terminate, then kill, exactly these processes; returns how many there were."""
    targets = []
    for pid, since in processes:
        if is_alive(pid, since):
            targets.append(psutil.Process(pid))
    for process in targets:
        _signal(process, kill=False)
    _, stubborn = psutil.wait_procs(targets, timeout=END_S_MAX)
    for process in stubborn:
        _signal(process, kill=True)
    psutil.wait_procs(stubborn, timeout=END_S_MAX)
    return len(targets)


def _signal(process: psutil.Process, *, kill: bool) -> None:
    try:
        process.kill() if kill else process.terminate()
    except psutil.NoSuchProcess:
        return


class MarketLock:
    """Held by `up` for as long as it lives; the kernel frees it when it dies."""

    def __init__(self, paths: MarketPaths) -> None:
        self._path: Path = paths.lock_file
        self._fd: int | None = None

    def acquire(self) -> bool:
        """True when no other `up` runs on this data."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._fd = fd
        return True

    def release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def wait_until_ended(pid: int, started_s: float, deadline_s: float) -> bool:
    """True once the process is gone."""
    give_up_s = time.monotonic() + deadline_s
    while time.monotonic() < give_up_s:
        if not is_alive(pid, started_s):
            return True
        time.sleep(0.1)
    return not is_alive(pid, started_s)
