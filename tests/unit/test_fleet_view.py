"""Laws of the fleet as its operator sees it: everybody once, the worst first, nothing invented."""

from __future__ import annotations

import json
from dataclasses import replace

from market.routing.messages import Place, ProviderBeat
from market.routing.state import RouterState
from market.settings import MacSettings
from market.types import AccountId, Hardware, MachineId, ProviderId
from market.verdicts import span
from tests.router_kit import FACTS, granted, provider_beat, request, settled_router

NOW_S = 10.0


def with_places(beat: ProviderBeat, *places: Place) -> ProviderBeat:
    return replace(beat, places=places)


def declared(name: str) -> MacSettings:
    hardware = Hardware("M4", 24, 10, 10, 120.0)
    who = (MachineId(f"mac_{name}"), ProviderId(f"prv_{name}"), name)
    return MacSettings(*who, AccountId("acct"), hardware)


def test_every_mac_is_there_once_and_the_worst_come_first() -> None:
    """What needs somebody, then what is away, then what was meant so, then what earns; each by
    name, as people count.
    """
    full = Place(FACTS.model, "failed", "disk full", 5.0)
    state = settled_router(
        replace(provider_beat("a"), name="mac-10"),
        replace(provider_beat("b"), name="mac-9"),
        replace(with_places(provider_beat("c", models=()), full), name="full"),
        replace(provider_beat("d"), name="resting"),
        replace(provider_beat("e", state="failing", models=()), name="broken", reason="no GPU"),
    )
    state.roster.declare([declared("away")], complete=True)
    state.drain(MachineId("mac_d"), "RAM swap")

    told = state.fleet(NOW_S)

    names = [mac["name"] for mac in told["macs"]]
    assert set(names[:2]) == {"full", "broken"}
    assert names[2:] == ["away", "resting", "mac-9", "mac-10"]
    assert told["verdicts"] == {"EARNING": 2, "NOT EARNING": 3, "OFFLINE": 1}
    assert (told["attention_needed"], told["here"], told["declared"]) == (3, 5, 1)
    assert sum(told["verdicts"].values()) == len(told["macs"])
    json.dumps(told, allow_nan=False)


def test_a_mac_that_was_forgotten_by_routing_is_not_by_its_operator() -> None:
    """Away for hours it is told with when it was heard, its drain and its name."""
    state = settled_router(replace(provider_beat("a"), name="studio"))
    state.roster.declare([replace(declared("a"), name="studio")], complete=True)
    for now_s in (20.0, 25.0, 60.0, 7_210.0):
        state.tick(now_s)
    assert state.status(7_210.0)["macs"] == []
    state.drain(MachineId("mac_a"), "sold")

    (mac,) = state.fleet(7_210.0)["macs"]

    assert (mac["name"], mac["verdict"], mac["drain"]) == ("studio", "OFFLINE", "sold")
    assert "last heard 2 h ago" in mac["verdict_reason"]
    assert "drained, too (sold)" in mac["verdict_reason"]
    assert mac["slots"] is mac["ask_pct"] is mac["uptime_s"] is None, "unknown is no zero"


def test_a_speed_that_was_measured_is_told_from_one_of_tables() -> None:
    """A Mac that decodes at half of what the table says is shown so, and as measured."""
    state = settled_router(
        with_places(provider_beat("a"), Place(FACTS.model, "ready", "", 1.0, FACTS))
    )
    (before,) = state.fleet(NOW_S)["macs"][0]["places"]
    busy = provider_beat("a", running=1, decode_tps=before["tps"] / 2)
    state.beat_provider(with_places(busy, Place(FACTS.model, "ready", "", 1.0, FACTS)), NOW_S)
    (mac,) = state.fleet(NOW_S)["macs"]
    (after,) = mac["places"]
    assert (before["measured"], after["measured"]) == (False, True)
    assert 0.4 < after["tps"] / before["tps"] < 0.6


def test_one_mac_says_what_the_market_would_miss_without_it() -> None:
    """Models that nobody else has who takes work: a drained Mac's copy helps nobody."""
    state = settled_router(provider_beat("a"), provider_beat("b"))
    alone = MachineId("mac_a")
    assert state.mac_of_fleet(alone, NOW_S)["only_here"] == []
    state.drain(MachineId("mac_b"), "update")
    assert state.mac_of_fleet(alone, NOW_S)["only_here"] == [FACTS.model]
    assert state.mac_of_fleet(MachineId("mac_none"), NOW_S)["verdict"] == "OFFLINE"


def test_the_sums_are_those_of_the_macs() -> None:
    """Slots of Macs that are here, requests that run, requests that wait."""
    state = settled_router(provider_beat("a", slots=2), provider_beat("b", slots=3))
    granted(state, request("r"))
    told = state.fleet(NOW_S)
    assert (told["slots"], told["in_flight"], told["waiting"]) == (5, 1, 0)


def test_a_model_that_is_offered_and_nowhere_is_told_of_too() -> None:
    """Desired is null where nobody decides it; failures carry the Mac and the reason."""
    full = Place(FACTS.model, "failed", "disk full", 5.0)
    state: RouterState = settled_router(
        with_places(provider_beat("a"), Place(FACTS.model, "ready", "", 1.0, FACTS)),
        replace(with_places(provider_beat("b", models=()), full), name="full"),
    )
    (model,) = state.models(NOW_S)
    assert (model["desired"], model["ready"], model["loading"]) == (None, 1, 0)
    assert [(f["name"], f["reason"]) for f in model["failed"]] == [("full", "disk full")]


def test_times_are_told_in_the_unit_that_fits() -> None:
    """Neighbouring times never differ by more than their unit's rounding."""
    told = [span(s) for s in (0.4, 70.0, 119.4, 119.6, 7_100.0, 7_200.0, 170_000.0, 200_000.0)]
    assert told == ["0 s", "70 s", "119 s", "2 min", "118 min", "2 h", "47 h", "2 days"]
