"""Two gateways, one purse: what many parallel requests may spend together is exact."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from actors.accountant_client import AccountantClient
from market.errors import MarketError
from market.keys import INFERENCE_SCOPES, key_hash
from market.messages import Admit, Admitted, KeyLimits, Settled
from market.types import RequestId
from storage.pepper import load_pepper
from storage.verify import verify
from tests.support.ledger_bench import HOLD_NANO, MODEL, Bench, start

MANY, ENOUGH_FOR = 200, 17


def gateways(bench: Bench) -> list[AccountantClient]:
    """Two clients as two gateways have them: each with one batch under way."""

    async def call(method: str, *args: object) -> Any:
        return await getattr(bench.accountant, method)(*args)

    return [AccountantClient(call), AccountantClient(call)]


async def ask_all(bench: Bench, hashed: bytes, *, settle: bool) -> Counter[str]:
    """Many requests at once over both gateways; what became of each."""
    clients = gateways(bench)

    async def ask(number: int) -> str:
        client, request = clients[number % 2], f"req_{number}"
        try:
            held = await client.op(Admit(RequestId(request), hashed, MODEL, 412, 187, 1000))
            assert isinstance(held, Admitted)
            if settle:
                assert isinstance(await client.op(bench.settle(request)), Settled)
        except MarketError as error:
            return str(error.code)
        return "served"

    return Counter(await asyncio.gather(*(ask(number) for number in range(MANY))))


@pytest.mark.parametrize("settle", [False, True], ids=["while all run", "ending at once"])
async def test_money_for_k_serves_exactly_k_over_two_gateways(
    tmp_path: Path, *, settle: bool
) -> None:
    """However the two batches interleave, the purse is never overdrawn and never left full."""
    bench = await start(tmp_path / "data", promo_nano=ENOUGH_FOR * HOLD_NANO + HOLD_NANO - 1)
    try:
        outcomes = await ask_all(bench, bench.key_hash, settle=settle)
        left = await bench.accountant.balance(bench.consumer)
    finally:
        await bench.accountant.stop()

    assert outcomes["served"] == ENOUGH_FOR
    assert set(outcomes) <= {"served", "in_flight_budget", "insufficient_balance"}
    assert left.balance_nano == HOLD_NANO - 1
    assert left.held_nano == (0 if settle else ENOUGH_FOR * HOLD_NANO)
    assert verify(tmp_path / "data").problems == []


@pytest.mark.parametrize("window", ["cap_day_nano", "cap_week_nano", "cap_month_nano"])
@pytest.mark.parametrize("settle", [False, True], ids=["while all run", "ending at once"])
async def test_a_cap_for_k_serves_exactly_k_over_two_gateways(
    tmp_path: Path, window: str, *, settle: bool
) -> None:
    """A key's cap is as hard as its account's purse, in each of its windows."""
    data = tmp_path / "data"
    bench = await start(data, promo_nano=10**12)
    try:
        limits = KeyLimits(**{window: ENOUGH_FOR * HOLD_NANO + HOLD_NANO - 1})
        record, secret = await bench.accountant.create_key(
            bench.consumer, "capped", INFERENCE_SCOPES, limits=limits
        )
        outcomes = await ask_all(bench, key_hash(secret, load_pepper(data)), settle=settle)
        spend = await bench.accountant.key_spend(bench.consumer, record.key_id)
    finally:
        await bench.accountant.stop()

    assert outcomes["served"] == ENOUGH_FOR
    full = f"key_{window.removesuffix('_nano')}"
    assert set(outcomes) <= {"served", "in_flight_budget", full}
    spent_nano = ENOUGH_FOR * HOLD_NANO
    assert spend.held_nano == (0 if settle else spent_nano)
    assert spend.day_nano == (spent_nano if settle else 0)
    assert verify(data).problems == []
