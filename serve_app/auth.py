"""Who is calling: the bearer key, its record, and what it may do.

The accountant is the authority: it checks the key again when it admits a request, in the
same step as the hold. The record cached here says whose key it is, so that admission and
routing can start together; other routes trust it for at most `key_cache_s`.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

from market.errors import Forbidden, Internal, MarketError, Unauthenticated
from market.messages import KeyRecord, ResolveKey
from serve_app.limits import Limits
from serve_app.ports import AccountantPort, ClockPort, KeyHasher

MAX_KEY_CHARS = 256


def bearer(header: bytes | None) -> str:
    """The secret of an Authorization header; Unauthenticated says what is missing."""
    if not header:
        raise Unauthenticated(
            "No API key: send the header Authorization: Bearer <key>.", None, "missing_api_key"
        )
    scheme, _, secret = header.decode("latin-1").strip().partition(" ")
    secret = secret.strip()
    if scheme.lower() != "bearer" or not secret:
        raise Unauthenticated(
            "The Authorization header must be: Bearer <key>.", None, "invalid_api_key"
        )
    if len(secret) > MAX_KEY_CHARS or not secret.isascii():
        raise _invalid()
    return secret


def _invalid() -> Unauthenticated:
    return Unauthenticated(
        "This API key is not valid: unknown, mistyped or revoked.", None, "invalid_api_key"
    )


class Keys:
    """Resolves keys through the accountant, with a bounded cache and one call in flight."""

    def __init__(
        self, accountant: AccountantPort, hash_key: KeyHasher, clock: ClockPort, limits: Limits
    ) -> None:
        self._accountant = accountant
        self._hash_key = hash_key
        self._clock = clock
        self._limits = limits
        self._cache: OrderedDict[bytes, tuple[KeyRecord, float]] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[KeyRecord]] = {}

    async def identify(
        self, authorization: bytes | None, scopes: Sequence[str], *, fresh: bool = True
    ) -> tuple[bytes, KeyRecord]:
        """The key's hash and record, if it has one of `scopes` (none: any live key).

        `fresh=False` takes a record of any age: for calls that the accountant admits
        itself. Raises Unauthenticated or Forbidden.
        """
        key_hash = self._hash_key(bearer(authorization))
        if key_hash is None:
            raise _invalid()
        record = self._cached(key_hash, fresh=fresh) or await self._ask(key_hash)
        if scopes and record.scopes.isdisjoint(scopes):
            raise Forbidden(
                f"This key lacks the scope {' or '.join(scopes)}; its scopes: "
                f"{', '.join(sorted(record.scopes)) or 'none'}.",
                None,
                "missing_scope",
            )
        return key_hash, record

    def forget(self, key_hash: bytes) -> None:
        """Drop a record that the accountant has just refused."""
        self._cache.pop(key_hash, None)

    def _cached(self, key_hash: bytes, *, fresh: bool) -> KeyRecord | None:
        entry = self._cache.get(key_hash)
        if entry is None:
            return None
        record, read_s = entry
        if fresh and self._clock.monotonic_s() - read_s >= self._limits.key_cache_s:
            return None
        if record.expires_s is not None and self._clock.now_s() >= record.expires_s:
            return None
        return record

    async def _ask(self, key_hash: bytes) -> KeyRecord:
        """Ask the accountant once for all who wait for the same key."""
        task = self._asking.get(key_hash)
        if task is None:
            task = asyncio.create_task(self._resolve(key_hash))
            self._asking[key_hash] = task
            task.add_done_callback(lambda _: self._asking.pop(key_hash, None))
        return await asyncio.shield(task)

    async def _resolve(self, key_hash: bytes) -> KeyRecord:
        asked_s = self._clock.monotonic_s()  # before the answer: never fresher than it is
        try:
            record = await self._accountant.op(ResolveKey(key_hash))
        except MarketError:
            self._cache.pop(key_hash, None)
            raise
        if not isinstance(record, KeyRecord):
            raise Internal("The accountant's answer about this key has no record.")
        if record.revoked_s is not None:
            self._cache.pop(key_hash, None)
            raise _invalid()
        self._cache[key_hash] = (record, asked_s)
        self._cache.move_to_end(key_hash)
        if len(self._cache) > self._limits.key_cache_entries:
            self._cache.popitem(last=False)
        return record
