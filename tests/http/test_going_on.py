"""An answer outlives its Macs: what the client gets, who is paid, and that nobody pays twice."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from market.messages import Settle, Void
from market.money import asked_nano
from market.types import MachineId, RequestId
from serve_app import metric_names
from tests.http.asgi_client import Exchange, ask, chat, settled
from tests.http.memory_accountant import TEN_DOLLARS
from tests.http.memory_fleet import Mac
from tests.http.memory_market import Market
from tests.http.test_lives import QUICK

LENGTH = 24
UNBROKEN = "<user>hello<assistant><u"


def market_of(folder: Path, *macs: Mac) -> Market:
    market = Market(folder, QUICK, *macs)
    market.fleet.digest = "weights"
    return market


def settles(market: Market) -> list[Settle]:
    return [op for op in market.accountant.ops if isinstance(op, Settle)]


def paid(op: Settle) -> dict[MachineId, int]:
    """Completion tokens by the Mac that is paid for them."""
    shares = {part.machine: part.completion_tokens for part in op.before}
    own = op.usage.completion_tokens - sum(shares.values())
    shares[op.machine] = shares.get(op.machine, 0) + own
    return {machine: tokens for machine, tokens in shares.items() if tokens}


def delivered(market: Market, op: Settle) -> dict[MachineId, int]:
    """Tokens that each Mac is known to have said of a request."""
    return {m: n for (rid, m), n in market.fleet.delivered.items() if rid == op.request_id and n}


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("at", range(LENGTH))
async def test_a_mac_lost_at_any_token_costs_a_pause_and_nothing_else(
    tmp_path: Path, at: int, stream: bool
) -> None:
    """The text is that of an unbroken run, charged once; each Mac is paid for what it said."""
    market = market_of(tmp_path, Mac("a", fail_after=at), Mac("b"))
    options = {"stream_options": {"include_usage": True}} if stream else {}

    exchange = await ask(chat(stream=stream, **options)).go(market.app)

    text = exchange.text if stream else exchange.json["choices"][0]["message"]["content"]
    usage = (exchange.events[-1] if stream else exchange.json)["usage"]
    assert text == UNBROKEN
    (op,) = settles(market)
    assert usage["completion_tokens"] == op.usage.completion_tokens == LENGTH
    assert usage["attempts"] == op.attempts == 2
    assert paid(op) == delivered(market, op)
    shares = [(s["provider"], s["completion_tokens"]) for s in usage.get("providers", [])]
    assert shares == ([("prv_a", at), ("prv_b", LENGTH - at)] if at else [])
    assert [o.result for o in market.fleet.outcomes] == ["failed", "ok"]
    assert market.nothing_is_left()


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("lost", [None, 10], ids=["one Mac", "two Macs"])
async def test_the_bill_is_what_each_mac_asks(
    tmp_path: Path, lost: int | None, stream: bool
) -> None:
    """What the gateway computes before it settles is what is charged: each part at its ask."""
    market = market_of(tmp_path, Mac("a", fail_after=lost, ask_pct=90), Mac("b", ask_pct=33))
    options = {"stream_options": {"include_usage": True}} if stream else {}

    exchange = await ask(chat(stream=stream, **options)).go(market.app)

    (op,) = settles(market)
    card = market.accountant.catalogue.get(market.accountant.rows[op.request_id].model)
    cost = asked_nano(card.price_out_nano, 90) * (lost or 0)
    asks = 33 if lost else 90
    cost += asked_nano(card.price_in_nano, asks) * op.usage.prompt_tokens
    cost += asked_nano(card.price_out_nano, asks) * (LENGTH - (lost or 0))
    usage = (exchange.events[-1] if stream else exchange.json)["usage"]
    assert usage["cost_nano_usd"] == str(cost)
    assert market.accountant.rows[op.request_id].cost_nano == cost
    assert market.ada.credit_nano == TEN_DOLLARS - cost
    assert market.app.counters()[metric_names.COST_MISMATCHES] == 0
    assert market.nothing_is_left()


@pytest.mark.parametrize("first", [1, 8, 20])
async def test_two_losses_in_one_answer(tmp_path: Path, first: int) -> None:
    """The third Mac reads what both others said and ends the answer."""
    market = market_of(
        tmp_path, Mac("a", fail_after=first), Mac("b", fail_after=first + 3), Mac("c")
    )
    exchange = await ask(chat(stream=True)).go(market.app)
    assert exchange.text == UNBROKEN
    (op,) = settles(market)
    assert [part.completion_tokens for part in op.before] == [first, 3]
    assert paid(op) == delivered(market, op)
    assert market.fleet.requests[-1].said_tokens == first + 3
    assert market.nothing_is_left()


async def test_a_third_loss_ends_it_and_nobody_pays(tmp_path: Path) -> None:
    """Three Macs are the most, in the middle as at the start."""
    macs = [Mac(name, fail_after=4 * (at + 1)) for at, name in enumerate("abcd")]
    market = market_of(tmp_path, *macs)
    exchange = await ask(chat(stream=True)).go(market.app)
    assert exchange.events[-1]["error"]["code"] == "provider_lost"
    assert not macs[3].jobs
    assert market.nothing_is_left()
    assert market.ada.credit_nano == TEN_DOLLARS


@pytest.mark.parametrize("fields", [{"n": 2}, {"logprobs": True}], ids=["choices", "logprobs"])
async def test_what_cannot_be_rebuilt_does_not_go_on(
    tmp_path: Path, fields: dict[str, object]
) -> None:
    """Several choices and log-probabilities end with the loss, in the open."""
    market = market_of(tmp_path, Mac("a", fail_after=5, pace_s=0.001), Mac("b"))
    exchange = await ask(chat(stream=True, **fields)).go(market.app)
    assert exchange.events[-1]["error"]["code"] == "provider_lost"
    assert market.nothing_is_left()
    assert market.ada.credit_nano == TEN_DOLLARS


async def test_the_pause_is_told_and_the_seam_is_not(tmp_path: Path) -> None:
    """While nobody goes on the client hears comments; the text shows no seam, no second role."""
    market = market_of(tmp_path, Mac("a", fail_after=6, pace_s=0.001), Mac("b", slots=1))
    market.fleet.macs[1].running = 1
    waiting = asyncio.create_task(ask(chat(stream=True)).go(market.app))
    await asyncio.sleep(0.2)
    market.fleet.macs[1].running = 0
    exchange = await waiting
    assert exchange.text == UNBROKEN
    assert b": queued" in exchange.content
    roles = [e for e in exchange.events if "role" in (e["choices"] or [{}])[0].get("delta", {})]
    assert len(roles) == 1


async def test_with_no_such_weights_left_a_whole_answer_starts_afresh(tmp_path: Path) -> None:
    """Nothing was shown yet, so any Mac may begin again; the lost one is paid nothing."""
    market = market_of(tmp_path, Mac("a", fail_after=9), Mac("b"))
    refused = market.fleet.route

    async def route(request: object) -> object:
        if request.digest:  # type: ignore[attr-defined]
            from market.errors import Unavailable

            raise Unavailable("No Mac has these weights.", None, "no_provider", 5.0)
        return await refused(request)  # type: ignore[arg-type]

    market.fleet.route = route  # type: ignore[method-assign, assignment]
    exchange = await ask().go(market.app)
    assert exchange.json["choices"][0]["message"]["content"] == UNBROKEN
    (op,) = settles(market)
    assert op.before == ()
    assert paid(op) == {MachineId("mac_b"): LENGTH}
    assert market.nothing_is_left()


async def test_a_client_that_leaves_after_a_loss_pays_each_mac_for_what_it_was_sent(
    tmp_path: Path,
) -> None:
    """The bill is what reached the connection, split where the Mac changed."""
    market = market_of(tmp_path, Mac("a", fail_after=5, pace_s=0.002), Mac("b", pace_s=0.02))
    exchange = ask(chat(stream=True))
    exchange.leave_after = 10
    await exchange.go(market.app)
    await settled(market)
    (op,) = settles(market)
    assert op.finish_reason == "cancelled"
    assert [part.completion_tokens for part in op.before] == [5]
    assert len(exchange.text) <= op.usage.completion_tokens <= len(exchange.text) + 1
    assert market.nothing_is_left()


async def test_a_kept_answer_is_the_unbroken_one(tmp_path: Path) -> None:
    """Under an Idempotency-Key a lost Mac changes neither the bytes nor the single charge."""
    market = market_of(tmp_path, Mac("a", fail_after=7), Mac("b"))
    own = {"headers": {"idempotency-key": "mine"}}
    first = await ask(chat(stream=True), **own).go(market.app)
    assert first.text == UNBROKEN
    assert len(settles(market)) == 1
    assert market.nothing_is_left()


# ── second tries ──────────────────────────────────────────────────────────────────────


async def test_a_head_that_is_sent_early_names_no_mac(tmp_path: Path) -> None:
    """Which of two tries will answer is not known when a heartbeat goes out; the usage tells."""
    market = market_of(tmp_path, Mac("a", silent=True), Mac("b", pace_s=0.001))
    market.fleet.hedge_after_ms = 100.0  # after the first heartbeat
    options = {"stream_options": {"include_usage": True}}
    exchange = await ask(chat(stream=True, **options)).go(market.app)
    assert b": queued" in exchange.content
    assert "x-coster-provider" not in exchange.answer_headers
    assert exchange.events[-1]["usage"]["provider"] == "prv_b"
    assert market.nothing_is_left()


async def test_a_slow_mac_gets_company_and_the_first_to_speak_wins(tmp_path: Path) -> None:
    """One answer, one charge, to the one that gave it; the silent one is stopped and let go."""
    market = market_of(tmp_path, Mac("a", silent=True), Mac("b"))
    market.fleet.hedge_after_ms = 20.0
    exchange = await ask(chat(stream=True), headers={"x-coster-heartbeat": "off"}).go(market.app)
    assert exchange.text == UNBROKEN
    assert exchange.answer_headers["x-coster-provider"] == "prv_b"
    (op,) = settles(market)
    assert paid(op) == {MachineId("mac_b"): LENGTH}
    assert market.fleet.macs[0].cancelled == [op.request_id]
    assert [(o.machine, o.result) for o in market.fleet.outcomes] == [
        ("mac_a", "cancelled"),
        ("mac_b", "ok"),
    ]
    assert market.app.counters()[metric_names.HEDGES] == 1.0
    assert market.nothing_is_left()


async def test_without_room_for_a_second_try_there_is_none(tmp_path: Path) -> None:
    """The router says no, and the request goes on with the Mac it has."""
    market = market_of(tmp_path, Mac("a", pace_s=0.004), Mac("b"))
    market.fleet.hedge_after_ms = 0.5
    market.fleet.room_for_hedges = False
    exchange = await ask(chat(stream=True)).go(market.app)
    assert exchange.text == UNBROKEN
    assert market.fleet.grants == 1
    assert market.nothing_is_left()


@pytest.mark.parametrize("same", [True, False], ids=["same weights", "other weights"])
@pytest.mark.parametrize("at", [0, 5], ids=["before a word", "in the middle"])
async def test_a_mac_lost_while_a_second_is_asked_for(tmp_path: Path, at: int, same: bool) -> None:
    """The one that was asked for takes its place: three tries at most, each its own number."""
    first = Mac("a", pace_s=0.01, fail_after=at, silent=not at)
    macs = [first, Mac("b", fail_after=at + 4), Mac("c"), Mac("d")]
    market = Market(tmp_path, replace(QUICK, first_token_s=0.1), *macs)
    market.fleet.digest = "weights"
    fleet = market.fleet
    fleet.hedge_after_ms = 1.0
    fleet.hedge_answered = asyncio.Event()
    fleet.hedge_digest = None if same else "other weights"
    asking = asyncio.create_task(ask(chat(stream=True)).go(market.app))
    await asyncio.sleep(0.3)  # Mac a has been lost, and its request waits for the answer
    assert [r.hedge for r in fleet.requests] == [False, True]
    fleet.hedge_answered.set()
    exchange = await asking

    (op,) = settles(market)
    assert exchange.text == UNBROKEN
    assert paid(op) == delivered(market, op)
    assert op.attempts == 3
    tried = [(outcome.attempt, outcome.machine[-1]) for outcome in fleet.outcomes]
    assert sorted(tried) == [(1, "a"), (2, "b"), (3, "c")]
    assert macs[1].jobs or (at and not same)
    assert market.nothing_is_left()


@pytest.mark.parametrize("seed", range(40))
async def test_whatever_races_and_dies_there_is_one_answer_and_one_charge(
    tmp_path: Path, seed: int
) -> None:
    """Random paces, silences, refusals and deaths of three Macs, with and without hedging."""
    random = Random(seed)
    macs = [
        Mac(
            name,
            pace_s=random.choice([0.0, 0.001, 0.004]),
            silent=random.random() < 0.25,
            fail_after=random.choice([None, None, random.randrange(LENGTH)]),
            refuses=random.choice([None, None, None, ConnectionResetError()]),
        )
        for name in "abc"
    ]
    market = Market(tmp_path, replace(QUICK, first_token_s=0.15, stall_s=0.15), *macs)
    market.fleet.digest = "weights"
    market.fleet.hedge_after_ms = random.choice([0.0, 1.0, 15.0])
    exchanges = await asyncio.gather(
        *(ask(chat(stream=bool(at % 2))).go(market.app) for at in range(4))
    )
    await settled(market)
    by_request: dict[RequestId, Settle] = {op.request_id: op for op in settles(market)}
    assert len(by_request) == len(settles(market))
    answered = [e for e in exchanges if _text(e) == UNBROKEN]
    assert len(answered) == len(by_request)
    for exchange in exchanges:
        assert UNBROKEN.startswith(_text(exchange))
    for op in by_request.values():
        assert op.usage.completion_tokens == LENGTH
        assert len(paid(op)) <= 3
        for machine, tokens in paid(op).items():
            assert tokens <= market.fleet.delivered[op.request_id, machine]
    voids = {op.request_id for op in market.accountant.ops if isinstance(op, Void)}
    assert not voids & by_request.keys()
    assert market.nothing_is_left()


def _text(exchange: Exchange) -> str:
    if exchange.answer_headers["content-type"].startswith("text/event-stream"):
        return exchange.text
    choices = exchange.json.get("choices")
    return str(choices[0]["message"]["content"]) if choices else ""
