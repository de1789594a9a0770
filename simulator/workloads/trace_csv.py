"""Traces as CSV: Azure's, BurstGPT's and Vidur's. Columns are found by their names."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
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
        _check_header(place, columns, header)
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


def _check_header(place: Place, columns: Columns, header: Mapping[str, int]) -> None:
    missing = [name for name in columns.needed if name.casefold() not in header]
    if missing:
        place.refuse(
            f"no column {', '.join(missing)}; the header has {', '.join(header)[:200]}. "
            "Rename its columns, or say the format with `format`."
        )
