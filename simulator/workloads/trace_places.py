"""Where a trace's reader is, and what it makes of a field: every refusal names file and line."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NoReturn

from simulator.workloads.trace_files import Lines, refuse

TOKENS_MAX = 10_000_000
TIME_S_MAX = 1e11
"""Seconds: 3,000 years. Even a calendar's seconds are below it."""

TEXT_MAX = 100
"""Characters of a name: what the ledger takes for an account's."""
EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""Near enough that a time of our days is exact to a tenth of a microsecond."""


class Place:
    """Where a reader is, and what it makes of a field. Refuses with the line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.line = 0

    def refuse(self, why: str) -> NoReturn:
        refuse(self.path, self.line, why)

    def following(self, text: Lines) -> Iterator[str]:
        for number, line in text:
            self.line = number
            yield line

    def number(self, value: str, name: str) -> float:
        """A field of a CSV file: a finite number from 0."""
        try:
            number = float(value) if "_" not in value else math.nan
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            self.refuse(f"{name} is no number: {value[:40]!r}. Correct or remove the row.")
        return number

    def time(self, value: str | float, unit_s: float, name: str = "the time") -> float:
        number = self.number(value, name) if isinstance(value, str) else value
        if not 0.0 <= number * unit_s <= TIME_S_MAX:
            self.refuse(f"{name} must be from 0, not {number!r}.")
        return number * unit_s

    def date(self, value: str) -> float:
        """A time of the calendar, UTC where it names no zone; in seconds since 2000."""
        try:
            moment = datetime.fromisoformat(value.strip())
        except ValueError:
            self.refuse(f"the time is no date like 2023-11-16 18:17:03.97: {value[:40]!r}.")
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return (moment - EPOCH).total_seconds()

    def tokens(self, value: str, name: str) -> int:
        number = self.number(value, name)
        if not 0 <= number <= TOKENS_MAX or not number.is_integer():
            self.refuse(f"{name} must be a whole number from 0 to {TOKENS_MAX}, not {number!r}.")
        return int(number)

    def text(self, value: str, name: str) -> str:
        value = value.strip()
        if len(value) > TEXT_MAX or not value.isprintable():
            self.refuse(f"{name} must be at most {TEXT_MAX} printable characters.")
        return value
