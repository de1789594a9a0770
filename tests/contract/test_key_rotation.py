"""A rotated key is the same key: to its caps, to its expiry, and to how many may live."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from actors.accountant import Accountant, AccountantSettings, Clock
from market import keys
from market.errors import Conflict, MarketError
from market.messages import Admitted, KeyLimits, KeyRecord
from storage.pepper import load_pepper
from tests.support.ledger_bench import HOLD_NANO, Bench, equip

HOUR_S = 3_600.0


class Turned:
    """A wall clock that can be turned on."""

    def __init__(self) -> None:
        self.ahead_ns = 0

    def __call__(self) -> int:
        return time.time_ns() + self.ahead_ns


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def clock() -> Turned:
    return Turned()


async def opened(data: Path, clock: Turned) -> Bench:
    accountant = Accountant(AccountantSettings(data), clock=Clock(clock))
    await accountant.start()
    return await equip(accountant, data, 10**9)


@pytest.fixture
async def bench(data: Path, clock: Turned) -> AsyncIterator[Bench]:
    bench = await opened(data, clock)
    yield bench
    await bench.accountant.stop()


async def spend(bench: Bench, data: Path, secret: str, request: str) -> MarketError | int:
    """One request to its end: what it cost, or why it was refused."""
    asked = replace(bench.admit(request), key_hash=keys.key_hash(secret, load_pepper(data)))
    (admitted,) = await bench.do(asked)
    if not isinstance(admitted, Admitted):
        assert isinstance(admitted, MarketError)
        return admitted
    (settled,) = await bench.do(bench.settle(request))
    return int(settled.cost_nano)  # type: ignore[attr-defined]


async def test_rotating_a_key_does_not_fill_its_cap_again(data: Path, clock: Turned) -> None:
    """A cap for two requests serves two, over any number of rotations and a restart."""
    bench = await opened(data, clock)
    limits = KeyLimits(cap_day_nano=2 * HOLD_NANO)
    record, secret = await bench.accountant.create_key(bench.consumer, "k", limits=limits)
    paid = []
    for number in range(4):
        paid.append(await spend(bench, data, secret, f"req_{number}"))
        record, secret = await bench.accountant.rotate_key(bench.consumer, record.key_id, 60.0)
    await bench.accountant.stop()
    bench = await opened(data, clock)
    late = await spend(bench, data, secret, "req_late")
    spent = await bench.accountant.key_spend(bench.consumer, record.key_id)
    await bench.accountant.stop()

    assert paid[:2] == [HOLD_NANO, HOLD_NANO]
    assert {getattr(refused, "code", refused) for refused in (*paid[2:], late)} == {"key_cap_day"}
    assert spent.day_nano == 2 * HOLD_NANO


async def test_two_keys_of_a_line_live_at_a_time(bench: Bench, data: Path) -> None:
    """The third ends the first; and a key that has a living heir is not rotated again."""
    first, one = await bench.accountant.create_key(bench.consumer, "k")
    second, two = await bench.accountant.rotate_key(bench.consumer, first.key_id, HOUR_S)
    with pytest.raises(Conflict) as twice:
        await bench.accountant.rotate_key(bench.consumer, first.key_id, HOUR_S)
    both = [await spend(bench, data, secret, f"req_{secret[-4:]}") for secret in (one, two)]
    _, three = await bench.accountant.rotate_key(bench.consumer, second.key_id, HOUR_S)
    after = [await spend(bench, data, secret, f"new_{secret[-4:]}") for secret in (one, two, three)]

    assert twice.value.code == "already_rotated"
    assert both == [HOLD_NANO, HOLD_NANO]
    assert getattr(after[0], "code", None) == "expired_api_key"
    assert after[1:] == [HOLD_NANO, HOLD_NANO]


async def test_a_rotated_key_ends_when_the_old_one_would_have(bench: Bench, clock: Turned) -> None:
    """Its expiry is the old one's; and what has expired cannot be brought back by rotating."""
    ends_s = time.time() + HOUR_S
    old, _ = await bench.accountant.create_key(bench.consumer, "k", expires_s=ends_s)
    new, _ = await bench.accountant.rotate_key(bench.consumer, old.key_id, 2 * HOUR_S)
    clock.ahead_ns = int(2 * HOUR_S * 1e9)
    dead: list[str | None] = []
    for key in (old, new):
        with pytest.raises(Conflict) as refused:
            await bench.accountant.rotate_key(bench.consumer, key.key_id, 60.0)
        dead.append(refused.value.code)

    assert isinstance(new, KeyRecord)
    assert new.expires_s == pytest.approx(ends_s, abs=1e-3)
    assert dead == ["expired_api_key"] * 2
