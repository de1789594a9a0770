"""API keys at the accountant: made, rotated, limited, ended.

A call may carry its caller's idempotency key. Secrets are then derived from it and the
market's pepper, so that a repetition gives the same secret, which nobody has kept.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterable
from hashlib import sha256
from typing import Final

from actors.accounting.core import AccountantCore
from market import keys
from market.accounting.caps import resets_at_s, windows_of
from market.accounting.state_rows import KeyRow, scopes_text
from market.errors import Conflict, InvalidRequest
from market.messages import KeyLimits, KeyRecord, KeySpend
from market.types import AccountId, KeyId

ROTATION_S_MAX: Final = 30 * 86_400.0
ROTATED: Final = "rotated"  # in what a rotated key's secret is derived from: names may change


class KeyMethods(AccountantCore):
    """Keys. Each answer is durable when it is given."""

    async def create_key(
        self,
        account: AccountId,
        name: str,
        scopes: Iterable[str] = keys.INFERENCE_SCOPES,
        expires_s: float | None = None,
        limits: KeyLimits | None = None,
        idempotency: str | None = None,
    ) -> tuple[KeyRecord, str]:
        """A new key and its secret, which is shown only once. `expires_s`: Unix time.

        With an idempotency key a repetition gives the same key and secret.
        """
        self._check_alive()
        limits = limits or KeyLimits()
        contents = (account, name, scopes_text(frozenset(scopes)), limits_text(limits))
        call = None if idempotency is None else f"{account}\x1f{idempotency}"
        if call is not None and self._operations.before("create_key", call, contents):
            return self._derived_key(account, name, call)
        record, secret = self._new_key(
            account, name, scopes, expires_s, limits=limits, idempotency=call
        )
        if call is not None:
            done = self._operations.remember(
                "create_key", call, contents, record.key_id, self._now_ns()
            )
            self._books.ledger.changes.operations.append(done)
        await self._written()
        return record, secret

    async def rotate_key(
        self, account: AccountId, key_id: KeyId, grace_s: float, idempotency: str | None = None
    ) -> tuple[KeyRecord, str]:
        """A new key with everything the old one may do; the old one lives on for `grace_s`.

        It has the old one's caps, with what was spent of them, and its expiry. Two keys of one
        line may live at a time: the one before the old one ends now. With an idempotency key
        a repetition gives the same new key and secret.
        """
        self._check_alive()
        old = self._books.customers.key(account, key_id).row
        call = None if idempotency is None else f"rotate\x1f{account}\x1f{idempotency}"
        contents = (account, key_id, grace_s)
        if call is not None and self._operations.before("rotate_key", call, contents):
            return self._derived_key(account, ROTATED, call)
        now_ns = self._now_ns()
        self._check_rotates(account, key_id, now_ns)
        if not 0 <= grace_s <= ROTATION_S_MAX:
            raise InvalidRequest(
                f"grace_s must be from 0 to {ROTATION_S_MAX:.0f} seconds.", "grace_s"
            )
        limits = self._books.customers.key(account, key_id).record.limits
        secret = keys.new_secret(self._random(f"key {ROTATED}", account, call))
        expires_s = None if old.expires_ns is None else old.expires_ns / 1e9
        record = self._enter_key(
            account, old.name, old.scopes.split(), expires_s, secret, limits, key_id
        )
        if call is not None:
            done = self._operations.remember("rotate_key", call, contents, record.key_id, now_ns)
            self._books.ledger.changes.operations.append(done)
        ends_ns = now_ns + int(grace_s * 1e9)
        if old.expires_ns is None or old.expires_ns > ends_ns:
            self._books.change_key(old._replace(expires_ns=ends_ns))
        if old.replaces is not None:
            before = self._books.customers.key(account, old.replaces)
            if before.lives(now_ns):
                self._books.change_key(before.row._replace(expires_ns=now_ns))
        await self._written()
        return record, secret

    def _check_rotates(self, account: AccountId, key_id: KeyId, now_ns: int) -> None:
        """Refuse to rotate what may no longer speak, or has been rotated already."""
        customers = self._books.customers
        key = customers.key(account, key_id)
        if key.row.revoked_ns is not None:
            raise Conflict("This key is revoked; create a new one.", "key_id", "revoked_api_key")
        if not key.lives(now_ns):
            raise Conflict("This key has expired; create a new one.", "key_id", "expired_api_key")
        heirs = customers.heirs(key_id, now_ns)
        if heirs:
            raise Conflict(
                f"This key was rotated into {heirs[0].row.id}, which lives. Rotate that one, or "
                "revoke it first.",
                "key_id",
                "already_rotated",
            )

    async def change_key(
        self, account: AccountId, key_id: KeyId, name: str | None, limits: KeyLimits | None
    ) -> KeyRecord:
        """Rename a key or give it other caps and models; raises NotFound, InvalidRequest."""
        self._check_alive()
        row = self._books.customers.key(account, key_id).row
        if name is not None:
            row = row._replace(name=name)
        if limits is not None:
            row = _with_limits(row, limits)
        record = self._books.change_key(row)
        await self._written()
        return record

    async def ensure_key(
        self, account: AccountId, name: str, scopes: Iterable[str], secret: str
    ) -> KeyRecord:
        """The key with this secret, entered on first call; for keys the operator keeps."""
        self._check_alive()
        known = self._books.customers.find_key(keys.key_hash(secret, self._pepper))
        if known is not None:
            if known.account != account:
                raise Conflict("This key belongs to another account.", None, "key_taken")
            return known
        record = self._enter_key(account, name, scopes, None, secret, KeyLimits(), None)
        await self._written()
        return record

    async def list_keys(self, account: AccountId) -> list[KeyRecord]:
        """Every key of the account, oldest first, revoked ones included."""
        self._check_alive()
        return self._books.customers.keys_of(account)

    async def key_spend(self, account: AccountId, key_id: KeyId) -> KeySpend:
        """What a capped key has spent in its present windows; zeros for one without caps."""
        self._check_alive()
        meter = self._books.customers.key(account, key_id).meter
        now = windows_of(self._now_ns())
        meter.roll(now)
        day_nano, week_nano, month_nano = meter.used
        ends_s = [resets_at_s(window, now) for window in range(len(now))]
        return KeySpend(day_nano, week_nano, month_nano, meter.reserved[0], *ends_s)

    async def revoke_key(self, account: AccountId, key_id: KeyId) -> KeyRecord:
        """End a key now. Again is no error; someone else's key is NotFound."""
        self._check_alive()
        record = self._books.revoke(account, key_id, self._now_ns())
        await self._written()
        return record

    # ── helpers ───────────────────────────────────────────────────────────────────────

    def _random(self, kind: str, scope: str, idempotency: str | None) -> bytes:
        """Random bytes; the same again for the same idempotency key, and only with the pepper."""
        if idempotency is None:
            return secrets.token_bytes(keys.RANDOM_BYTES)
        text = "\x1f".join((kind, scope, idempotency))
        return hmac.digest(self._pepper, text.encode("utf-8", "surrogatepass"), sha256)

    def _derived_key(
        self, account: AccountId, name: str, idempotency: str
    ) -> tuple[KeyRecord, str]:
        secret = keys.new_secret(self._random(f"key {name}", account, idempotency))
        record = self._books.customers.find_key(keys.key_hash(secret, self._pepper))
        assert record is not None
        return record, secret

    def _new_key(
        self,
        account: AccountId,
        name: str,
        scopes: Iterable[str],
        expires_s: float | None,
        *,
        limits: KeyLimits | None = None,
        idempotency: str | None = None,
    ) -> tuple[KeyRecord, str]:
        secret = keys.new_secret(self._random(f"key {name}", account, idempotency))
        limits = limits or KeyLimits()
        return self._enter_key(account, name, scopes, expires_s, secret, limits, None), secret

    def _enter_key(
        self,
        account: AccountId,
        name: str,
        scopes: Iterable[str],
        expires_s: float | None,
        secret: str,
        limits: KeyLimits,
        replaces: KeyId | None,
    ) -> KeyRecord:
        row = KeyRow(
            id=KeyId(keys.new_id("key", secrets.token_bytes(12))),
            owner=account,
            hash=keys.key_hash(secret, self._pepper),
            name=name,
            prefix=keys.shown_prefix(secret),
            scopes=scopes_text(frozenset(scopes)),
            created_ns=self._now_ns(),
            expires_ns=None if expires_s is None else int(expires_s * 1e9),
            revoked_ns=None,
            replaces=replaces,
        )
        return self._books.add_key(_with_limits(row, limits))


def limits_text(limits: KeyLimits) -> tuple[object, ...]:
    """A key's limits in an order of their own, to be compared."""
    return (
        scopes_text(limits.models),
        limits.cap_day_nano,
        limits.cap_week_nano,
        limits.cap_month_nano,
    )


def _with_limits(row: KeyRow, limits: KeyLimits) -> KeyRow:
    return row._replace(
        models=scopes_text(limits.models),
        cap_day_nano=limits.cap_day_nano,
        cap_week_nano=limits.cap_week_nano,
        cap_month_nano=limits.cap_month_nano,
    )
