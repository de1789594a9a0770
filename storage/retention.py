"""What may be forgotten after a time: old copies and old notices of the processor.

The journal is never among them, nor a ledger that a restore has moved aside.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from market.accounting.state_rows import ENDED, EventRow
from storage.backup import copies
from storage.ledger_rows import LedgerRows

DAY_NS = 86_400_000_000_000


def old_copies(data: Path, days: int, now_ns: int) -> list[Path]:
    """Copies in `backups/` older than this, oldest first; the newest one is never old."""
    before_ns = now_ns - days * DAY_NS
    return [path for path in copies(data)[:-1] if path.stat().st_mtime_ns < before_ns]


def replaced(data: Path) -> list[Path]:
    """Ledgers that restores have moved aside: listed, and left to their operator."""
    return sorted(path for path in data.glob("replaced-*") if path.is_dir())


def old_events(rows: LedgerRows, days: int, now_ns: int) -> int:
    """How many notices were dealt with longer ago than this.

    When one was made is what its sender says of it; only when it was dealt with is ours.
    """
    before_ns = now_ns - days * DAY_NS
    return sum(
        row.state in ENDED[EventRow] and row.changed_ns < before_ns for row in rows.state(EventRow)
    )


def remove(paths: Iterable[Path]) -> int:
    """Delete these files; how many bytes that freed."""
    freed = 0
    for path in paths:
        freed += path.stat().st_size
        path.unlink()
    return freed
