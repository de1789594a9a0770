"""The Macs of an embedded market: stable ids on disk, and what a demo Mac claims to be."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from pathlib import Path

from actors.nodes import provider_id_of
from market.errors import InvalidRequest
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
    path = data_dir / "machines.json"
    ids = _read(path)
    missing = count - len(ids)
    if missing > 0:
        ids += [f"mac_{secrets.token_hex(12)}" for _ in range(missing)]
        path.write_text(json.dumps(ids, indent=1))
        path.chmod(0o600)
    return tuple(_mac(number, MachineId(ids[number])) for number in range(count))


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


def _mac(number: int, machine: MachineId) -> MacSettings:
    return MacSettings(
        machine=machine,
        provider=provider_id_of(machine),
        name=f"demo-mac-{number + 1}",
        owner=DEMO_PROVIDER,
        hardware=DEMO_CHIPS[number % len(DEMO_CHIPS)],
    )


def names_of(macs: Sequence[MacSettings]) -> str:
    """How a person reads them: "demo-mac-1 (M4 Max), demo-mac-2 (M2)"."""
    return ", ".join(f"{mac.name} ({mac.hardware.chip})" for mac in macs)
