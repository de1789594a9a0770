"""Reading a table of a scenario strictly: every key known, every value in its range.

What is wrong is said with the file, the line where it can be found, the key and the fix.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from market.errors import InvalidRequest

Path = tuple[str | int, ...]
"""Where a value is: keys of tables and positions in lists of tables."""

_HEADER = re.compile(r"^\s*(\[\[?)\s*([\w.\-\"' ]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"^\s*([\w\-]+(?:\.[\w\-]+)*)\s*=")


def lines_of(text: str) -> dict[Path, int]:
    """The line on which each key and table of a TOML text begins.

    Keys inside inline tables have none: what is wrong there is told by the line they are in.
    """
    found: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    here: Path = ()
    for number, line in enumerate(text.splitlines(), start=1):
        header = _HEADER.match(line)
        if header is not None:
            names = tuple(part.strip().strip("\"'") for part in header[2].split("."))
            here = _resolved(names[:-1], counts) + names[-1:]
            if header[1] == "[[":
                counts[here] = counts.get(here, -1) + 1
                here = (*here, counts[here])
            found.setdefault(here, number)
            continue
        key = _KEY.match(line)
        if key is not None:
            found.setdefault(here + tuple(key[1].split(".")), number)
    return found


def _resolved(names: tuple[str, ...], counts: Mapping[Path, int]) -> Path:
    """A dotted name, with the latest position wherever it names a list of tables."""
    path: Path = ()
    for name in names:
        path = (*path, name)
        if path in counts:
            path = (*path, counts[path])
    return path


TEXTS: Final[Mapping[str, str]] = {
    r"[\w.\-]{1,60}": "1 to 60 letters, digits, '_', '.' or '-'",
    r"[\w.\-]{1,24}": "1 to 24 letters, digits, '_', '.' or '-'",
    r"[\w\-]{1,60}": "1 to 60 letters, digits, '_' or '-'",
    r".{1,200}": "a line of 1 to 200 characters",
    r".{0,300}": "a line of at most 300 characters",
    r"[^\x00]{1,4096}": "the path of a file",
}
"""In words, what texts must look like."""


@dataclass(frozen=True, slots=True)
class Table:
    """One table of a file. The readers raise InvalidRequest; `done` refuses unknown keys."""

    values: Mapping[str, Any]
    source: str
    path: Path = ()
    lines: Mapping[Path, int] = field(default_factory=dict)

    def where(self, key: str | None = None) -> str:
        """`demo.toml line 7, workload.0.rho`. What has no line of its own, as it is in a table
        within a line or was left out, has that of the nearest table around it.
        """
        path = self.path if key is None else (*self.path, key)
        above = (path[:length] for length in range(len(path), 0, -1))
        line = next((self.lines[each] for each in above if each in self.lines), None)
        name = ".".join(str(part) for part in path)
        place = self.source if line is None else f"{self.source} line {line}"
        return f"{place}, {name}" if name else place

    def refuse(self, key: str | None, why: str) -> NoReturn:
        raise InvalidRequest(f"{self.where(key)}: {why}", "scenario")

    def known(self, keys: Iterable[str]) -> None:
        """Refuse every key that is not one of these."""
        known = tuple(keys)
        for key in self.values:
            if key not in known:
                self.refuse(key, f"unknown key; there are {', '.join(known)}.")

    def only_json(self) -> None:
        """Refuse the first value, however deep, that JSON does not have."""
        for path, value in _leaves(self.values, self.path):
            if _is_odd(value):
                Table({}, self.source, path[:-1], self.lines).refuse(
                    str(path[-1]), f"a date, nan or inf has no meaning in a scenario: {value}."
                )

    def table(self, key: str) -> Table:
        """A table below this one; an empty one where it is left out."""
        value = self.values.get(key, {})
        if not isinstance(value, Mapping):
            self.refuse(key, f"it must be a table, not {_shown(value)}.")
        return Table(value, self.source, (*self.path, key), self.lines)

    def tables(self, key: str) -> list[Table]:
        """The tables of a list, none where it is left out."""
        value = self.values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(each, Mapping) for each in value):
            self.refuse(key, f"it must be a list of tables, [[{key}]], not {_shown(value)}.")
        return [
            Table(each, self.source, (*self.path, key, number), self.lines)
            for number, each in enumerate(value)
        ]

    def number(
        self, key: str, default: float | None, low: float, high: float, unit: str = ""
    ) -> float | None:
        """A number in its range; integers are numbers too."""
        if key not in self.values:
            return default
        value = self.values[key]
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(key, f"it must be a number{_in(unit)}, not {_shown(value)}.")
        if not low <= value <= high:
            self.refuse(key, f"it must be from {low:g} to {high:g}{_in(unit)}, not {value!r}.")
        return float(value)

    def at_least(self, key: str, default: float, low: float, high: float, unit: str = "") -> float:
        """Like `number`, with a default that is one."""
        value = self.number(key, default, low, high, unit)
        assert value is not None
        return value

    def whole(self, key: str, default: int | None, low: int, high: int) -> int | None:
        """A whole number in its range; 1e6 is one."""
        value = self.number(key, None, low, high)
        if value is None:
            return default
        if not value.is_integer():
            self.refuse(key, f"it must be a whole number, not {value!r}.")
        return int(value)

    def text(self, key: str, default: str, pattern: str = r".{1,200}") -> str:
        value = self.values.get(key, default)
        if not isinstance(value, str) or (
            key in self.values and re.fullmatch(pattern, value) is None
        ):
            words = TEXTS.get(pattern) or f"one of {', '.join(pattern.split('|'))}"
            self.refuse(key, f"it must be {words}, not {_shown(value)}.")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            self.refuse(key, f"it must be true or false, not {_shown(value)}.")
        return value


def _is_odd(value: object) -> bool:
    """A date, or a number that is none."""
    if isinstance(value, float):
        return not math.isfinite(value)
    return not isinstance(value, str | int | None)


def _leaves(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """Whatever is no table and no list, with its place."""
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield from _leaves(below, (*path, key))
    elif isinstance(value, list):
        for number, below in enumerate(value):
            yield from _leaves(below, (*path, number))
    else:
        yield path, value


def _in(unit: str) -> str:
    return f" of {unit}" if unit else ""


def _shown(value: object) -> str:
    return repr(value)[:60]
