"""Is a folder what its manifest says? Run it again and compare the files, byte for byte."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from market.errors import InvalidRequest
from simulator.results import folders
from simulator.runs.cells import Cell, Plan, folder_of
from simulator.runs.executors import Executor, LocalProcesses
from simulator.runs.experiment import plan_of
from simulator.runs.tasks import WORLD, Task
from simulator.setup.scenario import canonical

VERSIONS: Final = ("coster", "pyarrow", "numpy")


@dataclass(frozen=True, slots=True)
class Verdict:
    """One run that was repeated. `differs` names what is not the same, with the reason."""

    folder: Path
    differs: tuple[str, ...]

    @property
    def same(self) -> bool:
        return not self.differs

    def as_json(self) -> dict[str, object]:
        return {"folder": str(self.folder), "same": self.same, "differs": list(self.differs)}


def verify(
    folder: Path,
    *,
    cells: int | None = None,
    executor: Executor | None = None,
    world: str = WORLD,
) -> list[Verdict]:
    """Repeat a run, or each run of a comparison (`cells` of them, evenly chosen).

    Raises InvalidRequest for what cannot be repeated: it is not complete, a policy was somebody's
    own function, or a file that a workload reads has changed.
    """
    manifest = folders.read_manifest(folder)
    if not manifest["complete"]:
        fix = (
            "Measure it again: half a load says little of the whole."
            if "live" in manifest
            else "Repeat its command with --resume."
        )
        raise InvalidRequest(f"{folder} is not complete: it was interrupted. {fix}", "folder")
    if "live" in manifest:
        raise InvalidRequest(
            f"{folder} was measured on a running market, and no two measurements are alike. "
            "Compare it with a simulated run: coster sim calibrate SIM_FOLDER --real FOLDER.",
            "folder",
        )
    _inputs_unchanged(manifest)
    if manifest["kind"] == "run":
        places = [folder]
    else:
        places = _chosen(plan_of(manifest, str(folder)), folder, cells)
    return _repeat(places, executor or LocalProcesses(), world)


def _chosen(plan: Plan, folder: Path, cells: int | None) -> list[Path]:
    places = [
        folder / folder_of(plan, Cell(point, policy, repetition))
        for point in range(len(plan.points))
        for policy in range(len(plan.policies))
        for repetition in range(plan.repeat)
    ]
    if cells is None or cells >= len(places):
        return places
    step = len(places) / max(cells, 1)
    return [places[int(number * step)] for number in range(max(cells, 1))]


def _repeat(places: Sequence[Path], executor: Executor, world: str) -> list[Verdict]:
    with tempfile.TemporaryDirectory(prefix="coster-verify-") as scratch:
        tasks = [
            _task(place, Path(scratch) / str(number), world) for number, place in enumerate(places)
        ]
        verdicts: dict[int, Verdict] = {}
        for number, done in executor.run(tasks):
            verdicts[number] = _compared(places[number], done.folder)
        return [verdicts[number] for number in range(len(places))]


def _task(place: Path, again: Path, world: str) -> Task:
    manifest = folders.read_manifest(place)
    _inputs_unchanged(manifest)
    if not manifest["policy_named"]:
        raise InvalidRequest(
            f"{place} was run under {manifest['policy']}, a function of its author; only who has "
            "it can run it again.",
            "folder",
        )
    return Task(
        config=canonical(manifest["config"]),
        policy=manifest["policy"],
        seed=manifest["seed"],
        folder=again,
        report=False,
        world=world,
    )


def _compared(first: Path, again: Path) -> Verdict:
    """What differs between a folder and its repetition."""
    manifest, repeated = folders.read_manifest(first), folders.read_manifest(again)
    differs = []
    for name in folders.COMPARED:
        if not (first / name).is_file():
            differs.append(f"{name} is missing")
        elif folders.digest_of(first / name) != manifest["files"][name]:
            differs.append(f"{name} is not what was written: it was changed afterwards")
        elif manifest["files"][name] != repeated["files"][name]:
            differs.append(_why(name, first, again, manifest, repeated))
    return Verdict(first, tuple(differs))


def _why(
    name: str, first: Path, again: Path, manifest: Mapping[str, Any], repeated: Mapping[str, Any]
) -> str:
    versions = [
        f"{each} {manifest['versions'].get(each)}, here {repeated['versions'].get(each)}"
        for each in VERSIONS
        if manifest["versions"].get(each) != repeated["versions"].get(each)
    ]
    if manifest.get("code") != repeated["code"]:
        versions.append("other code of market/ or simulator/")
    elif manifest["git"] != repeated["git"]:
        versions.append("another revision of the code")
    reason = f" (it was run with {'; '.join(versions)})" if versions else ""
    if name == folders.SUMMARY:
        try:
            keys = _unlike(folders.read_json(first / name), folders.read_json(again / name))
        except InvalidRequest:
            return f"{name} differs: it is no JSON{reason}"
        where = ", ".join(keys[:5]) or "nothing but its spelling"
        return f"{name} differs in {where}{reason}"
    return f"{name} differs{reason}"


def _unlike(one: Any, other: Any, before: str = "") -> list[str]:
    """The dotted names of what is not equal."""
    if isinstance(one, dict) and isinstance(other, dict):
        found = []
        for key in sorted(one.keys() | other.keys()):
            found += _unlike(one.get(key), other.get(key), f"{before}.{key}" if before else key)
        return found
    return [] if json.dumps(one) == json.dumps(other) else [before]


def _inputs_unchanged(manifest: Mapping[str, Any]) -> None:
    for file, digest in manifest["inputs"].items():
        if folders.digest_of(Path(file)) != digest:
            raise InvalidRequest(
                f"{file} is not the file that was replayed: its contents have changed.", "folder"
            )
