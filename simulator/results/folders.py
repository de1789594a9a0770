"""One run, one folder: written beside its place and moved there when it is complete.

    manifest.json      what was run: setting, seed, policy, versions, and the digests of the others
    requests.parquet   one row per request
    machines.parquet   one row per Mac
    summary.json       what it comes to
    report.html        the same to look at
    timing.json        how long it took; the only file that differs between equal runs, and the
                       only one without a digest

A folder that is there is whole. What an interruption leaves behind is a hidden folder that
nobody takes for a run, and that the next attempt removes.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NoReturn

from market.errors import Conflict, InvalidRequest
from simulator.results.summary import as_text
from simulator.results.surroundings import surroundings
from simulator.setup.scenario import Scenario

MANIFEST: Final = "manifest.json"
REQUESTS: Final = "requests.parquet"
MACHINES: Final = "machines.parquet"
SUMMARY: Final = "summary.json"
REPORT: Final = "report.html"
TIMING: Final = "timing.json"
COMPARED: Final = (REQUESTS, MACHINES, SUMMARY)
"""Equal for equal runs, to the byte."""

DIGESTED: Final = (*COMPARED, REPORT)
"""Whose digests a manifest has, as far as they are there."""

SCHEMA: Final = 1
PARTIAL: Final = ".partial-"
ASIDE: Final = "old-"
"""After `PARTIAL`, in the name that a folder has from when it makes room until it is removed."""

SHAPE: Final[Mapping[str, type | tuple[type, ...]]] = {
    "complete": bool,
    "seed": int,
    "config": dict,
    "inputs": dict,
    "versions": dict,
}
SHAPES: Final[Mapping[str, Mapping[str, type | tuple[type, ...]]]] = {
    "run": {"policy": str, "policy_named": bool, "files": dict},
    "comparison": {
        "policies": list,
        "points": list,
        "repeat": int,
        "repeated": int,
        "metric": str,
        "until": (float, int, type(None)),
    },
}
"""What manifests hold beside names, by their kind: enough for the readers to rely on."""

SHAPES_WITHIN: Final[Mapping[str, type]] = {
    "policies": str,
    "points": dict,
    "files": str,
    "inputs": str,
}
"""What is in the lists and tables of manifests. `files` came to comparisons later."""

DAMAGED: Final = "damaged"


@contextmanager
def whole(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder to write into that becomes `folder` when the block ends, or never.

    What is replaced is put aside first and removed last: removing takes many steps, renaming one,
    so that a kill at any moment leaves the old one or the new one whole.

    Raises Conflict when there is something already and it may not be replaced, InvalidRequest
    when nothing can be written there.
    """
    try:
        settle(folder)
        check_free(folder, replace=replace)
        partial, aside = (_beside(folder, f"{what}{os.getpid()}") for what in ("", ASIDE))
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        yield partial
        check_free(folder, replace=replace)
        try:
            if folder.exists():
                folder.rename(aside)
            partial.rename(folder)
        except OSError as error:
            raise unwritable(folder, error) from error
    finally:
        if aside.exists() and not folder.exists():
            aside.rename(folder)
        for left in (partial, aside):
            if left.exists():
                _remove(left)


def _remove(path: Path) -> None:
    """A folder with all that is in it; of a link only the link."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path)


def _beside(folder: Path, what: str) -> Path:
    """The hidden name of something that is to become this folder, or was it."""
    return folder.with_name(f".{folder.name}{PARTIAL}{what}")


def unwritable(path: Path, error: OSError) -> InvalidRequest:
    """What to say of a place where nothing can be written."""
    why = error.strerror or type(error).__name__
    return InvalidRequest(f"{path} cannot be written: {why}. Give another --out.", "out")


def check_free(folder: Path, *, replace: bool) -> None:
    """Refuse a place that is taken; what is no run of ours is never replaced."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    ours = (folder / MANIFEST).is_file()
    if replace and ours:
        return
    fix = "give --replace, or another --out" if ours else "it is no run, so give another --out"
    raise Conflict(f"{folder} exists already; {fix}.", "out")


def settle(folder: Path) -> None:
    """Undo what attempts left that are gone: a folder that had made room for one which never came
    is put back, and the rest is removed.
    """
    before = f".{folder.name}{PARTIAL}"
    for left in sorted(folder.parent.glob(f"{glob.escape(before)}*")):
        pid = left.name.rpartition("-")[2]
        if not pid.isdecimal() or _lives(int(pid)):
            continue
        if left.name.startswith(f"{before}{ASIDE}") and not folder.exists():
            left.rename(folder)
        else:
            _remove(left)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def manifest_of(
    scenario: Scenario,
    policy: str,
    seed: int,
    folder: Path,
    *,
    named: bool,
    inputs: Mapping[str, str],
) -> dict[str, Any]:
    """What was run, the digests of the files it read, and of what is in the folder so far: with
    a page, take `digests_of` once more. `named`: anyone can repeat it.
    """
    return {
        "schema": SCHEMA,
        "kind": "run",
        "complete": True,
        "name": scenario.name,
        "policy": policy,
        "policy_named": named,
        "seed": seed,
        "scenario_hash": scenario.hash,
        "config": json.loads(scenario.config),
        "inputs": dict(inputs),
        "files": digests_of(folder),
        **surroundings(),
    }


def digests_of(folder: Path) -> dict[str, str]:
    """The digest of each file in a folder that is to have one."""
    return {name: digest_of(folder / name) for name in DIGESTED if (folder / name).is_file()}


def inputs_of(config: str) -> dict[str, str]:
    """The digests of the files that the workloads of a scenario read; `config` is its own."""
    return {file: digest_of(Path(file)) for file in files_of(config)}


def files_of(config: str) -> list[str]:
    """The files that the workloads of a scenario read; `config` is its own."""
    tables = json.loads(config)["workload"]
    return [str(table["file"]) for table in tables if "file" in table]


def check_unchanged(before: Mapping[str, str], after: Mapping[str, str]) -> None:
    """Raise Conflict for a file that was another one while it was read: nobody knows then which
    of its bytes were played.
    """
    for file, digest in before.items():
        if after.get(file) != digest:
            raise Conflict(
                f"{file} changed while it was read, so nobody knows what was played. Run it again "
                "once nobody writes it; of several runs --resume keeps those of what is there.",
                "file",
            )


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}.", "file") from error


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all."""
    partial = path.with_name(f".{path.name}{PARTIAL}{os.getpid()}")
    partial.write_text(as_text(value), "utf-8")
    partial.replace(path)


def read_json(path: Path) -> Any:
    """One of our files. Raises InvalidRequest."""
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}.", "folder") from error
    except ValueError as error:
        raise InvalidRequest(f"{path} is not JSON: {error}.", "folder") from error


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run or of several. Raises InvalidRequest when there is none of ours."""
    if not (folder / MANIFEST).is_file():
        raise InvalidRequest(
            f"{folder} is not a run: it has no {MANIFEST}. Give the folder that `coster sim run` "
            "or `compare` wrote.",
            "folder",
        )
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise InvalidRequest(f"{folder / MANIFEST} is of another version of coster.", "folder")
    _check_shape(manifest, folder / MANIFEST)
    return manifest


def _check_shape(manifest: Mapping[str, Any], path: Path) -> None:
    """Raise InvalidRequest for values that no run of ours has: somebody has edited them."""
    kind = manifest.get("kind")
    wanted: Mapping[str, type | tuple[type, ...]] = {**SHAPE, **SHAPES.get(str(kind), {})}
    if kind not in SHAPES:
        wanted = {"kind": ()}
    for key, types in wanted.items():
        value = manifest.get(key)
        if not isinstance(value, types) or (types is int and isinstance(value, bool)):
            _edited(manifest, key, path)
    for key, each in SHAPES_WITHIN.items():
        value = manifest.get(key, {})
        parts = value.values() if isinstance(value, dict) else value
        if not isinstance(value, dict | list) or not all(isinstance(p, each) for p in parts):
            _edited(manifest, key, path)
    if isinstance(manifest.get("files"), list):
        _edited(manifest, "files", path)


def _edited(manifest: Mapping[str, Any], key: str, path: Path) -> NoReturn:
    said = "missing" if key not in manifest else f"{manifest[key]!r}"[:40]
    raise InvalidRequest(
        f"{path}: {key} is {said}, which no run of ours has: the manifest was edited. "
        "Run it again.",
        "folder",
    )


def runs_in(folder: Path) -> list[Path]:
    """The folder itself where it is a run, else the runs right below it, or those of the one
    policy and point of a comparison. Raises InvalidRequest when there are none, or several kinds.
    """
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder)
        if manifest["kind"] == "run":
            return [folder]
        below = sorted(path for path in (folder / "runs").iterdir() if path.is_dir())
        if len(below) != 1:
            names = ", ".join(str(path) for path in below[:4])
            raise InvalidRequest(
                f"{folder} has runs of several kinds; give one of them, such as {names}.", "folder"
            )
        folder = below[0]
    found = sorted(
        path.parent for path in folder.glob(f"*/{MANIFEST}") if PARTIAL not in path.parent.name
    )
    if not found:
        read_manifest(folder)
    return found


def is_whole(folder: Path, expected: Mapping[str, Any]) -> bool:
    """Whether a complete run with these manifest values is there, its files as they were."""
    return (folder / MANIFEST).is_file() and unlike(folder, expected) is None


def unlike(folder: Path, expected: Mapping[str, Any]) -> str | None:
    """What keeps the run in a folder from being the one that is wanted: the name of the first of
    these manifest values that is another one, or `damaged`. None when it can stand as it is.
    """
    manifest = read_manifest(folder)
    for key, value in expected.items():
        if manifest.get(key) != value:
            return key
    whole = manifest.get("complete") and all(
        (folder / name).is_file() and digest_of(folder / name) == digest
        for name, digest in manifest["files"].items()
    )
    return None if whole else DAMAGED
