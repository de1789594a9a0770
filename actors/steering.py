"""What an operator asks about Macs, models and requests, and orders of them, over the router.

A Mac is named by its name, its public id or its machine id, whole or by a beginning that only one
has. Answers are for an operator: they name machines, and never an account or a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from actors.calls import ActorAway, ActorCall
from actors.operator import MarketOperator
from market.accounting.rows import DeliveryRow, RequestRow
from market.errors import InvalidRequest, NotFound, Unavailable
from market.routing.roster import KnownMac
from market.settings import PaymentSettings
from market.types import ModelId, RequestId

OUR_REQUESTS = "req_"
"""How the ids that the ledger knows begin."""

ROUTER_AWAY_S = 1.0
"""When to ask a router again that is being restarted."""


class MarketSteering(MarketOperator):
    """A `serve_app.admin_ports.SteeringPort` over the named actors."""

    def __init__(
        self,
        *,
        accountant: ActorCall,
        router: ActorCall,
        payments: ActorCall,
        settings: PaymentSettings,
    ) -> None:
        super().__init__(accountant=accountant, payments=payments, settings=settings)
        self._router = router

    # ── looking ───────────────────────────────────────────────────────────────────────

    async def fleet(self) -> dict[str, Any]:
        answer: dict[str, Any] = await self._route("fleet")
        return answer

    async def mac(self, named: str) -> dict[str, Any]:
        known = await self._find(named)
        answer: dict[str, Any] = await self._route("mac", known.machine)
        return answer

    async def queue(self) -> dict[str, Any]:
        return {"queues": await self._route("queue")}

    async def placement(self, model: str) -> dict[str, Any]:
        answer: dict[str, Any] = await self._route("placement")
        if model:
            answer["models"] = [each for each in answer.get("models", ()) if each["model"] == model]
            if not answer["models"]:
                raise NotFound(f"The market does not offer {model[:80]!r}.", "model")
        return {**answer, "names": await self._route("names")}

    async def policies(self) -> dict[str, Any]:
        answer: dict[str, Any] = await self._route("policies")
        return answer

    async def why(self, named: str, by_policy: str) -> dict[str, Any]:
        asked = RequestId(named)
        story = await self._route("explain", asked, by_policy)
        ledger = await self._ledger(asked)
        if story is None and ledger is not None:
            story = {"request_id": named, "model": ledger["model"], "state": "", "attempts": []}
        if story is not None:
            names = await self._route("names")
            return {"kind": "request", **story, "ledger": ledger, "names": names}
        try:
            known = await self._find(named)
        except NotFound as error:
            nor = "" if named.startswith(OUR_REQUESTS) else f" Nor is it a Mac: {error.message}"
            raise NotFound(
                f"Nothing is known of a request {named[:80]!r}; decisions are kept for 7 days. A "
                "caller's own x-request-id is not kept: take the x-coster-request-id of the "
                f"response, or of coster usage.{nor}",
                "id",
                "nothing_known",
            ) from error
        return {"kind": "mac", **await self._route("why_mac", known)}

    async def _ledger(self, asked: RequestId) -> dict[str, Any] | None:
        """What the books have of a request; None where it is not there, or they are not."""
        try:
            row: RequestRow = await self._accountant("generation", None, asked)
            deliveries: Sequence[DeliveryRow] = await self._accountant("deliveries", None, asked)
        except (NotFound, ActorAway, Unavailable):
            return None
        return {
            "status": row.status,
            "model": row.model,
            "prompt_tokens": row.prompt_tokens,
            "cached_tokens": row.cached_tokens,
            "completion_tokens": row.completion_tokens,
            "cost_nano_usd": str(row.cost_nano),
            "finish_reason": row.finish_reason or None,
            "deliveries": [_delivery(each) for each in deliveries],
        }

    # ── ordering ──────────────────────────────────────────────────────────────────────

    async def drain(self, named: str, reason: str) -> dict[str, Any]:
        _check_said(reason)
        known = await self._find(named)
        mac = await self._route("drain", known.machine, reason)
        return {**_who(known), "drain": True, "reason": reason, **_left(mac)}

    async def undrain(self, named: str) -> dict[str, Any]:
        known = await self._find(named)
        before = await self._route("mac", known.machine)
        mac = await self._route("undrain", known.machine)
        was_drained = before["drain"] is not None
        return {**_who(known), "drain": False, "was_drained": was_drained, **_left(mac)}

    async def pin(self, named: str, model: str, reason: str) -> dict[str, Any]:
        _check_said(reason)
        known = await self._find(named)
        words = await self._route("pin", known.machine, ModelId(model), reason)
        return {**_who(known), "model": model, "pinned": True, "reason": reason, "words": words}

    async def unpin(self, named: str, model: str) -> dict[str, Any]:
        known = await self._find(named)
        was_pinned = await self._route("unpin", known.machine, ModelId(model))
        return {**_who(known), "model": model, "pinned": False, "was_pinned": was_pinned}

    async def use_policy(self, name: str) -> dict[str, Any]:
        answer: dict[str, Any] = await self._route("use_policy", name)
        return answer

    # ── helpers ───────────────────────────────────────────────────────────────────────

    async def _find(self, named: str) -> KnownMac:
        known: KnownMac = await self._route("find_mac", named)
        return known

    async def _route(self, method: str, *args: object) -> Any:
        """Once; drains, pins and their opposites may be repeated without harm."""
        try:
            return await self._router(method, *args)
        except ActorAway as error:
            raise Unavailable(
                "The router does not answer; it starts again within seconds. Ask again: an order "
                "that it acknowledged is kept.",
                None,
                "router_away",
                ROUTER_AWAY_S,
            ) from error


def _check_said(reason: str) -> None:
    """A reason is shown on terminals and written into logs."""
    if not reason.isprintable():
        raise InvalidRequest("Say the reason in printable characters, on one line.", "reason")


def _who(known: KnownMac) -> dict[str, str]:
    return {"machine": known.machine, "provider": known.provider, "name": known.called}


def _left(mac: Mapping[str, Any]) -> dict[str, Any]:
    """What a drain has to wait for, and what the market is without meanwhile."""
    return {
        "here": mac["health"] != "lost",
        "in_flight": mac["in_flight"],
        "only_here": mac["only_here"],
        "no_room": mac["no_room"],
        "verdict": mac["verdict"],
    }


def _delivery(row: DeliveryRow) -> dict[str, Any]:
    return {
        "provider": row.provider,
        "machine": row.machine,
        "prompt_tokens": row.prompt_tokens,
        "cached_tokens": row.cached_tokens,
        "completion_tokens": row.completion_tokens,
        "ask_pct": row.ask_pct,
        "cost_nano_usd": str(row.cost_nano),
        "paid_nano_usd": str(row.provider_nano),
        "fee_nano_usd": str(row.fee_nano),
    }
