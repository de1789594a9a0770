"""What rows and transfers must say alike: of requests, of payouts, of disputes.

For the audit, which compares what was written with what the terms in the row demand.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from market.accounting.chart import LEGS_PER_MAC, SHAPES, SPENDING_ORDER, Account, Code, Posting
from market.accounting.pricing import BPS_MAX, Piece, cost_nano, pieces_of, split_fee
from market.accounting.rows import DeliveryRow, RequestRow, TransferRow
from market.accounting.state_rows import ENDED, DisputeRow, LotRow, PayoutRow
from market.money import ASK_PCT_MAX, NANO_PER_CENT

_Flows = dict[tuple[Code, str], int]
_AT = DeliveryRow._fields.index(Piece._fields[0])
_PIECE = slice(_AT, _AT + len(Piece._fields))
"""Where in its row a delivery says what its Mac delivered and what that costs."""


def settlement_problems(
    row: RequestRow,
    legs: Sequence[TransferRow],
    deliveries: Sequence[DeliveryRow],
    accounts: Mapping[int, Account],
) -> Iterator[str]:
    """A settlement pays exactly what it charged, from its owner, to its payees and us."""
    name = row.request_id
    if deliveries or row.deliveries is not None:
        yield from _divided_problems(row, legs, deliveries, accounts)
        return
    due = _due_nano(row)
    if row.cost_nano != due:
        yield f"The request {name} cost {row.cost_nano} nano-USD; its tokens cost {due}."
    if not _is_split_right(row, row):
        yield f"The request {name} is not split at its fee of {row.fee_bps} bps."
    if _moved(legs, accounts) != _demanded(row, row):
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


def _is_split_right(row: RequestRow, paid: RequestRow | DeliveryRow) -> bool:
    own_promo = paid.promo_nano if paid.payee == row.owner else 0
    if not (0 <= row.fee_bps <= BPS_MAX and 0 <= own_promo <= paid.cost_nano):
        return False
    split = split_fee(paid.cost_nano, row.fee_bps, own_promo)
    return (paid.provider_nano, paid.fee_nano) == split


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


def _demanded(row: RequestRow, paid: RequestRow | DeliveryRow) -> tuple[_Flows, _Flows]:
    """What a request, or the delivery of one Mac, says was taken and paid."""
    taken = {
        (code, str(row.owner)): amount
        for code, amount in zip(SPENDING_ORDER, _funding(paid), strict=True)
        if amount
    }
    given: _Flows = {}
    if paid.provider_nano:
        given[Code.PROVIDER_EARNINGS, str(paid.payee)] = paid.provider_nano
    if paid.fee_nano:
        given[Code.PLATFORM_FEE, ""] = paid.fee_nano
    return taken, given


def _funding(paid: RequestRow | DeliveryRow) -> list[int]:
    return [paid.promo_nano, paid.cash_nano, paid.earnings_nano]


def _sums(paid: RequestRow | DeliveryRow) -> list[int]:
    return [paid.cost_nano, paid.provider_nano, paid.fee_nano, *_funding(paid)]


# ── several Macs, or one below the market's prices ────────────────────────────────────


def _divided_problems(
    row: RequestRow,
    legs: Sequence[TransferRow],
    deliveries: Sequence[DeliveryRow],
    accounts: Mapping[int, Account],
) -> Iterator[str]:
    """The deliveries are the whole request, each paid as its Mac asked, in their order."""
    name, count = row.request_id, row.deliveries or 0
    whole = list(range(len(deliveries)))
    if not len(whole) == count > 0 or [delivery.number for delivery in deliveries] != whole:
        numbers = ", ".join(str(delivery.number) for delivery in deliveries) or "none"
        yield f"The request {name} says that it has {count} deliveries; there are: {numbers}."
        return
    last = deliveries[-1]
    if (last.payee, last.machine, last.provider) != (row.payee, row.machine, row.provider):
        yield f"The request {name} was finished by another Mac than its last delivery says."
    prices_nano = (row.price_in_nano, row.cached_price_nano, row.price_out_nano)
    pieces = pieces_of(row, prices_nano, deliveries[:-1], last.ask_pct)
    paid_by: defaultdict[int, list[TransferRow]] = defaultdict(list)
    for leg in legs:
        paid_by[leg.leg // LEGS_PER_MAC].append(leg)
    left_nano = _funding(row)
    for delivery, piece in zip(deliveries, pieces, strict=True):
        where = f"The delivery {delivery.number} of {name}"
        cells: tuple[object, ...] = delivery
        if cells[_PIECE] != tuple(piece) or not _is_possible(delivery):
            yield f"{where} is not its Mac's tokens at {delivery.ask_pct} % of the prices."
        if not _is_split_right(row, delivery):
            yield f"{where} is not split at the request's fee of {row.fee_bps} bps."
        if _funding(delivery) != _spend(left_nano, delivery.cost_nano):
            yield f"{where} is not paid from promo, cash and earnings in that order."
        if _moved(paid_by.pop(delivery.number, []), accounts) != _demanded(row, delivery):
            yield f"The transfers of {name} do not move what its delivery {delivery.number} cost."
    for number in paid_by:
        yield f"The transfers of {name} pay for a delivery {number} that is not there."
    columns = zip(*map(_sums, deliveries), strict=True)
    if [sum(column) for column in columns] != _sums(row):
        yield f"The deliveries of {name} do not add up to the request."


def _is_possible(delivery: DeliveryRow) -> bool:
    return delivery.completion_tokens >= 0 and 1 <= delivery.ask_pct <= ASK_PCT_MAX


def _spend(left_nano: list[int], due_nano: int) -> list[int]:
    """Take what is due from what is left of each source, the first one first."""
    spent = []
    for source, nano in enumerate(left_nano):
        spent.append(min(nano, due_nano))
        left_nano[source] -= spent[-1]
        due_nano -= spent[-1]
    return spent


# ── every transfer ────────────────────────────────────────────────────────────────────


def shape_problems(
    number: int, transfer: TransferRow, accounts: Mapping[int, Account]
) -> Iterator[str]:
    """A reason moves money only between the accounts it may."""
    debit, credit = accounts.get(transfer.debit), accounts.get(transfer.credit)
    if transfer.code not in {int(posting) for posting in Posting}:
        yield f"The transfer {number} has the reason {transfer.code}: there is none."
    elif debit and credit and (debit.code, credit.code) not in SHAPES[Posting(transfer.code)]:
        yield (
            f"The transfer {number} ({Posting(transfer.code).name.lower()}) moves money from "
            f"{debit.label()} to {credit.label()}, which it may not."
        )


# ── payouts, disputes, lots ───────────────────────────────────────────────────────────


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
