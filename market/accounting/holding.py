"""The terms of a new hold: price and fee frozen, answer length resolved, funding found.

Pure and without effect: either the whole answer to "may this request start, and for what
at most", or the refusal that says what is in the way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from market.accounting import admission
from market.accounting.answers import check_sizes
from market.accounting.caps import Caps, refuse_cap, windows_of
from market.accounting.customers import Key
from market.accounting.ledger import Ledger, funding_of
from market.accounting.prices import Price
from market.accounting.pricing import hold_nano
from market.accounting.rows import HoldRow
from market.catalogue import Catalogue
from market.errors import PaymentRequired
from market.messages import Admit
from market.money import format_usd_exact

LEASE_TTL_NS: Final = 60_000_000_000  # a hold whose gateway is silent this long is closed


@dataclass(frozen=True, slots=True)
class BookTerms:
    """What the operator decides: the offer, the fee in basis points, the lease.

    Earnings paid with promo credit are held back for `promo_maturity_days`.
    """

    catalogue: Catalogue
    fee_bps: int = 0
    lease_ttl_ns: int = LEASE_TTL_NS
    promo_maturity_days: int = 0


def hold_terms(
    op: Admit, key: Key, terms: BookTerms, price: Price, ledger: Ledger, now_ns: int
) -> HoldRow:
    """The hold that this admission needs, at this price.

    Raises InvalidRequest for sizes no request has, RateLimited when the day's tokens do not
    suffice, PaymentRequired when the money, the key's caps or the caller's budget do not.
    """
    check_sizes(op)
    owner = key.owner
    cap = _cap_of_the_day(op, key, now_ns)
    if key.caps is not None:
        cap = _cap_of_the_key(op, key, key.caps, price, cap, now_ns)
    if op.budget_nano is not None:
        cap = cap_of_the_budget(op, op.budget_nano, price, cap)
    available = ledger.available(owner.row.id)
    available_nano = sum(available)
    max_tokens = admission.resolve_max_tokens(
        asked=op.max_tokens,
        cap=cap,
        n=op.n,
        prompt_tokens=op.prompt_tokens,
        price_in_nano=price.in_nano,
        price_out_nano=price.out_nano,
        available_nano=available_nano,
        posted_nano=available_nano + ledger.held(owner.row.id),
    )
    amount = hold_nano(
        prompt_tokens=op.prompt_tokens,
        max_tokens=max_tokens,
        n=op.n,
        price_in_nano=price.in_nano,
        price_out_nano=price.out_nano,
    )
    funding = funding_of(available, amount)
    if funding is None:  # `resolve_max_tokens` has just shown that it is covered
        raise PaymentRequired("The balance does not cover this request.")
    return HoldRow(
        op.request_id,
        owner.row.id,
        key.row.id,
        op.model,
        op.prompt_tokens,
        op.max_tokens,
        op.max_tokens_cap,
        op.n,
        max_tokens,
        funding.promo_nano,
        funding.cash_nano,
        funding.earnings_nano,
        price.in_nano,
        price.out_nano,
        terms.fee_bps if owner.row.fee_bps is None else owner.row.fee_bps,
        now_ns,
        price.cached_nano,
        op.idempotency,
    )


def _cap_of_the_day(op: Admit, key: Key, now_ns: int) -> int:
    """The longest answer per choice that the day's tokens allow, within the request's cap."""
    meter, tier = key.owner.meter, key.owner.tier
    left = admission.tokens_left_today(meter, tier)
    if left is None:
        return op.max_tokens_cap
    wanted = 1 if op.max_tokens is None else op.max_tokens
    need = op.prompt_tokens + wanted * op.n
    if need > left:
        raise admission.refuse_day(meter, tier, need_tokens=need, now_ns=now_ns)
    return min(op.max_tokens_cap, (left - op.prompt_tokens) // op.n)


def _cap_of_the_key(op: Admit, key: Key, caps: Caps, price: Price, cap: int, now_ns: int) -> int:
    """The longest answer per choice that the key's spending caps allow, within `cap`."""
    meter = key.meter
    meter.roll(windows_of(now_ns))
    room_nano = meter.room_nano(caps)
    assert room_nano is not None
    per_token_nano = price.out_nano * op.n
    left_nano = room_nano - op.prompt_tokens * price.in_nano
    affordable = left_nano // per_token_nano if per_token_nano else (cap if left_nano >= 0 else 0)
    wanted = 1 if op.max_tokens is None else op.max_tokens
    if wanted > affordable:
        need_nano = op.prompt_tokens * price.in_nano + wanted * per_token_nano
        raise refuse_cap(key.row, meter, need_nano=need_nano, affordable=affordable)
    return min(cap, affordable)


def cap_of_the_budget(op: Admit, budget_nano: int, price: Price, cap: int) -> int:
    """The longest answer per choice that the caller's budget allows, within `cap`.

    Raises PaymentRequired, naming what fits, when that is less than what was asked for.
    """
    affordable = admission.affordable_tokens(
        budget_nano=budget_nano,
        prompt_tokens=op.prompt_tokens,
        n=op.n,
        price_in_nano=price.in_nano,
        price_out_nano=price.out_nano,
    )
    if affordable is None:
        return cap
    wanted = 1 if op.max_tokens is None else op.max_tokens
    if wanted <= affordable:
        return min(cap, affordable)
    need_nano = op.prompt_tokens * price.in_nano + wanted * op.n * price.out_nano
    fits = (
        f"max_tokens of at most {affordable} fits"
        if affordable >= 1
        else "not even one completion token fits"
    )
    raise PaymentRequired(
        f"This request may cost up to {format_usd_exact(need_nano)} and its max_cost_usd is "
        f"{format_usd_exact(budget_nano)}: {fits}. Ask for fewer tokens or allow more.",
        "max_cost_usd",
        "budget_exceeded",
        None,
        False,
    )
