"""Who the customers are: owners with their tier and meters, and the keys that speak for them.

In memory, whole: authenticating is one dictionary look-up by the keyed hash. Pure; the
caller makes ids, hashes and times, and writes the rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from market import keys
from market.accounting.admission import TIERS, Meter, Tier
from market.accounting.caps import KeyMeter, caps_of
from market.accounting.rows import Snapshot
from market.accounting.state_rows import KeyRow, KeySpendRow, OwnerRow, QuotaRow
from market.errors import Forbidden, InvalidRequest, NotFound, Unauthenticated
from market.messages import KeyLimits, KeyRecord
from market.money import NANO_MAX
from market.types import AccountId, KeyId

NAME_CHARS_MAX: Final = 100
MODELS_CHARS_MAX: Final = 4_000


class Owner:
    """A customer in memory: the row, its limits and its keys."""

    __slots__ = ("key_ids", "meter", "row", "tier")

    def __init__(self, row: OwnerRow) -> None:
        self.row = row
        self.tier = _tier_of(row)
        self.meter = Meter()
        self.key_ids: list[KeyId] = []


class Key:
    """A key in memory; `record` is what callers see, `meter` counts only what a cap bounds."""

    __slots__ = ("caps", "expires_ns", "meter", "models", "owner", "record", "row")

    def __init__(self, row: KeyRow, owner: Owner) -> None:
        self.owner = owner
        self.meter = KeyMeter()
        self.became(row)

    def lives(self, now_ns: int) -> bool:
        """Neither revoked nor expired."""
        ended = self.expires_ns is not None and now_ns >= self.expires_ns
        return self.row.revoked_ns is None and not ended

    def became(self, row: KeyRow) -> None:
        """The row has changed."""
        self.row = row
        self.expires_ns = row.expires_ns
        self.models = frozenset(row.models.split())
        caps = caps_of(row)
        self.caps = None if caps == (None, None, None) else caps
        self.record = _record(row, self.owner.tier.name)


class Customers:
    """Owners and keys by id and by hash."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._owners: dict[AccountId, Owner] = {}
        self._keys: dict[KeyId, Key] = {}
        self._by_hash: dict[bytes, Key] = {}
        for owner_row in snapshot.rows(OwnerRow):
            self._owners[owner_row.id] = Owner(owner_row)
        for key_row in snapshot.rows(KeyRow):
            self._know_key(key_row)
        for quota in snapshot.rows(QuotaRow):
            self._owners[quota.owner].meter = Meter(quota.day, quota.used_tokens)
        for spend in snapshot.rows(KeySpendRow):
            self._keys[spend.key_id].meter.recall(spend)

    def __contains__(self, owner_id: AccountId) -> bool:
        return owner_id in self._owners

    def get(self, owner_id: AccountId) -> Owner:
        """The owner; raises NotFound."""
        owner = self._owners.get(owner_id)
        if owner is None:
            raise NotFound(f"There is no account {owner_id[:40]!r}.", None, "account_not_found")
        return owner

    def add_owner(self, row: OwnerRow) -> None:
        """Enter a new owner; raises InvalidRequest for a tier that does not exist."""
        assert row.id not in self._owners
        if row.tier not in TIERS:
            raise InvalidRequest(
                f"There is no tier {row.tier[:40]!r}; choose one of {', '.join(TIERS)}.", "tier"
            )
        check_name(row.name)
        self._owners[row.id] = Owner(row)

    def change_owner(self, row: OwnerRow) -> None:
        """Replace a known owner's row: tier, limits, fee or freeze; the caller writes it."""
        if row.tier not in TIERS:
            raise InvalidRequest(
                f"There is no tier {row.tier[:40]!r}; choose one of {', '.join(TIERS)}.", "tier"
            )
        check_name(row.name)
        owner = self.get(row.id)
        owner.row, owner.tier = row, _tier_of(row)
        for key_id in owner.key_ids:
            self._keys[key_id].became(self._keys[key_id].row)

    def all(self) -> Iterable[Owner]:
        """Every owner."""
        return self._owners.values()

    def live_key(self, key_hash: bytes, now_ns: int) -> Key:
        """The key that may speak now; raises Unauthenticated, saying why not."""
        key = self._by_hash.get(key_hash)
        if key is None:
            raise Unauthenticated(
                "This API key does not exist here. Check it for missing characters, or create "
                "one with POST /v1/keys.",
                None,
                "invalid_api_key",
            )
        if key.row.revoked_ns is not None:
            raise Unauthenticated(
                f"The API key {key.row.prefix}… was revoked. Create another one.",
                None,
                "revoked_api_key",
            )
        if key.expires_ns is not None and now_ns >= key.expires_ns:
            raise Unauthenticated(
                f"The API key {key.row.prefix}… has expired. Create another one.",
                None,
                "expired_api_key",
            )
        return key

    def find_key(self, key_hash: bytes) -> KeyRecord | None:
        """The key of this hash, revoked or not."""
        key = self._by_hash.get(key_hash)
        return key.record if key else None

    def add_key(self, row: KeyRow) -> KeyRecord:
        """Enter a new key of a known owner; raises InvalidRequest for unknown scopes."""
        unknown = set(row.scopes.split()) - keys.SCOPES
        if unknown or not row.scopes:
            raise InvalidRequest(
                f"A key needs scopes out of {', '.join(sorted(keys.SCOPES))}.", "scopes"
            )
        check_name(row.name)
        _check_limits(row)
        assert row.hash not in self._by_hash
        return self._know_key(row).record

    def key(self, owner_id: AccountId, key_id: KeyId) -> Key:
        """A key of this owner; anyone else's is NotFound, as if it did not exist."""
        key = self._keys.get(key_id)
        if key is None or key.row.owner != owner_id:
            raise NotFound(f"There is no key {key_id[:40]!r}.", "key_id", "key_not_found")
        return key

    def heirs(self, key_id: KeyId, now_ns: int) -> list[Key]:
        """The keys that may still speak and that this one was rotated into."""
        return [
            key for key in self._keys.values() if key.row.replaces == key_id and key.lives(now_ns)
        ]

    def key_of_hold(self, key_id: KeyId) -> Key | None:
        """The key that opened a hold."""
        return self._keys.get(key_id)

    def change_key(self, row: KeyRow) -> KeyRecord:
        """Replace a known key's row; the caller writes it."""
        check_name(row.name)
        _check_limits(row)
        key = self._keys[row.id]
        key.became(row)
        return key.record

    def keys_of(self, owner_id: AccountId) -> list[KeyRecord]:
        """Every key of an owner, oldest first, revoked ones included."""
        return [self._keys[key_id].record for key_id in self.get(owner_id).key_ids]

    def revoke(self, owner_id: AccountId, key_id: KeyId, now_ns: int) -> tuple[KeyRow, bool]:
        """End a key, and whether it was live until now."""
        key = self.key(owner_id, key_id)
        ends_now = key.row.revoked_ns is None
        if ends_now:
            key.became(key.row._replace(revoked_ns=now_ns))
        return key.row, ends_now

    def counts(self) -> dict[str, int]:
        return {"owners": len(self._owners), "keys": len(self._keys)}

    def _know_key(self, row: KeyRow) -> Key:
        owner = self.get(row.owner)
        key = Key(row, owner)
        if row.replaces in self._keys:
            # A rotated key is the same key to its caps: they share one count.
            key.meter = self._keys[row.replaces].meter
        self._keys[row.id] = key
        self._by_hash[row.hash] = key
        owner.key_ids.append(row.id)
        return key


def check_may_spend(key: Key, model: str) -> None:
    """Refuse a key that may not run this model now; raises Forbidden, saying why."""
    if keys.INFERENCE not in key.record.scopes:
        raise Forbidden(
            f"The API key {key.row.prefix}… may not run inference; use a key with the "
            f"scope {keys.INFERENCE!r}.",
            None,
            "missing_scope",
        )
    if key.models and model not in key.models:
        raise Forbidden(
            f"The API key {key.row.prefix}… may only use {', '.join(sorted(key.models))[:300]}.",
            "model",
            "model_not_allowed",
        )
    if key.owner.row.frozen:
        raise Forbidden(
            f"This account is frozen: {key.owner.row.frozen}. Write to the operator.",
            None,
            "account_frozen",
        )


def check_name(name: str) -> None:
    """Refuse a name that cannot be stored or shown: long, or with control characters."""
    if len(name) > NAME_CHARS_MAX or not all(c.isprintable() for c in name):
        raise InvalidRequest(f"A name has at most {NAME_CHARS_MAX} printable characters.", "name")


def _check_limits(row: KeyRow) -> None:
    for name, cap in zip(("cap_day", "cap_week", "cap_month"), caps_of(row), strict=True):
        if cap is not None and not 0 <= cap <= NANO_MAX:
            raise InvalidRequest(f"{name} must be from 0 to {NANO_MAX} nano-USD.", name)
    if len(row.models) > MODELS_CHARS_MAX or not row.models.isprintable():
        raise InvalidRequest("The list of models is too long.", "models")


def _tier_of(row: OwnerRow) -> Tier:
    # A tier that an operator has taken out of the table gets the strictest limits.
    tier = TIERS.get(row.tier, TIERS["free"])
    if row.requests_per_min is None and row.tokens_per_day is None:
        return tier
    return Tier(
        tier.name,
        tier.requests_per_min if row.requests_per_min is None else row.requests_per_min,
        tier.tokens_per_day if row.tokens_per_day is None else row.tokens_per_day,
    )


def _seconds(ns: int | None) -> float | None:
    return None if ns is None else ns / 1e9


def _record(row: KeyRow, tier: str) -> KeyRecord:
    return KeyRecord(
        key_id=row.id,
        account=row.owner,
        scopes=frozenset(row.scopes.split()),
        tier=tier,
        name=row.name,
        prefix=row.prefix,
        created_s=row.created_ns / 1e9,
        revoked_s=_seconds(row.revoked_ns),
        expires_s=_seconds(row.expires_ns),
        limits=KeyLimits(
            frozenset(row.models.split()), row.cap_day_nano, row.cap_week_nano, row.cap_month_nano
        ),
        replaces=row.replaces,
    )
