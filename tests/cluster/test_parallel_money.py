"""A crowd at the door of a real market, through two gateways, with money for some of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from market.money import format_usd_exact
from tests.support.live_market import LiveMarket, live_market

pytestmark = pytest.mark.cluster

CROWD, ENOUGH_FOR = 60, 11
TOKENS = 12
MODEL = "coster/demo"
BODY = {
    "model": MODEL,
    "max_tokens": TOKENS,
    "temperature": 0,
    "messages": [{"role": "user", "content": "Tell me a story."}],
}


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveMarket]:
    """Two gateways before two echo Macs, whose answers always run to `max_tokens`."""
    data = tmp_path_factory.mktemp("crowd") / "data"
    with live_market(data, "--engine", "echo", "--gateways", "2") as running:
        yield running


@pytest.fixture(scope="module")
def price_nano(market: LiveMarket) -> int:
    """What one such request holds, and costs."""
    with market.client() as client:
        usage = client.post("chat/completions", json=BODY).json()["usage"]
    assert usage["completion_tokens"] == TOKENS
    return int(usage["prompt_tokens"]) * 15 + TOKENS * 60


def account_with(market: LiveMarket, sum_nano: int) -> tuple[str, str]:
    """A new account with exactly this much credit and no rate limit: its id and its key."""
    admin = {"authorization": f"Bearer {market.ready['admin_key']}"}
    act = {"actor": "op@test", "reason": "a crowd"}
    with httpx2.Client(base_url=market.ready["admin_base"], headers=admin) as operator:
        for _ in range(2):  # only the first account from one place is given promo credit
            opened = httpx2.post(f"{market.base}/accounts", json={"name": "Crowd"}).json()
            if opened["promo_nano_usd"] == "0":
                break
        account = opened["account_id"]
        path = f"/admin/accounts/{account}"
        operator.post(path, json={"tier": "enterprise", **act}).raise_for_status()
        gift = {"amount_nano_usd": str(sum_nano), **act}
        operator.post(f"{path}/goodwill", json=gift).raise_for_status()
    return account, str(opened["management_key"]["key"])


def key_of(market: LiveMarket, management_key: str, **body: Any) -> str:
    headers = {"authorization": f"Bearer {management_key}"}
    made = httpx2.post(f"{market.base}/keys", json={"name": "crowd", **body}, headers=headers)
    assert made.status_code == 201, made.text
    return str(made.json()["key"])


async def crowd(market: LiveMarket, key: str) -> Counter[str]:
    """All at once; what became of each."""
    limits = httpx2.Limits(max_connections=CROWD)
    headers = {"authorization": f"Bearer {key}"}
    async with httpx2.AsyncClient(headers=headers, limits=limits, timeout=60) as client:
        answers = await asyncio.gather(
            *(client.post(f"{market.base}/chat/completions", json=BODY) for _ in range(CROWD))
        )
    return Counter(
        "served" if answer.status_code == 200 else answer.json()["error"]["code"]
        for answer in answers
    )


async def test_a_crowd_with_money_for_k_is_served_exactly_k_times(
    market: LiveMarket, price_nano: int
) -> None:
    """Through two gateways at once: not one answer too many, not one too few, books balanced."""
    _, management = await asyncio.to_thread(
        account_with, market, ENOUGH_FOR * price_nano + price_nano - 1
    )
    key = await asyncio.to_thread(key_of, market, management)

    outcomes = await crowd(market, key)

    assert outcomes["served"] == ENOUGH_FOR
    assert set(outcomes) <= {"served", "in_flight_budget", "insufficient_balance"}
    headers = {"authorization": f"Bearer {key}"}
    balance = httpx2.get(f"{market.base}/payments/balance", headers=headers).json()
    assert balance["balance_nano_usd"] == str(price_nano - 1)
    assert len(set(market.pids("gateway"))) == 2
    assert market.verify()["problems"] == []


async def test_a_crowd_on_a_capped_key_is_served_exactly_up_to_its_cap(
    market: LiveMarket, price_nano: int
) -> None:
    """The account could pay for all of them; the key's day cannot."""
    _, management = await asyncio.to_thread(account_with, market, 10 * CROWD * price_nano)
    cap_nano = ENOUGH_FOR * price_nano + price_nano - 1
    caps = {"day_usd": format_usd_exact(cap_nano).removeprefix("$")}
    key = await asyncio.to_thread(key_of, market, management, caps=caps)

    outcomes = await crowd(market, key)

    assert outcomes["served"] == ENOUGH_FOR
    assert set(outcomes) <= {"served", "in_flight_budget", "key_cap_day"}
    headers = {"authorization": f"Bearer {key}"}
    shown = httpx2.get(f"{market.base}/key", headers=headers).json()
    assert shown["spend"]["day"]["spent_nano_usd"] == str(ENOUGH_FOR * price_nano)
    assert shown["spend"]["held_nano_usd"] == "0"
    assert market.verify()["problems"] == []
