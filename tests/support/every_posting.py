"""A ledger in which each reason to move money has moved some, for whoever reads journals."""

from __future__ import annotations

from pathlib import Path

from market.accounting.chart import NO_NEGATIVE, SHAPES, Code, Posting
from market.accounting.ledger import Ledger
from market.accounting.rows import Snapshot
from market.types import AccountId
from storage.ledger_store import SqliteLedgerStore

DAY_NS = 86_400_000_000_000
BEGIN_NS = 1_800_000_000_000_000_000  # a day in January 2027
OWNED = frozenset(
    {*NO_NEGATIVE, Code.CONSUMER_RECEIVABLE}  # the other kinds are the platform's own
)
FUNDS = (
    (Posting.PROMO_GRANT, Code.PROMO_EXPENSE, Code.CONSUMER_PROMO),
    (Posting.TOP_UP, Code.STRIPE_CLEARING, Code.CONSUMER_CASH),
    (Posting.SETTLE_PROVIDER, Code.CONSUMER_CASH, Code.PROVIDER_MATURING),
    (Posting.SETTLE_PROVIDER, Code.CONSUMER_CASH, Code.PROVIDER_EARNINGS),
    (Posting.PAYOUT, Code.PROVIDER_EARNINGS, Code.PAYOUT_IN_TRANSIT),
)


async def write_every_posting(data: Path, owner: AccountId) -> int:
    """Fill the ledger of a fresh data folder; how many transfers that were.

    A transfer a day, so that an export can begin among them. It is no market's ledger: the
    settlements in it belong to no request.
    """
    ledger = Ledger(Snapshot(), lease_ends_tick_ns=0)
    moves = [(posting, debit, credit, 10**15 >> at) for at, (posting, debit, credit) in
             enumerate(FUNDS)]  # fmt: skip
    for posting, pairs in SHAPES.items():
        moves += [(posting, debit, credit, 1_000_000_007 + 1) for debit, credit in sorted(pairs)]
    for number, (posting, debit, credit, amount_nano) in enumerate(moves):
        ledger.post(
            f'act "{number}" \\ {posting.name.lower()}',
            0,
            debit=ledger.account(debit, owner if debit in OWNED else ""),
            credit=ledger.account(credit, _taker(posting, owner) if credit in OWNED else ""),
            amount_nano=amount_nano,
            posting=posting,
            ts_ns=BEGIN_NS + number * DAY_NS,
        )
    store = await SqliteLedgerStore.open(data, now_ns=1)
    changes = ledger.take()
    changes.last_ts_ns = BEGIN_NS
    await store.commit(changes)
    await store.close()
    return len(moves)


def _taker(posting: Posting, owner: AccountId) -> str:
    return "unclaimed_mac-1 ☃" if posting is Posting.CLAIM else owner
