"""The parts of an answer that Macs delivered before they were lost: bounds, text, comparison."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Final

from market.accounting.answers import check_text
from market.accounting.rows import DeliveryRow, RequestRow
from market.errors import InvalidRequest
from market.messages import Checkpoint, Part, Settle
from market.money import ASK_PCT_MAX
from market.types import AccountId, MachineId, ProviderId

PARTS_MAX: Final = 8
"""Macs that may be lost of one answer and be paid; a request has far fewer attempts."""

Earner = Callable[[AccountId, MachineId | None], AccountId]
"""Who a machine earns for now, given the payee that was named."""


def check_parts(op: Settle | Checkpoint) -> None:
    """Refuse parts that no answer has, and asks that no Mac may make. Raises InvalidRequest."""
    if not op.before and op.ask_pct == ASK_PCT_MAX:
        return  # nearly every time
    _check_ask(op.ask_pct)
    if len(op.before) > PARTS_MAX:
        raise InvalidRequest(
            f"An answer has at most {PARTS_MAX} parts of Macs that were lost, not "
            f"{len(op.before)}.",
            "before",
        )
    delivered = 0
    for part in op.before:
        check_text("payee", part.payee)
        check_text("machine", part.machine)
        check_text("provider", part.provider)
        _check_ask(part.ask_pct)
        if part.completion_tokens < 0:
            raise InvalidRequest(
                f"A part cannot have {part.completion_tokens} completion tokens.", "before"
            )
        delivered += part.completion_tokens
    if delivered > op.usage.completion_tokens:
        raise InvalidRequest(
            f"The parts of lost Macs come to {delivered} completion tokens; the whole answer has "
            f"{op.usage.completion_tokens}.",
            "before",
        )


def _check_ask(ask_pct: int) -> None:
    if not 1 <= ask_pct <= ASK_PCT_MAX:
        raise InvalidRequest(
            f"A Mac asks from 1 to {ASK_PCT_MAX} per cent of the market's prices, not {ask_pct}.",
            "ask_pct",
        )


def parts_text(before: Sequence[Part]) -> str:
    """Parts as one column holds them: JSON, "" for none."""
    if not before:
        return ""
    told = [
        [part.payee, part.machine, part.provider, part.completion_tokens, part.ask_pct]
        for part in before
    ]
    return json.dumps(told, separators=(",", ":"))


def parts_of(text: str) -> tuple[Part, ...]:
    """The parts that a column holds; raises ValueError when it cannot be read."""
    if not text:
        return ()
    try:
        return tuple(
            Part(
                AccountId(str(payee)),
                MachineId(str(machine)),
                ProviderId(str(provider)),
                int(tokens),
                int(ask_pct),
            )
            for payee, machine, provider, tokens, ask_pct in json.loads(text)
        )
    except (ValueError, TypeError) as error:
        raise ValueError("the parts of a hold's checkpoint cannot be read") from error


def delivered(row: RequestRow, written: Sequence[DeliveryRow]) -> tuple[DeliveryRow, ...]:
    """What each Mac delivered of a request, in their order. `written` is what is kept of that;
    where nothing is, one Mac delivered all of it and the request's own row says what.
    """
    if written or row.payee is None:
        return tuple(written)
    return (
        DeliveryRow(
            request_id=row.request_id,
            number=0,
            payee=row.payee,
            machine=row.machine,
            provider=row.provider,
            prompt_tokens=row.prompt_tokens,
            cached_tokens=row.cached_tokens,
            completion_tokens=row.completion_tokens,
            ask_pct=ASK_PCT_MAX,
            price_in_nano=row.price_in_nano,
            price_cached_nano=row.cached_price_nano,
            price_out_nano=row.price_out_nano,
            cost_nano=row.cost_nano,
            provider_nano=row.provider_nano,
            fee_nano=row.fee_nano,
            promo_nano=row.promo_nano,
            cash_nano=row.cash_nano,
            earnings_nano=row.earnings_nano,
        ),
    )


def same_macs(
    op: Settle, row: RequestRow, deliveries: Sequence[DeliveryRow], earner: Earner
) -> bool:
    """Whether a settlement names the Macs that were paid, their parts and what they asked.

    A machine may have been linked to an account since: who it earns for now is as good.
    """
    if row.deliveries is None:
        return not op.before and op.ask_pct == ASK_PCT_MAX and _same(op, row, earner)
    named: list[Settle | Part] = [*op.before, op]
    tokens = [part.completion_tokens for part in op.before]
    return (
        len(named) == len(deliveries)
        and tokens == [delivery.completion_tokens for delivery in deliveries[:-1]]
        and all(
            mac.ask_pct == delivery.ask_pct and _same(mac, delivery, earner)
            for mac, delivery in zip(named, deliveries, strict=True)
        )
    )


def _same(mac: Settle | Part, paid: RequestRow | DeliveryRow, earner: Earner) -> bool:
    payees = (mac.payee, earner(mac.payee, mac.machine))
    return paid.payee in payees and (mac.machine, mac.provider) == (paid.machine, paid.provider)
