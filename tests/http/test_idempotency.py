"""Inference under the caller's own key: one charge and one answer, however often it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from market.accounting.state_rows import OutcomeRow
from market.messages import Admit, Settle
from market.types import JobFailure, RequestId
from serve_app import metric_names
from serve_app.limits import Limits
from serve_app.sealed import KeptAnswer, Sealer, UnopenableError
from storage.memory import MemoryLedger
from tests.http.asgi_client import Exchange, ask, chat
from tests.http.ledger_market import LedgerMarket, open_market
from tests.http.memory_accountant import ADA
from tests.http.memory_fleet import Mac

OWN = {"idempotency-key": "b1946ac9-2f6b"}
COST = 22 * 15 + 24 * 60
QUICK = Limits(tick_s=0.01, heartbeat_s=0.03, settle_wait_s=0.1, settle_pause_s=0.01, write_s=0.05)
STREAM = chat(stream=True, stream_options={"include_usage": True})


@pytest.fixture
async def market(tmp_path: Path) -> AsyncIterator[LedgerMarket]:
    """Real books and three scripted Macs."""
    async with open_market(tmp_path, limits=QUICK) as opened:
        yield opened


def own(market: LedgerMarket, body: Any = None, **options: Any) -> Exchange:
    options.setdefault("headers", OWN)
    return ask(body, key=market.inference, **options)


@pytest.mark.parametrize("body", [chat(), STREAM], ids=["whole", "stream"])
async def test_the_same_request_twice_is_one_charge_and_the_same_bytes(
    market: LedgerMarket, body: Any
) -> None:
    """Status, type and every byte come again, with the first id and a word that says so."""
    first = await own(market, body).go(market.app)
    second = await own(market, body).go(market.app)

    assert (first.status, second.status) == (200, 200)
    assert second.content == first.content
    for name in ("content-type", "x-coster-request-id"):
        assert second.answer_headers[name] == first.answer_headers[name]
    assert second.answer_headers["x-coster-replayed"] == "true"
    assert "x-coster-replayed" not in first.answer_headers
    assert await market.spent_nano() == COST
    assert market.fleet.grants == 1
    counters = market.app.counters()
    assert counters[metric_names.labelled(metric_names.REPLAYS, kept="yes")] == 1


async def test_the_bill_in_a_kept_answer_is_what_was_charged(market: LedgerMarket) -> None:
    """The last bytes are made before the charge is durable, and agree with it."""
    first = await own(market, STREAM).go(market.app)

    usage = first.events[-1]["usage"]
    row = await market.ledger.generation(
        ADA, RequestId(first.answer_headers["x-coster-request-id"])
    )
    assert int(usage["cost_nano_usd"]) == row.cost_nano == COST
    assert market.app.counters()[metric_names.COST_MISMATCHES] == 0


async def test_a_bill_that_differs_is_told_as_it_is_and_counted(market: LedgerMarket) -> None:
    """Should the ledger ever charge otherwise than computed, the client hears what it charged."""
    honest = market.ledger.op

    async def dearer(op: Any) -> Any:
        reply = await honest(op)
        return replace(reply, cost_nano=reply.cost_nano + 1) if isinstance(op, Settle) else reply

    market.ledger.op = dearer  # type: ignore[method-assign]
    first = await ask(STREAM, key=market.inference).go(market.app)

    assert first.events[-1]["usage"]["cost_nano_usd"] == str(COST + 1)
    assert market.app.counters()[metric_names.COST_MISMATCHES] == 1


async def test_a_gateway_and_an_accountant_later_the_answer_is_still_there(tmp_path: Path) -> None:
    """Everything that is needed to answer again is in the ledger, sealed."""
    disk = MemoryLedger()
    async with open_market(tmp_path, ledger=disk) as market:
        first = await own(market, STREAM).go(market.app)
    async with open_market(tmp_path, ledger=disk) as later:
        second = await own(later, STREAM).go(later.gateway())
        assert await later.spent_nano() == COST

    assert second.content == first.content
    assert not later.fleet.jobs_taken()
    (kept,) = disk.state[OutcomeRow].values()
    assert b"assistant" not in kept.sealed  # type: ignore[union-attr]


async def test_another_body_under_the_same_key_is_refused(market: LedgerMarket) -> None:
    """409, and no retry can help; the route is part of what must be the same."""
    both = chat(prompt="abc")  # each route ignores the other's field
    await own(market, both).go(market.app)

    other = await own(market, chat(prompt="abc", max_tokens=3)).go(market.app)
    route = await own(market, both, path="/v1/completions").go(market.app)

    for exchange in (other, route):
        assert (exchange.status, exchange.error["code"]) == (409, "idempotency_key_reused")
        assert exchange.answer_headers["x-should-retry"] == "false"
    assert await market.spent_nano() == COST


async def test_a_second_request_waits_for_the_first_one(tmp_path: Path) -> None:
    """While it runs the answer is 409 with Retry-After; afterwards it is the answer."""
    async with open_market(tmp_path, Mac("slow", pace_s=0.005), limits=QUICK) as market:
        running = asyncio.create_task(own(market).go(market.app))
        while not market.fleet.grants:
            await asyncio.sleep(0.002)

        early = await own(market).go(market.gateway())
        first = await running
        late = await own(market).go(market.app)

        assert (early.status, early.error["code"]) == (409, "idempotency_in_progress")
        assert early.answer_headers["retry-after"] == "2"
        assert early.answer_headers["x-should-retry"] == "true"
        assert late.content == first.content
        assert await market.spent_nano() == COST


async def test_parallel_requests_with_one_key_are_charged_once(market: LedgerMarket) -> None:
    """Of many at once exactly one runs; the others are told to wait or get its answer."""
    answers = await asyncio.gather(*(own(market).go(market.app) for _ in range(20)))

    assert {answer.status for answer in answers} <= {200, 409}
    assert market.fleet.grants == 1
    assert await market.spent_nano() == COST


@pytest.mark.parametrize("leave_after", [0, 1, 4])
@pytest.mark.parametrize("body", [chat(), STREAM], ids=["whole", "stream"])
async def test_a_client_that_leaves_finds_the_whole_answer_later(
    tmp_path: Path, body: Any, leave_after: int
) -> None:
    """It runs to its end without a reader, is charged once and kept."""
    async with open_market(tmp_path, Mac("a", pace_s=0.003), limits=QUICK) as market:
        gone = own(market, body, leave_after=leave_after or None)
        if not leave_after:
            gone.left.set()
        await gone.go(market.app)
        if body is STREAM or not leave_after:
            assert market.app.running == 1, "the call waits for what nobody reads"
            assert market.app.counters()[metric_names.CLIENTS_LEFT] == 1
        while market.app.running:
            await asyncio.sleep(0.005)

        again = await own(market, body).go(market.app)

        assert again.answer_headers["x-coster-replayed"] == "true"
        assert len(again.text if body is STREAM else _content(again)) == 24
        assert await market.spent_nano() == COST
        assert not market.fleet.macs[0].cancelled


def _content(exchange: Exchange) -> str:
    return str(exchange.json["choices"][0]["message"]["content"])


async def test_a_server_that_cancels_the_call_does_not_end_the_request(tmp_path: Path) -> None:
    """Some servers cancel instead of telling; the request lives in a task of its own."""
    async with open_market(tmp_path, Mac("a", pace_s=0.003), limits=QUICK) as market:
        call = asyncio.create_task(own(market, STREAM).go(market.app))
        while not market.fleet.grants:
            await asyncio.sleep(0.002)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert market.app.running == 1
        await market.app.close()

        assert await market.spent_nano() == COST
        again = await own(market, STREAM).go(market.gateway())
        assert len(again.text) == 24


async def test_a_reader_that_stands_still_loses_its_connection_only(tmp_path: Path) -> None:
    """Its write is given up, the answer is finished and kept."""
    async with open_market(tmp_path, Mac("a", pace_s=0.004), limits=QUICK) as market:
        stuck = own(market, STREAM, stall_after=2)
        await stuck.go(market.app)
        while market.app.running:
            await asyncio.sleep(0.005)

        again = await own(market, STREAM).go(market.app)

        assert b"[DONE]" not in stuck.content
        assert len(again.text) == 24
        assert await market.spent_nano() == COST


async def test_a_failed_request_may_be_tried_again(market: LedgerMarket) -> None:
    """What cost nothing is not kept: the same key really runs again."""
    lost = JobFailure("lost", "The Mac is gone.")
    for mac in market.fleet.macs:
        mac.fails = [lost]

    failed = await own(market).go(market.app)
    again = await own(market).go(market.app)

    assert (failed.status, failed.error["code"]) == (503, "attempts_exhausted")
    assert again.status == 200
    assert "x-coster-replayed" not in again.answer_headers
    assert await market.spent_nano() == COST


async def test_a_stream_that_broke_off_may_be_tried_again(market: LedgerMarket) -> None:
    """Though its status was 200, nobody paid and nothing is kept."""
    market.fleet.macs[0].fail_after = 5
    market.fleet.macs[0].pace_s = 0.001

    broken = await own(market, STREAM).go(market.app)
    market.fleet.macs[0].fail_after = None
    again = await own(market, STREAM).go(market.app)

    assert broken.events[-1]["error"]["code"] == "provider_lost"
    assert len(again.text) == 24
    assert await market.spent_nano() == COST


async def test_a_drained_request_may_be_tried_again(tmp_path: Path) -> None:
    """The market ends it, nobody pays, and the key is free."""
    async with open_market(tmp_path, Mac("a", pace_s=0.01), limits=QUICK) as market:
        running = asyncio.create_task(own(market, STREAM).go(market.app))
        while not market.fleet.grants:
            await asyncio.sleep(0.002)
        await market.app.end_all("The market is closing.")
        await running
        await market.app.close()

        assert await market.spent_nano() == 0
        assert len((await own(market, STREAM).go(market.gateway())).text) == 24


async def test_an_answer_too_long_to_keep_is_charged_and_not_sent_again(tmp_path: Path) -> None:
    """Its client has it all; asking again is told the id and never runs twice."""
    async with open_market(tmp_path, limits=Limits()) as market:
        market.fleet.LENGTH = 900
        body = chat(stream=True, n=8, logprobs=True, top_logprobs=5)

        first = await own(market, body).go(market.app)
        second = await own(market, body).go(market.app)

        assert len(first.content) > 2**20
        assert first.content.endswith(b"data: [DONE]\n\n")
        assert (second.status, second.error["code"]) == (409, "answer_not_kept")
        assert first.answer_headers["x-coster-request-id"] in second.error["message"]
        assert await market.spent_nano() == 22 * 15 + 8 * 900 * 60


async def test_a_dead_gateways_half_answer_is_neither_charged_nor_kept(tmp_path: Path) -> None:
    """Checkpoints under an own key claim nothing, so that asking again is never paid twice."""
    quick = Limits(tick_s=0.01, checkpoint_s=0.02, checkpoint_tokens=4)
    async with open_market(tmp_path, Mac("a", pace_s=0.005), limits=quick) as market:
        await own(market, STREAM).go(market.app)
        await market.app.close()

        marks = [op for op in market.ledger.ops if type(op).__name__ == "Checkpoint"]
        assert marks
        assert all(op.payee is None for op in marks)  # type: ignore[union-attr]


async def test_keys_are_scoped_to_their_account(market: LedgerMarket) -> None:
    """Two accounts may choose the same key; two keys of one account mean the same by it."""
    account, _, _ = await market.ledger.create_account("Bob", tier="operator", promo_nano=10**10)
    _, bobs = await market.key("inference", account=account)
    _, adas = await market.key("inference")
    first = await own(market).go(market.app)

    bob = await ask(key=bobs, headers=OWN).go(market.app)
    ada = await ask(key=adas, headers=OWN).go(market.app)

    assert "x-coster-replayed" not in bob.answer_headers
    assert ada.content == first.content


async def test_a_revoked_key_gets_no_kept_answer(market: LedgerMarket) -> None:
    """The accountant checks the key before it says what was kept."""
    key_id, secret = await market.key("inference")
    await ask(key=secret, headers=OWN).go(market.app)
    await market.ledger.revoke_key(ADA, key_id)

    assert (await ask(key=secret, headers=OWN).go(market.app)).status == 401


@pytest.mark.parametrize("key", ["", "x" * 256, "schlüssel", "a\tb", "a\x7f"])
async def test_a_bad_idempotency_key_is_400(market: LedgerMarket, key: str) -> None:
    """It names the header and says what is taken; nothing runs."""
    exchange = await own(market, headers={"idempotency-key": key}).go(market.app)

    assert (exchange.status, exchange.error["param"]) == (400, "Idempotency-Key")
    assert exchange.error["code"] == "invalid_idempotency_key"
    assert key == "" or key not in exchange.error["message"]
    assert not market.fleet.requests


async def test_only_hashes_of_the_key_and_the_body_travel(market: LedgerMarket) -> None:
    """Neither the accountant nor its rows ever see what the caller chose or asked."""
    await own(market).go(market.app)

    (admit,) = [op for op in market.ledger.ops if isinstance(op, Admit)]
    (settle,) = [op for op in market.ledger.ops if isinstance(op, Settle)]
    assert admit.idempotency is not None
    assert OWN["idempotency-key"] not in admit.idempotency
    assert len(admit.idempotency) == 64
    assert settle.outcome is not None
    assert b"choices" not in settle.outcome


def test_a_seal_opens_only_for_its_account_key_and_request() -> None:
    """Any other account, key, pepper, request, or one changed bit, and it stays shut."""
    sealer, other = Sealer(bytes(32)), Sealer(bytes(31) + b"\x01")
    own_key = sealer.own_key(ADA, "k", "/v1/x", b"{}")
    wrong_key = sealer.own_key(ADA, "K", "/v1/x", b"{}")
    answer = KeptAnswer(200, b"application/json", b"{}" * 50)
    request = RequestId("req_1")
    sealed = sealer.seal(ADA, own_key, request, answer)
    assert sealed is not None

    assert sealer.open(ADA, own_key, request, sealed) == answer
    flipped = sealed[:40] + bytes([sealed[40] ^ 1]) + sealed[41:]
    for opener, account, key, name, data in (
        (other, ADA, own_key, request, sealed),
        (sealer, "acct_bob", own_key, request, sealed),
        (sealer, ADA, wrong_key, request, sealed),
        (sealer, ADA, own_key, RequestId("req_2"), sealed),
        (sealer, ADA, own_key, request, flipped),
        (sealer, ADA, own_key, request, sealed[:20]),
        (sealer, ADA, own_key, request, b""),
    ):
        with pytest.raises(UnopenableError):
            opener.open(account, key, name, data)  # type: ignore[arg-type]
    assert sealer.seal(ADA, own_key, request, KeptAnswer(200, b"", bytes(2**20))) is None
