"""Is a folder what its manifest says? Run it again and compare the files, byte for byte.

The page of a run and the numbers and the page of a comparison are made anew, too: of what the
repetitions gave, so that no edit of theirs is believed, whatever the manifest says.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from market.errors import InvalidRequest
from simulator.report.run_page import run_page
from simulator.results import folders
from simulator.results.parquet import read_machines, read_requests
from simulator.runs.executors import Executor, LocalProcesses
from simulator.runs.experiment import plan_of
from simulator.runs.tasks import WORLD, Task
from simulator.runs.verdicts import Findings, Verdict, otherwise
from simulator.runs.verify_whole import against_plan, whole_verdict
from simulator.setup.scenario import canonical
from simulator.setup.scenario_files import of_config


def verify(
    folder: Path,
    *,
    cells: int | None = None,
    executor: Executor | None = None,
    world: str = WORLD,
) -> list[Verdict]:
    """Repeat a run, or each run of a comparison (`cells` of them, evenly chosen); of the others
    only what is amiss is told. The last verdict of a comparison is on the whole.

    Raises InvalidRequest for what cannot be repeated: it is not complete, a policy was somebody's
    own function, or a file that a workload reads has changed.
    """
    manifest = folders.read_manifest(folder)
    _check_repeatable(folder, manifest)
    executor = executor or LocalProcesses()
    if manifest["kind"] == "run":
        return _repeat([folder], {}, executor, world)
    plan = plan_of(manifest, str(folder))
    plan.check_numbers()
    found = against_plan(plan, folder)
    verdicts = _repeat(_chosen(list(found), cells), found, executor, world)
    repeated = {verdict.folder for verdict in verdicts}
    for place in found:
        if place not in repeated:
            findings = Findings(place, folders.read_manifest(place))
            for name in _promised(findings):
                findings.written(name)
            verdict = findings.verdict(before=found[place])
            verdicts += [] if verdict.same else [verdict]
    sound = all(verdict.same for verdict in verdicts)
    return [*verdicts, whole_verdict(plan, folder, manifest, sound=sound)]


def _check_repeatable(folder: Path, manifest: Mapping[str, Any]) -> None:
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


def _chosen(places: Sequence[Path], cells: int | None) -> list[Path]:
    if cells is None or cells >= len(places):
        return list(places)
    step = len(places) / max(cells, 1)
    return [places[int(number * step)] for number in range(max(cells, 1))]


def _repeat(
    places: Sequence[Path], found: Mapping[Path, tuple[str, ...]], executor: Executor, world: str
) -> list[Verdict]:
    """Run these again; `found` is what is known of them already."""
    with tempfile.TemporaryDirectory(prefix="coster-verify-") as scratch:
        tasks = [
            _task(place, Path(scratch) / str(number), world) for number, place in enumerate(places)
        ]
        verdicts: dict[int, Verdict] = {}
        for number, done in executor.run(tasks):
            findings = _compared(places[number], done.folder)
            verdicts[number] = findings.verdict(before=found.get(places[number], ()))
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


def _promised(findings: Findings) -> tuple[str, ...]:
    """The files of a run that are to be there; few runs of a comparison have a page."""
    told = (findings.manifest["files"], {path.name for path in findings.folder.iterdir()})
    page = any(folders.REPORT in each for each in told)
    return folders.DIGESTED if page else folders.COMPARED


def _compared(first: Path, again: Path) -> Findings:
    """What differs between a folder and its repetition."""
    findings = Findings(first, folders.read_manifest(first))
    repeated = folders.read_manifest(again)
    names = _promised(findings)
    for name in names:
        if not findings.written(name) or name == folders.REPORT:
            continue
        if folders.digest_of(first / name) != repeated["files"][name]:
            summary = name == folders.SUMMARY
            where = findings.where(folders.read_json(again / name)) if summary else ""
            why = otherwise(findings.manifest, repeated)
            findings.found[name] = f"{name} differs{where}{why}"
    if folders.REPORT in names and not findings.found:
        findings.made_anew(folders.REPORT, lambda: _page(again, findings.manifest), repeated)
    return findings


def _page(again: Path, manifest: Mapping[str, Any]) -> str:
    """The page of what a repetition gave, under the words of the first manifest."""
    return run_page(
        of_config(manifest["config"], "the manifest"),
        folders.read_json(again / folders.SUMMARY),
        read_requests(again / folders.REQUESTS),
        read_machines(again / folders.MACHINES),
        manifest,
    )


def _inputs_unchanged(manifest: Mapping[str, Any]) -> None:
    for file, digest in manifest["inputs"].items():
        if folders.digest_of(Path(file)) != digest:
            raise InvalidRequest(
                f"{file} is not the file that was replayed: its contents have changed.", "folder"
            )
