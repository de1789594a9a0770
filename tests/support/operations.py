"""Two ways to stand behind the operator's listener: a recorder, and a real accountant."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actors.accountant import Accountant
from actors.admin import MarketAdmin
from actors.calls import ActorAway
from market.errors import NotFound
from market.settings import PaymentSettings
from serve_app.metric_names import REQUESTS, labelled


class Operations:
    """An `OperationsPort` that remembers what it was asked and answers the same each time."""

    def __init__(self) -> None:
        self.orders: list[tuple[Any, ...]] = []

    async def status(self) -> dict[str, Any]:
        return {"actors": [{"role": "router", "pid": 1}]}

    async def metrics(self) -> Mapping[str, float]:
        return {
            labelled(REQUESTS, route="chat", status=200): 3.0,
            labelled(REQUESTS, route="chat", status=400): 1.0,
            "coster_router_queued": 2.0,
            "coster_new": 1.0,
        }

    async def why(self, named: str, by_policy: str) -> dict[str, Any]:
        if named != "req_1":
            raise NotFound("Nothing is known of it.", "id", "nothing_known")
        return {"kind": "request", "request_id": named, "by": by_policy}

    async def verify(self, *, full: bool) -> dict[str, Any]:
        self.orders.append(("verify", full))
        return {"ok": True, "problems": []}

    def __getattr__(self, name: str) -> Any:
        async def done(*args: Any, **named: Any) -> dict[str, Any]:
            self.orders.append((name, *args, *named.values()))
            return {"asked": name}

        if name.startswith("_"):
            raise AttributeError(name)
        return done


class Called:
    """An `actors.calls.ActorCall` on an object in this process, or on nobody."""

    def __init__(self, target: object | None) -> None:
        self._target = target

    async def __call__(self, method: str, *args: object) -> Any:
        if self._target is None:
            raise ActorAway(f"nobody answers {method}")
        return await getattr(self._target, method)(*args)


def admin_over(
    accountant: Accountant,
    data: Path,
    payments: object | None = None,
    router: object | None = None,
) -> MarketAdmin:
    """The operator's port over a real accountant, and a router if one is given."""

    async def nobody() -> list[dict[str, object]]:
        return []

    return MarketAdmin(
        accountant=Called(accountant),
        router=Called(router),
        payments=Called(payments),
        payment_settings=PaymentSettings(),
        describe_actors=nobody,
        serve_states=list,
        data_dir=data,
    )
