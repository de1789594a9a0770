"""Which Macs there are, as a file says it: for a simulated fleet, live or in the lab.

[[macs]]
count = 4
chip = "M4 Max"        # a name of market.hardware.CHIPS
memory_gb = 128        # left out: the largest that is sold
ask_pct = 90           # of the market's price; left out: 100
models = ["qwen3.5-27b"]  # what it may load; left out: all that is served
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from market.errors import InvalidRequest
from market.hardware import hardware_of
from market.policy.preferences import TRUST
from market.types import Hardware, ModelId

FLEET_MACS_MAX = 100_000
_KEYS = ("count", "name", "chip", "memory_gb", "ask_pct", "trust", "models", "private")


@dataclass(frozen=True, slots=True)
class MacSpec:
    """One Mac of a fleet file."""

    name: str
    hardware: Hardware
    ask_pct: int = 100
    trust: str = "basic"
    models: tuple[ModelId, ...] = ()
    private: bool = False


def parse_fleet(text: str, source: str) -> tuple[MacSpec, ...]:
    """The Macs of a fleet file. Raises InvalidRequest naming the file, the entry and the fix."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(f"{source} is not TOML: {error}.", "fleet") from error
    for key in raw:
        if key != "macs":
            raise InvalidRequest(f"{source}: unknown key {key}; it holds [[macs]] only.", "fleet")
    return fleet_of(raw.get("macs"), source)


Where = Callable[[str | None], str]
"""The place of an entry, or of one of its keys, in words."""


def fleet_of(
    entries: object, source: str, place: Callable[[int, str | None], str] | None = None
) -> tuple[MacSpec, ...]:
    """The Macs of a list of entries, as TOML or JSON gives it.

    `place` says where entry n, from 0, or one of its keys is; who knows no lines leaves it out.
    Raises InvalidRequest.
    """
    if not isinstance(entries, list) or not entries:
        raise InvalidRequest(f"{source} has no Macs: give at least one [[macs]].", "fleet")
    macs: list[MacSpec] = []
    for number, entry in enumerate(entries):
        where = _place(source, number + 1) if place is None else partial(place, number)
        if not isinstance(entry, Mapping):
            raise InvalidRequest(f"{where(None)} is not a table.", "fleet")
        macs += _entry(entry, where, len(macs))
        if len(macs) > FLEET_MACS_MAX:
            raise InvalidRequest(f"{source} has more than {FLEET_MACS_MAX} Macs.", "fleet")
    return tuple(macs)


def _place(source: str, number: int) -> Where:
    return lambda _key: f"{source}: [[macs]] number {number}"


def _entry(entry: Mapping[str, Any], where: Where, before: int) -> list[MacSpec]:
    for key in entry:
        if key not in _KEYS:
            known = ", ".join(_KEYS)
            raise InvalidRequest(f"{where(key)}: unknown key {key}; keys: {known}.", "fleet")
    count = _whole(entry, "count", 1, 1, FLEET_MACS_MAX, where)
    if "chip" not in entry:
        raise InvalidRequest(f"{where(None)} has no chip.", "fleet")
    memory = _whole(entry, "memory_gb", 0, 1, 1024, where) if "memory_gb" in entry else None
    try:
        hardware = hardware_of(str(entry["chip"]), memory)
    except InvalidRequest as error:
        raise InvalidRequest(f"{where('chip')}: {error.message}", "fleet") from error
    trust = str(entry.get("trust", TRUST[0]))
    if trust not in TRUST:
        raise InvalidRequest(f"{where('trust')}: trust must be one of {', '.join(TRUST)}.", "fleet")
    models = entry.get("models", [])
    if not isinstance(models, list) or not all(isinstance(model, str) for model in models):
        raise InvalidRequest(f"{where('models')}: models must be a list of model ids.", "fleet")
    if "models" in entry and not models:
        raise InvalidRequest(
            f"{where('models')}: models is empty; leave it out for all that is served.", "fleet"
        )
    private = entry.get("private", False)
    if type(private) is not bool:
        raise InvalidRequest(f"{where('private')}: private must be true or false.", "fleet")
    name = str(entry.get("name", hardware.chip.lower().replace(" ", "-")))
    return [
        MacSpec(
            name=f"{name}-{before + at + 1}",
            hardware=hardware,
            ask_pct=_whole(entry, "ask_pct", 100, 1, 100, where),
            trust=trust,
            models=tuple(ModelId(model) for model in models),
            private=private,
        )
        for at in range(count)
    ]


def _whole(
    entry: Mapping[str, Any], key: str, default: int, low: int, high: int, where: Where
) -> int:
    value = entry.get(key, default)
    if type(value) is not int or not low <= value <= high:
        raise InvalidRequest(
            f"{where(key)}: {key} must be a whole number from {low} to {high}, not {value!r}.",
            "fleet",
        )
    return value
