"""The page around the plots: one file, no script, readable narrow and wide, light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Final

from simulator.report.svg import COLOURS, DASHES

_COLOURS: Final = (
    ("#0a6fb8", "#56b4e9"), ("#c2410c", "#ff9d5c"), ("#00795a", "#3ddc9c"),
    ("#a3326f", "#f08fc0"), ("#7a5c00", "#f0d050"), ("#4b4fc4", "#a5a8ff"),
    ("#5c5c5c", "#c8c8c8"), ("#8a2d0f", "#e8b090"),
)  # fmt: skip
"""Told apart by who does not see red from green, and readable on both grounds."""

STYLE: Final = (
    """
:root { color-scheme: light dark;
 --ground: light-dark(#fcfcfb, #16181b); --card: light-dark(#fff, #1e2125);
 --ink: light-dark(#1b1d20, #e6e7e9); --soft: light-dark(#5b6068, #a3a9b2);
 --line: light-dark(#dfe2e6, #343940); --good: light-dark(#00693e, #4ade9c);
 --bad: light-dark(#b42318, #ff8f85);
"""
    + "".join(f" --c{n}: light-dark({day}, {night});" for n, (day, night) in enumerate(_COLOURS))
    + """ }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 76rem; background: var(--ground);
 color: var(--ink); font: 16px/1.5 system-ui, sans-serif; font-variant-numeric: tabular-nums; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 0 0 .25rem; }
p { margin: .25rem 0 .75rem; max-width: 70ch; } .soft { color: var(--soft); }
.cards { display: grid; gap: .6rem; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
 padding: .5rem .75rem; }
.card b { display: block; font-size: 1.25rem; font-weight: 600; }
.plots { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
 padding: .75rem; min-width: 0; }
figcaption { color: var(--soft); font-size: .9rem; }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--soft); font: 12.5px system-ui, sans-serif; }
.grid { stroke: var(--line); } .axis { stroke: var(--soft); }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; } .range { stroke-width: 2.5; }
.cell { fill: var(--c0); } .range, .dot { stroke: var(--c0); fill: var(--c0); }
.range.good, .dot.good { stroke: var(--good); fill: var(--good); }
.range.bad, .dot.bad { stroke: var(--bad); fill: var(--bad); }
.range.open, .dot.open { stroke: var(--soft); fill: var(--soft); }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; padding: 0; margin: .25rem 0;
 list-style: none; font-size: .85rem; }
.legend svg { width: 26px; display: inline-block; vertical-align: middle; margin-right: .35rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; margin: .25rem 0; }
caption { text-align: left; color: var(--soft); }
th, td { padding: .2rem .6rem; border-bottom: 1px solid var(--line); text-align: right;
 white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } thead th { color: var(--soft); font-weight: 500; }
summary { cursor: pointer; color: var(--soft); padding: .6rem 0; }
ul.alarms { list-style: none; padding: 0; margin: .5rem 0; }
ul.alarms li { border-left: .3rem solid var(--bad); background: var(--card); padding: .4rem .75rem;
 margin: .3rem 0; }
.good { color: var(--good); } .bad { color: var(--bad); }
pre { overflow-x: auto; background: var(--card); border: 1px solid var(--line); padding: .75rem;
 border-radius: .5rem; font-size: .85rem; }
"""
    + "".join(
        f".line.c{n} {{ stroke: var(--c{n}); }} "
        f".dot.c{n}, .bar.c{n} {{ fill: var(--c{n}); stroke: var(--c{n}); }}\n"
        for n in range(COLOURS)
    )
)


def page(title: str, parts: Iterable[str]) -> str:
    """A whole document."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
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
    caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]], tones: Mapping[str, str] = {}
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
