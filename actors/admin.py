"""What the operator's listener knows: every actor asked at once, put into one answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from actors.calls import ActorAway, ActorCall
from actors.operator import MarketOperator
from market.errors import NotFound, Unavailable
from market.settings import PaymentSettings
from market.types import MachineId, RequestId
from storage.opening import verify_ledger

METRICS_S_MAX = 2.0
"""A scrape does not wait longer for payments, whose calls may wait for the processor."""
HEALTHY = ("ready", "running", "draining", "drained")


class MarketAdmin(MarketOperator):
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
        super().__init__(accountant=accountant, payments=payments, settings=payment_settings)
        self._router = router
        self._describe_actors = describe_actors
        self._serve_states = serve_states
        self._data_dir = data_dir
        self._database = database

    async def status(self) -> dict[str, Any]:
        """Every actor, gateway and deployment; `ok` when all of them are healthy."""
        actors, routing, models, serve = await asyncio.gather(
            self._describe_actors(),
            _or_none(self._router("status")),
            _or_none(self._router("availability")),
            asyncio.to_thread(self._serve_states),
        )
        routing = routing or {}
        every = [*actors, *(_gateway(entry) for entry in routing.get("gateways", ()))]
        return {
            "ok": bool(routing) and all(entry.get("state") in HEALTHY for entry in every),
            "actors": every,
            "serve": serve,
            "models": [asdict(model) for model in models or ()],
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

    async def explain(self, request_id: RequestId) -> dict[str, Any] | None:
        answer: dict[str, Any] | None = await self._router("explain", request_id)
        return answer

    async def verify(self, *, full: bool) -> dict[str, Any]:
        """Audit the ledger beside the running accountant, which never waits for it."""
        report = await asyncio.to_thread(verify_ledger, self._data_dir, self._database, full=full)
        return report.as_json()

    async def drain(self, machine: str, reason: str) -> dict[str, Any]:
        await self._known(machine)
        await self._router("drain", MachineId(machine), reason)
        return {"machine": machine, "drain": True, "reason": reason}

    async def undrain(self, machine: str) -> dict[str, Any]:
        await self._known(machine)
        await self._router("undrain", MachineId(machine))
        return {"machine": machine, "drain": False}

    async def _known(self, machine: str) -> None:
        machines = (await self._router("status")).get("macs", [])
        if machine not in {str(entry.get("machine")) for entry in machines}:
            raise NotFound(
                f"There is no machine {machine[:80]!r}; coster status lists them.", "machine"
            )


def _gateway(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A gateway as the router knows it, in the words of the other actors."""
    state = "suspect" if entry.get("suspect") else "running"
    return {"role": "gateway", "name": entry.get("gateway"), "state": state, **entry}


async def _or_none(answer: Awaitable[Any], within_s: float | None = None) -> Any:
    try:
        async with asyncio.timeout(within_s):
            return await answer
    except (ActorAway, TimeoutError):
        return None
