"""The operator's listener: nothing without the admin key, everything readable with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from market.types import RequestId
from serve_app.admin import create_admin_app, exposition
from serve_app.metric_names import REQUESTS, labelled
from tests.http.asgi_client import Exchange

KEY = "adm-test-0123456789"


class Operations:
    """An `AdminPort` that remembers what it was asked."""

    def __init__(self) -> None:
        self.orders: list[tuple[str, ...]] = []

    async def status(self) -> dict[str, Any]:
        return {"actors": [{"role": "router", "pid": 1}]}

    async def metrics(self) -> Mapping[str, float]:
        return {
            labelled(REQUESTS, route="chat", status=200): 3.0,
            labelled(REQUESTS, route="chat", status=400): 1.0,
            "coster_macs_ready": 2.0,
        }

    async def explain(self, request_id: RequestId) -> dict[str, Any] | None:
        return {"request_id": request_id} if request_id == "req_1" else None

    async def verify(self) -> dict[str, Any]:
        return {"ok": True, "problems": []}

    async def drain(self, machine: str, reason: str) -> dict[str, Any]:
        self.orders.append(("drain", machine, reason))
        return {"machine": machine, "draining": True}

    async def undrain(self, machine: str) -> dict[str, Any]:
        self.orders.append(("undrain", machine))
        return {"machine": machine, "draining": False}


async def call(method: str, path: str, key: str | None = KEY, body: bytes = b"") -> Exchange:
    app = create_admin_app(Operations(), KEY)
    exchange = Exchange(body, path=path, method=method, key=key)
    return await exchange.go(app)  # type: ignore[arg-type]


ROUTES = [
    ("GET", "/metrics"),
    ("GET", "/admin/status"),
    ("GET", "/admin/why/req_1"),
    ("POST", "/admin/ledger/verify"),
    ("POST", "/admin/drain/mac_a"),
    ("POST", "/admin/undrain/mac_a"),
    ("GET", "/openapi.json"),
]


@pytest.mark.parametrize(("method", "path"), [*ROUTES, ("GET", "/nowhere")])
@pytest.mark.parametrize("key", [None, "", "wrong", KEY + "x", "sk-test-ada"])
async def test_nothing_is_open_without_the_admin_key(
    method: str, path: str, key: str | None
) -> None:
    """401 for every path, existing or not."""
    assert (await call(method, path, key)).status == 401


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_everything_answers_with_it(method: str, path: str) -> None:
    """200 for each route."""
    assert (await call(method, path)).status == 200


async def test_orders_carry_their_reason() -> None:
    """A drain's reason reaches the port; unknown fields and decisions do not pass."""
    operations = Operations()
    app = create_admin_app(operations, KEY)
    for body in (b'{"reason": "fan is loud"}', b""):
        exchange = Exchange(body, path="/admin/drain/mac_a", key=KEY)
        await exchange.go(app)  # type: ignore[arg-type]

    assert operations.orders == [("drain", "mac_a", "fan is loud"), ("drain", "mac_a", "operator")]
    assert (await call("POST", "/admin/drain/mac_a", body=b'{"force": true}')).status == 400
    assert (await call("GET", "/admin/why/req_2")).status == 404


async def test_metrics_are_prometheus_text() -> None:
    """One TYPE line per family, samples grouped beneath it."""
    text = (await call("GET", "/metrics")).content.decode()

    assert text.count("# TYPE coster_gateway_requests_total counter") == 1
    assert 'coster_gateway_requests_total{route="chat",status="200"} 3\n' in text
    assert "# TYPE coster_macs_ready gauge\ncoster_macs_ready 2\n" in text
    assert exposition({}) == "\n"
