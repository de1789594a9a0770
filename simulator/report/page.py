"""The page around the plots: one file, no script, readable narrow and wide, light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Final

from simulator.report.svg import COLOURS, DASHES

_COLOURS: Final = (
    ("#0a6fb8", "#56b4e9"), ("#c2410c", "#ff9d5c"), ("#00795a", "#3ddc9c"),
    ("#a3326f", "#f08fc0"), ("#7a5c00", "#f0d050"), ("#4b4fc4", "#a5a8ff"),
    ("#5c5c5c", "#c8c8c8"), ("#8a2d0f", "#e8b090"),
)  # fmt: skip
"""Told apart by who does not see red from green, and readable on both grounds."""


def style() -> str:
    """The whole style sheet: the file beside this one, and a rule for each colour."""
    text = resources.files("simulator.report").joinpath("page.css").read_text("utf-8")
    colours = "".join(f" --c{n}: light-dark({a}, {b});" for n, (a, b) in enumerate(_COLOURS))
    rules = "".join(
        f".line.c{n} {{ stroke: var(--c{n}); }} "
        f".dot.c{n}, .bar.c{n} {{ fill: var(--c{n}); stroke: var(--c{n}); }}\n"
        for n in range(COLOURS)
    )
    return f"{text}:root {{{colours} }}\n{rules}"


def page(title: str, parts: Iterable[str]) -> str:
    """A whole document."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style()}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def head(title: str, below: str) -> str:
    return f'<header><h1>{escape(title)}</h1><p class="soft">{escape(below)}</p></header>'


def section(title: str, *parts: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def cards(values: Sequence[tuple[str, str]]) -> str:
    """Numbers to see first: (what it is, how much)."""
    inner = "".join(
        f'<div class="card"><span class="soft">{escape(name)}</span><b>{escape(value)}</b></div>'
        for name, value in values
    )
    return f'<div class="cards">{inner}</div>'


def legend(names: Sequence[str]) -> str:
    """The names of the curves, each with a piece of its line."""
    items = []
    for number, name in enumerate(names):
        dash = DASHES[number % len(DASHES)]
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        items.append(
            '<li><svg viewBox="0 0 26 8" aria-hidden="true"><polyline '
            f'class="line c{number % COLOURS}"{dashed} points="0,4 26,4"/></svg>'
            f"{escape(name)}</li>"
        )
    return f'<ul class="legend">{"".join(items)}</ul>'


def table(
    caption: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    tones: Mapping[str, str] = {},
) -> str:
    """A table; cells whose text is in `tones` get that class."""
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = "".join(
        "<tr>"
        + "".join(
            f'<th scope="row">{escape(cell)}</th>'
            if at == 0
            else f"<td{_toned(cell, tones)}>{escape(cell)}</td>"
            for at, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _toned(cell: str, tones: Mapping[str, str]) -> str:
    tone = next((tone for word, tone in tones.items() if word in cell), "")
    return f' class="{tone}"' if tone else ""


def plot(title: str, words: str, svg: str, names: Sequence[str], behind: str) -> str:
    """A plot with its sentence, its legend and the table behind it."""
    shown = legend(names) if len(names) > 1 else ""
    return (
        f"<figure><h3>{escape(title)}</h3><figcaption>{escape(words)}</figcaption>{shown}{svg}"
        f"<details><summary>Numbers</summary>{behind}</details></figure>"
    )


def plots(figures: Iterable[str]) -> str:
    return f'<div class="plots">{"".join(figures)}</div>'


def folded(title: str, text: str) -> str:
    """Text that few will open."""
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"
