"""Three customers with keys and promo credit in books without a disk."""

from __future__ import annotations

from dataclasses import replace

from market import keys
from market.accounting.books import Books
from market.accounting.holding import BookTerms
from market.accounting.rows import RequestRow, Snapshot
from market.accounting.state_rows import KeyRow, OwnerRow, scopes_text
from market.catalogue import Catalogue
from market.messages import Admit, Settle
from market.types import AccountId, KeyId, MachineId, ModelId, ProviderId, RequestId, Usage

S = 1_000_000_000
NOW = 1_800_000_000 * S
MODEL = ModelId("qwen3.5-27b-claude-opus-8bit")  # 100 and 780 nano-USD per token
OWNERS = [AccountId(f"acct_{name}") for name in ("ann", "bob", "cat")]


def hash_of(owner: AccountId) -> bytes:
    return owner.encode().ljust(32, b"\0")


def make_books(*, promo_nano: int = 1_000_000, fee_bps: int = 500, tier: str = "operator") -> Books:
    """Three customers, each with promo credit and an inference key."""
    books = Books(BookTerms(Catalogue(), fee_bps=fee_bps), Snapshot(), now_ns=NOW, tick_ns=0)
    for owner in OWNERS:
        books.create_owner(OwnerRow(owner, owner, tier, books.stamp(NOW)), promo_nano)
        add_key(books, owner, keys.INFERENCE_SCOPES)
    return books


def add_key(books: Books, owner: AccountId, scopes: frozenset[str], **more: object) -> None:
    hashed = more.pop("hash", hash_of(owner))
    row = KeyRow(
        KeyId(f"key_{len(books.customers.keys_of(owner))}{owner}"),
        owner,
        hashed,  # type: ignore[arg-type]
        "",
        "sk-coster-abcd",
        scopes_text(scopes),
        NOW,
        more.pop("expires_ns", None),  # type: ignore[arg-type]
        None,
    )
    books.add_key(row)


def admit(request: str = "req_1", owner: AccountId = OWNERS[0], **fields: object) -> Admit:
    asked = Admit(RequestId(request), hash_of(owner), MODEL, 412, 187, 1000)
    return replace(asked, **fields)  # type: ignore[arg-type]


def settle(request: str = "req_1", payee: AccountId = OWNERS[1], **fields: object) -> Settle:
    done = Settle(
        RequestId(request), payee, MachineId("mac_1"), ProviderId("prv_1"), Usage(412, 187), "stop"
    )
    return replace(done, **fields)  # type: ignore[arg-type]


def do(books: Books, op: object, *, at_s: float = 0) -> object:
    tick = int(at_s * S)
    return books.apply(op, wall_ns=NOW + tick, tick_ns=tick)  # type: ignore[arg-type]


def sweep(books: Books, at_s: float) -> list[RequestRow]:
    return books.expire(wall_ns=NOW, tick_ns=int(at_s * S))


def portrait(books: Books) -> dict[str, object]:
    """Everything in these books that decides the future, comparable with other books."""
    ledger, customers = books.ledger, books.customers
    return {
        "accounts": sorted((a.number, a.code, a.owner, *a.counters()) for a in ledger.accounts()),
        "holds": sorted((o.terms, o.checkpoint) for o in ledger.holds.values()),
        "lots": sorted(ledger.lots.items()),
        "owners": sorted(owner.row for owner in customers.all()),
        "keys": sorted(
            customers.key(owner.row.id, key_id).row
            for owner in customers.all()
            for key_id in owner.key_ids
        ),
        "prices": [tuple(row) for row in books.prices.history(MODEL)],
        "machines": sorted(books.machines.items()),
        "replays": sorted(books.answers._rows.values()),
    }
