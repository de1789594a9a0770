"""The formats of traces, and the first lines that tell which.

Whatever a row says must make sense: a missing column, a number that is none, a time below zero
is refused with its line. Only what no market would have had is passed over, and counted: rows
without a prompt or without an answer, which is how failed requests are written down.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Final

from simulator.workloads.rows import Notes
from simulator.workloads.trace_csv import CSV_FORMATS, csv_rows, header_of, separated_otherwise
from simulator.workloads.trace_files import lines, refuse
from simulator.workloads.trace_json import json_rows
from simulator.workloads.trace_rows import TraceRow

JSON_LINES: Final = "mooncake"
FORMATS: Final = (JSON_LINES, *CSV_FORMATS)
"""Our own is Mooncake's with more fields: one reader."""


def read(path: Path, form: str, notes: Notes) -> Iterator[TraceRow]:
    """The rows of a trace, in the file's order. `form` is one of `FORMATS`, or "auto".

    Raises InvalidRequest with file, line and fix.
    """
    text = lines(path)
    first = next(text, None)
    if first is None:
        refuse(path, None, "is empty; a trace has at least one request.")
    if form == "auto":
        form = _told(path, *first)
    whole = chain([first], text)
    if form == JSON_LINES:
        yield from json_rows(path, whole, notes)
    else:
        yield from csv_rows(path, CSV_FORMATS[form], whole, notes)


def _told(path: Path, number: int, line: str) -> str:
    """Which format the first line is of: for CSV the one whose columns it has the most of, so
    that what is missing of it can be said.
    """
    if line.startswith("{"):
        return JSON_LINES
    header = set(header_of(line))
    there = {
        form: len(header & {name.casefold() for name in columns.needed})
        for form, columns in CSV_FORMATS.items()
    }
    nearest = max(there, key=lambda form: there[form])
    if not there[nearest]:
        headers = "; ".join(",".join(columns.needed) for columns in CSV_FORMATS.values())
        refuse(
            path,
            number,
            separated_otherwise(line)
            or f"neither JSON lines nor a header that is known: {headers}.",
        )
    return nearest
