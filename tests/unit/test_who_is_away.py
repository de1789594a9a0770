"""What a caller is told when an actor does not come back in time."""

from __future__ import annotations

import pytest

from actors.accountant_client import AccountantClient
from actors.calls import ActorAway
from actors.clients import RouterClient
from actors.payments.client import PaymentsClient
from market.errors import Unavailable
from market.messages import ResolveKey
from market.routing.messages import RouteRequest
from market.types import AccountId, GatewayId, ModelId, RequestId

REQUEST = RouteRequest(
    RequestId("req_1"),
    GatewayId("gw_1"),
    AccountId("acct_1"),
    ModelId("m"),
    prompt_tokens=3,
    max_tokens=5,
    deadline_s=5.0,
)


async def test_a_client_says_whom_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger, the router or the payment service: what a user may have heard of."""
    for where in (
        *("accountant_client.ACCOUNTANT_S_MAX", "clients.ROUTER_S_MAX"),
        "payments.client.PAYMENTS_S_MAX",
    ):
        monkeypatch.setattr(f"actors.{where}", 0.01)

    async def away(*_: object) -> None:
        raise ActorAway("gone")

    accountant = AccountantClient(away)
    asking = RouterClient(away, gateway=GatewayId("gw_1"), pid=1, node="n", counters=dict)
    for asked, who in (
        (accountant.op(ResolveKey(b"k" * 32)), "ledger"),
        (accountant.list_keys(AccountId("acct_a")), "ledger"),
        (asking.route(REQUEST), "router"),
        (asking.quote(REQUEST), "router"),
        (PaymentsClient(away).payee(AccountId("acct_a")), "payment service"),
    ):
        with pytest.raises(Unavailable, match=f"^The market's {who} does not answer now"):
            await asked
