"""Wishes, fallbacks and quotes over a real market: what crosses the actors arrives unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.support.live_market import LiveMarket, coster, live_market

pytestmark = pytest.mark.cluster

HELLO: dict[str, Any] = {
    "model": "coster/demo",
    "messages": [{"role": "user", "content": "hello"}],
    "max_tokens": 8,
}


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveMarket]:
    """One market of two echo Macs for every test here."""
    folder = tmp_path_factory.mktemp("wishes") / "data"
    with live_market(folder, "--engine", "echo", "--macs", "2") as running:
        yield running


@pytest.fixture
def client(market: LiveMarket) -> Iterator[httpx2.Client]:
    with market.client() as made:
        yield made


def chat(client: httpx2.Client, headers: dict[str, str] | None = None, **body: Any) -> Any:
    return client.post("chat/completions", json={**HELLO, **body}, headers=headers)


def macs(market: LiveMarket) -> dict[str, str]:
    """Private ids by public ones."""
    found = market.status()["machines"]
    return {mac["provider"]: mac["machine"] for mac in found}


def test_the_wished_mac_serves(market: LiveMarket, client: httpx2.Client) -> None:
    """Each of both when it alone will do; a slip in an id and a price too low are refused."""
    for provider in macs(market):
        answer = chat(client, provider={"only": [provider]})
        assert (answer.status_code, answer.headers["x-coster-provider"]) == (200, provider)
    slip = chat(client, provider={"only": ["prv_nobody"]}).json()["error"]
    cheap = chat(client, provider={"max_price": {"prompt": 0.001}}).json()["error"]
    assert (slip["code"], cheap["code"]) == ("unknown_provider", "no_provider_matches")


def test_a_quote_comes_true(market: LiveMarket, client: httpx2.Client) -> None:
    """The quoted cost is charged; calibration is published once there is something to compare."""
    provider = sorted(macs(market))[0]
    body = {**HELLO, "provider": {"only": [provider]}}
    quote = client.post("quote", json=body).json()
    answer = client.post("chat/completions", json=body)

    assert quote["provider"] == answer.headers["x-coster-provider"] == provider
    most = quote["models"][0]["cost"]["max"]
    assert answer.json()["usage"]["cost_nano_usd"] == most["nano_usd"]
    assert quote["models"][0]["ruled_out"][0]["reason"] == "not_only"
    market.until(
        lambda: any(one["requests"] for one in client.get("quote/calibration").json()["data"]),
        seconds=30,
    )


def test_a_model_that_nobody_has_gives_way(client: httpx2.Client) -> None:
    """The answer says which model it is of, and only its run was charged."""
    answer = chat(client, model="llama-3.3-70b", models=["coster/demo"], service_tier="flex")
    assert answer.status_code == 200
    assert (answer.json()["model"], answer.json()["service_tier"]) == ("coster/demo", "flex")
    alone = chat(client, model="llama-3.3-70b")
    assert (alone.status_code, alone.json()["error"]["code"]) == (503, "no_provider")


def test_a_budget_is_kept_by_the_real_ledger(client: httpx2.Client) -> None:
    """Too small for what was asked, it is 402 with the number that fits."""
    answer = chat(client, max_cost_usd="0.0000005")
    assert (answer.status_code, answer.json()["error"]["code"]) == (402, "budget_exceeded")
    assert chat(client, max_cost_usd=0.01, deadline_s=60).status_code == 200


def test_linked_machines_are_ones_own(market: LiveMarket, client: httpx2.Client) -> None:
    """Before the link `self` is refused, a second after it the linked Mac serves."""
    provider, machine = sorted(macs(market).items())[-1]
    before = chat(client, headers={"x-coster-route": "self"})
    assert before.json()["error"]["code"] == "no_own_machine"
    data = str(market.data)
    coster("machines", "link", machine, "acct_demo_consumer", "--data", data)

    def served() -> bool:
        answer = chat(client, headers={"x-coster-route": "self"})
        return bool(answer.headers.get("x-coster-provider") == provider)

    market.until(served, seconds=20)
    coster("machines", "unlink", machine, "--data", data)
    market.until(lambda: not served(), seconds=20)
