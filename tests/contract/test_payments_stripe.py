"""Payments over real HTTP: the accountant on SQLite, the doorway, the fake Stripe's notices."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from actors.fake_stripe.ledger import add_line
from market.accounting.chart import Code
from market.accounting.state_rows import DisputeRow, EventRow, PayoutRow, RefundRow
from market.errors import MarketError
from storage.verify import verify
from tests.support.fake_stripe import SETTINGS, Desk, running_stripe, settled
from tests.support.payments import ANN, BOB, Till

TRANSFERS = "POST /v1/transfers"


class Door:
    """The webhook route of a market, without the rest of its door."""

    def __init__(self) -> None:
        self.till: Till | None = None
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        if self.till is None:
            return web.Response(status=503)
        try:
            await self.till.payments.webhook(
                await request.read(), request.headers.get("Stripe-Signature", "")
            )
        except MarketError as error:
            return web.Response(status=error.status)
        return web.Response()


@asynccontextmanager
async def open_door() -> AsyncIterator[Door]:
    door = Door()
    app = web.Application()
    app.router.add_post("/v1/payments/webhook", door.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    door.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/payments/webhook"
    try:
        yield door
    finally:
        await runner.cleanup()


class Scene:
    """A market's till and the Stripe it talks to."""

    def __init__(self, till: Till, desk: Desk, door: Door) -> None:
        self.till, self.desk, self.door = till, desk, door

    async def act(self, name: str, **fields: object) -> None:
        await self.desk.fake.act(name, **fields)

    async def heard(self) -> None:
        """Every notice has been delivered, or given up, and acted on."""
        await settled(lambda: not self.desk.fake.world.outbox)
        await self.till.work()

    async def paid(self, cents: int, key: str = "k") -> str:
        row = await self.till.payments.topup(ANN, cents, key)
        await self.act("pay", id=row.session)
        await self.heard()
        return row.id

    async def restart(self) -> None:
        """The market stops and starts again, from what is on disk."""
        self.door.till = None
        await self.till.close()
        await self.till.open()
        self.door.till = self.till

    def fault(self, kind: str, times: int = 1, **more: Any) -> None:
        self.desk.fake.turn(faults=[{"route": TRANSFERS, "kind": kind, "times": times, **more}])


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with (
        open_door() as door,
        running_stripe(
            replace(SETTINGS, webhook_url=door.url, settle_s=0), timeout_s=0.5, attempts_max=2
        ) as desk,
    ):
        till = Till(tmp_path / "data", lambda _: desk.processor, on_disk=True)
        till.now_s = time.time()
        await till.open()
        door.till = till
        await till.people()
        await till.work()
        yield Scene(till, desk, door)
        assert till.problems() == []
        await till.close()
    assert verify(tmp_path / "data").problems == []


async def bob(scene: Scene, cents: int = 5000) -> None:
    """Bob is set up, has earned, and Stripe has what his consumers paid."""
    row, url = await scene.till.payments.onboard(BOB, "US", "onboard")
    assert "/onboard/" in url
    await scene.act("complete_onboarding", id=row.account)
    await scene.heard()
    topup_id = await scene.paid(cents)
    assert topup_id
    scene.till.spend(ANN, cents * 10**7, BOB)
    await scene.till.accountant._written()


def stray(scene: Scene, kind: str, cents: int) -> None:
    """Money moves at Stripe without any object that we know."""
    add_line(scene.desk.fake.world, kind, "", cents)["source"] = None


async def payout(scene: Scene) -> PayoutRow:
    return (await scene.till.accountant._store.rows(PayoutRow))[0]


@pytest.mark.parametrize("webhooks", [{}, {"duplicates": 2, "reorder_window": 2}])
async def test_money_in_and_back_and_disputed(scene: Scene, webhooks: dict[str, int]) -> None:
    """A top-up, a refund, a dispute: credit, fees and balance agree with Stripe throughout."""
    till = scene.till
    scene.desk.fake.turn(webhooks=webhooks)
    topup_id = await scene.paid(5000)
    assert till.cents(Code.CONSUMER_CASH, ANN) == 5000
    await till.payments.refund(ANN, topup_id, 1000, "r")
    await till.work()
    intent = (await till.payments.topup_of(ANN, topup_id)).intent
    await scene.act("open_dispute", id=intent)
    scene.desk.fake.turn()
    await scene.heard()
    row = (await till.accountant._store.rows(DisputeRow))[0]
    assert (row.state, row.withdrawn_cents) == ("open", 4000)
    assert till.cents(Code.CONSUMER_CASH, ANN) == 0
    await scene.act("win_dispute", id=row.id)
    await scene.heard()

    told = await till.payments.reconcile()

    assert told["ok"], told
    assert told["matched"] == 4
    assert till.cents(Code.CONSUMER_CASH, ANN) == 4000
    assert (await till.accountant._store.rows(RefundRow))[0].state == "done"
    assert {event.state for event in await till.accountant._store.rows(EventRow)} == {"done"}


async def test_earnings_reach_their_owner(scene: Scene) -> None:
    """Onboarded at the form, withdrawn, transferred once, reversed in part by Stripe."""
    await bob(scene)
    row = await scene.till.payments.withdraw(BOB, 2000, 0, "w")
    await scene.till.work()
    assert (await payout(scene)).state == "paid"
    path = f"/v1/transfers/{(await payout(scene)).transfer}/reversals"
    assert (await scene.desk.raw("POST", path, "amount=500"))[0] == 200
    await scene.heard()

    assert (await scene.till.payments.payout_of(BOB, row.id)).state == "reversed"
    assert scene.till.cents(Code.PROVIDER_EARNINGS, BOB) == 3500
    assert (await scene.till.payments.reconcile())["ok"]


@pytest.mark.parametrize(
    "kind", ["execute_then_drop", "fail_before", "fail_after", "rate_limit", "stall"]
)
@pytest.mark.parametrize("times", [1, 3])
async def test_a_bad_line_never_pays_twice(scene: Scene, kind: str, times: int) -> None:
    """Dropped, failed, slowed or stalled, once or until we give up: one transfer in the end."""
    await bob(scene)
    scene.fault(kind, times, **({"stall_s": 1.0} if kind == "stall" else {}))
    await scene.till.payments.withdraw(BOB, 2000, None, "w")
    await scene.till.work()
    if times == 3:
        assert (await payout(scene)).state in ("unknown", "decided")
        await scene.restart()
    if kind == "stall":
        await settled(lambda: scene.desk.count("transfer") == 1)
    for _ in range(4):
        scene.till.now_s += 7_200
        await scene.till.work()

    assert (await payout(scene)).state == "paid"
    assert scene.desk.count("transfer") == 1
    assert scene.till.cents(Code.PAYOUT_IN_TRANSIT, BOB) == 0
    assert (await scene.till.payments.reconcile())["ok"]


async def test_a_refusal_that_stripe_keeps_is_asked_anew(scene: Scene) -> None:
    """Too little available: Stripe repeats that for a day under one key, so there is another."""
    await bob(scene)
    stray(scene, "payout", -5000)  # the platform's own, to its own bank
    await scene.till.payments.withdraw(BOB, 2000, None, "w")
    await scene.till.work()
    assert ((await payout(scene)).state, (await payout(scene)).tries) == ("decided", 1)
    assert "available" in (await payout(scene)).reason
    stray(scene, "topup", 5000)
    scene.till.now_s += 60
    await scene.till.work()

    assert (await payout(scene)).state == "paid"
    assert scene.desk.count("transfer") == 1
    told = await scene.till.payments.reconcile()
    assert (told["ok"], told["difference_cents"], told["suspense_cents"]) == (False, 0, 0)
    assert [entry["kind"] for entry in told["unmatched"]] == ["payout", "topup"]


async def test_lost_notices_are_found(scene: Scene) -> None:
    """Not one webhook arrives: the sweep over Stripe's own list finds them all."""
    scene.desk.fake.turn(webhooks={"drop_percent": 100})
    row = await scene.till.payments.topup(ANN, 5000, "k")
    await scene.act("pay", id=row.session)
    await settled(lambda: not scene.desk.fake.world.outbox)
    assert await scene.till.accountant._store.rows(EventRow) == []
    await scene.till.payments._sweep()
    await scene.till.work()

    assert scene.till.cents(Code.CONSUMER_CASH, ANN) == 5000


async def test_notices_wait_for_a_market_that_is_down(scene: Scene) -> None:
    """Paid while nobody was there to hear: heard afterwards, credited once."""
    row = await scene.till.payments.topup(ANN, 5000, "k")
    scene.door.till = None
    await scene.act("pay", id=row.session)
    await scene.restart()
    await scene.heard()

    assert scene.till.cents(Code.CONSUMER_CASH, ANN) == 5000


async def test_the_loop_sees_everything_through_by_itself(scene: Scene) -> None:
    """Started and left alone, it credits what is paid and pays what is withdrawn."""
    await bob(scene)
    await scene.till.payments.start()
    row = await scene.till.payments.topup(ANN, 2500, "more")
    await scene.act("pay", id=row.session)
    await scene.till.payments.withdraw(BOB, 1000, None, "w")
    await settled(lambda: scene.till.nano(Code.CONSUMER_CASH, ANN) == 25 * 10**9)
    await settled(lambda: scene.till.nano(Code.PAYOUT_IN_TRANSIT, BOB) == 0)
    metrics = await scene.till.payments.metrics()
    told = await scene.till.payments.describe()
    task = scene.till.payments._loop_task
    assert task is not None
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert scene.desk.count("transfer") == 1
    assert metrics["coster_payments_payees"] == 1.0
    assert (told["role"], told["state"]) == ("payments", "running")
