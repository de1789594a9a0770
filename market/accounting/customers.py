"""Who the customers are: owners with their tier and meters, and the keys that speak for them.

In memory, whole: authenticating is one dictionary look-up by the keyed hash. Pure; the
caller makes ids, hashes and times, and writes the rows.
"""

from __future__ import annotations

from typing import Final

from market import keys
from market.accounting.admission import TIERS, Meter, Tier
from market.accounting.rows import KeyRow, OwnerRow, Snapshot
from market.errors import InvalidRequest, NotFound, Unauthenticated
from market.messages import KeyRecord
from market.types import AccountId, KeyId

NAME_CHARS_MAX: Final = 100


class Owner:
    """A customer in memory: the row, its limits and its keys."""

    __slots__ = ("key_ids", "meter", "row", "tier")

    def __init__(self, row: OwnerRow, tier: Tier) -> None:
        self.row = row
        self.tier = tier
        self.meter = Meter()
        self.key_ids: list[KeyId] = []


class Key:
    """A key in memory; `record` is what callers see."""

    __slots__ = ("expires_ns", "owner", "record", "row")

    def __init__(self, row: KeyRow, owner: Owner) -> None:
        self.row = row
        self.owner = owner
        self.expires_ns = row.expires_ns
        self.record = _record(row, owner.tier.name)


class Customers:
    """Owners and keys by id and by hash."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._owners: dict[AccountId, Owner] = {}
        self._keys: dict[KeyId, Key] = {}
        self._by_hash: dict[bytes, Key] = {}
        for owner_row in snapshot.owners:
            self._know_owner(owner_row)
        for key_row in snapshot.keys:
            self._know_key(key_row)
        for owner_id, day, used_tokens in snapshot.quotas:
            self._owners[owner_id].meter = Meter(day, used_tokens)

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
        self._know_owner(row)

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
        assert row.hash not in self._by_hash
        return self._know_key(row).record

    def keys_of(self, owner_id: AccountId) -> list[KeyRecord]:
        """Every key of an owner, oldest first, revoked ones included."""
        return [self._keys[key_id].record for key_id in self.get(owner_id).key_ids]

    def revoke(self, owner_id: AccountId, key_id: KeyId, now_ns: int) -> tuple[KeyRecord, bool]:
        """End a key, and whether it was live until now."""
        key = self._keys.get(key_id)
        if key is None or key.row.owner != owner_id:
            raise NotFound(f"There is no key {key_id[:40]!r}.", "key_id", "key_not_found")
        ends_now = key.row.revoked_ns is None
        if ends_now:
            key.row = key.row._replace(revoked_ns=now_ns)
            key.record = _record(key.row, key.owner.tier.name)
        return key.record, ends_now

    def counts(self) -> dict[str, int]:
        return {"owners": len(self._owners), "keys": len(self._keys)}

    def _know_owner(self, row: OwnerRow) -> None:
        # A tier that an operator has taken out of the table gets the strictest limits.
        self._owners[row.id] = Owner(row, TIERS.get(row.tier, TIERS["free"]))

    def _know_key(self, row: KeyRow) -> Key:
        owner = self.get(row.owner)
        key = Key(row, owner)
        self._keys[row.id] = key
        self._by_hash[row.hash] = key
        owner.key_ids.append(row.id)
        return key


def check_name(name: str) -> None:
    """Refuse a name that cannot be stored or shown: long, or with control characters."""
    if len(name) > NAME_CHARS_MAX or not all(c.isprintable() for c in name):
        raise InvalidRequest(f"A name has at most {NAME_CHARS_MAX} printable characters.", "name")


def _record(row: KeyRow, tier: str) -> KeyRecord:
    return KeyRecord(
        key_id=row.id,
        account=row.owner,
        scopes=frozenset(row.scopes.split()),
        tier=tier,
        name=row.name,
        prefix=row.prefix,
        created_s=row.created_ns / 1e9,
        revoked_s=None if row.revoked_ns is None else row.revoked_ns / 1e9,
    )
