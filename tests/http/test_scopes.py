"""Every route of the document asks for the scopes it names, and for nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from market import keys
from tests.http.asgi_client import Exchange
from tests.http.ledger_market import LedgerMarket, open_market

PUBLIC = {
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model_id}"),
    ("GET", "/v1/pricing"),
    ("GET", "/v1/pricing/history"),
    ("GET", "/v1/quote/calibration"),
    ("GET", "/v1/stats"),
    ("GET", "/v1/leaderboard"),
    ("GET", "/v1/network/totals"),
    ("GET", "/api/v1/analytics/network"),
    ("POST", "/v1/accounts"),
    ("POST", "/v1/payments/webhook"),
    ("GET", "/health"),
    ("GET", "/readyz"),
}
SPENDS = {("POST", "/v1/chat/completions"), ("POST", "/v1/completions"), ("POST", "/v1/quote")}
MAKES_NOTHING = {"/v1/payments/webhook", "/v1/payouts/quote", "/v1/quote"}
MOVES_MONEY = {
    ("POST", "/v1/payments/topups/{topup_id}/refund"),
    ("POST", "/v1/payouts/onboarding"),
    ("PATCH", "/v1/payouts/account"),
    ("POST", "/v1/payouts/withdrawals"),
}


@pytest.fixture
async def market(tmp_path: Path) -> AsyncIterator[LedgerMarket]:
    """Real books."""
    async with open_market(tmp_path) as opened:
        yield opened


async def document_of(market: LedgerMarket) -> dict[str, Any]:
    exchange = Exchange(b"", path="/openapi.json", method="GET", key=None)
    return dict((await exchange.go(market.app)).json)


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method.upper(), path): operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }


async def status_of(market: LedgerMarket, method: str, path: str, key: str | None) -> Exchange:
    filled = re.sub(r"\{(\w+)\}", r"no_such_\1", path)
    query = b"format=csv" if path.endswith("/export") else b""
    made = Exchange(b"{}", path=filled, method=method, key=key, query=query)
    return await made.go(market.app)


async def test_every_route_takes_exactly_the_scopes_it_names(market: LedgerMarket) -> None:
    """A key with one scope passes where the document says so, and is 403 everywhere else."""
    found = operations(await document_of(market))
    secured = {where: found[where] for where in found if where not in PUBLIC}
    assert set(found) >= PUBLIC
    secrets = {scope: (await market.key(scope))[1] for scope in sorted(keys.SCOPES)}

    for (method, path), operation in secured.items():
        assert operation["security"] == [{"apiKey": []}], path
        wanted = set(operation["x-coster-scopes"])
        assert wanted <= keys.SCOPES
        assert (await status_of(market, method, path, None)).status == 401
        for scope, secret in secrets.items():
            exchange = await status_of(market, method, path, secret)
            allowed = not wanted or scope in wanted
            refused = exchange.status == 403 and exchange.error["code"] == "missing_scope"
            assert refused != allowed, (method, path, scope, exchange.content)
            if refused:
                assert all(name in exchange.error["message"] for name in wanted)


async def test_public_routes_ask_for_no_key(market: LedgerMarket) -> None:
    """They answer without one, and the document says so."""
    found = operations(await document_of(market))

    for method, path in PUBLIC:
        assert "security" not in found[method, path]
        assert (await status_of(market, method, path, None)).status not in (401, 403)


async def test_only_the_right_scopes_spend_manage_and_move_money(market: LedgerMarket) -> None:
    """Said here a second time, so that a route's own table cannot loosen it unnoticed."""
    found = operations(await document_of(market))

    for where, operation in found.items():
        scopes = operation.get("x-coster-scopes")
        if where in SPENDS:
            assert scopes == ["inference"]
        elif where[1].startswith("/v1/keys"):
            assert scopes == ["keys"]
        elif where in MOVES_MONEY:
            assert scopes == ["payouts"]
        elif scopes:
            assert "inference" not in scopes
            assert "keys" not in scopes


async def test_the_document_describes_every_body_and_own_key(market: LedgerMarket) -> None:
    """POST and PATCH name a schema that exists; those that make something take an own key."""
    document = await document_of(market)
    schemas = document["components"]["schemas"]
    refs = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert refs <= set(schemas)

    for (method, path), operation in operations(document).items():
        if method in ("POST", "PATCH"):
            assert operation["requestBody"]["content"]["application/json"]["schema"], path
        names = {entry["name"] for entry in operation.get("parameters", ())}
        makes = method == "POST" and path not in MAKES_NOTHING
        assert ("Idempotency-Key" in names) == makes, path
