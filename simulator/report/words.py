"""From numbers to words: how long, how many, and what an alarm says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from simulator.report.scale import short

SHARES: Final = ("idle_while_waiting", "unfinished", "refusals", "failures")
"""Alarms whose value is a share, told as a percentage."""

MINUTES_FROM_S: Final = 120.0
CODES_TOLD: Final = 3


def lasted(seconds: float) -> str:
    """`38 simulated seconds` is better than no minute: the length with its unit."""
    if seconds < MINUTES_FROM_S:
        return f"{short(seconds)} seconds"
    return f"{seconds / 60:.0f} minutes"


def counted(count: int, noun: str) -> str:
    """`1 request`, `2,000 requests`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def alarm_words(alarm: Mapping[str, Any], by_code: Mapping[str, int]) -> str:
    """`100 % of the requests were refused (limit 5 %): queue_full 40`."""
    scale, unit = (100.0, "%") if alarm["name"] in SHARES else (1.0, "")
    value, limit = (short(scale * alarm[key], unit) for key in ("value", "limit"))
    text = f"{value} {alarm['words']} (limit {limit})"
    if alarm["name"] in ("refusals", "failures") and by_code:
        most = sorted(by_code.items(), key=lambda each: -each[1])[:CODES_TOLD]
        text += ": " + ", ".join(f"{code} {count:,}" for code, count in most)
    return text
