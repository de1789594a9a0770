"""A payer's bank takes a payment back: open → won or lost.

What has been withdrawn from us is taken from the account's credit as far as that goes, and
owed by the account for the rest; while a dispute is open the account is frozen. A row says
what has been booked, the processor says what is so now, and the difference is posted. So it
does not matter in which order or how often one hears of a dispute.

Of an account's open disputes, `owed_nano` adds up to its receivable, always: new credit pays
debts first, and the rows say which.
"""

from __future__ import annotations

from typing import Final

from market.accounting.chart import Code, Posting
from market.accounting.state_rows import DisputeRow, TopUpRow
from market.money import NANO_PER_CENT
from market.payments.desk import Desk
from market.payments.processor import Dispute
from market.types import AccountId

DISPUTED: Final = "a payment is disputed by the payer's bank"
CHARGED_BACK: Final = "a payment was taken back by the payer's bank"

_CASH, _OWED, _REST = range(3)  # the legs of one difference
_FEE: Final = 3
_LOSS: Final = 4


def look(
    desk: Desk, topup: TopUpRow, row: DisputeRow | None, said: Dispute, now_ns: int
) -> DisputeRow:
    """Bring a dispute to what the processor says of it now; again changes nothing.

    `topup` is the paid top-up it is about, `row` what has been booked of it so far.
    """
    if row is None:
        row = DisputeRow(
            id=said.dispute,
            owner=topup.owner,
            topup=topup.id,
            amount_cents=said.amount_cents,
            withdrawn_cents=0,
            fee_cents=0,
            cash_nano=0,
            owed_nano=0,
            state="open",
            created_ns=now_ns,
            changed_ns=now_ns,
        )
        _freeze(desk, topup.owner, DISPUTED)
        desk.put(row)
    before = row
    withdrawn_cents = max(0, said.withdrawn_cents)
    row = _withdraw(desk, row, withdrawn_cents - row.withdrawn_cents, now_ns)
    row = _charge_fee(desk, row, said.fee_cents - row.fee_cents, now_ns)
    if said.status != row.state:
        row = row._replace(state=said.status)
        if said.status == "open":
            _freeze(desk, row.owner, DISPUTED)
        elif said.status == "lost":
            row = _write_off(desk, row, now_ns)
            _freeze(desk, row.owner, CHARGED_BACK)
    if row != before:
        row = row._replace(changed_ns=now_ns)
        desk.put(row)
        moved_cents = row.withdrawn_cents - before.withdrawn_cents
        desk.put(
            topup._replace(
                disputed_cents=max(0, topup.disputed_cents + moved_cents), changed_ns=now_ns
            )
        )
    if row.state == "won":
        _unfreeze(desk, row.owner)
    return row


def _withdraw(desk: Desk, row: DisputeRow, more_cents: int, now_ns: int) -> DisputeRow:
    """Book that the bank took this much more, or gave it back when it is negative."""
    if more_cents == 0:
        return row
    ledger, transfer_id = desk.ledger, _transfer_id(row, now_ns)
    cash = ledger.account(Code.CONSUMER_CASH, row.owner)
    owing = ledger.account(Code.CONSUMER_RECEIVABLE, row.owner)
    nano = abs(more_cents) * NANO_PER_CENT
    if more_cents > 0:
        from_cash = min(nano, max(0, cash.available_nano))
        owed = nano - from_cash
        taken = ((cash, from_cash), (owing, owed))
        for leg, (account, part) in zip((_CASH, _OWED), taken, strict=True):
            desk.post(transfer_id, leg, Posting.DISPUTE, account, desk.clearing, part, now_ns)
    else:
        # Debts first, then the account's credit. What the platform had written off by then
        # waits for a person: only they can say which year's loss it was.
        owed = -min(nano, row.owed_nano)
        from_cash = -min(nano + owed, row.cash_nano)
        rest = nano + owed + from_cash
        back = ((cash, -from_cash), (owing, -owed))
        for leg, (account, part) in zip((_CASH, _OWED), back, strict=True):
            desk.post(transfer_id, leg, Posting.DISPUTE_WON, desk.clearing, account, part, now_ns)
        if rest:
            unclear = ledger.account(Code.SUSPENSE)
            desk.post(transfer_id, _REST, Posting.SUSPENSE_IN, desk.clearing, unclear, rest, now_ns)
    return row._replace(
        withdrawn_cents=row.withdrawn_cents + more_cents,
        cash_nano=row.cash_nano + from_cash,
        owed_nano=row.owed_nano + owed,
    )


def _charge_fee(desk: Desk, row: DisputeRow, more_cents: int, now_ns: int) -> DisputeRow:
    """The platform's cost. A fee that comes back shows up as a line nobody has explained."""
    if more_cents <= 0:
        return row
    desk.post(
        _transfer_id(row, now_ns),
        _FEE,
        Posting.DISPUTE_FEE,
        desk.ledger.account(Code.STRIPE_FEES),
        desk.clearing,
        more_cents * NANO_PER_CENT,
        now_ns,
    )
    return row._replace(fee_cents=row.fee_cents + more_cents)


def _write_off(desk: Desk, row: DisputeRow, now_ns: int) -> DisputeRow:
    """What the account still owes for a lost dispute is the platform's loss."""
    if row.owed_nano == 0:
        return row
    desk.post(
        _transfer_id(row, now_ns),
        _LOSS,
        Posting.DISPUTE_LOST,
        desk.ledger.account(Code.DISPUTE_LOSS),
        desk.ledger.account(Code.CONSUMER_RECEIVABLE, row.owner),
        row.owed_nano,
        now_ns,
    )
    return row._replace(owed_nano=0)


def collect_debt(desk: Desk, owner: AccountId, now_ns: int) -> int:
    """Let an account's free credit pay what its disputes have left owing, in nano-USD."""
    paid = 0
    for row in desk.disputes.open():
        part = min(row.owed_nano, desk.available_nano(Code.CONSUMER_CASH, owner))
        if row.owner != owner or part <= 0:
            continue
        desk.post(
            f"debt:{row.id}:{now_ns}",
            0,
            Posting.REPAY_DEBT,
            desk.ledger.account(Code.CONSUMER_CASH, owner),
            desk.ledger.account(Code.CONSUMER_RECEIVABLE, owner),
            part,
            now_ns,
        )
        desk.put(
            row._replace(
                owed_nano=row.owed_nano - part,
                cash_nano=row.cash_nano + part,
                changed_ns=now_ns,
            )
        )
        paid += part
    return paid


def collect_debts(desk: Desk, now_ns: int) -> int:
    """The same for every account: a hold that ended may have freed credit."""
    owners = {row.owner for row in desk.disputes.open() if row.owed_nano}
    return sum(collect_debt(desk, owner, now_ns) for owner in sorted(owners))


def _transfer_id(row: DisputeRow, now_ns: int) -> str:
    """Ledger time grows strictly, so that each difference has a number of its own."""
    return f"dispute:{row.id}:{now_ns}"


def _freeze(desk: Desk, owner: AccountId, reason: str) -> None:
    """An operator's own freeze, and one for a lost dispute, stay as they are."""
    row = desk.owner(owner)
    if row.frozen in ("", DISPUTED) and row.frozen != reason:
        desk.books.change_owner(row._replace(frozen=reason))


def _unfreeze(desk: Desk, owner: AccountId) -> None:
    """Lift our own freeze when no other dispute is open; a person lifts every other."""
    row = desk.owner(owner)
    others = any(other.owner == owner for other in desk.disputes.open())
    if row.frozen == DISPUTED and not others:
        desk.books.change_owner(row._replace(frozen=""))
