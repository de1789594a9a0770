"""Where scenarios come from: the shipped ones by name, a file, and single values set on top."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

from market.errors import InvalidRequest
from simulator.setup.fleets import fleet_in, must_be_sold
from simulator.setup.scenario import Scenario, scenario_of
from simulator.setup.tables import Path as Place
from simulator.setup.tables import Table, lines_of

SCENARIO_BYTES_MAX = 16 * 2**20
FOLDER: Final = "scenarios"
RATES: Final = ("rate_per_s", "rho")
"""The two ways to say how much is asked for, of which a workload has one."""


def shipped() -> tuple[str, ...]:
    """The names of the scenarios that come with the package, in order."""
    files = resources.files("simulator").joinpath(FOLDER).iterdir()
    return tuple(sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml")))


def load(name: str, settings: Mapping[str, str] | None = None) -> Scenario:
    """A shipped scenario by its name, or a file by its path, with single values replaced.

    Raises InvalidRequest naming file, line, key and fix.
    """
    if name in shipped():
        text = resources.files("simulator").joinpath(FOLDER, f"{name}.toml").read_text("utf-8")
        return parse(text, f"{name}.toml", None, settings)
    path = Path(name)
    if not path.suffix and not path.exists():
        raise InvalidRequest(
            f"There is no scenario {name[:60]!r}; there are {', '.join(shipped())}, or give the "
            "path of a .toml file.",
            "scenario",
        )
    return parse(_read(path), str(path), path.parent, settings)


def parse(
    text: str, source: str, folder: Path | None = None, settings: Mapping[str, str] | None = None
) -> Scenario:
    """A scenario's text. Files that it names are looked for beside it, in `folder`."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(f"{source} is not TOML: {error}.", "scenario") from error
    set_values(values, settings or {})
    lines = lines_of(text)
    _take_in_files(values, source, folder, lines)
    table = Table(values, source, (), lines)
    scenario = scenario_of(table)
    must_be_sold(table.table("fleet"))
    return scenario


def of_config(config: Mapping[str, Any], source: str) -> Scenario:
    """The scenario that a manifest tells of."""
    return scenario_of(Table(dict(config), source))


def set_values(values: dict[str, Any], settings: Mapping[str, str]) -> None:
    """Replace values, each as `set_value`. A rate takes the place of the other kind of rate; who
    sets both is left to the scenario's own checks. Who sets Macs makes them up: they must be sold.
    """
    for key in settings:
        *place, last = key.split(".")
        for other in RATES:
            if last in RATES and other != last:
                _drop(values, place, other)
    for key, text in settings.items():
        set_value(values, key, text)
    fleet = values.get("fleet")
    if isinstance(fleet, dict) and any(key.split(".")[0] == "fleet" for key in settings):
        must_be_sold(Table(fleet, "--set", ("fleet",)))


def _drop(values: dict[str, Any], place: Sequence[str], name: str) -> None:
    """Take a value out, if it is there."""
    here: Any = values
    for part in place:
        if isinstance(here, list):
            here = dict(enumerate(here)).get(int(part)) if part.isdecimal() else None
        else:
            here = here.get(part) if isinstance(here, dict) else None
    if isinstance(here, dict):
        here.pop(name, None)


def set_value(values: dict[str, Any], key: str, text: str) -> None:
    """Replace one value, `workload.0.rho = 0.7`; a number counts from 0 in a list of tables.

    What the text means is what TOML makes of it; what is no TOML is text. A key that does not
    exist is left to the scenario's own checks, which know all keys.
    """
    parts = key.split(".")
    here: Any = values
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if isinstance(here, list):
            if not part.isdecimal() or int(part) >= len(here):
                _no_such(key, f"{'.'.join(parts[:number])} has {len(here)} entries, from 0")
            if last:
                here[int(part)] = _value(text)
            else:
                here = here[int(part)]
        elif isinstance(here, dict):
            if last:
                here[part] = _value(text)
            else:
                here = here.setdefault(part, {})
        else:
            _no_such(key, f"{'.'.join(parts[:number])} is a value and holds nothing")


def _no_such(key: str, why: str) -> None:
    raise InvalidRequest(f"--set {key[:80]}: {why}.", "set")


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _take_in_files(
    values: dict[str, Any], source: str, folder: Path | None, lines: Mapping[Place, int]
) -> None:
    """Put the fleet's file into its place, and say of each trace where it is for good."""
    fleet = values.get("fleet")
    if isinstance(fleet, dict) and "file" in fleet:
        table = Table(fleet, source, ("fleet",), lines)
        path = _beside(folder, table.text("file", ""))
        if "macs" in fleet:
            table.refuse("file", "give file or [[fleet.macs]], not both.")
        macs = fleet_in(_read(path), str(path))
        values["fleet"] = {k: v for k, v in fleet.items() if k != "file"} | dict(macs)
    workloads = values.get("workload")
    for workload in workloads if isinstance(workloads, list) else []:
        if isinstance(workload, dict) and isinstance(workload.get("file"), str):
            workload["file"] = str(_beside(folder, workload["file"]).resolve())


def _beside(folder: Path | None, name: str) -> Path:
    path = Path(name).expanduser()
    return path if path.is_absolute() or folder is None else folder / path


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > SCENARIO_BYTES_MAX:
            raise InvalidRequest(f"{path} is larger than {SCENARIO_BYTES_MAX} bytes.", "scenario")
        return path.read_text("utf-8")
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}.", "scenario") from error
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path} is not UTF-8 text: {error.reason}.", "scenario") from error
