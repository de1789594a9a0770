"""The audit over a ledger in memory: the very rules of `coster ledger verify --full`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from market.accounting.audit import Audit, VerifyReport
from market.accounting.chain import BatchContents, crc_of, sealed_text
from market.accounting.chart import Account, Code
from market.accounting.moved import Moved
from market.accounting.recount import Recount
from market.accounting.rows import TransferRow
from market.accounting.state_rows import DisputeRow, PayoutRow, RefundRow, TopUpRow
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
    audit.head(disk.head.number, disk.head.hash, disk.last_ts_ns, disk.epoch)
    report = audit.finish()
    recount(disk, report.add)
    return report


def moved_problems(disk: MemoryLedger) -> list[str]:
    """Rows of payments that are not what this ledger's transfers say."""
    moved = Moved(Account(row.number, Code(row.code), row.owner) for row in disk.accounts.values())
    for sealed in disk.sealed:
        for row in sealed.transfers:
            moved.note(TransferRow(*row[1:-2]))  # type: ignore[arg-type]
    kinds = (TopUpRow, RefundRow, PayoutRow, DisputeRow)
    return list(moved.problems(row for kind in kinds for row in disk.state[kind].values()))  # type: ignore[misc]


def recount(disk: MemoryLedger, tell: Callable[[str], None]) -> None:
    """Count every ended request again and compare it with the sums that were kept."""

    def kept(sums: dict[Any, list[int]], span_s: int) -> Iterator[tuple[Any, list[int]]]:
        rows = [(key, measures) for key, measures in sums.items() if key.span_s == span_s]
        return iter(sorted(rows, key=lambda row: row[0].start_s))

    rollups = disk.rollups
    counting = Recount(
        rollups._folded(),
        {span_s: kept(rollups.work_sums, span_s) for span_s in (60, 3_600, 86_400, 0)},
        {span_s: kept(rollups.use_sums, span_s) for span_s in (3_600, 86_400, 0)},
        tell,
    )
    for row in disk.requests.values():
        counting.request(row, disk.deliveries.get(row.request_id, ()))
    counting.finish()
