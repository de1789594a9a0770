"""Whether a measured run and a simulated one are of the same load on the same Macs.

A calibration of what does not belong together looks as sound as any other, so it is refused, or
said what differs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from market.errors import InvalidRequest
from simulator.results import folders
from simulator.setup.scenario_files import of_config

HOW: Final = "coster sim calibrate SIM_FOLDER --real FOLDER"
NEVER_COMPARED: Final = ("file", "max_tokens", "name")
"""Of a workload: where a trace lies does not matter, since its digest is compared, and a live
load always asks for exact lengths, which is only said."""


def check_side(folder: Path, manifest: Mapping[str, Any], *, measured: bool) -> None:
    """Raise InvalidRequest when a folder is on the wrong side."""
    if ("live" in manifest) == measured:
        return
    why = (
        "was simulated; --real wants what `coster loadgen` measured on a running market"
        if measured
        else "was measured, and is no simulation; it belongs behind --real"
    )
    raise InvalidRequest(f"{folder} {why}: {HOW}.", "real" if measured else "folder")


def unlike(real: Path, simulated: Path) -> list[str]:
    """What differs between the two of a pair and may be why their numbers do.

    Raises InvalidRequest when they are of other models or another workload.
    """
    one, other = (folders.read_manifest(folder) for folder in (real, simulated))
    for key in ("models", "workload"):
        if _compared(one, key) != _compared(other, key):
            raise InvalidRequest(
                f"{real} and {simulated} are not of the same load: their {key} differ. Simulate "
                "the scenario that was measured, with the same --set.",
                "folder",
            )
    if sorted(one["inputs"].values()) != sorted(other["inputs"].values()):
        raise InvalidRequest(
            f"{real} and {simulated} are of different traces, or of one that was changed between "
            "them. Simulate the one that was measured.",
            "folder",
        )
    found = [_fleets(one, other, str(real), str(simulated))]
    if one["seed"] != other["seed"]:
        found.append(f"the seeds are {one['seed']} and {other['seed']}: other requests of a kind")
    if _lengths(one) != _lengths(other):
        found.append('max_tokens differs; simulate with max_tokens = "exact"')
    return [each for each in found if each]


def _compared(manifest: Mapping[str, Any], key: str) -> Any:
    value = manifest["config"][key]
    if key == "models":
        return sorted(value)
    return [{k: v for k, v in table.items() if k not in NEVER_COMPARED} for table in value]


def _lengths(manifest: Mapping[str, Any]) -> list[Any]:
    return [table.get("max_tokens") for table in manifest["config"]["workload"]]


def _fleets(one: Mapping[str, Any], other: Mapping[str, Any], real: str, simulated: str) -> str:
    """Which Macs only one side has; nothing where they are the same."""
    if not one["live"]["fleet_known"]:
        return "the fleet is not known: nobody told of the market's Macs when it was measured"
    macs = [_macs(manifest, source) for manifest, source in ((one, real), (other, simulated))]
    only = [_named(macs[0] - macs[1]), _named(macs[1] - macs[0])]
    if only == ["none", "none"]:
        return ""
    return f"the fleets differ: only measured {only[0]}, only simulated {only[1]}"


def _macs(manifest: Mapping[str, Any], source: str) -> Counter[str]:
    scenario = of_config(manifest["config"], source)
    return Counter(
        f"{spec.hardware.chip} {spec.hardware.memory_gb} GB with {scenario.slots} slots"
        for spec in scenario.macs
    )


def _named(macs: Counter[str]) -> str:
    return ", ".join(f"{count} × {mac}" for mac, count in sorted(macs.items())) or "none"
