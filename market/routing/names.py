"""Names of Macs: as they may be shown, and in the order in which people would put them."""

from __future__ import annotations

import re

NAME_CHARS_MAX = 80
DIGITS_MAX = 18
"""A longer number sorts by its beginning."""


def clean(name: str) -> str:
    """A name as it may be printed: a Mac chooses it, a terminal shows it."""
    kept = "".join(c if c.isprintable() else "?" for c in name[:NAME_CHARS_MAX])
    return " ".join(kept.split())


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts `mac-9` before `mac-10`."""
    parts = re.split("([0-9]+)", name.casefold())
    return tuple(
        (0, int(part[:DIGITS_MAX]), "") if part[0] in "0123456789" else (1, 0, part)
        for part in parts
        if part
    )
