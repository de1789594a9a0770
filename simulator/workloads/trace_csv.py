"""Traces as CSV: Azure's, BurstGPT's and Vidur's. Columns are found by their names."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from simulator.workloads.rows import Notes
from simulator.workloads.trace_files import Lines
from simulator.workloads.trace_places import Place
from simulator.workloads.trace_rows import EMPTY, TraceRow


@dataclass(frozen=True, slots=True)
class Columns:
    """A CSV format: the columns it must have, and those that are read where they are there."""

    time: str
    prompt: str
    output: str
    model: str = ""
    session: str = ""
    calendar: bool = False

    @property
    def needed(self) -> tuple[str, ...]:
        return self.time, self.prompt, self.output


SEPARATORS: Final = {";": '";"', "\t": "tabs", "|": '"|"'}
"""What other programs put between columns, in words; we read commas."""

CSV_FORMATS: Final = MappingProxyType(
    {
        "azure": Columns("TIMESTAMP", "ContextTokens", "GeneratedTokens", calendar=True),
        "burstgpt": Columns(
            "Timestamp", "Request tokens", "Response tokens", "Model", "Session ID"
        ),
        "vidur": Columns("arrived_at", "num_prefill_tokens", "num_decode_tokens"),
    }
)


def csv_rows(path: Path, columns: Columns, text: Lines, notes: Notes) -> Iterator[TraceRow]:
    place = Place(path)
    reader = csv.reader(place.following(text), strict=True)
    try:
        names = next(reader)
        header = {name.strip().casefold(): at for at, name in enumerate(names)}
        _check_header(place, columns, names)
        time, prompt, output = (header[name.casefold()] for name in columns.needed)
        model = header.get(columns.model.casefold(), -1)
        session = header.get(columns.session.casefold(), -1)
        for row in reader:
            if len(row) != len(names):
                place.refuse(f"it has {len(row)} columns and the header {len(names)}.")
            at_s = place.date(row[time]) if columns.calendar else place.time(row[time], 1.0)
            prompt_tokens = place.tokens(row[prompt], columns.prompt)
            output_tokens = place.tokens(row[output], columns.output)
            if not prompt_tokens or not output_tokens:
                notes[EMPTY] += 1
                continue
            yield TraceRow(
                at_s,
                prompt_tokens,
                output_tokens,
                model=place.text(row[model], columns.model) if model >= 0 else "",
                session=place.text(row[session], columns.session) if session >= 0 else "",
                line=place.line,
            )
    except csv.Error as error:
        place.refuse(f"not CSV ({error}).")


def header_of(line: str) -> list[str]:
    """The names in a CSV line, for comparing."""
    return [name.strip(' \t"').casefold() for name in line.split(",")]


def separated_otherwise(line: str) -> str | None:
    """What is wrong with a header that would be known if its columns were parted by commas."""
    known = {name.casefold() for form in CSV_FORMATS.values() for name in form.needed}
    for sign, words in SEPARATORS.items():
        if known & set(header_of(line.replace(sign, ","))) and sign in line:
            return f"its columns are separated by {words}; write it with commas."
    return None


def _check_header(place: Place, columns: Columns, names: Sequence[str]) -> None:
    """Every column that is needed is there, and every one that is read only once."""
    header = Counter(name.strip().casefold() for name in names)
    for name in filter(None, (*columns.needed, columns.model, columns.session)):
        if header[name.casefold()] > 1:
            place.refuse(f"the column {name} is there twice; remove or rename one of them.")
    missing = [name for name in columns.needed if name.casefold() not in header]
    if missing:
        place.refuse(
            separated_otherwise(",".join(names))
            or f"no column {', '.join(missing)}; the header has {', '.join(header)[:200]}. "
            "Rename its columns, or say the format with `format`."
        )
