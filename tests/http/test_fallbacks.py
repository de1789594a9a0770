"""Models to fall back on: the first that can be served, one answer and never two charges."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from market.errors import InvalidRequest, MarketError, RateLimited, Unavailable
from market.messages import Admit, Settle, Void
from serve_app import metric_names
from serve_app.limits import Limits
from tests.http.asgi_client import Exchange, ask, chat, settled
from tests.http.memory_accountant import TEN_DOLLARS
from tests.http.memory_fleet import Mac
from tests.http.memory_market import Market
from tests.http.routed_fleet import LARGE, SMALL, routed_market, serve_more
from tests.http.test_lives import QUICK

DEMO = "coster/demo"
THREE = [DEMO, SMALL, LARGE]
ECHO = "<user>hello<assistant><u"


def busy(code: str) -> Unavailable:
    return Unavailable(f"It is {code}.", None, code, 7.0, True)


@pytest.fixture
def several(tmp_path: Path) -> Market:
    """Three scripted Macs that take every model, a gateway that speaks three."""
    market = Market(tmp_path, QUICK)
    serve_more(market.ports, tmp_path)
    return market


def models_asked(market: Market) -> list[str]:
    return [str(request.model) for request in market.fleet.requests]


def text_of(exchange: Exchange) -> str:
    if "text/event-stream" in exchange.answer_headers["content-type"]:
        return exchange.text
    choices = exchange.json.get("choices")
    return str(choices[0]["message"]["content"]) if choices else ""


async def test_the_first_model_that_can_be_served_now_is_used(several: Market) -> None:
    """One that would have to wait gives way to one that need not; nothing is held for it."""
    fleet = several.fleet
    honest = fleet.quote

    async def waits(request: Any) -> Any:
        quote = await honest(request)
        if request.model == DEMO:
            quote = replace(quote, macs=tuple(replace(m, chosen=False) for m in quote.macs))
        return quote

    fleet.quote = waits  # type: ignore[method-assign]
    exchange = await ask(chat(models=[SMALL, LARGE])).go(several.app)

    assert exchange.json["model"] == SMALL
    assert models_asked(several) == [SMALL]
    assert [request.model for request in fleet.quoted] == THREE
    (row,) = several.accountant.rows.values()
    assert (row.model, row.status) == (SMALL, "settled")


async def test_without_fallbacks_nobody_is_asked_beforehand(several: Market) -> None:
    """A call for one model takes the short way."""
    await ask(chat(models=[DEMO, f"{DEMO}:floor"])).go(several.app)
    assert not several.fleet.quoted
    assert models_asked(several) == [DEMO]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_whose_macs_all_fail_gives_way(several: Market, stream: bool) -> None:
    """The next one answers with an id and a hold of its own; the first hold was voided before."""
    for mac in several.fleet.macs:
        mac.cannot = {DEMO}
    exchange = await ask(chat(models=[LARGE], stream=stream)).go(several.app)
    await settled(several)

    assert exchange.status == 200
    assert text_of(exchange) == ECHO
    told = exchange.events[0] if stream else exchange.json
    assert told["model"] == LARGE
    first, second = several.accountant.rows.values()
    assert (first.model, first.status) == (DEMO, "voided")
    assert (second.model, second.status) == (LARGE, "settled")
    assert exchange.answer_headers["x-coster-request-id"] == second.request_id
    assert told["id"] == f"chatcmpl-{second.request_id.removeprefix('req_')}"
    kinds = [type(op) for op in several.accountant.ops if isinstance(op, Admit | Void | Settle)]
    assert kinds == [Admit, Void, Admit, Settle]


@pytest.mark.parametrize(
    "code", ["no_provider", "queue_timeout", "queue_full", "attempts_exhausted"]
)
async def test_what_is_about_one_models_capacity_gives_way(several: Market, code: str) -> None:
    """Whether the router says so beforehand or only when it is asked in earnest."""
    for told_beforehand in (True, False):
        several.fleet.errors = {DEMO: busy(code)}
        if not told_beforehand:
            several.fleet.quote = _away  # type: ignore[method-assign]
        exchange = await ask(chat(models=[SMALL])).go(several.app)
        assert (exchange.status, exchange.json["model"]) == (200, SMALL)
    await settled(several)
    assert [row.status for row in several.accountant.rows.values()] == [
        "settled",  # told beforehand: nothing was held for the first model
        "voided",
        "settled",
    ]


async def _away(request: Any) -> Any:
    raise Unavailable("The router is away.", None, "restarting", 1.0)


async def test_a_model_that_cannot_take_the_call_gives_way(several: Market, tmp_path: Path) -> None:
    """Unknown here, not offered, too small for the prompt, out of its vocabulary."""
    long = [{"role": "user", "content": "x" * 300}]
    several.ports.models.get(SMALL).context_tokens = 100  # type: ignore[union-attr, misc]
    several.ports.models.get(LARGE).vocab_size = 200  # type: ignore[union-attr, misc]
    for body in (
        chat(model="no/such/model", models=[LARGE]),
        chat(model="deepseek-v3", models=[LARGE]),
        chat(model=SMALL, models=[LARGE], messages=long),
        chat(model=SMALL, models=[DEMO, LARGE], messages=long, logit_bias={"150": 1}),
    ):
        exchange = await ask(body).go(several.app)
        assert (exchange.status, exchange.json["model"]) == (200, LARGE), exchange.content
    assert all(row.status == "settled" for row in several.accountant.rows.values())


@pytest.mark.parametrize("models", [["coster/demo"], ["coster/demo:nitro", "qwen3.5-7b:floor"]])
async def test_models_alone_will_do(several: Market, models: list[str]) -> None:
    """The first of them is the one that is asked for, with what its ending says."""
    exchange = await ask(chat(model=None, models=models)).go(several.app)

    assert exchange.json["model"] == DEMO
    sort = "throughput" if ":" in models[0] else None
    assert several.fleet.requests[0].preferences.sort == sort
    assert (await ask(chat(model=None, models=[])).go(several.app)).error["param"] == "model"


async def test_each_model_has_the_sort_of_its_own_ending(several: Market) -> None:
    """And the price of its own, by which its Macs are compared."""
    several.fleet.errors = {DEMO: busy("queue_timeout")}
    several.fleet.quote = _away  # type: ignore[method-assign]
    await ask(chat(model=f"{DEMO}:nitro", models=[f"{LARGE}:floor"])).go(several.app)

    first, last = several.fleet.requests[0], several.fleet.requests[-1]
    assert (first.preferences.sort, first.price_out_nano) == ("throughput", 60)
    assert (last.preferences.sort, last.price_out_nano) == ("price", 500)


async def test_if_all_fail_the_last_says_so_for_all(several: Market) -> None:
    """Status, code and Retry-After are the last one's; the message says what each said."""
    several.fleet.errors = {
        DEMO: busy("no_provider"),
        SMALL: InvalidRequest("Nobody is wanted.", "provider", "no_provider_matches"),
        LARGE: busy("queue_timeout"),
    }
    exchange = await ask(chat(models=["no/such/model", SMALL, LARGE])).go(several.app)
    await settled(several)

    assert (exchange.status, exchange.error["code"]) == (503, "queue_timeout")
    assert exchange.answer_headers["retry-after"] == "7"
    message = exchange.error["message"]
    for said in (
        f"{LARGE}: It is queue_timeout.",
        f"{DEMO}: It is no_provider.",
        f"{SMALL}: Nobody is wanted.",
        "no/such/model: The model",
    ):
        assert said in message
    assert several.ada.credit_nano == TEN_DOLLARS
    assert exchange.answer_headers["x-coster-request-id"].startswith("req_")


@pytest.mark.parametrize("with_key", [False, True])
async def test_if_all_fail_in_earnest_every_hold_is_voided(several: Market, with_key: bool) -> None:
    """Three runs, three voids, one error; the caller's own key is free again."""
    for mac in several.fleet.macs:
        mac.cannot = set(THREE)
    exchange = await ask(chat(models=THREE)).go(several.app)
    await settled(several)

    assert (exchange.status, exchange.error["code"]) == (503, "attempts_exhausted")
    assert [row.status for row in several.accountant.rows.values()] == ["voided"] * 3
    assert (
        several.app.counters()[
            metric_names.labelled(metric_names.REQUESTS, route="chat", status=503)
        ]
        == 1
    )


STOPS: list[tuple[MarketError, int]] = [
    (RateLimited("Too many.", None, "requests", 3.0), 429),
    (InvalidRequest("No such Mac.", "provider.only", "unknown_provider"), 400),
    (Unavailable("Closing.", None, "draining", 5.0), 503),
]


@pytest.mark.parametrize(("error", "status"), STOPS)
async def test_what_is_about_the_caller_or_the_market_stops_at_once(
    several: Market, error: MarketError, status: int
) -> None:
    """Another model would only hear the same."""
    several.fleet.errors = {DEMO: error}
    exchange = await ask(chat(models=[SMALL])).go(several.app)
    assert (exchange.status, exchange.error["code"]) == (status, error.code)
    assert set(models_asked(several)) <= {DEMO}
    several.fleet.quote = _away  # type: ignore[method-assign]
    late = await ask(chat(models=[SMALL])).go(several.app)
    assert (late.status, late.error["code"]) == (status, error.code)
    assert models_asked(several) == [DEMO]
    await settled(several)


@pytest.mark.parametrize(
    ("failure", "code"), [("lost", "provider_lost"), ("invalid", "invalid_job")]
)
async def test_an_answer_that_has_begun_is_never_another_models(
    several: Market, failure: Any, code: str
) -> None:
    """What a client has read of one model cannot go on with another."""
    for mac in several.fleet.macs:
        mac.fail_after, mac.fail_code, mac.pace_s = 4, failure, 0.002
    exchange = await ask(chat(models=[SMALL], stream=True)).go(several.app)
    await settled(several)

    assert exchange.text == ECHO[:4]
    assert exchange.events[-1]["error"]["code"] == code
    assert set(models_asked(several)) == {DEMO}


async def test_heartbeats_may_go_before_another_models_answer(tmp_path: Path) -> None:
    """A stream that waited in vain for one model goes on with the next: one head, one end."""
    market = Market(tmp_path, replace(QUICK, queue_s=0.2), Mac("a", slots=1, pace_s=0.0))
    serve_more(market.ports, tmp_path)
    honest = market.fleet._free
    market.fleet._free = lambda r: None if r.model == DEMO else honest(r)  # type: ignore[method-assign]
    market.fleet.quote = _away  # type: ignore[method-assign]

    exchange = await ask(chat(models=[LARGE], stream=True)).go(market.app)
    await settled(market)

    assert [m["type"] for m in exchange.out].count("http.response.start") == 1
    assert b": queued" in exchange.content
    assert exchange.text == ECHO
    assert exchange.content.endswith(b"data: [DONE]\n\n")
    assert {chunk["model"] for chunk in exchange.events} == {LARGE}
    assert "x-coster-provider" not in exchange.answer_headers
    served = exchange.events[0]["id"].removeprefix("chatcmpl-")
    statuses = {r.request_id: r.status for r in market.accountant.rows.values()}
    assert statuses.pop(f"req_{served}") == "settled"  # type: ignore[call-overload]
    assert set(statuses.values()) == {"voided"}


async def test_after_heartbeats_all_may_still_fail(tmp_path: Path) -> None:
    """The error is the stream's last event, also when the last model cannot even be prepared."""
    market = Market(tmp_path, replace(QUICK, queue_s=0.2), Mac("a", slots=0))
    for models in ([DEMO], ["deepseek-v3"]):
        market.fleet.quote = _away  # type: ignore[method-assign]
        exchange = await ask(chat(models=models, stream=True)).go(market.app)
        assert [m["type"] for m in exchange.out].count("http.response.start") == 1
        (event,) = exchange.events
        assert event["error"]["code"] in ("queue_timeout", "no_provider")
        assert event["choices"][0]["finish_reason"] == "error"
        assert exchange.content.endswith(b"data: [DONE]\n\n")
        assert not exchange.out[-1].get("more_body")
    await settled(market)


async def test_all_models_together_wait_no_longer_than_one_would(tmp_path: Path) -> None:
    """The time a request may wait is shared among the models it names."""
    market = Market(tmp_path, replace(QUICK, queue_s=0.3), Mac("a", slots=0))
    serve_more(market.ports, tmp_path)
    exchange = await ask(chat(models=[SMALL, LARGE])).go(market.app)

    waited = [r.deadline_s for r in market.fleet.requests if r.funding is not None]
    assert exchange.error["code"] == "queue_timeout"
    assert len(waited) == 3
    assert waited[0] == pytest.approx(0.1, abs=0.03)
    assert all(round(seconds, 6) >= 0.1 for seconds in waited[1:])
    await settled(market)


@pytest.mark.parametrize("at", range(12))
async def test_a_client_that_leaves_ends_it_whichever_model_it_was(tmp_path: Path, at: int) -> None:
    """No further model is tried for nobody, and no hold stays."""
    market = Market(tmp_path, QUICK, *(Mac(n, cannot={DEMO, SMALL}) for n in "abc"))
    serve_more(market.ports, tmp_path)
    exchange = ask(chat(models=[SMALL, LARGE]))
    task = asyncio.create_task(exchange.go(market.app))
    for _ in range(3 * at):
        await asyncio.sleep(0)
    exchange.left.set()
    await task
    await settled(market)
    rows = [row.status for row in market.accountant.rows.values()]
    assert rows.count("settled") <= 1
    assert set(rows) <= {"voided", "settled"}


@pytest.mark.parametrize("leaves", [True, False])
async def test_before_its_first_run_a_call_can_be_left_and_ended(
    several: Market, leaves: bool
) -> None:
    """While it is asked which model can be served, nothing runs that could be told."""
    honest = several.fleet.quote
    exchange = ask(chat(models=[SMALL]))
    ending: list[asyncio.Task[None]] = []

    async def late(request: Any) -> Any:
        if leaves:
            exchange.left.set()
        elif not ending:
            ending.append(asyncio.create_task(several.app.end_all("The market is closing.")))
        await asyncio.sleep(0.01)
        return await honest(request)

    several.fleet.quote = late  # type: ignore[method-assign]
    await exchange.go(several.app)
    await asyncio.gather(*ending)

    assert not several.fleet.requests
    assert leaves == (not exchange.out)
    if not leaves:
        assert exchange.error["code"] == "draining"
    await settled(several)


async def test_a_market_that_closes_ends_it_between_two_models(several: Market) -> None:
    """The next model is not tried; the client is told why."""
    for mac in several.fleet.macs:
        mac.cannot = {DEMO}
    honest = several.fleet.route

    async def closing(request: Any) -> Any:
        if request.model == SMALL:
            raise AssertionError("the market has closed")
        if request.attempt == 3:
            ending.append(asyncio.create_task(several.app.end_all("The market is closing.")))
        return await honest(request)

    ending: list[asyncio.Task[None]] = []
    several.fleet.route = closing  # type: ignore[method-assign]
    exchange = await ask(chat(models=[SMALL])).go(several.app)
    await asyncio.gather(*ending)

    assert exchange.error["code"] == "draining"
    await settled(several)


async def test_the_routers_own_order_of_models_is_kept(tmp_path: Path) -> None:
    """Over the router's mind: what nobody has is skipped, a full one waits behind a free one."""
    market = routed_market(
        tmp_path,
        Mac("a", slots=1, pace_s=0.004),
        Mac("b"),
        limits=QUICK,
        a={"models": (LARGE,)},
        b={"models": (SMALL,)},
    )
    running = asyncio.create_task(ask(chat(model=LARGE)).go(market.app))
    while not market.fleet.grants:
        await asyncio.sleep(0.001)

    free = await ask(chat(model=DEMO, models=[LARGE, SMALL])).go(market.app)
    waits = await ask(chat(model=DEMO, models=[LARGE])).go(market.app)
    await running
    await settled(market)

    assert free.status == 200, free.content
    assert free.json["model"] == SMALL
    assert waits.json["model"] == LARGE
    assert [row.status for row in market.accountant.rows.values()] == ["settled"] * 3
    limits = Limits()
    assert limits.queue_s < limits.batch_queue_s < limits.total_s
