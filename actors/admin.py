"""What the operator's listener knows: every actor asked at once, put into one answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from actors.calls import ActorAway, ActorCall
from actors.steering import MarketSteering
from market.errors import Unavailable
from market.settings import PaymentSettings
from storage.opening import verify_ledger

METRICS_S_MAX = 2.0
"""A scrape does not wait longer for payments, whose calls may wait for the processor."""
HEALTHY = ("ready", "running", "draining", "drained")


class MarketAdmin(MarketSteering):
    """A `serve_app.admin_ports.OperationsPort` over the named actors."""

    def __init__(
        self,
        *,
        accountant: ActorCall,
        router: ActorCall,
        payments: ActorCall,
        payment_settings: PaymentSettings,
        describe_actors: Callable[[], Awaitable[list[dict[str, object]]]],
        serve_states: Callable[[], list[dict[str, object]]],
        data_dir: Path,
        database: str = "",
    ) -> None:
        super().__init__(
            accountant=accountant, router=router, payments=payments, settings=payment_settings
        )
        self._describe_actors = describe_actors
        self._serve_states = serve_states
        self._data_dir = data_dir
        self._database = database

    async def status(self) -> dict[str, Any]:
        """Every actor, gateway and deployment; `ok` when all of them are healthy."""
        actors, routing, models, fleet, serve = await asyncio.gather(
            self._describe_actors(),
            _or_none(self._router("status")),
            _or_none(self._router("models")),
            _or_none(self._router("fleet")),
            asyncio.to_thread(self._serve_states),
        )
        routing = routing or {}
        every = [*actors, *(_gateway(entry) for entry in routing.get("gateways", ()))]
        return {
            "ok": bool(routing) and all(entry.get("state") in HEALTHY for entry in every),
            "actors": every,
            "serve": serve,
            "models": models or [],
            "fleet": _sums(fleet) if fleet is not None else None,
            "queues": routing.get("queues", {}),
            "machines": routing.get("macs", []),
            "drains": routing.get("drains", {}),
        }

    async def metrics(self) -> Mapping[str, float]:
        """The actors' own figures; the router adds the gateways' up."""
        routing, books, paying = await asyncio.gather(
            _or_none(self._router("metrics")),
            _or_none(self._accountant("metrics")),
            _or_none(self._payments("metrics"), METRICS_S_MAX),
        )
        if routing is None and books is None:
            raise Unavailable(
                "Neither the router nor the accountant answers.", None, "restarting", 1.0
            )
        up = {
            "coster_accountant_up": float(books is not None),
            "coster_payments_up": float(paying is not None),
        }
        return {**up, **(routing or {}), **(books or {}), **(paying or {})}

    async def verify(self, *, full: bool) -> dict[str, Any]:
        """Audit the ledger beside the running accountant, which never waits for it."""
        report = await asyncio.to_thread(verify_ledger, self._data_dir, self._database, full=full)
        return report.as_json()


def _gateway(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A gateway as the router knows it, in the words of the other actors."""
    state = "suspect" if entry.get("suspect") else "running"
    return {"role": "gateway", "name": entry.get("gateway"), "state": state, **entry}


def _sums(fleet: Mapping[str, Any]) -> dict[str, Any]:
    """A fleet without its Macs, but for the names of those that should be here and are not."""
    missing = [mac["name"] or mac["machine"] for mac in fleet["macs"] if mac["health"] == "lost"]
    return {**{k: v for k, v in fleet.items() if k != "macs"}, "missing": missing}


async def _or_none(answer: Awaitable[Any], within_s: float | None = None) -> Any:
    try:
        async with asyncio.timeout(within_s):
            return await answer
    except (ActorAway, TimeoutError):
        return None
