"""What commands print for people: tables that fit the terminal, and texts that cannot harm it.

A Mac chooses its name and its reasons, and a terminal obeys control characters; so everything
that comes from elsewhere goes through `plain` before it is shown.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TextIO

from coster.output import styled

UNSEEN_COLUMNS = 120
"""Taken where the output is no terminal."""

COLUMNS_MIN = 40
"""Narrower terminals get this much, and wrap it themselves."""

TEXT_MIN = 8
"""No column of text is cut shorter."""

GAP = "  "
NOTHING = "–"
THE_SAME = "the same"

Cell = str | tuple[str, str]
"""A text, or a text and the style it is shown in."""


@dataclass(frozen=True, slots=True)
class Column:
    """`right` aligns numbers. Where there is too little room, the column with the highest `drop`
    goes first; 0 stays. A longer text than `most` is cut.
    """

    title: str
    right: bool = False
    drop: int = 0
    most: int = 48


def width() -> int:
    """Characters in a line."""
    return max(shutil.get_terminal_size((UNSEEN_COLUMNS, 24)).columns, COLUMNS_MIN)


def plain(text: object) -> str:
    """On one line and without control characters."""
    said = " ".join(str(text).split())
    return "".join(c if c.isprintable() else "?" for c in said)


def cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: max(most - 1, 0)]}…"


def print_table(
    out: TextIO,
    columns: Sequence[Column],
    rows: Sequence[Sequence[Cell]],
    *,
    indent: str = "",
    notes: Sequence[str] = (),
) -> None:
    """The rows under their titles. `notes` (one per row, "" for none) are wrapped beneath; one that
    says the same as the one before it only says so.
    """
    if not rows:
        return
    room = width() - len(indent)
    texts = [[plain(_text(cell)) for cell in row] for row in rows]
    widths = _fitted(columns, texts, room)
    shown = [at for at, wide in enumerate(widths) if wide]
    titles: list[Cell] = [(column.title, "dim") for column in columns]
    _line(out, columns, titles, [c.title for c in columns], widths, shown, indent)
    before = ""
    for row, text, note in zip(rows, texts, notes or [""] * len(rows), strict=True):
        _line(out, columns, row, text, widths, shown, indent)
        if note:
            print_text(out, THE_SAME if note == before else note, indent=f"{indent}    ")
            before = note


def _text(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell[0]


def _fitted(columns: Sequence[Column], texts: Sequence[Sequence[str]], room: int) -> list[int]:
    """Characters of each column; 0 for one that has no room. An empty column needs none."""
    widths = []
    for at, column in enumerate(columns):
        longest = max((len(row[at]) for row in texts), default=0)
        widths.append(min(max(longest, len(column.title)), column.most) if longest else 0)
    while _needed(widths) > room:
        droppable = [at for at, c in enumerate(columns) if c.drop and widths[at]]
        if not droppable:
            break
        widths[max(droppable, key=lambda at: columns[at].drop)] = 0
    left_over = _needed(widths) - room
    for at in sorted(range(len(widths)), key=lambda at: -widths[at]):
        if left_over > 0 and widths[at] > TEXT_MIN and not columns[at].right:
            less = min(left_over, widths[at] - TEXT_MIN)
            widths[at] -= less
            left_over -= less
    return widths


def _needed(widths: Sequence[int]) -> int:
    shown = [wide for wide in widths if wide]
    return sum(shown) + len(GAP) * max(len(shown) - 1, 0)


def _line(
    out: TextIO,
    columns: Sequence[Column],
    row: Sequence[Cell],
    texts: Sequence[str],
    widths: Sequence[int],
    shown: Sequence[int],
    indent: str,
) -> None:
    parts = []
    for at in shown:
        text = cut(texts[at], widths[at])
        text = text.rjust(widths[at]) if columns[at].right else text.ljust(widths[at])
        cell = row[at]
        if at == shown[-1]:
            text = text.rstrip()
        parts.append(text if isinstance(cell, str) else styled(text, cell[1], out))
    out.write(f"{indent}{GAP.join(parts).rstrip()}\n")


def print_text(out: TextIO, text: str, *, indent: str = "", style: str = "") -> None:
    """Words, wrapped to the terminal."""
    wrapped = textwrap.wrap(
        plain(text), max(width() - len(indent), 20), break_on_hyphens=False
    ) or [""]
    for line in wrapped:
        out.write(f"{indent}{styled(line, style, out) if style else line}\n")


def joined(parts: Iterable[str]) -> str:
    """Facts side by side."""
    return " · ".join(part for part in parts if part)
