"""Laws of quotes: the decision a request would get, told without any effect."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from market.errors import MarketError
from market.policy.preferences import Preferences
from market.routing.messages import Busy, Grant, Quote, RouteRequest
from market.routing.state import RouterState
from market.types import AccountId, MachineId, ProviderId
from tests.router_kit import (
    MODEL,
    granted,
    outcome,
    provider_beat,
    request,
    route_one,
    settled_router,
)

NOW_S = 10.0


def quoted(state: RouterState, asked: RouteRequest) -> Quote:
    (quote,) = state.quote([asked], NOW_S)
    return quote


def wishing(name: str, **wished: object) -> RouteRequest:
    preferences = Preferences(**wished)  # type: ignore[arg-type]
    return replace(request(name), preferences=preferences)


def random_fleet(random: Random) -> RouterState:
    """Up to six Macs, some busy, draining or dear, that have learned from some answers."""
    names = "abcdef"[: random.randrange(7)]
    beats = [
        replace(
            provider_beat(
                name, slots=random.choice([1, 4]), bandwidth_gbs=random.choice([100, 400])
            ),
            ask_pct=random.choice([50, 100]),
            trust=random.choice(["basic", "verified"]),
        )
        for name in names
    ]
    state = settled_router(*beats, seed=random.randrange(100))
    for name in names:
        if random.random() < 0.2:
            state.drain(MachineId(f"mac_{name}"), "update")
    for at in range(random.randrange(12)):
        reply = route_one(state, request(f"busy_{at}", queue=random.random() < 0.3))
        if isinstance(reply, Grant) and random.random() < 0.3:
            state.report([outcome(reply)], NOW_S)
    state.take_journal()
    return state


def random_request(random: Random) -> RouteRequest:
    def some() -> tuple[ProviderId, ...]:
        return tuple(ProviderId(f"prv_{n}") for n in "abcdefx" if random.random() < 0.4)

    preferences = Preferences(
        order=some() if random.random() < 0.3 else (),
        ignore=some() if random.random() < 0.3 else (),
        only=some() if random.random() < 0.3 else (),
        sort=random.choice([None, None, "price", "latency", "throughput"]),
        trust=random.choice([None, None, "verified"]),
        max_price_out_nano=random.choice([None, None, 30]),
    )
    return replace(
        request("asked", n=random.choice([1, 1, 2])),
        preferences=preferences,
        price_in_nano=15,
        price_out_nano=60,
        finish_by_s=random.choice([None, None, 1e-6, 1e6]),
    )


@pytest.mark.parametrize("seed", range(150))
def test_a_quote_says_what_the_request_would_get_and_changes_nothing(seed: int) -> None:
    """The Mac it names is the one that is granted, its refusal the one that is raised."""
    random = Random(seed)
    state, asked = random_fleet(random), random_request(random)
    before = (state.status(NOW_S), state.metrics(NOW_S), state.availability(NOW_S))

    quote = quoted(state, asked)
    again = quoted(state, asked)

    assert (state.status(NOW_S), state.metrics(NOW_S), state.availability(NOW_S)) == before
    assert not state.take_journal()
    assert repr(again) == repr(quote)
    reply = route_one(state, asked)
    if isinstance(reply, Grant):
        assert [mac.provider for mac in quote.macs if mac.chosen] == [reply.provider]
        assert quote.macs[0].ttft_ms == reply.predicted_ttft_ms
        assert (quote.wait_s, quote.error, quote.served_now) == (0.0, None, True)
    elif isinstance(reply, Busy):
        assert not quote.served_now
        assert quote.error is None or quote.error.code == "deadline_infeasible"  # type: ignore[attr-defined]
    else:
        assert isinstance(quote.error, MarketError)
        assert quote.error.args == reply.args


@pytest.mark.parametrize("seed", range(60))
def test_every_mac_is_either_able_or_ruled_out_for_one_reason(seed: int) -> None:
    """Counts add up to the Macs that have the model, and bands are in order."""
    random = Random(1000 + seed)
    state, asked = random_fleet(random), random_request(random)

    quote = quoted(state, asked)

    known = next((m.providers for m in state.availability(NOW_S) if m.model == MODEL), 0)
    assert quote.able + sum(count for _, count, _ in quote.ruled_out) == known
    assert all(words.startswith(str(count)) for _, count, words in quote.ruled_out)
    assert 1 <= quote.tokens <= quote.high_tokens
    for mac in quote.macs:
        assert 0 < mac.ttft_ms <= mac.high_ttft_ms
        assert 0 < mac.low_tps <= mac.tps
        assert mac.ttft_ms <= mac.total_ms <= mac.high_total_ms


def test_a_busy_fleet_tells_how_long_one_would_wait() -> None:
    """No Mac is free, all may serve it, and the wait is what the queue would take."""
    state = settled_router(provider_beat("a", slots=1))
    granted(state, request("first"))

    quote = quoted(state, request("asked"))

    assert [(mac.provider, mac.free, mac.chosen) for mac in quote.macs] == [("prv_a", False, False)]
    assert quote.wait_s is not None
    assert quote.wait_s > 0
    assert not quote.served_now
    route_one(state, request("waits", queue=True, consumer="acct_other"))
    later = quoted(state, request("asked"))
    assert later.queued == 1
    assert later.wait_s is not None
    assert later.wait_s > quote.wait_s


def test_what_answers_were_like_is_what_is_expected() -> None:
    """Half of the answers are below the middle one, and one's own answers count."""
    state = settled_router(provider_beat("a"))
    for at in range(60):
        grant = granted(state, request(f"r{at}", max_tokens=4000))
        tokens = 1000 if at % 5 == 0 else 50
        state.report([replace(outcome(grant), completion_tokens=tokens)], NOW_S)

    quote = quoted(state, request("asked", max_tokens=4000))
    short = quoted(state, request("asked", max_tokens=20))

    assert 40 <= quote.tokens <= 60
    assert 900 <= quote.high_tokens <= 1100
    assert (short.tokens, short.high_tokens) == (20, 20)


def test_a_slip_in_an_id_is_the_quotes_refusal_too() -> None:
    """As for the request itself, so that it is found before anything is paid."""
    state = settled_router(provider_beat("a"))
    quote = quoted(state, wishing("asked", only=(ProviderId("prv_nobody"),)))
    assert isinstance(quote.error, MarketError)
    assert quote.error.code == "unknown_provider"


def test_quantisations_that_nobody_has_leave_no_trace() -> None:
    """A caller may name anything, as often as it likes."""
    state = settled_router(provider_beat("a"))
    codes = len(state._desk.macs.fleet._codes)
    for at in range(100):
        quote = quoted(state, wishing("asked", quantizations=(f"{at}bit?",)))
        assert [name for name, _, _ in quote.ruled_out] == ["quantization"]
    assert len(state._desk.macs.fleet._codes) == codes
    assert quoted(state, wishing("asked", quantizations=("4bit",))).served_now


def test_an_unknown_model_is_quoted_as_what_it_is() -> None:
    """Nobody has it: no candidate, no wait, the refusal."""
    state = settled_router()
    quote = quoted(state, replace(request("asked"), consumer=AccountId("acct_new")))
    assert (quote.macs, quote.able, quote.wait_s) == ((), 0, None)
    assert isinstance(quote.error, MarketError)
    assert quote.error.code == "no_provider"
