"""What an operator does to a running market, over the accountant and the payments actor."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from actors.calls import ActorAway, ActorCall
from market.accounting.prices import Price
from market.accounting.report import BooksReport
from market.accounting.state_rows import OwnerRow, PriceRow
from market.accounting.watch import Alert
from market.errors import Unavailable
from market.messages import Balance, KeyRecord
from market.money import format_price
from market.settings import PaymentSettings
from market.types import AccountId, MachineId, ModelId

_PAYMENTS = "payments"
"""What an error calls the actor that talks to the payment processor."""


class MarketOperator:
    """A `serve_app.admin_ports.OperatorPort` over the named actors."""

    def __init__(
        self, *, accountant: ActorCall, payments: ActorCall, settings: PaymentSettings
    ) -> None:
        self._accountant = accountant
        self._payments = payments
        self._settings = settings

    # ── accounts ──────────────────────────────────────────────────────────────────────

    async def account(self, account: str) -> dict[str, Any]:
        row: OwnerRow = await self._ask("account", AccountId(account))
        balance: Balance = await self._ask("balance", AccountId(account))
        keys: list[KeyRecord] = await self._ask("list_keys", AccountId(account))
        return {**_owner(row), "balance": _sums(balance), "keys": [_key(key) for key in keys]}

    async def change_account(
        self, account: str, fields: Mapping[str, object], actor: str, reason: str
    ) -> dict[str, Any]:
        row: OwnerRow = await self._ask(
            "change_account", AccountId(account), dict(fields), actor, reason
        )
        return _owner(row)

    async def goodwill(
        self,
        account: str,
        amount_nano: int,
        actor: str,
        reason: str,
        second_approver: str,
        idempotency: str | None,
    ) -> dict[str, Any]:
        promo_nano: int = await self._ask(
            "goodwill",
            AccountId(account),
            amount_nano,
            actor,
            reason,
            second_approver,
            idempotency,
        )
        return {
            "account": account,
            "amount_nano_usd": str(amount_nano),
            "promo_nano_usd": str(promo_nano),
        }

    # ── prices and machines ───────────────────────────────────────────────────────────

    async def prices(self) -> dict[str, Any]:
        prices: Mapping[ModelId, Price] = await self._ask("prices")
        return {"prices": [{"model": model, **_price(price)} for model, price in prices.items()]}

    async def price(self, model: str) -> dict[str, Any]:
        history: list[PriceRow] = await self._ask("price_history", model)
        prices: Mapping[ModelId, Price] = await self._ask("prices")
        now = prices[ModelId(model)]
        return {"model": model, **_price(now), "history": [_past(row) for row in history]}

    async def set_price(
        self, model: str, nano: tuple[int, int, int], actor: str, reason: str
    ) -> dict[str, Any]:
        row: PriceRow = await self._ask("set_price", model, Price(*nano), actor, reason)
        return {"model": row.model, **_past(row)}

    async def link_machine(self, machine: str, account: str, actor: str) -> dict[str, Any]:
        moved_nano: int = await self._ask(
            "link_machine", MachineId(machine), AccountId(account), actor
        )
        return {"machine": machine, "account": account, "moved_nano_usd": str(moved_nano)}

    async def unlink_machine(self, machine: str, actor: str) -> dict[str, Any]:
        account: AccountId = await self._ask("unlink_machine", MachineId(machine), actor)
        return {"machine": machine, "account": account}

    # ── the books ─────────────────────────────────────────────────────────────────────

    async def report(self) -> dict[str, Any]:
        report: BooksReport = await self._ask("report", self._settings)
        return report.as_json()

    async def alerts(self) -> dict[str, Any]:
        alerts: list[Alert] = await self._ask("alerts")
        return {"ok": not alerts, "alerts": [alert.as_json() for alert in alerts]}

    async def reconcile(self) -> dict[str, Any]:
        answer: dict[str, Any] = await _asked(self._payments, _PAYMENTS, "reconcile")
        return answer

    async def run_payouts(self) -> dict[str, Any]:
        answer: dict[str, Any] = await _asked(self._payments, _PAYMENTS, "run_weekly")
        return answer

    async def forget_events(self, days: int) -> dict[str, Any]:
        return {"forgotten": await self._ask("forget_events", days), "days": days}

    async def _ask(self, method: str, *args: object) -> Any:
        return await _asked(self._accountant, "accountant", method, *args)


async def _asked(call: ActorCall, name: str, method: str, *args: object) -> Any:
    """Once: an act of an operator is not repeated by itself."""
    try:
        return await call(method, *args)
    except ActorAway as error:
        raise Unavailable(
            f"The {name} actor did not answer {method}; what was asked may have been done. Look "
            "before asking again (coster status says how it is).",
            None,
            f"{name}_away",
            1.0,
        ) from error


def _when(ns: int | None) -> str | None:
    return None if ns is None else datetime.fromtimestamp(ns / 1e9, UTC).isoformat()


def _owner(row: OwnerRow) -> dict[str, Any]:
    return {
        "account": row.id,
        "name": row.name,
        "tier": row.tier,
        "created_at": _when(row.created_ns),
        "paid_at": _when(row.paid_ns),
        "promo_granted_nano_usd": str(row.promo_nano),
        "fee_bps": row.fee_bps,
        "requests_per_min": row.requests_per_min,
        "tokens_per_day": row.tokens_per_day,
        "frozen": row.frozen,
    }


def _sums(balance: Balance) -> dict[str, str]:
    names = ("promo", "cash", "earnings", "held", "maturing", "owed")
    return {f"{name}_nano_usd": str(getattr(balance, f"{name}_nano")) for name in names}


def _key(key: KeyRecord) -> dict[str, Any]:
    return {
        "id": key.key_id,
        "name": key.name,
        "prefix": key.prefix,
        "scopes": sorted(key.scopes),
        "expires_at": None if key.expires_s is None else _when(int(key.expires_s * 1e9)),
        "revoked": key.revoked_s is not None,
    }


def _price(price: Price) -> dict[str, str]:
    return {
        "input_usd_per_1m": format_price(price.in_nano),
        "cached_usd_per_1m": format_price(price.cached_nano),
        "output_usd_per_1m": format_price(price.out_nano),
    }


def _past(row: PriceRow) -> dict[str, Any]:
    price = Price(row.price_in_nano, row.price_cached_nano, row.price_out_nano)
    return {
        **_price(price),
        "since": _when(row.created_ns),
        "actor": row.actor,
        "reason": row.reason,
    }
