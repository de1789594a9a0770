"""The Macs of a scenario, in place or in a file of their own: what is wrong is said with its line.

Whoever makes Macs up is held to what is sold. A folder that tells of a live market's Macs is not:
those have what they say.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any

from market.errors import InvalidRequest
from market.fleet_file import MacSpec, fleet_of
from market.hardware import CHIPS
from simulator.setup.tables import Table, lines_of


def macs_of(table: Table) -> tuple[MacSpec, ...]:
    """The Macs of a table's `macs`. Raises InvalidRequest naming file, line, key and fix."""

    def place(number: int, key: str | None) -> str:
        return Table({}, table.source, (*table.path, "macs", number), table.lines).where(key)

    return fleet_of(table.values.get("macs"), table.where(), place)


def fleet_in(text: str, source: str) -> Mapping[str, Any]:
    """What a fleet's own file holds, once it is known to be right. Raises InvalidRequest."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(f"{source} is not TOML: {error}.", "fleet") from error
    table = Table(values, source, (), lines_of(text))
    table.known(("macs",))
    macs_of(table)
    must_be_sold(table)
    return values


def must_be_sold(table: Table) -> None:
    """Refuse memory that no Mac of its chip has. Whatever else is wrong is left to `macs_of`."""
    macs = table.values.get("macs")
    for number, values in enumerate(macs if isinstance(macs, list) else []):
        name = values.get("chip") if isinstance(values, Mapping) else None
        chip = CHIPS.get(name) if isinstance(name, str) else None
        if chip is not None and values.get("memory_gb", chip.memory_gb[-1]) not in chip.memory_gb:
            entry = Table(values, table.source, (*table.path, "macs", number), table.lines)
            *others, most = map(str, chip.memory_gb)
            entry.refuse(
                "memory_gb",
                f"there is no {chip.name} with {values['memory_gb']!r} GB; it has "
                f"{', '.join(others)}{' or ' if others else ''}{most} GB.",
            )
