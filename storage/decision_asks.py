"""What the router was asked, as its log still holds it: read beside a running market.

Only the newest decisions are kept whole (`storage.decision_store.PACKED_KEPT`), and none whose
making another version of the market has written: for those there is nothing, which is no error.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from market.policy.ask import Ask
from market.routing.notes import ask_of
from storage.database import SQLITE_FAULTS, connect_read_only

_FIRST: Final = "SELECT body FROM packed WHERE request_id = ? ORDER BY attempt LIMIT 1"


class DecisionAsks:
    """Looks requests up in a market's `router.db`; close it. Without such a file it knows none.

    Raises StorageError when the file is no database of ours.
    """

    def __init__(self, path: Path) -> None:
        self._connection: sqlite3.Connection | None = None
        if path.exists():
            self._connection = connect_read_only(path)

    def of(self, request_id: str) -> Ask | None:
        """The request as it was first routed; None when that is kept no longer."""
        if self._connection is None:
            return None
        try:
            with closing(self._connection.execute(_FIRST, (request_id,))) as found:
                row = found.fetchone()
        except SQLITE_FAULTS:
            return None  # a log without that table yet, or damaged there: it holds no money
        try:
            return None if row is None else ask_of(bytes(row[0]))
        except ValueError:
            return None

    def close(self) -> None:
        """Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
