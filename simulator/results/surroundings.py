"""What a run was made by: versions, the code itself, and the checkout's revision.

The digest of the code is what tells whether a run may stand beside another. It is the same in a
checkout and where coster is installed, and other than a revision it knows of what is changed and
not committed.
"""

from __future__ import annotations

import functools
import hashlib
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import market
import simulator
from simulator.results.parquet import versions as parquet_versions

GIT_S_MAX: Final = 5.0
PACKAGES: Final = (market, simulator)
"""All that a simulation runs; scenarios have a hash of their own."""


def surroundings() -> dict[str, Any]:
    """The versions that ran, the code, and the checkout's revision where there is one."""
    return {
        "versions": {
            "coster": _version(),
            "python": platform.python_version(),
            **parquet_versions(),
        },
        "code": code_digest(),
        "git": git_revision(Path(__file__).parent),
    }


@functools.cache
def code_digest() -> str:
    """SHA-256 over the modules of the market's rules and of the lab, with their names.

    Read once: what a process has imported does not change under it.
    """
    digest = hashlib.sha256()
    for package in PACKAGES:
        top = Path(package.__path__[0])
        for path in sorted(top.rglob("*.py")):
            content = path.read_bytes()
            name = f"{top.name}/{path.relative_to(top).as_posix()}"
            digest.update(f"{name} {len(content)}\n".encode())
            digest.update(content)
    return digest.hexdigest()


def _version() -> str | None:
    try:
        return metadata.version("coster")
    except metadata.PackageNotFoundError:
        return None


def git_revision(place: Path) -> dict[str, Any] | None:
    """The commit that is checked out there and whether something is changed; None elsewhere.

    Only a checkout of ours counts: an environment inside somebody's repository is no part of it.
    """
    try:
        top = _git(place, "rev-parse", "--show-toplevel")
        if top is None or not Path(__file__).is_relative_to(Path(top) / "simulator"):
            return None
        revision = _git(place, "rev-parse", "HEAD")
        changed = _git(place, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if revision is None else {"revision": revision, "changed": bool(changed)}


def _git(place: Path, *args: str) -> str | None:
    done = subprocess.run(  # noqa: S603 - fixed arguments
        ["git", "-C", str(place), *args],  # noqa: S607 - whichever git the user has
        capture_output=True,
        text=True,
        timeout=GIT_S_MAX,
        check=False,
    )
    return done.stdout.strip() if done.returncode == 0 else None
