"""Plots as SVG, made here: no script, no font and no file from elsewhere.

Colours come from the page, which has them for light and for dark; every series also has a dash
or a place of its own, so that nothing is told by colour alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final

from simulator.report.scale import Scale, drawn, linear, logarithmic, short

WIDTH: Final = 460
HEIGHT: Final = 260
LEFT, RIGHT, TOP, BOTTOM = 56, 20, 14, 40
HEADROOM: Final = 16
"""Above a plot with an axis upwards, for what it is of."""
COLOURS: Final = 8
DASHES: Final = ("", "7 3", "2 3", "9 3 2 3", "12 4", "1 4", "6 2 2 2 2 2", "4 6")
BAR_PX: Final = 16
ROWS_MAX: Final = 48

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """A named curve. `low` and `high` are where each y may lie as well."""

    name: str
    points: Sequence[Point]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Axis:
    """What is along it. `low` and `high` widen it where they are given."""

    label: str
    unit: str = ""
    log: bool = False
    low: float | None = None
    high: float | None = None


@dataclass(slots=True)
class _Canvas:
    height: float
    parts: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        self.parts.append(text)

    def text(self, x: float, y: float, words: str, anchor: str = "middle", more: str = "") -> None:
        self.add(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(words)}</text>'
        )

    def svg(self, title: str) -> str:
        body = "".join(self.parts)
        return (
            f'<svg viewBox="0 0 {WIDTH} {self.height:.0f}" role="img" '
            f'aria-label="{escape(title, quote=True)}">{body}</svg>'
        )


def _scale(axis: Axis, values: Sequence[float], first_px: float, last_px: float) -> Scale:
    known = [value for value in values if drawn(value, log=axis.log)]
    low = min([*known, *([axis.low] if axis.low is not None else [])], default=0.0)
    high = max([*known, *([axis.high] if axis.high is not None else [])], default=1.0)
    return (logarithmic if axis.log else linear)(low, high, first_px, last_px)


def _frame(canvas: _Canvas, x: Scale, y: Scale, across: Axis, up: Axis) -> None:
    bottom, top = canvas.height - BOTTOM, TOP + HEADROOM
    for tick in y.ticks:
        at = y(tick)
        canvas.add(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
        )
        canvas.text(LEFT - 6, at + 4, short(tick, up.unit if up.unit in "s%" else ""), "end")
    for tick in x.ticks:
        at = x(tick)
        canvas.add(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{bottom:.1f}"/>')
        canvas.text(at, bottom + 16, short(tick, across.unit if across.unit in "s%" else ""))
    canvas.add(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    canvas.text((LEFT + WIDTH - RIGHT) / 2, canvas.height - 6, _named(across))
    canvas.text(4, TOP - 2, _named(up), "start")


def _named(axis: Axis) -> str:
    return f"{axis.label} ({axis.unit})" if axis.unit and axis.unit not in "s%" else axis.label


def lines(
    title: str, series: Sequence[Series], across: Axis, up: Axis, *, dots: bool = False
) -> str:
    """Curves over a common axis, with bars of uncertainty where they have them."""
    canvas = _Canvas(HEIGHT + HEADROOM)
    x = _scale(across, [p[0] for s in series for p in s.points], LEFT, WIDTH - RIGHT)
    heights = [p[1] for s in series for p in s.points] + [v for s in series for v in s.low]
    heights += [v for s in series for v in s.high]
    y = _scale(up, heights, canvas.height - BOTTOM, TOP + HEADROOM)
    _frame(canvas, x, y, across, up)
    for number, each in enumerate(series):
        colour, dash = number % COLOURS, DASHES[number % len(DASHES)]
        known = [(a, b) for a, b in each.points if drawn(a, log=across.log) and drawn(b)]
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in known)
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        canvas.add(f'<polyline class="line c{colour}"{dashed} points="{path}"/>')
        for (a, _), low, high in zip(each.points, each.low, each.high, strict=False):
            canvas.add(
                f'<line class="line c{colour}" x1="{x(a):.1f}" x2="{x(a):.1f}" '
                f'y1="{y(low):.1f}" y2="{y(high):.1f}"/>'
            )
        for a, b in known if dots else ():
            tip = f"{each.name}: {short(a, across.unit)}, {short(b, up.unit)}"
            canvas.add(
                f'<circle class="dot c{colour}" cx="{x(a):.1f}" cy="{y(b):.1f}" r="3.5">'
                f"<title>{escape(tip)}</title></circle>"
            )
    return canvas.svg(title)


def bars(title: str, rows: Sequence[tuple[str, float]], axis: Axis) -> str:
    """One bar per row, its name on the left and its value behind it."""
    rows = rows[:ROWS_MAX]
    height = TOP + BOTTOM + len(rows) * BAR_PX
    canvas = _Canvas(height)
    left = LEFT + 70
    x = _scale(axis, [0.0, *(value for _, value in rows)], left, WIDTH - RIGHT - 46)
    for tick in x.ticks:
        at = x(tick)
        canvas.add(
            f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>'
        )
        canvas.text(at, height - BOTTOM + 16, short(tick, axis.unit if axis.unit in "s%" else ""))
    for number, (name, value) in enumerate(rows):
        top = TOP + number * BAR_PX
        canvas.text(left - 6, top + 12, name, "end")
        width = max(x(value) - left, 0.0) if drawn(value) else 0.0
        canvas.add(
            f'<rect class="bar c0" x="{left}" y="{top + 2}" width="{width:.1f}" '
            f'height="{BAR_PX - 4}"><title>{escape(name)}: {short(value, axis.unit)}</title></rect>'
        )
        canvas.text(left + width + 4, top + 12, short(value, axis.unit), "start")
    canvas.text((left + WIDTH - RIGHT) / 2, height - 6, _named(axis))
    return canvas.svg(title)


def heat(
    title: str,
    rows: Sequence[tuple[str, Sequence[float]]],
    across: Axis,
    tip: Callable[[float], str],
) -> str:
    """One strip per row, the stronger the more; the strongest colour is the most of all."""
    rows = rows[:ROWS_MAX]
    height = TOP + BOTTOM + len(rows) * BAR_PX
    canvas = _Canvas(height)
    left = LEFT + 70
    most = max((value for _, strip in rows for value in strip), default=0.0) or 1.0
    x = Scale(across.low or 0.0, across.high or 1.0, left, WIDTH - RIGHT)
    for number, (name, strip) in enumerate(rows):
        top = TOP + number * BAR_PX
        canvas.text(left - 6, top + 12, name, "end")
        wide = (WIDTH - RIGHT - left) / max(len(strip), 1)
        for at, value in enumerate(strip):
            if value > 0:
                canvas.add(
                    f'<rect class="cell" x="{left + at * wide:.1f}" y="{top + 1}" '
                    f'width="{wide + 0.2:.1f}" height="{BAR_PX - 2}" '
                    f'fill-opacity="{0.08 + 0.92 * value / most:.2f}">'
                    f"<title>{escape(name)}: {escape(tip(value))}</title></rect>"
                )
    for tick in linear(x.low, x.high, left, WIDTH - RIGHT).ticks:
        if tick <= x.high:
            canvas.text(x(tick), height - BOTTOM + 16, short(tick, across.unit))
    canvas.text((left + WIDTH - RIGHT) / 2, height - 6, across.label)
    return canvas.svg(title)


@dataclass(frozen=True, slots=True)
class Range:
    """A value between two ends, all three known or none: a row of `ranges`."""

    name: str
    mean: float
    low: float | None
    high: float | None
    tone: str = ""


def ranges(title: str, rows: Sequence[Range], axis: Axis) -> str:
    """A dot with its interval per row, and a line at zero: what crosses it is not established."""
    rows = rows[:ROWS_MAX]
    height = TOP + BOTTOM + len(rows) * (BAR_PX + 4)
    canvas = _Canvas(height)
    left = LEFT + 84
    ends = [v for r in rows for v in (r.mean, r.low, r.high) if v is not None]
    x = _scale(axis, [0.0, *ends], left, WIDTH - RIGHT)
    for tick in x.ticks:
        at = x(tick)
        kind = "axis" if abs(tick) < 1e-12 else "grid"
        canvas.add(
            f'<line class="{kind}" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>'
        )
        canvas.text(at, height - BOTTOM + 16, short(tick, axis.unit if axis.unit in "s%" else ""))
    for number, row in enumerate(rows):
        middle = TOP + number * (BAR_PX + 4) + 9
        canvas.text(left - 6, middle + 4, row.name, "end")
        tip = f"{row.name}: {short(row.mean, axis.unit)}"
        if row.low is not None and row.high is not None:
            tip += f" ({short(row.low, axis.unit)} to {short(row.high, axis.unit)})"
            canvas.add(
                f'<line class="range {row.tone}" x1="{x(row.low):.1f}" x2="{x(row.high):.1f}" '
                f'y1="{middle}" y2="{middle}"/>'
            )
        canvas.add(
            f'<circle class="dot {row.tone}" cx="{x(row.mean):.1f}" cy="{middle}" r="4">'
            f"<title>{escape(tip)}</title></circle>"
        )
    canvas.text((left + WIDTH - RIGHT) / 2, height - 6, _named(axis))
    return canvas.svg(title)
