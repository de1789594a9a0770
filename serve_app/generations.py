"""One request told afterwards: the ledger's row, what each Mac delivered, and the decisions.

Only to the account whose request it is, and with public ids only: nobody learns who else there
is but by the names that answers carry anyway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response

from market.accounting.rows import DeliveryRow
from market.errors import Unavailable
from market.keys import BILLING_READ
from market.policy.filters import BY_NAME
from market.types import RequestId
from serve_app.desk import Desk
from serve_app.money_views import UsageView
from serve_app.openapi import operation
from serve_app.rest import answer, caller
from serve_app.schemas import NANO
from serve_app.schemas_generation import Generation
from serve_app.views import stamp_ns

NOT_KEPT = "Nothing is kept of its decisions; they are kept for 7 days."
NOT_ASKED = "The router does not answer for the moment; ask again."


def add_generations(app: FastAPI, desk: Desk) -> None:
    """The one route."""
    accountant = desk.ports.accountant

    @app.get(
        "/v1/generations/{request_id}",
        response_model=Generation,
        tags=["money"],
        openapi_extra=operation(BILLING_READ),
    )
    async def get_generation(request: Request, request_id: str) -> Response:
        """How one request ended and what it cost, who delivered it, and why it was they."""
        record = await caller(desk, request, BILLING_READ)
        asked = RequestId(request_id)
        row = await accountant.generation(record.account, asked)  # whose it is comes first
        deliveries, (story, note) = await asyncio.gather(
            accountant.deliveries(record.account, asked), _told(desk, asked)
        )
        return answer(generation(row, deliveries, story, note))


async def _told(desk: Desk, asked: RequestId) -> tuple[Mapping[str, Any] | None, str | None]:
    """What the router keeps, or why nothing can be told: the money is told all the same."""
    try:
        story = await desk.ports.router.told(asked)
    except Unavailable:
        return None, NOT_ASKED
    return story, None if story is not None else NOT_KEPT


def generation(
    row: UsageView,
    deliveries: Sequence[DeliveryRow],
    story: Mapping[str, Any] | None,
    note: str | None,
) -> Generation:
    """One request in any state. `story` is what the router keeps of it, `note` why that is none."""
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
            "deliveries": [_delivery(each, row.cost_nano) for each in deliveries],
            "routing": None if story is None else _routing(story),
            "routing_note": note,
        }
    )


def _delivery(row: DeliveryRow, whole_nano: int) -> dict[str, Any]:
    return {
        "provider": row.provider or None,
        "prompt_tokens": row.prompt_tokens,
        "cached_tokens": row.cached_tokens,
        "completion_tokens": row.completion_tokens,
        "ask_pct": row.ask_pct,
        "cost_nano_usd": str(row.cost_nano),
        "cost_usd": row.cost_nano / NANO,
        "share": round(row.cost_nano / whole_nano, 6) if whole_nano else 0.0,
    }


def _routing(story: Mapping[str, Any]) -> dict[str, Any]:
    return {"attempts": [_attempt(each) for each in story["attempts"]]}


def _attempt(told: Mapping[str, Any]) -> dict[str, Any]:
    """One attempt. Of one whose outcome was not heard, or whose decision was lost with its
    router, that half is null.
    """
    decision, outcome = told["decision"] or {}, told["outcome"] or {}
    ruled_out: Mapping[str, int] = decision.get("ruled_out", {})
    chosen = next((mac for mac in decision.get("candidates", ()) if mac["chosen"]), None)
    return {
        "attempt": told["attempt"],
        "provider": decision.get("chosen") or outcome.get("provider"),
        "result": outcome.get("result"),
        "refusal": decision.get("refusal"),
        "waited_s": decision.get("waited_s"),
        "policy": decision.get("policy"),
        "macs": decision.get("macs", 0),
        "able": decision.get("macs", 0) - sum(ruled_out.values()),
        "ruled_out": [
            {"reason": reason, "count": count, "words": _in_words(reason, count)}
            for reason, count in ruled_out.items()
        ],
        "summary": decision.get("summary"),
        "score_ms": None if chosen is None else chosen["total_ms"],
        "terms_ms": {} if chosen is None else chosen["terms_ms"],
        "predicted_ttft_ms": decision.get("predicted_ttft_ms"),
        "ttft_ms": outcome.get("ttft_ms"),
        "predicted_total_ms": decision.get("predicted_total_ms"),
        "total_ms": outcome.get("total_ms"),
        "completion_tokens": outcome.get("completion_tokens"),
        "cached_tokens": outcome.get("cached_tokens"),
    }


def _in_words(reason: str, count: int) -> str:
    """A reason that an older version knew keeps its name."""
    return f"{count} {BY_NAME[reason].phrase if reason in BY_NAME else reason}"
