"""A measured run as a folder: the same files and columns as a simulated one.

What no client can see (waiting in the queue, loads, what the router predicted) is unknown in it,
never zero. A run that was cut off is kept and says so: its manifest is not complete.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from coster.load.drive import Generator
from coster.load.market import Seen
from market.fleet_file import MacSpec
from simulator.records import MacUsed
from simulator.report.run_page import run_page
from simulator.results import folders
from simulator.results.checks import Alarm
from simulator.results.columns import BoolArray, Requests
from simulator.results.metrics import spread
from simulator.results.parquet import read_machines, read_requests, write_machines
from simulator.results.summary import as_text, rounded, summary_of
from simulator.setup.scenario import Scenario
from simulator.world.run import Totals

LATE_S_MAX: Final = 0.05
"""How late the generator itself may send one request in a hundred before that is told."""

MISCOUNTED_MAX: Final = 0.01
SHORTER_MAX: Final = 0.01

UNSEEN: Final[Mapping[str, tuple[str, ...]]] = {
    "machines": ("losses", "loads", "loads_per_mac_hour", "loaded_gb", "loading_share"),
    "attempts": ("hedged_share",),
}
"""Parts of a summary that no client can know."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A run that has been played: on what, by whom, and how well the load was made."""

    scenario: Scenario
    seed: int
    seen: Seen
    url: str
    providers: Sequence[str]
    generator: Generator
    interrupted: bool
    notes: Mapping[str, int]


def write(folder: Path, measured: Measured, *, report: bool = True) -> dict[str, Any]:
    """Everything beside `requests.parquet`, which is there already; returns the summary."""
    scenario = measured.scenario
    requests = read_requests(folder / folders.REQUESTS)
    write_machines(folder / folders.MACHINES, machines_of(measured, requests))
    macs = read_machines(folder / folders.MACHINES)
    summary = summary_with(measured, requests, macs)
    (folder / folders.SUMMARY).write_text(as_text(summary), "utf-8")
    manifest = manifest_of(measured, folder)
    if report:
        page = run_page(scenario, summary, requests, macs, manifest)
        (folder / folders.REPORT).write_text(page, "utf-8")
        manifest["files"] = folders.digests_of(folder)
    generator = measured.generator
    timing = {"wall_s": generator.wall_s, "generator_cpu_s": generator.cpu_s}
    folders.write_json(folder / folders.TIMING, timing)
    folders.write_json(folder / folders.MANIFEST, manifest)
    return summary


def manifest_of(measured: Measured, folder: Path) -> dict[str, Any]:
    """As of a simulated run, and where it was measured. Nobody can repeat it to the byte."""
    seen = measured.seen
    inputs = folders.inputs_of(measured.scenario.config)
    told = folders.manifest_of(
        measured.scenario, seen.policy, measured.seed, folder, named=False, inputs=inputs
    )
    return {
        **told,
        "complete": not measured.interrupted,
        "live": {
            "url": measured.url,
            "models": list(seen.models),
            "fleet_known": seen.macs is not None,
            "providers": list(measured.providers),
            "notes": dict(measured.notes),
        },
    }


def machines_of(measured: Measured, requests: Requests) -> list[MacUsed]:
    """A row per Mac: what it was seen to do. Busy is while it answered one of ours.

    Of a fleet that nobody told only those that answered are known, by their public ids.
    """
    known = [mac.spec for mac in measured.seen.macs or ()]
    ended_s = _end_s(requests)
    macs = []
    for number, provider in enumerate(measured.providers):
        spec = known[number] if number < len(known) else None
        rows = (requests["mac"] == number) & requests.is_("status", "ok")
        macs.append(
            MacUsed(
                name=spec.name if spec is not None else provider,
                chip=spec.hardware.chip if spec is not None else "",
                memory_gb=spec.hardware.memory_gb if spec is not None else 0,
                ask_pct=spec.ask_pct if spec is not None else 100,
                here_s=ended_s,
                busy_s=busy_s(requests, requests["mac"] == number),
                jobs=int(rows.sum()),
                prompt_tokens=int(requests["prompt_tokens"][rows].sum()),
                cached_tokens=int(requests["cached_tokens"][rows].sum()),
                completion_tokens=int(requests["said_tokens"][rows].sum()),
                earned_nano=int(requests["provider_nano"][rows].sum()),
            )
        )
    return macs


def busy_s(requests: Requests, rows: BoolArray) -> float:
    """How long at least one of these was being answered, from its first token to its last."""
    rows = rows & np.isfinite(requests["ttft_s"]) & np.isfinite(requests["e2e_s"])
    starts = requests["at_s"][rows] + requests["ttft_s"][rows]
    ends = requests["at_s"][rows] + requests["e2e_s"][rows]
    total_s, until_s = 0.0, -np.inf
    for at in np.argsort(starts, kind="stable"):
        total_s += max(float(ends[at]) - max(float(starts[at]), until_s), 0.0)
        until_s = max(until_s, float(ends[at]))
    return total_s


def summary_with(measured: Measured, requests: Requests, macs: Sequence[MacUsed]) -> dict[str, Any]:
    """What the run comes to, with what is not known left open and the generator's own part."""
    scenario, seen = measured.scenario, measured.seen
    totals = Totals(requests=len(requests), simulated_s=_end_s(requests))
    rows = [*macs, *_placeholders(scenario.macs[len(macs) :])]
    summary = summary_of(scenario, seen.policy, measured.seed, requests, rows, totals)
    _blank(summary, seen, len(macs))
    summary["generator"] = rounded(generator_part(measured.generator))
    rung = [alarm.as_json() for alarm in generator_alarms(measured)]
    summary["alarms"] = rounded(rung) + summary["alarms"]
    return summary


def _placeholders(specs: Iterable[MacSpec]) -> list[MacUsed]:
    """Macs of the scenario that were not seen: the bounds count them by position."""
    return [MacUsed(s.name, s.hardware.chip, s.hardware.memory_gb, s.ask_pct) for s in specs]


def _blank(summary: dict[str, Any], seen: Seen, macs: int) -> None:
    for part, names in UNSEEN.items():
        for name in names:
            summary[part][name] = None
    if seen.macs is not None:
        return
    summary["machines"]["count"] = macs
    for name in summary["bounds"]:
        summary["bounds"][name] = None
    summary["checks"]["idle_while_waiting_share"] = None
    fleets = ("idle_while_waiting", "far_from_bound")
    summary["alarms"] = [each for each in summary["alarms"] if each["name"] not in fleets]
    for name in ("utilisation_mean", "utilisation_min", "utilisation_max", "idle_share"):
        summary["machines"][name] = None


def generator_part(generator: Generator) -> dict[str, Any]:
    """How well the load was made: lateness in seconds, and what the market counted otherwise."""
    sent = max(len(generator.late_s), 1)
    return {
        "late_s": spread(np.array(generator.late_s, dtype=np.float64)),
        "sent": len(generator.late_s) - generator.not_sent,
        "not_sent": generator.not_sent,
        "open_max": generator.open_max,
        "miscounted_share": generator.miscounted / sent,
        "shorter_share": generator.shorter / sent,
        "cpu_share": generator.cpu_s / generator.wall_s if generator.wall_s else None,
    }


def generator_alarms(measured: Measured) -> list[Alarm]:
    """What makes the run less than it says it is."""
    part = generator_part(measured.generator)
    late_s = part["late_s"]["p99"]
    found = [
        Alarm("interrupted", float(measured.interrupted), 0.0,
              "is how often it was cut off: it is only a part of what was to be asked"),
        Alarm("generator_late", late_s or 0.0, LATE_S_MAX,
              "seconds late was the generator itself with one request in a hundred; its times "
              "include that, so ask for less or use a quieter machine"),
        Alarm("generator_full", float(part["not_sent"]), 0.0,
              "requests were not sent: too many were under way"),
        Alarm("miscounted", part["miscounted_share"], MISCOUNTED_MAX,
              "of the prompts have another length in the market's tokens; give --tokenizer"),
        Alarm("shorter", part["shorter_share"], SHORTER_MAX,
              "of the answers ended before the length that was asked for"),
    ]  # fmt: skip
    return [alarm for alarm in found if alarm.value > alarm.limit]


def _end_s(requests: Requests) -> float:
    ends = requests["at_s"] + np.nan_to_num(requests["e2e_s"])
    return float(ends.max(initial=0.0))
