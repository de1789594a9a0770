"""What rows and transfers must say alike: of requests, of payouts, of disputes.

For the audit, which compares what was written with what the terms in the row demand.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from market.accounting.chart import SPENDING_ORDER, Account, Code
from market.accounting.pricing import BPS_MAX, cost_nano, split_fee
from market.accounting.rows import RequestRow, TransferRow
from market.accounting.state_rows import ENDED, DisputeRow, LotRow, PayoutRow
from market.money import NANO_PER_CENT

_Flows = dict[tuple[Code, str], int]


def settlement_problems(
    row: RequestRow, legs: Sequence[TransferRow], accounts: Mapping[int, Account]
) -> Iterator[str]:
    """A settlement pays exactly what it charged, from its owner, to its payee and us."""
    name, due = row.request_id, _due_nano(row)
    if row.cost_nano != due:
        yield f"The request {name} cost {row.cost_nano} nano-USD; its tokens cost {due}."
    if not _is_split_right(row):
        yield f"The request {name} is not split at its fee of {row.fee_bps} bps."
    if _moved(legs, accounts) != _demanded(row):
        yield f"The transfers of {name} do not move what the request cost."


def _due_nano(row: RequestRow) -> int:
    if row.payee is None:
        return 0
    return cost_nano(
        prompt_tokens=row.prompt_tokens,
        cached_tokens=row.cached_tokens,
        completion_tokens=row.completion_tokens,
        price_in_nano=row.price_in_nano,
        price_cached_nano=row.cached_price_nano,
        price_out_nano=row.price_out_nano,
    )


def _is_split_right(row: RequestRow) -> bool:
    own_promo = row.promo_nano if row.payee == row.owner else 0
    if row.cost_nano < 0 or not 0 <= row.fee_bps <= BPS_MAX or not 0 <= own_promo <= row.cost_nano:
        return False
    return (row.provider_nano, row.fee_nano) == split_fee(row.cost_nano, row.fee_bps, own_promo)


def _moved(legs: Sequence[TransferRow], accounts: Mapping[int, Account]) -> tuple[_Flows, _Flows]:
    """What the transfers took from whom and gave to whom; held-back earnings are earnings."""
    taken: defaultdict[tuple[Code, str], int] = defaultdict(int)
    paid: defaultdict[tuple[Code, str], int] = defaultdict(int)
    for leg in legs:
        debit, credit = accounts.get(leg.debit), accounts.get(leg.credit)
        if debit and credit:
            taken[debit.code, debit.owner] += leg.amount_nano
            held_back = credit.code is Code.PROVIDER_MATURING
            kind = Code.PROVIDER_EARNINGS if held_back else credit.code
            paid[kind, credit.owner] += leg.amount_nano
    return dict(taken), dict(paid)


def _demanded(row: RequestRow) -> tuple[_Flows, _Flows]:
    """What the row says was taken and paid."""
    sources = (row.promo_nano, row.cash_nano, row.earnings_nano)
    taken = {
        (code, str(row.owner)): amount
        for code, amount in zip(SPENDING_ORDER, sources, strict=True)
        if amount
    }
    paid: _Flows = {}
    if row.provider_nano:
        paid[Code.PROVIDER_EARNINGS, str(row.payee)] = row.provider_nano
    if row.fee_nano:
        paid[Code.PLATFORM_FEE, ""] = row.fee_nano
    return taken, paid


def payment_problems(
    accounts: Iterable[Account], payouts: Iterable[PayoutRow], disputes: Iterable[DisputeRow]
) -> Iterator[str]:
    """In transit is what open payouts add up to, owed what open disputes say, for everyone."""
    noted: defaultdict[tuple[Code, str], int] = defaultdict(int)
    for payout in payouts:
        if payout.state not in ENDED[PayoutRow]:
            noted[Code.PAYOUT_IN_TRANSIT, payout.owner] += payout.amount_cents * NANO_PER_CENT
    for dispute in disputes:
        if dispute.state not in ENDED[DisputeRow]:
            noted[Code.CONSUMER_RECEIVABLE, dispute.owner] -= dispute.owed_nano
    booked: defaultdict[tuple[Code, str], int] = defaultdict(int)
    for account in accounts:
        if account.code in (Code.PAYOUT_IN_TRANSIT, Code.CONSUMER_RECEIVABLE):
            booked[account.code, account.owner] = account.posted_nano
    for code, owner in sorted({*noted, *booked}):
        stands, should = booked[code, owner], noted[code, owner]
        if stands != should:
            rows = "payouts" if code is Code.PAYOUT_IN_TRANSIT else "disputes"
            yield (
                f"The account {int(code)} {code.name.lower()} of {owner} is at {stands} nano-USD; "
                f"the open {rows} add up to {should}."
            )


def lot_problems(accounts: Iterable[Account], lots: Iterable[LotRow]) -> Iterator[str]:
    """What is held back of everyone's earnings is what their lots add up to."""
    noted: defaultdict[str, int] = defaultdict(int)
    for lot in lots:
        noted[lot.payee] += lot.amount_nano
    booked: defaultdict[str, int] = defaultdict(int)
    for account in accounts:
        if account.code is Code.PROVIDER_MATURING:
            booked[account.owner] = account.posted_nano
    for owner in sorted({*noted, *booked}):
        if booked[owner] != noted[owner]:
            code = Code.PROVIDER_MATURING
            yield (
                f"The account {int(code)} {code.name.lower()} of {owner} is at {booked[owner]} "
                f"nano-USD; its lots add up to {noted[owner]}."
            )
