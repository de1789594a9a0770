"""The operator's listener: nothing without the admin key, everything readable with it."""

from __future__ import annotations

import pytest

from serve_app.admin import create_admin_app
from serve_app.exposition import exposition
from tests.http.asgi_client import Exchange
from tests.support.operations import Operations

KEY = "adm-test-0123456789"


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
    ("GET", "/admin/accounts/acct_ann"),
    ("GET", "/admin/prices"),
    ("GET", "/admin/prices/coster/demo"),
    ("GET", "/admin/report"),
    ("GET", "/admin/alerts"),
    ("POST", "/admin/reconcile"),
    ("POST", "/admin/payouts/run"),
    ("GET", "/admin/fleet"),
    ("GET", "/admin/fleet/mac_a"),
    ("GET", "/admin/queue"),
    ("GET", "/admin/placement"),
    ("GET", "/admin/policy"),
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
    """One TYPE line per family, samples grouped beneath it; what is not known is shown too."""
    text = (await call("GET", "/metrics")).content.decode()

    assert text.count("# TYPE coster_gateway_requests_total counter") == 1
    assert 'coster_gateway_requests_total{route="chat",status="200"} 3.0\n' in text
    assert "# TYPE coster_router_queued gauge\ncoster_router_queued 2.0\n" in text
    assert "# TYPE coster_new untyped\ncoster_new 1.0\n" in text
    bare = exposition({}).decode().splitlines()
    assert "# TYPE coster_gateway_requests_total counter" in bare, "told from the start"
    assert all(line.startswith("#") for line in bare)
