"""Whose machines, by when, for how much and in which conversation: what the router is told."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from market.messages import Admitted
from market.policy.prefixes import block_hashes
from market.types import AccountId, MachineId
from serve_app.limits import DEADLINE_S_MAX, Limits
from storage.memory import MemoryLedger
from tests.http.asgi_client import HI, Exchange, ask, chat
from tests.http.ledger_market import LedgerMarket, call, open_market
from tests.http.memory_accountant import ADA
from tests.http.memory_market import Market

# ── own machines ─────────────────────────────────────────────────────────────────────

MINE = MachineId("mac_a")


def own(market: Market, *machines: MachineId) -> None:
    accountant = market.accountant
    for hashed, record in accountant.keys.items():
        accountant.keys[hashed] = replace(record, machines=machines)


@pytest.mark.parametrize("how", ["self", "prefer"])
@pytest.mark.parametrize("by_header", [True, False])
async def test_own_machines_are_wished_for_by_field_or_header(
    market: Market, how: str, by_header: bool
) -> None:
    """Both mean the same, and the machines are those of the account."""
    own(market, MINE)
    headers = {"x-coster-route": how.upper()} if by_header else {}
    body = HI if by_header else chat(provider={"own": how})

    assert (await ask(body, headers=headers).go(market.app)).status == 200
    asked = market.fleet.requests[0].preferences
    assert (asked.own, asked.own_machines) == (how, (MINE,))


async def test_own_machines_only_without_any_is_400(market: Market) -> None:
    """It names the field or the header by which they were wanted; to prefer none is harmless."""
    field = await ask(chat(provider={"own": "self"})).go(market.app)
    header = await ask(headers={"x-coster-route": "self"}).go(market.app)

    assert (field.error["code"], field.error["param"]) == ("no_own_machine", "provider.own")
    assert (header.status, header.error["param"]) == (400, "x-coster-route")
    assert not market.fleet.requests
    assert (await ask(headers={"x-coster-route": "prefer"}).go(market.app)).status == 200


async def test_a_header_that_says_otherwise_is_a_contradiction(market: Market) -> None:
    """Neither is guessed to be the one that was meant; a word that is none is refused."""
    body = chat(provider={"own": "self"})
    both = await ask(body, headers={"x-coster-route": "prefer"}).go(market.app)
    word = await ask(headers={"x-coster-route": "anywhere"}).go(market.app)

    assert both.error["code"] == "contradicting_preferences"
    assert (word.status, word.error["param"]) == (400, "x-coster-route")


async def test_whose_machine_it_is_is_known_as_fast_as_a_revocation(tmp_path: Path) -> None:
    """A machine that is linked or unlinked counts within the second for which a key is cached."""
    async with open_market(tmp_path, limits=Limits(key_cache_s=0.0)) as market:
        accountant = market.ledger.accountant

        async def mine() -> Exchange:
            return await ask(chat(provider={"own": "self"}), key=market.inference).go(market.app)

        assert (await ask(key=market.inference).go(market.app)).status == 200
        assert (await mine()).error["code"] == "no_own_machine"
        await accountant.link_machine(MINE, ADA, "op")
        assert (await mine()).status == 200
        assert market.fleet.requests[-1].preferences.own_machines == (MINE,)
        await accountant.unlink_machine(MINE, "op")
        assert (await mine()).error["code"] == "no_own_machine"


async def test_links_outlive_the_accountant(tmp_path: Path) -> None:
    """They are read from the books, and a key of the account finds them at once."""
    disk = MemoryLedger()
    async with open_market(tmp_path, ledger=disk) as market:
        await market.ledger.accountant.link_machine(MINE, ADA, "op")
    async with open_market(tmp_path, ledger=disk) as later:
        exchange = await ask(chat(provider={"own": "self"}), key=later.inference).go(later.app)
        assert exchange.status == 200
        assert later.fleet.requests[0].preferences.own_machines == (MINE,)


@pytest.mark.parametrize("privacy", [{"zdr": True}, {"data_collection": "deny"}])
async def test_nothing_kept_can_be_promised_for_own_machines_only(
    market: Market, privacy: dict[str, Any]
) -> None:
    """On strangers' Macs it cannot, and a kept answer is kept: both are said."""
    own(market, MINE)
    body = chat(provider={**privacy, "own": "self"})
    (name,) = privacy

    refused = await ask(chat(provider=privacy)).go(market.app)
    kept = await ask(body, headers={"idempotency-key": "k"}).go(market.app)

    assert (refused.status, refused.error["code"]) == (400, "unsupported_parameter")
    assert "provider.own" in refused.error["message"]
    assert kept.error["code"] == "contradicting_preferences"
    assert all(said in kept.error["message"] for said in (name, "Idempotency-Key"))
    assert (await ask(body).go(market.app)).status == 200


# ── when, for how much, whose ────────────────────────────────────────────────────────


async def test_a_deadline_counts_down_from_the_requests_arrival(market: Market) -> None:
    """Each question to the router says what is left; nobody waits in a queue beyond it."""
    market.fleet.macs = market.fleet.macs[:1]
    market.fleet.macs[0].slots = 1
    market.fleet.macs[0].pace_s = 0.004
    first = asyncio.create_task(ask().go(market.app))
    await asyncio.sleep(0.02)

    await ask(chat(deadline_s=20)).go(market.app)
    await first

    early, queued = market.fleet.requests[-2:]
    assert early.finish_by_s is not None
    assert queued.finish_by_s is not None
    assert 19 < queued.finish_by_s <= early.finish_by_s <= 20
    assert queued.deadline_s == queued.finish_by_s < Limits().queue_s
    assert market.fleet.requests[0].finish_by_s is None


async def test_a_deadline_is_never_later_than_a_request_may_last(market: Market) -> None:
    """The longest one is taken, and waits no longer than anyone."""
    await ask(chat(deadline_s=DEADLINE_S_MAX)).go(market.app)
    assert market.fleet.requests[0].deadline_s == Limits().queue_s


@pytest.mark.parametrize(
    ("tier", "request_class", "told"),
    [
        ("flex", "batch", "flex"),
        ("auto", "interactive", "default"),
        ("default", "interactive", "default"),
        ("priority", "interactive", "default"),
        (None, "interactive", None),
    ],
)
async def test_flex_is_the_batch_class(
    market: Market, tier: str | None, request_class: str, told: str | None
) -> None:
    """It may wait longer; the answer says which tier it was, in chunks too."""
    exchange = await ask(chat(service_tier=tier)).go(market.app)
    stream = await ask(chat(service_tier=tier, stream=True)).go(market.app)

    asked = market.fleet.requests[0]
    patience_s = Limits().batch_queue_s if tier == "flex" else Limits().queue_s
    assert (asked.request_class, asked.deadline_s) == (request_class, patience_s)
    assert exchange.json.get("service_tier") == told
    assert {chunk.get("service_tier") for chunk in stream.events} == {told}
    assert "x-coster-ignored-params" not in exchange.answer_headers


async def test_a_conversation_is_known_by_a_hash_of_its_name(market: Market) -> None:
    """The cache key before the user; never the words; another account's is another one."""
    market.accountant.accounts[AccountId("acct_bob")] = market.accountant.accounts[ADA]
    market.accountant.add_key("sk-test-bob", AccountId("acct_bob"), "inference")
    for body, key in (
        (chat(user="ada@example.org"), Market.KEY),
        (chat(user="ada@example.org", prompt_cache_key="talk"), Market.KEY),
        (chat(prompt_cache_key="talk"), Market.KEY),
        (chat(prompt_cache_key="talk"), "sk-test-bob"),
        (chat(user=""), Market.KEY),
        (chat(user={"id": 1}), Market.KEY),
    ):
        assert (await ask(body, key=key).go(market.app)).status == 200
    sessions = [request.session for request in market.fleet.requests]

    assert sessions[1] == sessions[2]
    assert len(set(sessions[:4])) == 3
    assert sessions[4:] == ["", ""]
    assert not any("ada" in session or "talk" in session for session in sessions)


async def test_a_prompt_is_known_by_its_blocks(market: Market) -> None:
    """Keyed by account and model, as what its Mac reports to have read."""
    long = [{"role": "user", "content": "x" * 200}]
    await ask(chat(messages=long)).go(market.app)
    await market.app.close()

    (request,), (outcome,) = market.fleet.requests, market.fleet.outcomes
    prompt = market.fleet.macs[0].jobs[0].prompt_ids
    assert request.prefix == block_hashes(prompt, ADA, "coster/demo")
    assert len(request.prefix) == len(prompt) // 64
    assert outcome.prefix[: len(request.prefix)] == request.prefix
    await ask().go(market.app)
    assert market.fleet.requests[-1].prefix == ()


async def test_macs_are_compared_at_the_holds_prices(tmp_path: Path) -> None:
    """At the present ones until the hold is known, at the frozen ones from then on."""
    async with open_market(tmp_path) as market:
        market.fleet.macs = market.fleet.macs[:1]
        market.fleet.macs[0].slots = 0
        honest = market.ledger.op

        async def dearer(op: Any) -> Any:
            reply = await honest(op)
            if isinstance(reply, Admitted):
                reply = replace(reply, price_in_nano=16, price_out_nano=61)
                market.fleet.macs[0].slots = 1
            return reply

        market.ledger.op = dearer  # type: ignore[method-assign]
        await ask(key=market.inference).go(market.app)
        asked = [(r.price_in_nano, r.price_out_nano) for r in market.fleet.requests]
        assert asked == [(15, 60), (16, 61)]


COST_NANO = 22 * 15


async def _budgeted(market: LedgerMarket, **fields: Any) -> Exchange:
    return await call(market, "POST", "/v1/chat/completions", chat(**fields), key=market.inference)


async def test_a_budget_is_never_exceeded(tmp_path: Path) -> None:
    """It bounds the answer, or the request is refused with the number that fits, and none runs."""
    async with open_market(tmp_path) as market:
        budget = (COST_NANO + 5 * 60 + 59) / 1e9

        capped = await _budgeted(market, max_cost_usd=budget)
        refused = await _budgeted(market, max_cost_usd=budget, max_tokens=6)
        nothing = await _budgeted(market, max_cost_usd="0.0000001")
        exact = await _budgeted(market, max_cost_usd=budget, max_tokens=5)

        assert capped.answer_headers["x-coster-max-tokens"] == "5"
        assert capped.json["usage"]["completion_tokens"] == 5
        assert (refused.status, refused.error["code"]) == (402, "budget_exceeded")
        assert refused.error["param"] == "max_cost_usd"
        assert "at most 5" in refused.error["message"]
        assert refused.answer_headers["x-should-retry"] == "false"
        assert nothing.status == 402
        assert exact.json["usage"]["completion_tokens"] == 5
        assert market.fleet.jobs_taken() == 2
        assert await market.spent_nano() == 2 * (COST_NANO + 5 * 60)
