"""What the accountant's payment methods share: rows from disk, ids from keys, own or not.

An older row is fetched from disk first; from then on nothing is awaited until the change is
made, so that two callers cannot both act on the same state.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from actors.accounting.core import AccountantCore
from market import keys
from market.accounting.state_rows import PayoutRow, RefundRow, TopUpRow
from market.errors import Conflict, NotFound
from market.payments.desk import P, PaymentAct, Table
from market.types import AccountId

LIST_MAX: Final = 1_000
ID_PREFIX: Final[dict[PaymentAct, str]] = {"topup": "top", "refund": "ref", "withdraw": "po"}


class PaymentCore(AccountantCore):
    """Beneath the payment methods."""

    _reading: asyncio.Lock | None = None

    @property
    def _journal(self) -> asyncio.Lock:
        """Held by whoever reads the journal and posts what is missing from it."""
        if self._reading is None:
            self._reading = asyncio.Lock()
        return self._reading

    async def _fetch(self, table: Table[P], row_id: str) -> P | None:
        """The row of this id; memory knows it from now on."""
        if table.get(row_id) is None:
            for row in await self._store.rows(table.kind, id=row_id):
                table.remember(row)
        return table.get(row_id)

    async def _own(self, table: Table[P], account: AccountId, row_id: str, what: str) -> P:
        """A row of this account; anyone else's is NotFound, as if it did not exist."""
        row = await self._fetch(table, row_id)
        if row is None or getattr(row, "owner", None) != account:
            raise NotFound(f"There is no {what} {row_id[:60]!r}.", "id", f"{what}_not_found")
        return row

    async def _listed(
        self, table: Table[P], account: AccountId, limit: int, before_ns: int | None
    ) -> list[P]:
        """An account's rows, newest first, as they are durable."""
        self._check_alive()
        self._desk.owner(account)
        bound = max(0, min(limit, LIST_MAX))
        return await self._store.rows(table.kind, owner=account, limit=bound, before_ns=before_ns)

    async def _posted(self, ids: Sequence[str]) -> dict[tuple[str, int], int]:
        """What the journal has under these transfer ids, in nano-USD. For holders of the lock."""
        await self._written()
        return {(row.id, row.leg): row.amount_nano for row in await self._store.transfers(ids)}

    async def payment_known(self, account: AccountId, act: PaymentAct, key: str) -> bool:
        """Whether this account did this under this key before: to ask again changes nothing."""
        self._check_alive()
        row_id, desk = self._derived_id(ID_PREFIX[act], account, key), self._desk
        match act:
            case "topup":
                return await self._fetch(desk.topups, row_id) is not None
            case "refund":
                return await self._fetch(desk.refunds, row_id) is not None
            case "withdraw":
                return await self._fetch(desk.payouts, row_id) is not None

    def _derived_id(self, prefix: str, account: AccountId, key: str) -> str:
        """The id that this account's idempotency key gives, always; nobody can guess it."""
        text = "\x1f".join(("payment", prefix, account, key)).encode("utf-8", "surrogatepass")
        return keys.new_id(prefix, hmac.digest(self._pepper, text, sha256)[:12])


def contents_hash(key: str, *contents: object) -> str:
    """What a row keeps of its caller's key: enough to see whether a call is the same."""
    return sha256(repr((key, contents)).encode("utf-8", "surrogatepass")).hexdigest()


def check_same(row: TopUpRow | RefundRow | PayoutRow, hashed: str) -> None:
    """Refuse a key that was used for something else."""
    if row.idempotency != hashed:
        raise Conflict(
            "This idempotency key was used before with other contents. Use a new key for a new "
            "call.",
            None,
            "idempotency_key_reused",
            None,
            False,
        )
