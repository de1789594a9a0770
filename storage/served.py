"""Compares the router's log of finished answers with the ledger, and writes to neither."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import orjson

from market.accounting.served import SETTLED_S, Served
from market.routing.log import OutcomeRecord
from storage.database import BUSY_TIMEOUT_MS, SQLITE_FAULTS, StorageError, read_only_uri
from storage.ledger_rows import LedgerRows

ROUTER_FILE: Final = "router.db"
PAGE: Final = 500
_OUTCOMES: Final = (
    "SELECT body FROM outcomes WHERE at_s >= ? AND at_s < ? ORDER BY at_s, request_id, attempt"
)


def compare_served(data: Path, rows: LedgerRows, *, since_s: float, now_s: float) -> Served:
    """Every answer that was complete since then, with what the ledger says of it.

    `rows` has been opened after `now_s`. Raises StorageError when either cannot be read.
    """
    served = Served()
    held = frozenset(hold.terms.request_id for hold in rows.holds())
    for page in _complete(data / ROUTER_FILE, since_s, now_s - SETTLED_S):
        if page:
            ended = {row.request_id: row for row in rows.ended([one.request_id for one in page])}
            served.add(page, ended, held)
    return served


def _complete(path: Path, since_s: float, before_s: float) -> Iterator[list[OutcomeRecord]]:
    if not path.exists():
        raise StorageError(f"There is no log of the router at {path}; nothing was served here yet.")
    try:
        with closing(sqlite3.connect(read_only_uri(path), uri=True)) as connection:
            connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
            found = connection.execute(_OUTCOMES, (since_s, before_s))
            while page := found.fetchmany(PAGE):
                yield _answers([body for (body,) in page])
    except SQLITE_FAULTS as error:
        raise StorageError(f"The router's log {path} cannot be read: {error}.") from error


def _answers(bodies: Sequence[bytes]) -> list[OutcomeRecord]:
    """Those of these ends of attempts that completed an answer."""
    outcomes = (OutcomeRecord(**orjson.loads(body)) for body in bodies)
    return [one for one in outcomes if one.result == "ok" and one.final]
