"""Administrative calls that a client may repeat: remembered under the key it chose.

Only hashes are kept: a key a client chose says something about the client.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from market.accounting.rows import OperationRow
from market.errors import Conflict


class Operations:
    """Which idempotency keys have taken effect, and for which contents."""

    def __init__(self, rows: Iterable[OperationRow]) -> None:
        self._rows = {row.key: row for row in rows}

    def check(self, kind: str, key: str, contents: tuple[object, ...]) -> None:
        """Raise Conflict if a call of this kind with this key has already taken effect."""
        before = self._rows.get(_hash(kind, key))
        if before is None:
            return
        same = before.fingerprint == _hash(kind, repr(contents))
        raise Conflict(
            "This idempotency key was used before, for "
            + ("the same call; it took effect then." if same else "another call."),
            None,
            "idempotency_replayed" if same else "idempotency_key_reused",
            None,
            False,
        )

    def remember(
        self, kind: str, key: str, contents: tuple[object, ...], result: str, ts_ns: int
    ) -> OperationRow:
        """The row to write for a call that takes effect now."""
        row = OperationRow(_hash(kind, key), _hash(kind, repr(contents)), result, ts_ns)
        self._rows[row.key] = row
        return row


def _hash(kind: str, text: str) -> str:
    return sha256(f"{kind}\x1f{text}".encode("utf-8", "surrogatepass")).hexdigest()
