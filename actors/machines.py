"""The Macs of an embedded market: stable ids on disk, and what a demo Mac claims to be."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from pathlib import Path

from actors.nodes import provider_id_of
from market.errors import InvalidRequest
from market.fleet_file import MacSpec
from market.settings import DEMO_PROVIDER, MACS_MAX, MacSettings
from market.types import Hardware, MachineId

DEMO_CHIPS: tuple[Hardware, ...] = (
    Hardware("M4 Max", 128, 40, 16, 546.0),
    Hardware("M2", 16, 10, 8, 100.0),
    Hardware("M3 Ultra", 256, 80, 32, 819.0),
    Hardware("M4 Pro", 48, 20, 14, 273.0),
    Hardware("M1 Max", 64, 32, 10, 400.0),
    Hardware("M4", 24, 10, 10, 120.0),
)


def demo_macs(data_dir: Path, count: int) -> tuple[MacSettings, ...]:
    """`count` Macs of different chips, with the same ids at each start on the same data."""
    if not 1 <= count <= MACS_MAX:
        raise InvalidRequest(f"--macs is {count}; it must be from 1 to {MACS_MAX}.", "macs")
    chips = [DEMO_CHIPS[number % len(DEMO_CHIPS)] for number in range(count)]
    return fleet_macs(
        data_dir,
        [MacSpec(f"demo-mac-{number}", chip) for number, chip in enumerate(chips, start=1)],
    )


def fleet_macs(data_dir: Path, fleet: Sequence[MacSpec]) -> tuple[MacSettings, ...]:
    """These Macs, the n-th of them with the same id at each start on the same data."""
    if len(fleet) > MACS_MAX:
        raise InvalidRequest(f"The fleet has {len(fleet)} Macs; {MACS_MAX} at most run.", "fleet")
    ids = _ids(data_dir / "machines.json", len(fleet))
    return tuple(_mac(spec, machine) for spec, machine in zip(fleet, ids, strict=True))


def _ids(path: Path, count: int) -> list[MachineId]:
    ids = _read(path)
    missing = count - len(ids)
    if missing > 0:
        ids += [f"mac_{secrets.token_hex(12)}" for _ in range(missing)]
        path.write_text(json.dumps(ids, indent=1))
        path.chmod(0o600)
    return [MachineId(each) for each in ids[:count]]


def _read(path: Path) -> list[str]:
    if not path.exists():
        return []
    try:
        ids = json.loads(path.read_text())
        if not isinstance(ids, list) or not all(isinstance(i, str) and i for i in ids):
            raise ValueError("not a list of ids")
    except ValueError as error:
        raise InvalidRequest(
            f"{path} does not hold the machine ids of this market ({error}); restore it from a "
            "backup, or remove it to register the Macs anew.",
            "data",
        ) from error
    return ids


def _mac(spec: MacSpec, machine: MachineId) -> MacSettings:
    return MacSettings(
        machine=machine,
        provider=provider_id_of(machine),
        name=spec.name,
        owner=DEMO_PROVIDER,
        hardware=spec.hardware,
        ask_pct=spec.ask_pct,
        trust=spec.trust,
        models=spec.models,
        private=spec.private,
    )


NAMED_MAX = 4


def names_of(macs: Sequence[MacSettings]) -> str:
    """How a person reads them: "demo-mac-1 (M4 Max), demo-mac-2 (M2)"; of many, the first ones."""
    named = ", ".join(f"{mac.name} ({mac.hardware.chip})" for mac in macs[:NAMED_MAX])
    more = len(macs) - NAMED_MAX
    return f"{named} and {more} more" if more > 0 else named
