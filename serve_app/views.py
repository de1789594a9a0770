"""From the market's records to the shapes of the API. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from market.accounting.prices import Price
from market.accounting.state_rows import PriceRow
from market.catalogue import ModelCard
from market.routing.messages import ModelAvailability
from serve_app.money_views import BalanceView, UsageView
from serve_app.schemas import (
    NANO,
    BalanceAnswer,
    ModelObject,
    ModelPricing,
    PriceEntry,
    PriceHistory,
    UsageEntry,
)

LISTED_S = 1_777_507_200
"""`created` of every model: 2026-04-30, the day of the price lists. A constant, so that all
gateways say the same, before and after a restart."""


def stamp(seconds: float) -> str:
    """Unix seconds as `2026-04-30T14:22:01Z`."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def stamp_ns(nanoseconds: int) -> str:
    """Unix nanoseconds, to the second below."""
    return stamp(nanoseconds // NANO)


def model_object(card: ModelCard, price: Price, state: ModelAvailability | None) -> ModelObject:
    """A card, its present price and its state in the fleet; without a state no Mac offers it."""
    return ModelObject(
        id=card.id,
        created=LISTED_S,
        owned_by=card.publisher,
        name=card.name,
        quantization=card.quantization,
        context_length=card.context_tokens,
        max_output_tokens=card.max_output_tokens,
        min_memory_gb=card.min_memory_gb,
        pricing=ModelPricing(
            prompt_nano_usd=str(price.in_nano),
            completion_nano_usd=str(price.out_nano),
            input_usd_per_1m=price.in_nano / 1000,
            output_usd_per_1m=price.out_nano / 1000,
            cached_prompt_nano_usd=str(price.cached_nano),
            cached_input_usd_per_1m=price.cached_nano / 1000,
        ),
        available=state is not None and state.ready > 0,
        providers=0 if state is None else state.providers,
        ready=0 if state is None else state.ready,
        free_slots=0 if state is None else state.free_slots,
        queued=0 if state is None else state.queued,
    )


def list_price(card: ModelCard) -> Price:
    """What a model costs until a price is set for it."""
    return Price(card.price_in_nano, card.price_in_nano, card.price_out_nano)


def _rates(price: Price) -> dict[str, object]:
    """Nano-USD per token is USD per 1M tokens times 1000: every conversion is exact."""
    rates: dict[str, object] = {}
    for name, nano in (
        ("input", price.in_nano),
        ("cached_input", price.cached_nano),
        ("output", price.out_nano),
    ):
        rates[f"{name}_usd_per_1m"] = nano / 1000
        rates[f"{name}_micro_usd_per_1m"] = nano * 1000
        rates[f"{name}_nano_usd_per_token"] = str(nano)
    return rates


def price_entry(card: ModelCard, price: Price) -> PriceEntry:
    """A model's current rates."""
    return PriceEntry.model_validate({"model": card.id, "name": card.name, **_rates(price)})


def price_history(card: ModelCard, rows: Sequence[PriceRow]) -> PriceHistory:
    """Every price a model has had; the first is the catalogue's."""
    data = [
        {
            "since": stamp_ns(row.created_ns),
            "reason": row.reason,
            **_rates(Price(row.price_in_nano, row.price_cached_nano, row.price_out_nano)),
        }
        for row in rows
    ]
    return PriceHistory.model_validate({"model": card.id, "data": data})


def balance_answer(balance: BalanceView) -> BalanceAnswer:
    """The balance in three notations; micro-USD is the floor of the nano sum."""
    total = balance.promo_nano + balance.cash_nano + balance.earnings_nano
    return BalanceAnswer(
        balance_micro_usd=total // 1000,
        balance_usd=total / NANO,
        withdrawable_micro_usd=balance.earnings_nano // 1000,
        withdrawable_usd=balance.earnings_nano / NANO,
        held_micro_usd=balance.held_nano // 1000,
        held_usd=balance.held_nano / NANO,
        balance_nano_usd=str(total),
        withdrawable_nano_usd=str(balance.earnings_nano),
        held_nano_usd=str(balance.held_nano),
        promo_nano_usd=str(balance.promo_nano),
        cash_nano_usd=str(balance.cash_nano),
        earnings_nano_usd=str(balance.earnings_nano),
        maturing_nano_usd=str(balance.maturing_nano),
        maturing_usd=balance.maturing_nano / NANO,
        owed_nano_usd=str(balance.owed_nano),
        owed_usd=balance.owed_nano / NANO,
    )


def usage_entry(row: UsageView) -> UsageEntry:
    """One row of /v1/payments/usage."""
    return UsageEntry(
        request_id=row.request_id,
        model=row.model,
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.completion_tokens,
        cost_micro_usd=row.cost_nano // 1000,
        timestamp=stamp_ns(row.created_ns),
        cached_tokens=row.cached_tokens,
        reasoning_tokens=row.reasoning_tokens,
        total_tokens=row.prompt_tokens + row.completion_tokens,
        cost_nano_usd=str(row.cost_nano),
        cost_usd=row.cost_nano / NANO,
        provider=row.provider or None,
        finish_reason=row.finish_reason or None,
        key_id=row.key_id,
    )
