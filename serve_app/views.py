"""From the market's records to the shapes of the API. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

from market.catalogue import ModelCard
from market.messages import KeyRecord, ModelAvailability
from serve_app.ports import BalanceView, UsageView
from serve_app.schemas import (
    NANO,
    BalanceAnswer,
    Generation,
    KeyObject,
    ModelObject,
    ModelPricing,
    PriceRow,
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


def model_object(card: ModelCard, state: ModelAvailability | None) -> ModelObject:
    """A card and its state in the fleet; without a state no Mac offers it."""
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
            prompt_nano_usd=str(card.price_in_nano),
            completion_nano_usd=str(card.price_out_nano),
            input_usd_per_1m=card.price_in_nano / 1000,
            output_usd_per_1m=card.price_out_nano / 1000,
        ),
        available=state is not None and state.ready > 0,
        providers=0 if state is None else state.providers,
        ready=0 if state is None else state.ready,
        free_slots=0 if state is None else state.free_slots,
        queued=0 if state is None else state.queued,
    )


def price_row(card: ModelCard) -> PriceRow:
    """Nano-USD per token is USD per 1M tokens times 1000: every conversion is exact."""
    return PriceRow(
        model=card.id,
        name=card.name,
        input_usd_per_1m=card.price_in_nano / 1000,
        output_usd_per_1m=card.price_out_nano / 1000,
        input_micro_usd_per_1m=card.price_in_nano * 1000,
        output_micro_usd_per_1m=card.price_out_nano * 1000,
        input_nano_usd_per_token=str(card.price_in_nano),
        output_nano_usd_per_token=str(card.price_out_nano),
    )


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


def generation(row: UsageView) -> Generation:
    """One request in any state."""
    return Generation.model_validate(
        {
            "request_id": row.request_id,
            "model": row.model,
            "status": row.status,
            "provider": row.provider or None,
            "finish_reason": row.finish_reason or None,
            "attempts": row.attempts,
            "prompt_tokens": row.prompt_tokens,
            "completion_tokens": row.completion_tokens,
            "cached_tokens": row.cached_tokens,
            "reasoning_tokens": row.reasoning_tokens,
            "total_tokens": row.prompt_tokens + row.completion_tokens,
            "cost_nano_usd": str(row.cost_nano),
            "cost_micro_usd": row.cost_nano // 1000,
            "cost_usd": row.cost_nano / NANO,
            "held_nano_usd": str(row.held_nano),
            "ttft_ms": row.ttft_ms,
            "total_ms": row.total_ms,
            "created_at": stamp_ns(row.created_ns),
            "finished_at": stamp_ns(row.finished_ns) if row.finished_ns else None,
            "key_id": row.key_id,
        }
    )


def key_object(record: KeyRecord) -> KeyObject:
    """A key without its secret."""
    return KeyObject.model_validate(key_fields(record))


def key_fields(record: KeyRecord) -> dict[str, object]:
    """What both key shapes have in common."""
    return {
        "id": record.key_id,
        "name": record.name,
        "prefix": record.prefix,
        "scopes": sorted(record.scopes),
        "tier": record.tier,
        "created_at": stamp(record.created_s),
        "revoked_at": None if record.revoked_s is None else stamp(record.revoked_s),
    }
