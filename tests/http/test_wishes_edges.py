"""Where wishes meet what is already under way: a seam, another reader, another tokeniser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from market.errors import Unavailable
from market.messages import Admit
from tests.http import routed_fleet
from tests.http.asgi_client import Exchange, ask, chat, settled
from tests.http.ledger_market import open_market
from tests.http.memory_fleet import Mac
from tests.http.memory_market import Market
from tests.http.routed_fleet import LARGE, SMALL, routed_market, serve_more
from tests.http.test_going_on import UNBROKEN, market_of, settles
from tests.http.test_lives import QUICK

DEMO = "coster/demo"


async def _away(request: Any) -> Any:
    raise Unavailable("The router is away.", None, "restarting", 1.0)


# ── a deadline and a seam ────────────────────────────────────────────────────────────


async def test_an_answer_that_has_begun_goes_on_beyond_its_deadline(tmp_path: Path) -> None:
    """A Mac that is lost after the deadline costs a pause, as before it: nothing is broken off."""
    market = market_of(tmp_path, Mac("a", fail_after=20, pace_s=0.01), Mac("b"))
    honest = market.fleet.route

    async def strict(request: Any) -> Any:
        if request.finish_by_s is not None and request.finish_by_s < 0.05:
            raise Unavailable("Too late.", None, "deadline_infeasible", 1.0)
        return await honest(request)

    market.fleet.route = strict  # type: ignore[method-assign]
    exchange = await ask(chat(stream=True, deadline_s=0.1)).go(market.app)

    assert exchange.text == UNBROKEN
    (op,) = settles(market)
    assert [part.completion_tokens for part in op.before] == [20]
    assert market.fleet.requests[-1].deadline_s == QUICK.queue_s
    assert market.nothing_is_left()


async def test_an_answer_that_begins_anew_still_has_its_deadline(tmp_path: Path) -> None:
    """Before the first token nothing has begun: the next Mac must make it, too."""
    market = market_of(tmp_path, Mac("a", refuses=ConnectionResetError()), Mac("b"))
    assert (await ask(chat(stream=True, deadline_s=20)).go(market.app)).status == 200
    assert all(request.finish_by_s is not None for request in market.fleet.requests)


# ── another reader of the same key ───────────────────────────────────────────────────


async def test_a_call_that_another_one_has_answered_meanwhile_ends_in_the_open(
    tmp_path: Path,
) -> None:
    """Between two models the caller's key is free: whoever took it is paid, the stream says so.

    Its head is out by then, so the kept answer cannot be sent in its place.
    """
    own = {"idempotency-key": "twice"}
    limits = replace(QUICK, queue_s=0.2)
    async with open_market(tmp_path, Mac("a", slots=1), limits=limits) as market:
        serve_more(market.app._desk.ports, tmp_path)
        free = market.fleet._free
        market.fleet._free = lambda r: None if r.model == DEMO else free(r)  # type: ignore[method-assign]
        market.fleet.quote = _away  # type: ignore[method-assign]
        body = chat(models=[LARGE], stream=True)
        honest = market.ledger.op
        others: list[Exchange] = []

        async def between(op: Any) -> Any:
            if isinstance(op, Admit) and op.model == LARGE and not others:
                market.fleet._free = free  # type: ignore[method-assign]
                others.append(ask(body, key=market.inference, headers=own))
                await others[0].go(market.app)
            return await honest(op)

        market.ledger.op = between  # type: ignore[method-assign]
        exchange = await ask(body, key=market.inference, headers=own).go(market.app)

        assert others[0].status == 200
        assert [m["type"] for m in exchange.out].count("http.response.start") == 1
        assert exchange.events[-1]["error"]["code"] == "answered_meanwhile"
        assert exchange.content.endswith(b"data: [DONE]\n\n")
        again = await ask(body, key=market.inference, headers=own).go(market.app)
        assert again.content == others[0].content


# ── another tokeniser ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("max_tokens", [None, 5])
async def test_a_model_is_not_passed_over_for_a_length_that_was_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_tokens: int | None
) -> None:
    """Another tokeniser may need fewer tokens: what is too long by the first one is asked for."""
    short = replace(routed_fleet.FACTS, context_tokens=512)
    monkeypatch.setattr(routed_fleet, "FACTS", short)
    market = routed_market(tmp_path, Mac("a"), limits=QUICK, a={"models": (SMALL,)})
    served = market.ports.models.get(SMALL)
    assert served is not None
    served.context_tokens = 512  # type: ignore[misc]
    honest: Callable[..., tuple[int, ...]] = served.chat
    served.chat = lambda messages: honest(messages)[:300]  # type: ignore[method-assign]
    long = [{"role": "user", "content": "x" * 900}]

    body = chat(models=[SMALL], messages=long, max_tokens=max_tokens)
    exchange = await ask(body).go(market.app)
    await settled(market)

    assert exchange.status == 200, exchange.content
    assert exchange.json["model"] == SMALL
    (row,) = market.accountant.rows.values()
    assert (row.model, row.status) == (SMALL, "settled")


@pytest.mark.parametrize(
    ("models", "held"), [([SMALL, LARGE], [LARGE]), ([DEMO, SMALL, LARGE], [SMALL, LARGE])]
)
async def test_only_a_guessed_length_is_asked_about_in_earnest(
    several: Market, models: list[str], held: list[str]
) -> None:
    """The first model counted the tokens itself: its refusal is believed, nothing is held for it.

    Where nobody has a model at all, the length does not matter and nobody is asked again.
    """
    fleet = several.fleet
    fleet.errors = dict.fromkeys((DEMO, SMALL), Unavailable("No.", None, "no_provider", 5.0))
    honest = fleet.quote

    async def too_long(request: Any) -> Any:
        quote = await honest(request)
        if request.model == LARGE:  # would have to wait, so that it comes after the guessed one
            return replace(quote, macs=tuple(replace(mac, chosen=False) for mac in quote.macs))
        reasons = (("context", 3, "3 with too small a context"),) if request.model == SMALL else ()
        return replace(quote, ruled_out=reasons)

    fleet.quote = too_long  # type: ignore[method-assign]
    exchange = await ask(chat(model=models[0], models=models[1:])).go(several.app)
    await settled(several)

    assert exchange.json["model"] == LARGE
    assert [row.model for row in several.accountant.rows.values()] == held
    assert [row.status for row in several.accountant.rows.values()][-1] == "settled"


async def test_each_model_is_asked_about_with_its_own_price_and_sort(several: Market) -> None:
    """What is compared beforehand is what each of them would be asked in earnest."""
    body = chat(model=f"{DEMO}:nitro", models=[f"{LARGE}:floor", SMALL])
    assert (await ask(body).go(several.app)).status == 200

    ports = several.ports
    for request, sort in zip(several.fleet.quoted, ("throughput", "price", None), strict=True):
        card = ports.catalogue.cards[request.model]
        assert (request.price_in_nano, request.price_out_nano) == (
            card.price_in_nano,
            card.price_out_nano,
        )
        assert request.preferences.sort == sort


@pytest.fixture
def several(tmp_path: Path) -> Market:
    """Three scripted Macs that take every model, a gateway that speaks three."""
    market = Market(tmp_path, QUICK)
    serve_more(market.ports, tmp_path)
    return market
