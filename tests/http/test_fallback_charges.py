"""Models to fall back on, over real books and own keys: one charge, whatever fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from market.errors import Unavailable
from market.messages import KeyLimits, Settle
from tests.http.asgi_client import Exchange, ask, chat
from tests.http.ledger_market import LedgerMarket, open_market
from tests.http.memory_fleet import Mac
from tests.http.routed_fleet import LARGE, SMALL, serve_more
from tests.http.test_lives import QUICK

DEMO = "coster/demo"
THREE = [DEMO, SMALL, LARGE]
ECHO = "<user>hello<assistant><u"


def busy(code: str) -> Unavailable:
    return Unavailable(f"It is {code}.", None, code, 7.0, True)


def text_of(exchange: Exchange) -> str:
    if "text/event-stream" in exchange.answer_headers["content-type"]:
        return exchange.text
    choices = exchange.json.get("choices")
    return str(choices[0]["message"]["content"]) if choices else ""


OWN = {"idempotency-key": "5f0c-8d1e"}


@pytest.fixture
async def booked(tmp_path: Path) -> AsyncIterator[LedgerMarket]:
    """Real books, three Macs, three models."""
    async with open_market(tmp_path, limits=QUICK) as market:
        serve_more(market.app._desk.ports, tmp_path)
        yield market


async def test_a_key_that_may_not_use_one_model_falls_back_on_another(booked: LedgerMarket) -> None:
    """The refusal is about that model; nothing was held for it."""
    _, secret = await booked.key("inference", limits=KeyLimits(frozenset({SMALL})))
    exchange = await ask(chat(models=[SMALL]), key=secret).go(booked.app)
    assert (exchange.status, exchange.json["model"]) == (200, SMALL)
    alone = await ask(key=secret).go(booked.app)
    assert (alone.status, alone.error["code"]) == (403, "model_not_allowed")


async def test_a_budget_too_small_for_one_model_may_do_for_another(booked: LedgerMarket) -> None:
    """The dear one is refused by the accountant, the cheap one serves within the budget."""
    body = chat(model=LARGE, models=[DEMO], max_cost_usd=22 * 100 / 1e9)
    exchange = await ask(body, key=booked.inference).go(booked.app)
    assert (exchange.status, exchange.json["model"]) == (200, DEMO)
    assert await booked.spent_nano() <= 22 * 100


@pytest.mark.parametrize("stream", [False, True])
async def test_asking_again_under_ones_own_key_gives_the_first_outcome(
    booked: LedgerMarket, stream: bool
) -> None:
    """Byte for byte that of the model that served, though the first one could serve by now."""
    for mac in booked.fleet.macs:
        mac.cannot = {DEMO}
    body = chat(models=[SMALL], stream=stream)
    first = await ask(body, key=booked.inference, headers=OWN).go(booked.app)
    for mac in booked.fleet.macs:
        mac.cannot = set()
    again = await ask(body, key=booked.inference, headers=OWN).go(booked.app)
    booked.fleet.error = busy("no_provider")
    late = await ask(body, key=booked.inference, headers=OWN).go(booked.app)

    assert first.status == 200
    assert text_of(first) == ECHO
    assert first.content == again.content == late.content
    assert again.answer_headers["x-coster-replayed"] == "true"
    ids = {e.answer_headers["x-coster-request-id"] for e in (first, again, late)}
    assert len(ids) == 1
    assert await booked.spent_nano() == 22 * 15 + 24 * 60


async def test_a_call_under_ones_own_key_that_failed_is_free_again(booked: LedgerMarket) -> None:
    """All its models failed, nobody paid: the same key runs it anew."""
    for mac in booked.fleet.macs:
        mac.cannot = {DEMO, SMALL}
    body = chat(models=[SMALL])
    failed = await ask(body, key=booked.inference, headers=OWN).go(booked.app)
    for mac in booked.fleet.macs:
        mac.cannot = set()
    again = await ask(body, key=booked.inference, headers=OWN).go(booked.app)

    assert (failed.status, failed.error["code"]) == (503, "attempts_exhausted")
    assert again.status == 200
    assert "x-coster-replayed" not in again.answer_headers


async def test_a_client_that_left_finds_the_fallbacks_answer(booked: LedgerMarket) -> None:
    """Under one's own key the call runs to its end without a reader, over its models."""
    for mac in booked.fleet.macs:
        mac.cannot, mac.pace_s = {DEMO}, 0.001
    body = chat(models=[SMALL])
    gone = ask(body, key=booked.inference, headers=OWN)
    gone.left.set()
    await gone.go(booked.app)
    while booked.app.running:
        await asyncio.sleep(0.005)
    again = await ask(body, key=booked.inference, headers=OWN).go(booked.app)
    assert again.answer_headers["x-coster-replayed"] == "true"
    assert again.json["model"] == SMALL


@pytest.mark.parametrize("seed", range(30))
async def test_whatever_fails_there_is_at_most_one_charge(tmp_path: Path, seed: int) -> None:
    """Random Macs that lack models, fail, stall or refuse; whole and streamed; any own key."""
    random = Random(seed)
    async with open_market(
        tmp_path,
        *(
            Mac(
                name,
                slots=random.choice([1, 2, 64]),
                pace_s=random.choice([0.0, 0.001]),
                cannot={m for m in THREE if random.random() < 0.5},
                refuses=random.choice([None, None, ConnectionResetError()]),
                fail_after=random.choice([None, None, random.randrange(24)]),
            )
            for name in "abc"
        ),
        limits=replace(QUICK, queue_s=0.1, first_token_s=0.2, stall_s=0.2),
    ) as market:
        serve_more(market.app._desk.ports, tmp_path)
        exchanges = await asyncio.gather(
            *(
                ask(
                    chat(model=random.choice(THREE), models=THREE, stream=bool(at % 2)),
                    key=market.inference,
                    headers={"idempotency-key": f"k{at}"} if at % 3 else {},
                ).go(market.app)
                for at in range(5)
            )
        )
        await market.app.close()
        settles = [op.request_id for op in market.ledger.ops if isinstance(op, Settle)]
        answered = [e for e in exchanges if text_of(e) == ECHO]
        assert len(set(settles)) == len(answered)
        assert (await market.ledger.balance("acct_ada")).held_nano == 0
        for exchange in exchanges:
            assert exchange.status in (200, 503)
            assert ECHO.startswith(text_of(exchange))
