"""The whole of a comparison, verified: its runs are those of its plan, its numbers and its page
what they come to.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from simulator.report.comparison_page import comparison_page
from simulator.results import folders
from simulator.results.summary import as_text
from simulator.results.surroundings import surroundings
from simulator.runs import cells
from simulator.runs.cells import Cell, Plan, folder_of
from simulator.runs.verdicts import Findings, Verdict

NOT_MADE_ANEW: Final = (
    "what the runs come to was not made anew, for not all of them are what they were"
)


def against_plan(plan: Plan, folder: Path) -> dict[Path, tuple[str, ...]]:
    """Each run's place, and in what its manifest is not that of a run of this plan.

    Raises InvalidRequest where there is no run.
    """
    scenarios = [plan.at(point) for point in range(len(plan.points))]
    inputs = cells.inputs_of(plan)
    found: dict[Path, tuple[str, ...]] = {}
    for point, scenario in enumerate(scenarios):
        for policy, name in enumerate(plan.names):
            for repetition, seed in enumerate(plan.seeds):
                place = folder / folder_of(plan, Cell(point, policy, repetition))
                expected = {
                    "kind": "run",
                    "scenario_hash": scenario.hash,
                    "config": json.loads(scenario.config),
                    "policy": name,
                    "seed": seed,
                    "inputs": inputs[point],
                }
                manifest = folders.read_manifest(place)
                found[place] = tuple(
                    f"the {key} in its manifest is not the comparison's: this is no run of it"
                    for key, value in expected.items()
                    if manifest.get(key) != value
                )
    return found


def whole_verdict(plan: Plan, folder: Path, manifest: Mapping[str, Any], *, sound: bool) -> Verdict:
    """Numbers and page, as written and as they come of the runs, if all of these are `sound`."""
    findings = Findings(folder, manifest)
    if manifest.get("scenario_hash") != plan.scenario.hash:
        findings.found[folders.MANIFEST] = "the scenario_hash in its manifest is not its config's"
    written = [name for name in (folders.SUMMARY, folders.REPORT) if findings.written(name)]
    if not sound:
        findings.notes.append(NOT_MADE_ANEW)
        return findings.verdict(whole=True)
    here = surroundings()
    told = functools.cache(lambda: cells.comparison_of(plan, folder, plan.repeat))
    if folders.SUMMARY in written:
        findings.made_anew(folders.SUMMARY, lambda: as_text(told()), here)
    if folders.REPORT in written:
        page = functools.partial(comparison_page, plan, folder)
        findings.made_anew(folders.REPORT, lambda: page(told(), manifest), here)
    return findings.verdict(whole=True)
