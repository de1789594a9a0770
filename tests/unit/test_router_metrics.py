"""The router's figures: every one described, by public ids, and bounded however many Macs."""

from __future__ import annotations

from dataclasses import replace

from market.metrics import family_of, labelled, parts_of
from market.routing.learning import BREAKER_FAILURES, BREAKER_FIRST_S
from market.routing.messages import Place
from market.routing.metric_families import FAMILIES, MACS_SHOWN_MAX
from market.routing.state import RouterState
from market.types import ModelId
from tests.router_kit import (
    FACTS,
    MODEL,
    STATS,
    gateway_beat,
    granted,
    outcome,
    provider_beat,
    request,
    route_one,
    settled_router,
)

OTHER = ModelId("other/model")


def everything(state: RouterState, now_s: float = 10.0) -> dict[str, float]:
    return state.metrics(now_s, macs=True)


def test_every_figure_is_described_and_names_nobody() -> None:
    """After all kinds of events each sample has a family, its labels, and no private id."""
    state = settled_router(provider_beat("a", slots=1), provider_beat("b", slots=1))
    first = granted(state, request("r1"))
    granted(state, request("r2"))
    route_one(state, request("r3", queue=True))
    route_one(state, replace(request("r4"), model=OTHER))
    state.report([outcome(first, "failed")], 10.0)
    state.machine_lost(provider_beat("b").machine, "gone", 10.0)

    families = {family.name: family for family in FAMILIES}
    for key in everything(state):
        name, labels = parts_of(key)
        family = family_of(name, families)
        assert family is not None, key
        assert tuple(labels) == family.labels, key
        assert "mac_a" not in key
        assert "acct_" not in key


def test_each_model_shows_who_waits_and_how_long() -> None:
    """Depth and age of a queue are those of the requests in it, and zero without any."""
    state = settled_router(provider_beat("a", slots=1))
    granted(state, request("r1"))
    for name in ("r2", "r3"):
        route_one(state, request(name, queue=True))

    figures = state.metrics(12.5)
    assert figures[labelled("coster_router_queue_depth", model=MODEL)] == 2.0
    assert figures[labelled("coster_router_queue_oldest_seconds", model=MODEL)] == 2.5
    assert figures[labelled("coster_router_model_slots_free", model=MODEL)] == 0.0
    assert figures[labelled("coster_router_copies", model=MODEL, state="ready")] == 1.0


def test_a_refusal_is_counted_by_its_code_and_by_what_ruled_macs_out() -> None:
    """One request refused because both Macs drain: one code, two Macs behind one gate."""
    state = settled_router(provider_beat("a"), provider_beat("b"))
    for name in ("a", "b"):
        state.drain(provider_beat(name).machine, "test")
    route_one(state, request("r1"))

    figures = state.metrics(10.0)
    refused = {k: v for k, v in figures.items() if k.startswith("coster_router_refused_total")}
    assert refused == {labelled("coster_router_refused_total", code="no_provider"): 1.0}
    assert figures[labelled("coster_router_ruled_out_total", gate="draining")] == 2.0


def test_a_breaker_is_seen_to_open_and_to_be_probed() -> None:
    """Closed, then open after failures in a row, then half open once the pause is over."""
    state = settled_router(provider_beat("a", slots=64))
    key = labelled("coster_mac_breaker", provider="prv_a")
    assert everything(state)[key] == 0.0
    grants = [granted(state, request(f"r{number}")) for number in range(BREAKER_FAILURES)]
    state.report([outcome(grant, "failed") for grant in grants], 10.0)

    assert everything(state)[key] == 2.0
    assert everything(state)[labelled("coster_router_breakers", state="open")] == 1.0
    assert everything(state)["coster_router_breakers_opened_total"] == 1.0
    later_s = 10.0 + BREAKER_FIRST_S + 0.1
    state.beat_provider(provider_beat("a", slots=64), later_s)
    assert everything(state, later_s)[key] == 1.0
    assert state.metrics(later_s)[labelled("coster_router_attempts_total", result="failed")] == 3.0


def test_an_engine_shows_its_batch_and_its_memory() -> None:
    """What a Mac's beat says of its engine is what the figures say; a lost Mac says nothing."""
    busy = replace(STATS, running=3, steps=50, completion_tokens=150, memory_bytes_used=7)
    state = settled_router(replace(provider_beat("a"), stats=busy), provider_beat("b"))

    def of(name: str, provider: str = "prv_a") -> float | None:
        return everything(state).get(labelled(f"coster_mac_{name}", provider=provider))

    assert (of("running"), of("memory_used_bytes")) == (3.0, 7.0)
    assert (of("completion_tokens_total"), of("steps_total")) == (150.0, 50.0)
    state.machine_lost(provider_beat("b").machine, "gone", 10.0)
    assert (of("up", "prv_b"), of("running", "prv_b")) == (0.0, None)


def test_the_figures_of_macs_have_a_bound() -> None:
    """Of more Macs than may be shown the others are only counted; those at work come first."""
    names = [f"m{number:04}" for number in range(MACS_SHOWN_MAX + 5)]
    state = settled_router(*map(provider_beat, names))
    state.machine_lost(provider_beat(names[0]).machine, "gone", 10.0)

    figures = state.metrics(10.0, macs=True)
    shown = {parts_of(key)[1].get("provider") for key in figures} - {None}
    assert len(shown) == MACS_SHOWN_MAX
    assert f"prv_{names[0]}" not in shown
    assert figures["coster_router_macs_left_out"] == 5.0


def test_loads_and_unloads_are_counted_once() -> None:
    """A model that becomes ready and later leaves is one load and one unload, beats repeated;
    what a Mac has when it is first heard from was not loaded now.
    """
    state = settled_router(provider_beat("a"))

    def beat(*places: Place) -> None:
        for _ in range(2):
            state.beat_provider(replace(provider_beat("a"), places=places), 10.0)

    def counted() -> dict[str, float]:
        told = ("coster_router_loads_total", "coster_router_unloads_total")
        return {k: v for k, v in state.metrics(10.0).items() if v and k.startswith(told)}

    facts = replace(FACTS, model=OTHER)
    had = Place(MODEL, "ready", facts=FACTS)
    assert counted() == {}
    beat(had, Place(OTHER, "loading"))
    beat(had, Place(OTHER, "ready", facts=facts))
    beat(had, Place(OTHER, "leaving", facts=facts))
    assert counted() == {labelled("coster_router_loads_total", model=OTHER): 1.0}
    beat(had)
    assert counted() == {
        labelled("coster_router_loads_total", model=OTHER): 1.0,
        labelled("coster_router_unloads_total", model=OTHER): 1.0,
    }


def test_a_restarted_router_says_nothing_of_gateways_it_does_not_know_yet() -> None:
    """Sums over some of the gateways would look like counters that began anew."""
    state = RouterState(started_s=0.0)
    beat = replace(gateway_beat(), counters=(("coster_gateway_hedges_total", 4.0),))
    state.beat_gateway(beat, 1.0)

    assert "coster_gateway_hedges_total" not in state.metrics(1.5)
    assert state.metrics(4.0)["coster_gateway_hedges_total"] == 4.0
