"""Acts that a client may repeat: remembered under the key it chose, with what they made.

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

    def before(self, kind: str, key: str, contents: tuple[object, ...]) -> str | None:
        """What a call of this kind with this key made before; None when it is new.

        Raises Conflict when that call had other contents.
        """
        row = self._rows.get(_hash(kind, key))
        if row is None:
            return None
        if row.fingerprint != _hash(kind, repr(contents)):
            raise Conflict(
                "This idempotency key was used before with other contents. Use a new key for a "
                "new call.",
                None,
                "idempotency_key_reused",
                None,
                False,
            )
        return row.result

    def find(self, key: str) -> OperationRow | None:
        """The act with this id of ours."""
        return self._rows.get(key)

    def last(self, prefix: str) -> OperationRow | None:
        """The latest act whose id of ours begins like this."""
        found = (row for key, row in self._rows.items() if key.startswith(prefix))
        return max(found, key=lambda row: row.ts_ns, default=None)

    def enter(self, row: OperationRow) -> None:
        """Know of an act that takes effect now; the caller writes its row."""
        self._rows[row.key] = row

    def remember(
        self, kind: str, key: str, contents: tuple[object, ...], result: str, ts_ns: int
    ) -> OperationRow:
        """The row to write for a call that takes effect now."""
        row = OperationRow(_hash(kind, key), _hash(kind, repr(contents)), result, ts_ns)
        self._rows[row.key] = row
        return row


def _hash(kind: str, text: str) -> str:
    return sha256(f"{kind}\x1f{text}".encode("utf-8", "surrogatepass")).hexdigest()
