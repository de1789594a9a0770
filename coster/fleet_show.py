"""`coster fleet` for people: one line a Mac, and beneath it what keeps it from earning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from coster.table import NOTHING, Cell, Column, cut, joined, plain, print_table, print_text
from market.verdicts import span

ROWS = 30
"""Macs shown before the rest is only counted; the worst come first."""

REASON_CHARS_MAX = 300
STYLES = {"EARNING": "green", "REDUCED": "yellow", "NOT EARNING": "red", "OFFLINE": "red"}
COLUMNS = (
    Column("mac", most=28),
    Column("verdict"),
    Column("models", most=52),
    Column("busy", right=True, drop=2),
    Column("tok/s", right=True, drop=4),
    Column("per req", right=True, drop=5),
    Column("chip", drop=3, most=20),
    Column("up", right=True, drop=6),
    Column("ask", right=True, drop=7),
    Column("trust", drop=8),
    Column("id", drop=9),
)


def print_fleet(out: TextIO, answer: Mapping[str, Any], *, sick: bool, every: bool) -> None:
    """The sums, then the Macs."""
    macs = answer["macs"]
    print_text(out, summary(answer), style="bold")
    if answer["rebuilding"]:
        print_text(out, "The router has just started: Macs still declare themselves.")
    if not macs:
        none = "Every Mac earns." if sick and answer["verdicts"] else "No Mac has come yet."
        print_text(out, none)
        return
    shown = macs if every else macs[:ROWS]
    rows = [_row(mac) for mac in shown]
    print_table(out, COLUMNS, rows, notes=[_note(mac) for mac in shown])
    if len(shown) < len(macs):
        rest = macs[len(shown) :]
        words = _counts({word: sum(m["verdict"] == word for m in rest) for word in STYLES})
        print_text(out, f"… and {len(rest)} more: {words} (--all shows them)")
    if any(place["tps"] and not place["measured"] for mac in shown for place in mac["places"]):
        print_text(out, "~ is what tables say: nothing was measured there yet.", style="dim")


def summary(answer: Mapping[str, Any]) -> str:
    """`100 Macs: 88 EARNING · …`, and what the whole does."""
    count = sum(answer["verdicts"].values())
    macs = "1 Mac" if count == 1 else f"{count} Macs"
    return joined(
        [
            f"{macs}: {_counts(answer['verdicts']) or NOTHING}",
            f"{answer['in_flight']} of {answer['slots']} slots busy",
            f"{answer['decode_tps']:,.0f} tok/s",
            f"{answer['waiting']} waiting",
        ]
    )


def _counts(verdicts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {word}" for word, count in verdicts.items() if count)


def _row(mac: Mapping[str, Any]) -> list[Cell]:
    slots = mac["slots"]
    busy = mac["running"] and mac["verdict"] != "OFFLINE"  # its last words are no news
    memory = f" {mac['memory_gb']}G" if mac["memory_gb"] else ""
    return [
        called(mac),
        (mac["verdict"], STYLES.get(mac["verdict"], "yellow")),
        _models(mac["places"]) or NOTHING,
        NOTHING if slots is None else f"{mac['in_flight']}/{slots}",
        f"{mac['decode_tps']:.0f}" if busy and mac["decode_tps"] else NOTHING,
        _each(mac["places"]) if mac["verdict"] != "OFFLINE" else NOTHING,
        f"{mac['chip'] or NOTHING}{memory}",
        NOTHING if mac["uptime_s"] is None else _short(span(mac["uptime_s"])),
        NOTHING if mac["ask_pct"] is None else f"{mac['ask_pct']}%",
        mac["trust"] or NOTHING,
        mac["provider"],
    ]


def called(mac: Mapping[str, Any]) -> str:
    """How people call it."""
    return plain(mac["name"] or mac["provider"] or mac["machine"])


def _models(places: Sequence[Mapping[str, Any]]) -> str:
    """What serves first; the others with their state."""
    ordered = sorted(places, key=lambda place: place["state"] != "ready")
    return ", ".join(
        place["model"] if place["state"] == "ready" else f"{place['model']} ({place['state']})"
        for place in ordered
    )


def _each(places: Sequence[Mapping[str, Any]]) -> str:
    """Tokens a second that one request alone gets of the fastest model."""
    best = max((place for place in places if place["tps"]), key=lambda p: p["tps"], default=None)
    if best is None:
        return NOTHING
    return f"{'' if best['measured'] else '~'}{best['tps']:.0f}"


def _short(words: str) -> str:
    return words.replace(" days", "d").replace(" min", "m").replace(" ", "")


def _note(mac: Mapping[str, Any]) -> str:
    """Why it does not earn and what would help, and which other models it could not load."""
    pinned = ", ".join(mac["pins"])
    parts = []
    if mac["verdict"] != "EARNING":
        reason = cut(plain(mac["verdict_reason"]), REASON_CHARS_MAX)
        fix = f" → {mac['fix']}" if mac["fix"] and mac["fix"] != "Wait." else ""
        parts.append(f"{reason}{fix}")
    if pinned:
        parts.append(f"pinned: {pinned}")
    return "; ".join(parts)
