"""Macs that say what cannot be: set apart by name, in nobody's way, and taken back."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, fields, replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.hardware import hardware_of
from market.placement.plan import work_out
from market.routing.macs import QUARANTINE_S
from market.routing.messages import Busy, Grant, Place, ProviderBeat
from market.routing.placing import Placing
from market.routing.sanity import PLACES_MAX
from market.routing.state import RouterState
from market.settings import PlacementSettings
from market.types import EngineStats, Hardware, MachineId, ModelFacts, ModelId
from tests.placement_kit import MIDDLE, SIZES, SMALL
from tests.router_kit import (
    FACTS,
    STATS,
    granted,
    mail,
    outcome,
    provider_beat,
    request,
    route_one,
)

NAN, INF = math.nan, math.inf
CHIP = hardware_of("M4 Max", 64)
ODD = MachineId("mac_odd")
HUGE = "x" * 1_000_000
SERVED = replace(FACTS, model=SMALL)


def place(model: ModelId = SMALL, **changes: Any) -> Place:
    return replace(Place(model, "ready", "", 1.0, replace(FACTS, model=model), STATS), **changes)


def beat_of(called: str, model: ModelId = SMALL, **changes: Any) -> ProviderBeat:
    """A Mac with one model, and room for another."""
    facts = replace(FACTS, model=model)
    beat = provider_beat(called, models=(facts,), slots=1)
    beat = replace(beat, places=(place(model),), hardware=CHIP, memory_bytes=40_000_000_000)
    return replace(beat, **changes)


def hardware(**changes: Any) -> dict[str, Any]:
    return {"hardware": replace(CHIP, **changes)}


def stats(**changes: Any) -> dict[str, Any]:
    return {"stats": replace(STATS, **changes)}


def facts(**changes: Any) -> dict[str, Any]:
    return {"places": (place(facts=replace(SERVED, **changes)),)}


IMPOSSIBLE: dict[str, dict[str, Any]] = {
    "no memory": hardware(memory_gb=0),
    "less than no memory": hardware(memory_gb=-16),
    "memory that is no number": hardware(memory_gb=NAN),
    "memory beyond all numbers": hardware(memory_gb=2**70),
    "less than no cores": hardware(gpu_cores=-1),
    "a bandwidth that is no number": hardware(bandwidth_gbs=NAN),
    "a chip with a name like a book": hardware(chip=HUGE),
    "a name like a book": {"name": HUGE},
    "more for models than it has": {"memory_bytes": 2**50},
    "less than nothing for models": {"memory_bytes": -1},
    "a budget that is no number": {"memory_bytes": NAN},
    "an endless budget": {"memory_bytes": INF},
    "a load at no speed": {"load_bytes_per_s": NAN},
    "a load backwards": {"load_bytes_per_s": -1.0},
    "a load beyond any disk": {"load_bytes_per_s": 1e300},
    "up since never": {"uptime_s": NAN},
    "up since tomorrow": {"uptime_s": -5.0},
    "a state nobody knows": {"state": "asleep"},
    "a place nobody knows": {"places": (place(state="napping"),)},
    "a place since never": {"places": (place(since_s=NAN),)},
    "a place since tomorrow": {"places": (place(since_s=-60.0),)},
    "endless places": {"places": tuple(place(ModelId(f"m{n}")) for n in range(PLACES_MAX + 1))},
    "a model with a name like a book": {"places": (place(ModelId(HUGE)),)},
    "endless models": {"models": (SERVED,) * 100_000, "places": ()},
    "an endless list of what it may load": {"allowed": (SMALL,) * 100_000},
    "weights larger than the Mac": facts(weight_bytes=2**45),
    "weights of less than nothing": facts(weight_bytes=-1),
    "a token of no bytes at all": facts(kv_bytes_per_token=-1),
    "a token as large as a Mac": facts(kv_bytes_per_token=2**45),
    "a token of no number of bytes": facts(kv_bytes_per_token=NAN),
    "an endless context": facts(context_tokens=INF),
    "a context of less than nothing": facts(context_tokens=-1),
    "an endless vocabulary": facts(vocab_size=INF),
    "speed that is no number": stats(decode_tps=NAN),
    "speed without end": stats(prefill_tps=INF),
    "speed backwards": stats(decode_tps=-1.0),
    "a million slots": stats(slots=10**6),
    "less than no slots": stats(slots=-1),
    "less than nobody running": stats(running=-1),
    "endlessly many waiting": stats(waiting=10**9),
    "less than no memory in use": stats(memory_bytes_used=-1),
    "a load of a model that is impossible": {"places": (place(stats=replace(STATS, running=-3)),)},
    **{
        f"{name} counted backwards": stats(**{name: -1})
        for name in (
            "steps",
            "prompt_tokens",
            "completion_tokens",
            "cached_tokens",
            "cache_bytes",
            "cancelled",
            "failed",
        )
    },
    "a counter beyond all numbers": stats(steps=2**80),
    "a counter that is no number": stats(failed=NAN),
}


def router_of(*beats: ProviderBeat) -> RouterState:
    """With a planner that places two models."""
    placing = Placing(PlacementSettings(), [SIZES[SMALL], SIZES[MIDDLE]], 0.0)
    state = RouterState(0.0, placing=placing)
    for beat in beats:
        state.beat_provider(beat, 10.0)
    return state


def plan(state: RouterState, now_s: float) -> None:
    """What the actor does once a second, with the work done here."""
    case = state.look(now_s)
    if case is not None:
        assert state.placing.adopt(work_out(case), now_s) is not None


def told(state: RouterState, now_s: float) -> dict[str, Any]:
    """The odd Mac in the status, which can be written as JSON whatever it said."""
    status = state.status(now_s)
    story = (state.machine_story(ODD, now_s), state.queue_story(now_s))
    plans = (state.placing.as_json(now_s), state.models(now_s))
    known = [asdict(mac) for mac in state.roster]
    everything = [status, story, plans, known, state.metrics(now_s), state.fleet(now_s)]
    json.dumps(everything, allow_nan=False)
    orjson.dumps(everything)
    (mac,) = [mac for mac in status["macs"] if mac["machine"] == ODD]
    return dict(mac)


@pytest.mark.parametrize("known", [True, False], ids=["known", "new"])
@pytest.mark.parametrize("wrong", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_a_mac_that_says_the_impossible_is_set_apart(wrong: dict[str, Any], known: bool) -> None:
    """It gets no work and says why; who waits is served by others; it is taken back later."""
    state = router_of(beat_of("a"), *([beat_of("odd")] if known else []))
    state.beat_provider(beat_of("odd", **wrong), 10.0)
    running = granted(state, replace(request("r"), model=SMALL))
    assert running.machine == "mac_a"
    assert isinstance(route_one(state, replace(request("w", queue=True), model=SMALL)), Busy)
    mac = told(state, 10.0)
    assert mac["quarantined"]
    assert mac["verdict_reason"] == f"Its readings are impossible: {mac['quarantined']}."
    assert len(mac["quarantined"]) < 600
    state.report([outcome(running)], 10.5)
    (letter,) = mail(state)
    assert isinstance(letter, Grant)
    assert letter.machine == "mac_a"

    later_s = 10.0 + QUARANTINE_S + 1.0
    state.beat_provider(beat_of("odd"), later_s)
    assert not told(state, later_s)["quarantined"]
    (mac,) = [mac for mac in state.roster if mac.machine == ODD]
    assert (mac.chip, mac.memory_gb) == (CHIP.chip, CHIP.memory_gb)
    assert granted(state, replace(request("q"), model=SMALL), later_s).machine == ODD


@pytest.mark.parametrize("wrong", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_what_only_a_mac_in_quarantine_has_is_loaded_elsewhere(wrong: dict[str, Any]) -> None:
    """The planner goes on, counts nothing of what it says, and gives it no orders meanwhile."""
    state = router_of(beat_of("a"), beat_of("odd", MIDDLE))
    plan(state, 10.0)
    orders = state.beat_provider(beat_of("a"), 10.1)
    assert orders.models == (SMALL,)
    orders = state.beat_provider(beat_of("odd", MIDDLE, **wrong), 11.0)
    assert orders.models is None
    for second in range(12, 16):
        state.beat_provider(beat_of("a"), float(second))
        state.beat_provider(beat_of("odd", MIDDLE, **wrong), float(second))
        plan(state, float(second))
    orders = state.beat_provider(beat_of("a"), 16.0)
    assert orders.models == (SMALL, MIDDLE)
    reply = route_one(state, replace(request("w", queue=True), model=MIDDLE), 16.0)
    assert isinstance(reply, Busy)  # it is on its way: nobody is sent home


NUMBERS = st.one_of(
    st.sampled_from([NAN, INF, -INF, 0, -1, 1, 2**63, -(2**63), 2**70, 1e308, -1e308, 0.5]),
    st.integers(-(2**80), 2**80),
    st.floats(),
)


def numbers_of(kind: type) -> st.SearchStrategy[dict[str, Any]]:
    """Some of a record's numbers, replaced by any others."""
    names = [f.name for f in fields(kind) if f.type in ("int", "float")]
    return st.dictionaries(st.sampled_from(names), NUMBERS, max_size=2)


@settings(max_examples=60, deadline=None)
@given(
    numbers_of(Hardware),
    numbers_of(ProviderBeat).map(
        lambda told: {k: v for k, v in told.items() if k not in ("incarnation", "pid")}
    ),
    numbers_of(EngineStats),
    numbers_of(ModelFacts),
    NUMBERS,
)
def test_whatever_one_mac_says_the_others_work(
    hard: dict[str, Any],
    beat: dict[str, Any],
    reading: dict[str, Any],
    model: dict[str, Any],
    since_s: Any,
) -> None:
    """Any numbers at all: no call fails, the other Mac serves, plans are made, all can be told."""
    state = router_of(beat_of("a"), beat_of("odd"))
    odd = beat_of("odd", places=(place(facts=replace(SERVED, **model), since_s=since_s),), **beat)
    odd = replace(
        odd, hardware=replace(odd.hardware, **hard), stats=replace(STATS, **{"slots": 1, **reading})
    )
    for second in range(11, 15):
        now_s = float(second)
        state.beat_provider(beat_of("a"), now_s)
        state.beat_provider(odd, now_s)
        state.tick(now_s)
        plan(state, now_s)
    replies = [
        route_one(state, replace(request(f"r{n}"), model=SMALL, max_tokens=5), 14.0)
        for n in range(3)
    ]
    grants = [reply for reply in replies if isinstance(reply, Grant)]
    assert "mac_a" in {grant.machine for grant in grants}
    assert told(state, 14.0)["machine"] == ODD
    state.report([outcome(grant) for grant in grants], 14.5)
    assert all(mac["in_flight"] == 0 for mac in state.status(14.5)["macs"])
