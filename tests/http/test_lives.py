"""How a request's life may end: whatever happens, the books close and no slot is kept."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from market.errors import InvalidRequest, Unavailable
from market.messages import Admit, Checkpoint, Settle, Void
from market.types import JobFailure
from serve_app import metric_names
from serve_app.limits import Limits
from tests.http.asgi_client import ask, chat, settled
from tests.http.memory_accountant import TEN_DOLLARS
from tests.http.memory_fleet import Mac
from tests.http.memory_market import Market

QUICK = Limits(
    tick_s=0.01,
    heartbeat_s=0.03,
    settle_wait_s=0.1,
    settle_background_s=5.0,
    settle_pause_s=0.01,
    write_s=0.05,
    checkpoint_s=0.02,
    checkpoint_tokens=8,
)
LOST = JobFailure("lost", "The Mac is gone.")


@pytest.fixture
def quick(tmp_path: Path) -> Market:
    """A market whose bounds are milliseconds."""
    return Market(tmp_path, QUICK)


async def test_a_failed_mac_is_replaced_unseen_before_the_first_token(market: Market) -> None:
    """Two Macs fail, the third answers; the client sees one answer and pays once."""
    market.fleet.macs[0].fails = [LOST]
    market.fleet.macs[1].refuses = ConnectionRefusedError()

    exchange = await ask(chat(stream=True, stream_options={"include_usage": True})).go(market.app)

    assert exchange.status == 200
    assert len(exchange.text) == 24
    assert exchange.events[-1]["usage"]["attempts"] == 3
    assert exchange.answer_headers["x-coster-provider"] == "prv_c"
    assert [r.excluded for r in market.fleet.requests] == [(), ("mac_a",), ("mac_a", "mac_b")]
    assert [r.attempt for r in market.fleet.requests] == [1, 2, 3]
    assert [o.result for o in market.fleet.outcomes] == ["failed", "failed", "ok"]
    assert [o.final for o in market.fleet.outcomes] == [False, False, True]
    assert market.nothing_is_left()


async def test_three_attempts_are_the_most(tmp_path: Path) -> None:
    """A fourth Mac is not asked; the answer is 503 and nobody pays."""
    macs = [Mac(name, fails=[LOST]) for name in "abcd"]
    market = Market(tmp_path, None, *macs)

    exchange = await ask().go(market.app)

    assert exchange.status == 503
    assert exchange.error["code"] == "attempts_exhausted"
    assert exchange.answer_headers["retry-after"] == "2"
    assert not macs[3].jobs
    assert [o.final for o in market.fleet.outcomes] == [False, False, True]
    assert market.nothing_is_left()
    assert market.ada.credit_nano == TEN_DOLLARS


async def test_an_invalid_job_is_not_tried_elsewhere(market: Market) -> None:
    """What one Mac calls invalid is the caller's to change."""
    market.fleet.macs[0].fails = [JobFailure("invalid", "top_k is too large.", "top_k")]

    exchange = await ask().go(market.app)

    assert exchange.status == 400
    assert exchange.error["message"] == "top_k is too large."
    assert exchange.error["param"] == "top_k"
    assert market.fleet.grants == 1
    assert market.nothing_is_left()


async def test_a_mac_that_refuses_synchronously_is_rejected_or_invalid(market: Market) -> None:
    """Errors of submit are told apart as those of events are."""
    market.fleet.macs[0].refuses = Unavailable("full")
    assert (await ask().go(market.app)).status == 200
    market.fleet.macs[0].refuses = InvalidRequest("no")
    assert (await ask().go(market.app)).status == 400
    assert [o.result for o in market.fleet.outcomes] == ["rejected", "ok", "rejected"]
    assert market.nothing_is_left()


async def test_a_loss_after_the_first_token_ends_the_stream_and_nobody_pays(
    market: Market,
) -> None:
    """The terminal event has `error` and finish_reason error; [DONE] follows; hold void."""
    market.fleet.macs[0].fail_after = 5
    market.fleet.macs[0].pace_s = 0.001

    exchange = await ask(chat(stream=True)).go(market.app)

    last = exchange.events[-1]
    assert last["choices"][0]["finish_reason"] == "error"
    assert last["error"]["code"] == "provider_lost"
    assert set(last["error"]) == {"message", "type", "param", "code"}
    assert exchange.content.endswith(b"data: [DONE]\n\n")
    assert len(exchange.text) == 5
    assert market.fleet.grants == 1
    assert market.nothing_is_left()
    assert market.ada.credit_nano == TEN_DOLLARS


async def test_a_whole_answer_survives_a_loss_at_any_token(market: Market) -> None:
    """Nothing was written, so another Mac starts afresh."""
    market.fleet.macs[0].fail_after = 20

    exchange = await ask().go(market.app)

    assert exchange.json["usage"]["completion_tokens"] == 24
    assert len(exchange.json["choices"][0]["message"]["content"]) == 24
    assert market.nothing_is_left()


async def test_a_silent_mac_is_given_up(tmp_path: Path) -> None:
    """A Mac that accepts and says nothing loses the request to the next one."""
    quick = Market(tmp_path, replace(QUICK, first_token_s=0.2))
    quick.fleet.macs[0].silent = True

    exchange = await ask().go(quick.app)

    assert exchange.status == 200
    assert quick.fleet.macs[0].cancelled
    assert [o.result for o in quick.fleet.outcomes] == ["failed", "ok"]
    await settled(quick)


async def test_the_settle_is_durable_before_the_last_chunk(market: Market) -> None:
    """When [DONE] is written, the ledger has the charge."""
    seen: list[bool] = []

    def watch(op: object) -> None:
        if isinstance(op, Settle):
            seen.append(b"[DONE]" in exchange.content)

    market.accountant.before = watch
    exchange = ask(chat(stream=True))
    await exchange.go(market.app)

    assert seen == [False]
    assert b'"finish_reason":"stop"' in exchange.content
    assert b"[DONE]" in exchange.content


async def test_an_accountant_that_comes_back_is_waited_for(quick: Market) -> None:
    """The same settle is sent again until it is answered, and charges once."""
    quick.accountant.away, quick.accountant.away_for = 4, Settle

    exchange = await ask(chat(stream=True)).go(quick.app)

    assert exchange.content.endswith(b"data: [DONE]\n\n")
    assert "error" not in exchange.events[-1]
    assert quick.app.counters()[metric_names.SETTLE_RETRIES] == 4
    await settled(quick)
    assert quick.ada.credit_nano == TEN_DOLLARS - (22 * 15 + 24 * 60)


async def test_an_accountant_that_stays_away_withholds_the_success(quick: Market) -> None:
    """The client is told that the charge is unconfirmed; it is still made, later."""
    quick.accountant.away, quick.accountant.away_for = 20, Settle

    exchange = await ask(chat(stream=True)).go(quick.app)

    assert exchange.events[-1]["error"]["code"] == "settlement_delayed"
    await settled(quick)
    (row,) = quick.accountant.rows.values()
    assert row.status == "settled"


async def test_an_admission_whose_answer_was_lost_is_voided(quick: Market) -> None:
    """503 for the client, and no hold stays behind for its lease to end."""
    quick.accountant.away, quick.accountant.away_for = 1, Admit

    exchange = await ask().go(quick.app)

    assert exchange.status == 503
    await quick.app.close()
    assert any(isinstance(op, Void) for op in quick.accountant.ops)
    await settled(quick)


async def test_a_refused_admission_gives_the_slot_back(market: Market) -> None:
    """402 names what is affordable; the slot reserved in parallel is returned."""
    market.fund(22 * 15 + 10 * 60)

    exchange = await ask(chat(max_tokens=11)).go(market.app)

    assert exchange.status == 402
    assert exchange.error["type"] == "billing"
    assert "10 tokens" in exchange.error["message"]
    assert exchange.answer_headers["x-should-retry"] == "false"
    await market.app.close()
    assert [o.result for o in market.fleet.outcomes] == ["cancelled"]
    assert market.nothing_is_left()
    assert not any(isinstance(op, Void) for op in market.accountant.ops)


async def test_a_router_without_a_mac_voids_the_hold(market: Market) -> None:
    """The router's refusal reaches the client as it is, and the money is free again."""
    market.fleet.error = Unavailable("0 of 3 Macs.", None, "no_provider", 30)

    exchange = await ask().go(market.app)

    assert (exchange.status, exchange.error["code"]) == (503, "no_provider")
    assert exchange.answer_headers["retry-after"] == "30"
    assert market.nothing_is_left()


async def test_waiting_needs_a_hold_and_carries_its_funding(tmp_path: Path) -> None:
    """With every slot taken the request queues with funding, and then runs."""
    market = Market(tmp_path, QUICK, Mac("only", slots=1, pace_s=0.003))

    first, second = await asyncio.gather(
        ask().go(market.app), ask(chat(stream=True)).go(market.app)
    )

    assert (first.status, second.status) == (200, 200)
    funded = [r for r in market.fleet.requests if r.funding is not None]
    assert len(funded) == 1
    assert funded[0].funding is not None
    assert funded[0].funding.total_nano > 0
    assert second.content.startswith(b": queued\n\n")
    assert "x-coster-provider" not in second.answer_headers
    await settled(market)


@pytest.mark.parametrize("stream", [True, False])
async def test_heartbeats_can_be_switched_off(tmp_path: Path, stream: bool) -> None:
    """With the header, and for whole answers always, silence stays silence."""
    market = Market(tmp_path, QUICK, Mac("slow", pace_s=0.06))
    headers = {"x-coster-heartbeat": "off"} if stream else {}

    exchange = await ask(chat(stream=stream, max_tokens=1), headers=headers).go(market.app)

    assert exchange.status == 200
    assert b": queued" not in exchange.content
    assert exchange.answer_headers["x-coster-provider"] == "prv_slow"


async def test_an_error_after_a_heartbeat_is_an_event(tmp_path: Path) -> None:
    """The status is out, so the error comes as the terminal event."""
    bounds = replace(QUICK, first_token_s=0.2)
    market = Market(tmp_path, bounds, *[Mac(name, silent=True) for name in "abc"])

    exchange = await ask(chat(stream=True)).go(market.app)

    assert exchange.status == 200
    assert exchange.events[-1]["error"]["code"] == "attempts_exhausted"
    assert exchange.content.endswith(b"data: [DONE]\n\n")
    await settled(market)


async def test_checkpoints_name_a_payee_only_after_delivery(tmp_path: Path) -> None:
    """The lease is renewed while waiting, by tokens and by time, and never ahead of us."""
    market = Market(tmp_path, QUICK, Mac("a", pace_s=0.004))

    await ask(chat(stream=True)).go(market.app)
    await market.app.close()

    marks = [op for op in market.accountant.ops if isinstance(op, Checkpoint)]
    assert len(marks) >= 2
    assert all((op.payee is None) == (op.usage.completion_tokens == 0) for op in marks)
    counts = [op.usage.completion_tokens for op in marks]
    assert counts == sorted(counts)
    assert counts[-1] < 24


async def test_whole_answers_are_never_checkpointed_as_delivered(tmp_path: Path) -> None:
    """If the gateway dies before the answer is out, its client pays nothing."""
    market = Market(tmp_path, QUICK, Mac("a", pace_s=0.004))

    await ask().go(market.app)
    await market.app.close()

    marks = [op for op in market.accountant.ops if isinstance(op, Checkpoint)]
    assert marks
    assert all(op.payee is None and op.usage.completion_tokens == 0 for op in marks)


async def test_a_mac_cannot_bill_more_than_was_asked_for(market: Market) -> None:
    """Tokens beyond max_tokens break the answer off instead of being charged."""
    mac = market.fleet.macs[0]
    market.fleet.LENGTH = 24
    original = market.fleet._run

    async def greedy(mac, job, on_event):  # type: ignore[no-untyped-def]
        await original(mac, replace(job, max_tokens=job.max_tokens + 2), on_event)

    market.fleet._run = greedy  # type: ignore[method-assign]
    mac.pace_s = 0.001

    exchange = await ask(chat(stream=True, max_tokens=4)).go(market.app)

    assert exchange.events[-1]["error"]["code"] == "provider_lost"
    await settled(market)
    assert market.ada.credit_nano == TEN_DOLLARS


async def test_a_request_ends_at_its_deadline(tmp_path: Path) -> None:
    """The longest answer has a bound in seconds, after which nobody pays."""
    market = Market(tmp_path, replace(QUICK, total_s=0.05), Mac("a", pace_s=0.02))

    exchange = await ask().go(market.app)

    assert (exchange.status, exchange.error["code"]) == (503, "deadline")
    await settled(market)
    assert market.ada.credit_nano == TEN_DOLLARS


@pytest.mark.parametrize(("limit", "cut"), [(3, True), (400, False)])
async def test_the_router_is_told_which_answers_were_cut(
    market: Market, limit: int, cut: bool
) -> None:
    """One that ended at its limit says nothing of how long answers are, and is told apart."""
    await ask(chat(max_tokens=limit)).go(market.app)
    assert [outcome.truncated for outcome in market.fleet.outcomes] == [cut]
