"""The gateway's side of the accountant: repeating makes nothing twice, prices stay known."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from actors import accountant_client
from actors.accountant_client import AccountantClient
from actors.calls import ActorAway
from market.accounting.prices import Price
from market.types import AccountId, KeyId, ModelId

ANN = AccountId("acct_ann")
DEMO = ModelId("coster/demo")


class Accountant:
    """Answers what it is told to; every call is away once when `flaky`."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, tuple[Any, ...]]] = []
        self.price = 15
        self.away = False
        self.flaky = False

    async def __call__(self, method: str, *args: object) -> Any:
        self.heard.append((method, args))
        await asyncio.sleep(0)
        seen = [name for name, _ in self.heard].count(method)
        if self.away or (self.flaky and seen == 1):
            raise ActorAway(method)
        return {DEMO: Price(self.price, self.price, 60)} if method == "prices" else method


async def test_prices_are_learned_again_and_kept_when_nobody_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Known at the start, new ones soon after, the last known while the accountant is away."""
    monkeypatch.setattr(accountant_client, "PRICES_S", 0.005)
    accountant = Accountant()
    client = AccountantClient(accountant)
    await client.start()
    assert client.prices()[DEMO].in_nano == 15

    accountant.price = 30
    while client.prices()[DEMO].in_nano != 30:
        await asyncio.sleep(0.002)
    accountant.away, before = True, len(accountant.heard)
    while len(accountant.heard) < before + 3:
        await asyncio.sleep(0.002)

    assert client.prices()[DEMO].in_nano == 30
    await client.close()
    assert accountant_client.PRICES_S < 1


async def test_what_is_made_is_made_under_one_key_however_often_it_is_asked() -> None:
    """A call without an idempotency key gets one, and a repetition carries the same."""
    for method, call in (
        ("create_account", lambda client: client.create_account("Ann")),
        ("create_key", lambda client: client.create_key(ANN, "a", frozenset(), None)),
        ("rotate_key", lambda client: client.rotate_key(ANN, KeyId("key_1"), 5.0)),
    ):
        accountant = Accountant()
        accountant.flaky = True
        assert await call(AccountantClient(accountant)) == method

        first, again = (args for _, args in accountant.heard)
        assert first == again
        own = [word for word in first if isinstance(word, str) and len(word) >= 32]
        assert len(own) == 1


async def test_a_callers_own_key_is_passed_on_as_it_is() -> None:
    """And one call's key is never another's."""
    accountant = Accountant()
    client = AccountantClient(accountant)

    await client.create_account("Ann", idempotency="mine", fingerprint="f")
    await client.create_account("Ann")
    await client.create_account("Ann")

    keys = [args[3] for _, args in accountant.heard]
    assert keys[0] == "mine"
    assert len(set(keys)) == 3
    assert accountant.heard[0][1] == ("Ann", "free", None, "mine", "f")
