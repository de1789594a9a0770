"""The laws that can be seen from the ledger's present state, checked while it runs.

I1 every debit has its credit, and what is reserved is what open holds reserve. I3 no
protected account is below zero. I12 promo credit granted is promo credit received. What is
held back is what its lots add up to. The others need the journal: `market.accounting.audit`.
"""

from __future__ import annotations

from collections.abc import Iterator

from market.accounting.chart import NO_NEGATIVE, SPENDING_ORDER, Account, Code
from market.accounting.ledger import Ledger


def broken_laws(ledger: Ledger) -> list[str]:
    """What does not add up, in sentences; an empty list is good news."""
    return [
        *_posted(ledger),
        *_reserved(ledger),
        *_negative(ledger),
        *_maturing(ledger),
        *_promo(ledger),
    ]


def _posted(ledger: Ledger) -> Iterator[str]:
    debited_nano = sum(account.dpo for account in ledger.accounts())
    credited_nano = sum(account.cpo for account in ledger.accounts())
    if debited_nano != credited_nano:
        yield f"Posted debits are {debited_nano} nano-USD, posted credits {credited_nano}."


def _reserved(ledger: Ledger) -> Iterator[str]:
    reserved: dict[Account, int] = {}
    for opened in ledger.holds.values():
        terms = opened.terms
        for code, leg_nano in zip(SPENDING_ORDER, terms[9:12], strict=True):
            account = ledger.find(code, terms.owner)
            if leg_nano and account is None:
                yield f"The hold {terms.request_id} reserves on an account that does not exist."
            elif leg_nano and account is not None:
                reserved[account] = reserved.get(account, 0) + leg_nano
    for account in ledger.accounts():
        if account.dp != reserved.get(account, 0):
            yield (
                f"Account {account.number} ({account.label()}) has {account.dp} nano-USD "
                f"pending, its open holds add up to {reserved.get(account, 0)}."
            )


def _negative(ledger: Ledger) -> Iterator[str]:
    for account in ledger.accounts():
        if account.code in NO_NEGATIVE and account.available_nano < 0:
            yield (
                f"Account {account.number} ({account.label()}) is at "
                f"{account.available_nano} nano-USD and must not be below zero."
            )


def _maturing(ledger: Ledger) -> Iterator[str]:
    noted: dict[str, int] = {}
    for (payee, _), amount_nano in ledger.lots.items():
        noted[payee] = noted.get(payee, 0) + amount_nano
    for account in ledger.owned(Code.PROVIDER_MATURING):
        if account.posted_nano != noted.get(account.owner, 0):
            yield (
                f"Account {account.number} ({account.label()}) holds back {account.posted_nano} "
                f"nano-USD, its lots add up to {noted.get(account.owner, 0)}."
            )


def _promo(ledger: Ledger) -> Iterator[str]:
    granted = sum(
        account.dpo - account.cpo
        for code in (Code.PROMO_EXPENSE, Code.GOODWILL)
        if (account := ledger.find(code)) is not None
    )
    received = sum(account.cpo for account in ledger.owned(Code.CONSUMER_PROMO))
    if granted != received:
        yield "Promo credit granted differs from promo credit received."
