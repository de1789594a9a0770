"""The audit over a ledger in memory: the very rules of `coster ledger verify`, without a disk."""

from __future__ import annotations

from market.accounting.audit import Audit, VerifyReport
from market.accounting.chain import BatchContents, crc_of, sealed_text
from market.accounting.chart import Account, Code
from storage.memory import MemoryLedger


def audited(disk: MemoryLedger) -> VerifyReport:
    """Replay everything this ledger has written, from its first batch on."""
    audit = Audit(
        Account(row.number, Code(row.code), row.owner, *disk.counters.get(number, (0, 0, 0, 0)))
        for number, row in disk.accounts.items()
    )
    for sealed in disk.sealed:
        assert sealed.batch is not None
        audit.batch(
            sealed.batch,
            BatchContents(
                sealed.accounts,
                sealed.transfers,
                sealed.requests,
                sealed.operations,
                sealed.deliveries,
            ),
        )
    for request_id, (terms, _) in disk.holds.items():
        crc = crc_of(sealed_text("hold", terms))
        audit.hold(terms, crc, ended=request_id in disk.requests)
    audit.head(disk.head.number, disk.head.hash)
    return audit.finish()
