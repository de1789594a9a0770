"""Laws of leases: what gateways and Macs declare, what their silence or death changes."""

from __future__ import annotations

import pytest

from market.errors import Unavailable
from market.policy.ask import SUSPECT_AFTER_S
from market.routing.claims import CLAIM_GRACE_S, UNKNOWN_REQUEST_CODE
from market.routing.gateways import GATEWAY_GONE_AFTER_S
from market.routing.learning import BREAKER_FAILURES, BREAKER_FIRST_S
from market.routing.log import Intent, OutcomeRecord
from market.routing.macs import FORGET_LOST_S, LOST_AFTER_S
from market.routing.messages import Busy, ProviderOrders, Refused
from market.routing.notes import Noted
from market.routing.state import RouterState
from market.types import GatewayId, MachineId, RequestId
from tests.router_kit import (
    GATEWAY,
    gateway_beat,
    granted,
    in_flight,
    mail,
    outcome,
    provider_beat,
    request,
    route_one,
    settled_router,
)

MAC_A, MAC_B = MachineId("mac_a"), MachineId("mac_b")
OTHER = GatewayId("gw_2")


def code_of(reply: object) -> str | None:
    assert isinstance(reply, Unavailable), reply
    return reply.code


# ── gateways ──────────────────────────────────────────────────────────────────────────


def test_a_silent_gateways_slots_come_back() -> None:
    """When the lease lapses its grants are freed and its queued requests forgotten."""
    state = settled_router(provider_beat("a", slots=1))
    granted(state, request("r"))
    route_one(state, request("w", queue=True))
    route_one(state, request("v", queue=True, gateway=OTHER))
    later_s = 10.0 + GATEWAY_GONE_AFTER_S
    state.beat_gateway(gateway_beat(queued=("v",), gateway=OTHER), later_s)
    state.beat_provider(provider_beat("a", slots=1), later_s)
    state.tick(later_s)
    assert mail(state, OTHER) == []
    state.tick(later_s + 0.1)
    (letter,) = mail(state, OTHER)
    assert letter.request_id == "v"
    assert mail(state) == []


def test_a_grant_whose_delivery_was_lost_is_delivered_again() -> None:
    """A poll that vanished with its answer leaks no slot and loses no request."""
    state = settled_router(provider_beat("a", slots=1))
    grant = granted(state, request("r"))
    route_one(state, request("w", queue=True))
    state.report([outcome(grant)], 11.0)
    lost = mail(state)
    state.beat_gateway(gateway_beat(queued=("w",)), 11.1)
    assert mail(state) == lost
    assert in_flight(state) == {"mac_a": 1}


def test_a_grant_that_nobody_claims_is_freed() -> None:
    """A grant its living gateway does not declare lapses, but not while on its way."""
    state = settled_router(provider_beat("a"))
    granted(state, request("r"))
    state.beat_gateway(gateway_beat(), 10.0 + CLAIM_GRACE_S - 0.1)
    assert in_flight(state) == {"mac_a": 1}
    state.beat_gateway(gateway_beat(), 10.0 + CLAIM_GRACE_S + 0.1)
    assert in_flight(state) == {"mac_a": 0}


def test_a_declared_grant_is_kept_however_old() -> None:
    """Long streams hold their slot as long as their gateway says so."""
    state = settled_router(provider_beat("a"))
    grant = granted(state, request("r"))
    for now_s in (20.0, 200.0, 2000.0):
        state.beat_gateway(gateway_beat(grant), now_s)
    assert in_flight(state) == {"mac_a": 1}


def test_a_forgotten_queued_request_is_asked_for_again() -> None:
    """After a restart the gateway is told to send again what it still waits for."""
    state = settled_router(provider_beat("a"))
    state.beat_gateway(gateway_beat(queued=("w",)), 10.0)
    (letter,) = mail(state)
    assert isinstance(letter, Refused)
    assert code_of(letter.error) == UNKNOWN_REQUEST_CODE
    assert granted(state, request("w", queue=True)).request_id == "w"


def test_redeclared_grants_rebuild_the_same_counters() -> None:
    """Counters after a restart equal those of a router that never stopped."""
    beats = [provider_beat("a"), provider_beat("b")]
    before = settled_router(*beats)
    grants = [granted(before, request(f"r{i}")) for i in range(5)]
    before.report([outcome(grants[2])], 11.0)
    live = [g for g in grants if g is not grants[2]]

    for macs_first in (True, False):
        after = RouterState(started_s=12.0)
        if macs_first:
            for beat in beats:
                after.beat_provider(beat, 12.1)
        after.beat_gateway(gateway_beat(*live), 12.2)
        after.beat_gateway(gateway_beat(*live), 12.3)
        for beat in beats:
            after.beat_provider(beat, 12.4)
        assert in_flight(after) == in_flight(before)
        after.report([outcome(g) for g in live], 13.0)
        assert set(in_flight(after).values()) == {0}


def test_a_stale_declaration_cannot_bring_an_ended_attempt_back() -> None:
    """A beat that was on its way while the outcome arrived changes nothing."""
    state = settled_router(provider_beat("a"))
    grant = granted(state, request("r"))
    state.report([outcome(grant)], 10.0)
    state.beat_gateway(gateway_beat(grant), 10.1)
    assert in_flight(state) == {"mac_a": 0}


# ── Macs ──────────────────────────────────────────────────────────────────────────────


def test_an_older_incarnation_is_sent_away() -> None:
    """The newest process of a Mac is the one that counts."""
    state = settled_router(provider_beat("a", incarnation=2))
    assert state.beat_provider(provider_beat("a", incarnation=1), 10.1) == ProviderOrders(
        drain=True, known=False
    )
    assert state.beat_provider(provider_beat("a", incarnation=2), 10.2).known


def test_a_restarted_mac_starts_with_all_its_slots() -> None:
    """Jobs die with the process: their slots are free, and late reports change nothing."""
    state = settled_router(provider_beat("a", slots=1))
    grant = granted(state, request("r"))
    state.beat_provider(provider_beat("a", slots=1, incarnation=2), 11.0)
    assert in_flight(state) == {"mac_a": 0}
    second = granted(state, request("q"), 11.0)
    state.report([outcome(grant, "failed")], 11.1)
    state.beat_gateway(gateway_beat(grant, second), 11.2)
    assert in_flight(state) == {"mac_a": 1}


def test_a_silent_mac_gets_no_new_work_and_is_lost_later() -> None:
    """Three missed beats: suspect. Ten: lost. A new beat brings it back."""
    state = settled_router(provider_beat("a"))
    granted(state, request("r"), 10.0 + SUSPECT_AFTER_S)
    assert isinstance(route_one(state, request("q"), 10.1 + SUSPECT_AFTER_S), Busy)
    state.tick(10.1 + LOST_AFTER_S)
    (mac,) = state.status(10.1 + LOST_AFTER_S)["macs"]
    assert mac["health"] == "lost"
    state.beat_provider(provider_beat("a"), 30.0)
    granted(state, request("q"), 30.0)


def test_a_dead_mac_is_waited_for_and_then_forgotten() -> None:
    """Right after a death requests wait for the restart; later they are refused."""
    state = settled_router(provider_beat("a"))
    state.machine_lost(MAC_A, "its process ended", 11.0)
    assert isinstance(route_one(state, request("w", queue=True, deadline_s=99), 11.0), Busy)
    state.tick(11.1 + FORGET_LOST_S)
    state.tick(12.0 + FORGET_LOST_S)
    assert state.status(50.0)["macs"] == []
    assert code_of(route_one(state, request("q"), 50.0)) == "no_provider"


def test_a_death_notice_frees_the_slots() -> None:
    """What ran on a dead Mac runs no more."""
    state = settled_router(provider_beat("a", slots=1))
    grant = granted(state, request("r"))
    state.machine_lost(MAC_A, "its process ended", 11.0)
    state.beat_provider(provider_beat("a", slots=1), 12.0)
    assert granted(state, request("q"), 12.0).machine == "mac_a"
    state.report([outcome(grant, "failed")], 12.0)
    assert in_flight(state) == {"mac_a": 1}


def test_a_mac_that_loads_again_keeps_its_models_meanwhile() -> None:
    """A restarting Mac is waited for by those who need its model."""
    state = settled_router(provider_beat("a"))
    state.beat_provider(provider_beat("a", state="starting", incarnation=2, models=()), 11.0)
    assert isinstance(route_one(state, request("w", queue=True), 11.0), Busy)
    state.beat_provider(provider_beat("a", incarnation=2), 12.0)
    assert [letter.request_id for letter in mail(state)] == ["w"]


def test_a_drained_mac_gets_orders_and_no_work_until_undrained() -> None:
    """The drain is in every answer to its beats, and survives a restart as an intent."""
    state = settled_router(provider_beat("a"), provider_beat("b"))
    state.drain(MAC_A, "update")
    assert state.beat_provider(provider_beat("a"), 10.1) == ProviderOrders(drain=True)
    assert {granted(state, request(f"r{i}")).machine for i in range(4)} == {"mac_b"}
    state.undrain(MAC_A, 10.2)
    assert state.beat_provider(provider_beat("a"), 10.3) == ProviderOrders(drain=False)

    restarted = RouterState(0.0, 0, [Intent(MAC_A, "drain", "update", 0.0)])
    assert restarted.beat_provider(provider_beat("a"), 10.0).drain
    assert isinstance(route_one(restarted, request("r"), 10.0), Unavailable)


def test_draining_the_last_mac_releases_who_waits_for_it() -> None:
    """A wait that has become hopeless is ended, not left to its deadline."""
    state = settled_router(provider_beat("a", slots=1))
    granted(state, request("r"))
    route_one(state, request("w", queue=True))
    state.drain(MAC_A, "update")
    state.tick(11.0)
    (letter,) = mail(state)
    assert isinstance(letter, Refused)
    assert code_of(letter.error) == "no_provider"


def test_failures_in_a_row_cool_a_mac_down_and_one_probe_lets_it_back() -> None:
    """After the cool-down one request at a time is risked until one succeeds."""
    state = settled_router(provider_beat("a"))
    for number in range(BREAKER_FAILURES):
        state.report([outcome(granted(state, request(f"r{number}")), "failed")], 10.0)
    assert isinstance(route_one(state, request("q")), Busy)
    later_s = 10.0 + BREAKER_FIRST_S
    state.beat_provider(provider_beat("a"), later_s)
    probe = granted(state, request("probe"), later_s)
    assert isinstance(route_one(state, request("q"), later_s), Busy)
    state.report([outcome(probe)], later_s)
    granted(state, request("q"), later_s)
    granted(state, request("p"), later_s)


def test_a_client_that_leaves_is_not_the_macs_fault() -> None:
    """Cancelled attempts never start a cool-down, and never forgive failures."""
    state = settled_router(provider_beat("a"))
    for number in range(2 * BREAKER_FAILURES):
        state.report([outcome(granted(state, request(f"r{number}")), "cancelled")], 10.0)
    for number, result in enumerate(["failed"] * (BREAKER_FAILURES - 1) + ["cancelled", "failed"]):
        state.report([outcome(granted(state, request(f"q{number}")), result)], 10.0)
    assert isinstance(route_one(state, request("q")), Busy)


# ── shutting down, reading ────────────────────────────────────────────────────────────


def test_a_closed_door_lets_running_requests_finish_and_retry() -> None:
    """New requests are refused; a second attempt of a running one is not."""
    state = settled_router(provider_beat("a"), provider_beat("b"))
    grant = granted(state, request("r"))
    assert state.close_door() == 1
    assert code_of(route_one(state, request("q"))) == "draining"
    state.report([outcome(grant, "failed", final=False)], 10.0)
    granted(state, request("r", attempt=2, excluded=(grant.machine[4:],)))
    assert state.close_door() == 1


def test_every_grant_refusal_and_outcome_is_journaled() -> None:
    """The journal tells the story of a request: decisions with their reasons, then the end."""
    state = settled_router(provider_beat("a", slots=1))
    grant = granted(state, request("r", max_tokens=5))
    route_one(state, request("w", queue=True, deadline_s=1.0))
    state.tick(11.5)
    state.report([outcome(grant)], 12.0)
    journal = state.take_journal()
    decisions = [r for r in journal if isinstance(r, Noted)]
    assert [(d.request.request_id, d.decision.chosen, d.refusal) for d in decisions] == [
        ("r", "mac_a", None),
        ("w", None, "queue_timeout"),
    ]
    assert [r.result for r in journal if isinstance(r, OutcomeRecord)] == ["ok"]
    assert state.take_journal() == []
    story = state.story(RequestId("r"))
    assert story is not None
    assert [v["provider"] for v in story["verdicts"]] == ["prv_a"]


def test_availability_counts_what_can_be_used_now() -> None:
    """Free slots of drained, silent or starting Macs are not on offer."""
    state = settled_router(provider_beat("a"), provider_beat("b", slots=3))
    state.drain(MAC_B, "update")
    granted(state, request("r"))
    (model,) = state.availability(10.0)
    assert (model.providers, model.ready, model.free_slots, model.queued) == (2, 1, 3, 0)


def test_a_gone_gateways_counters_stay_in_the_totals() -> None:
    """Metrics never run backwards because a gateway died."""
    state = settled_router()
    for gateway, value in ((GATEWAY, 5.0), (OTHER, 2.0)):
        beat = gateway_beat(gateway=gateway)
        object.__setattr__(beat, "counters", (("requests_total", value),))
        state.beat_gateway(beat, 10.0)
    state.gateway_lost(GATEWAY, 11.0)
    assert state.metrics(11.0)["requests_total"] == pytest.approx(7.0)
