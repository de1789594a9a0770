"""Comparing the books with the processor's: every line of its balance, then the sum of them.

A line that the ledger does not know is first asked about, for a notice may have been lost;
only what is still unexplained then goes to suspense. The sums are taken last; what moves
meanwhile is caught by looking again.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from actors.payments.worker import Ask, Errands
from market.accounting.state_rows import PayoutRow
from market.payments import matching
from market.payments.processor import BalanceLine, PaymentProcessor, ProcessorRefused

log = logging.getLogger("coster.payments")

OVERLAP_S: Final = 86_400
"""Lines of the day before the last reconciliation are looked at again: a late explanation
takes them out of suspense."""
ROUNDS_MAX: Final = 3
LINES_AT_ONCE: Final = 500
SHOWN_MAX: Final = 100


async def reconcile(ask: Ask, processor: PaymentProcessor, errands: Errands) -> dict[str, Any]:
    """Match every new line, compare the balances, write down what came of it.

    `difference_cents` is what the processor has beyond what the ledger says it should have,
    with `in_flight_cents` taken into account: refunds that have left the ledger and not yet
    the processor.
    """
    told: dict[str, Any] = {}
    for _ in range(ROUNDS_MAX):
        told, until_s = await _round(ask, processor, errands)
        if told["difference_cents"] == 0:
            break
    await ask(
        "reconciled",
        {
            "ok": told["ok"],
            "matched": told["matched"],
            "unmatched": len(told["unmatched"]),
            "difference_cents": told["difference_cents"],
        },
        until_s,
    )
    if not told["ok"]:
        log.error(
            "reconciliation: %d lines unexplained, a difference of %d cents",
            *(len(told["unmatched"]), told["difference_cents"]),
        )
    return told


async def _round(
    ask: Ask, processor: PaymentProcessor, errands: Errands
) -> tuple[dict[str, Any], int]:
    since_s = (await ask("payment_sums")).since_s
    lines = await processor.lines_since(max(0, since_s - OVERLAP_S))
    matched, unexplained = 0, []
    for start in range(0, len(lines), LINES_AT_ONCE):
        some = lines[start : start + LINES_AT_ONCE]
        first = await ask("match_lines", [line for line in some if not _is_sum(line)], False)
        doubtful = [
            *(entry.line for entry in first.unexplained),
            *(line for line in some if _is_sum(line)),
        ]
        for line in doubtful:
            await _ask_about(ask, processor, errands, line)
        second = await ask("match_lines", doubtful, True)
        matched += first.matched + second.matched
        unexplained += second.unexplained
    balance = await processor.balance()
    sums = await ask("payment_sums")
    processor_cents = balance.available_cents + balance.pending_cents
    difference = processor_cents - sums.clearing_cents - sums.refunds_cents
    told = {
        "ok": difference == 0 and not unexplained and sums.suspense_cents == 0,
        "matched": matched,
        "unmatched": [entry.as_json() for entry in unexplained[:SHOWN_MAX]],
        "ledger_cents": sums.clearing_cents,
        "processor_cents": processor_cents,
        "in_flight_cents": sums.refunds_cents,
        "unsettled_payouts_cents": sums.payouts_cents,
        "suspense_cents": sums.suspense_cents,
        "difference_cents": difference,
    }
    return told, max([since_s, *(line.created_s for line in lines)])


def _is_sum(line: BalanceLine) -> bool:
    """Lines that add up to one object's state, so that the object itself must be asked."""
    return line.kind in (*matching.DISPUTES, *matching.REVERSALS)


async def _ask_about(
    ask: Ask, processor: PaymentProcessor, errands: Errands, line: BalanceLine
) -> None:
    """Hear what the processor says now of the object behind a line. Strangers are no error."""
    try:
        if line.kind in matching.CHARGES and line.intent:
            await errands.pages_of(line.intent)
        elif line.kind in (*matching.REFUNDS, *matching.REFUND_FAILURES):
            await ask("refund_look", await processor.refund_by_id(line.source))
        elif line.kind in matching.TRANSFERS and line.our_id:
            await _payout(ask, processor, line.our_id)
        elif line.kind in matching.REVERSALS and line.intent:
            row: PayoutRow | None = await ask("payout_of_transfer", line.intent)
            if row is not None:
                await _payout(ask, processor, row.id)
        elif line.kind in matching.DISPUTES:
            await errands.dispute(line.source)
    except ProcessorRefused as error:
        log.warning("balance line %s (%s): %s", line.line, line.kind, error)


async def _payout(ask: Ask, processor: PaymentProcessor, payout_id: str) -> None:
    found = await processor.find_transfer(payout_id)
    if found is not None:
        await ask("payout_look", payout_id, found)
