"""The planner between plans: when one is due, what is ordered, what is told."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest

from market.errors import NotFound
from market.placement.draft import draft_of
from market.placement.plan import Answer, Plan
from market.placement.planner import CHANGED_EVERY_S, QUEUES_AFTER_S, URGENT_EVERY_S, Planner
from market.placement.solve import solve_simply
from market.placement.view import FleetView, MacView, ModelView, Pin
from market.routing.messages import Place
from market.settings import PlacementSettings
from market.types import MachineId, ModelId
from tests.placement_kit import COMPLETION, LARGE, MIDDLE, PROMPT, SIZES, SMALL, mac, models, ready

Q27 = ModelId("qwen3.5-27b")
MAC_0, MAC_1 = MachineId("mac_000"), MachineId("mac_001")


def small_mac(number: int, *names: ModelId, since_s: float = 5000.0) -> MacView:
    """A Mac with room for one of MIDDLE and Q27, not for both."""
    return mac(number, "M4 Max", 36, places=ready(*names, since_s=since_s))


def view(*macs: MacView, waiting: dict[ModelId, int] | None = None, **more: object) -> FleetView:
    return FleetView(macs, models(MIDDLE, Q27, waiting=waiting), **more)  # type: ignore[arg-type]


def plan(planner: Planner, now_s: float, seen_then: FleetView | None = None) -> Plan:
    """Make a plan with the quick search; the fleet may change while it is worked out."""
    draft = draft_of(planner.case(now_s))
    answer = Answer(draft, solve_simply(draft.problem))
    if seen_then is not None:
        planner.observe(seen_then, now_s)
    adopted = planner.adopt(answer, now_s)
    assert adopted is not None
    return adopted


def planned(seen: FleetView, settings: PlacementSettings | None = None) -> Planner:
    """A planner that has made its first plan at second 0."""
    planner = Planner(settings or PlacementSettings(), 0.0)
    planner.observe(seen, 0.0)
    plan(planner, 0.0)
    return planner


# ── when ──────────────────────────────────────────────────────────────────────────────


def test_nothing_is_due_before_every_mac_has_declared_itself() -> None:
    """A restarted router does not load what Macs it has not heard of have loaded."""
    planner = Planner(PlacementSettings(), 5.0)
    assert planner.due(10.0) == ""
    planner.observe(view(small_mac(0, MIDDLE)), 4.0)

    assert planner.due(4.9) == ""
    assert planner.due(5.0) == "the fleet has changed"


def test_switched_off_it_orders_nothing() -> None:
    """Every Mac then does as it likes."""
    planner = Planner(PlacementSettings(enabled=False), 0.0)
    planner.observe(view(small_mac(0), waiting={Q27: 1}), 0.0)

    assert planner.due(100.0) == ""
    assert planner.orders(MAC_0, (MIDDLE,)) is None


def test_a_steady_fleet_is_planned_for_in_the_set_rhythm() -> None:
    """Nothing happens, so the next plan comes after `every_s` and not before."""
    settled = view(small_mac(0, MIDDLE), small_mac(1, Q27))
    planner = planned(settled)
    planner.observe(settled, 29.0)

    assert planner.due(29.0) == ""
    assert planner.due(30.0) == "time has passed"


def test_a_cold_model_is_urgent_and_one_that_loads_is_not() -> None:
    """Waiting for a model that no Mac has makes a plan due at once; while it loads nothing is."""
    crowded = view(small_mac(0, MIDDLE))
    asked = view(small_mac(0, MIDDLE), waiting={Q27: 1})
    planner = planned(crowded)
    planner.observe(asked, URGENT_EVERY_S)
    assert planner.due(URGENT_EVERY_S) == f"requests wait for {Q27}, which no Mac has"
    ordered = plan(planner, URGENT_EVERY_S)

    loads = [change for change in ordered.changes if change.act == "load"]
    assert [change.model for change in loads] == [Q27]
    later_s = 2 * URGENT_EVERY_S
    planner.observe(asked, later_s)  # the Mac has not said yet that it loads
    assert planner.due(later_s) == "the fleet has changed"
    assert plan(planner, later_s).changes == ()
    planner.observe(asked, later_s + URGENT_EVERY_S)
    assert planner.due(later_s + URGENT_EVERY_S) == ""


@pytest.mark.parametrize(
    "changed",
    [
        view(small_mac(0, MIDDLE)),
        view(small_mac(0, MIDDLE), small_mac(1, Q27), small_mac(2)),
        view(small_mac(0, MIDDLE), replace(small_mac(1, Q27), standing="away")),
        view(small_mac(0, MIDDLE), replace(small_mac(1, Q27), allowed=(MIDDLE,))),
        view(small_mac(0, MIDDLE), replace(small_mac(1, Q27), memory_bytes=10**9)),
        view(small_mac(0, MIDDLE), mac(1, "M4 Max", 36, places=[Place(Q27, "failed", "disk")])),
        view(small_mac(0, MIDDLE), small_mac(1, Q27), pins=(Pin(MAC_0, Q27),)),
    ],
    ids=["gone", "new", "drained", "forbidden", "shrunk", "failed", "pinned"],
)
def test_a_change_of_the_fleet_makes_a_plan_due(changed: FleetView) -> None:
    """Macs that come, go or change, failed loads and pins are answered within a second."""
    planner = planned(view(small_mac(0, MIDDLE), small_mac(1, Q27)))
    planner.observe(changed, CHANGED_EVERY_S)

    assert planner.due(CHANGED_EVERY_S) == "the fleet has changed"


def test_a_queue_that_stays_makes_a_plan_due() -> None:
    """Copies exist and requests still wait for five seconds: there are too few."""
    calm = view(small_mac(0, MIDDLE), small_mac(1, Q27))
    queued = view(small_mac(0, MIDDLE), small_mac(1, Q27), waiting={MIDDLE: 4})
    planner = planned(calm)
    planner.observe(queued, 10.0)
    assert planner.due(10.0) == ""
    planner.observe(queued, 10.0 + QUEUES_AFTER_S)

    assert planner.due(10.0 + QUEUES_AFTER_S) == "requests keep waiting for models that have copies"


def test_one_plan_is_made_at_a_time() -> None:
    """While a case is being worked out nothing is due; given up, the next comes in its time."""
    planner = Planner(PlacementSettings(), 0.0)
    planner.observe(view(small_mac(0, MIDDLE)), 0.0)
    case = planner.case(0.0)
    assert planner.due(100.0) == ""
    draft = draft_of(case)

    planner.abandon("the solver's process died")
    assert planner.due(30.0) == "time has passed"
    assert planner.as_json(30.0)["abandoned"] == "the solver's process died"
    assert planner.adopt(Answer(draft, solve_simply(draft.problem)), 31.0) is None


# ── what is ordered ───────────────────────────────────────────────────────────────────


def test_a_mac_that_no_plan_knows_is_told_to_keep_what_it_has() -> None:
    """Neither a new Mac nor one that a restarted router hears of again is emptied."""
    planner = planned(view(small_mac(0, MIDDLE)))

    assert planner.orders(MAC_1, (Q27,)) == (Q27,)
    assert planner.orders(MAC_1, ()) == ()
    assert planner.orders(MAC_0, ()) == (MIDDLE,)


def test_a_draining_mac_keeps_what_it_has_and_is_replaced_elsewhere() -> None:
    """It gets no new orders; its model is loaded on a Mac that stays."""
    planner = planned(view(small_mac(0, MIDDLE), small_mac(1, Q27)))
    gone = view(small_mac(0, MIDDLE), replace(small_mac(1, Q27), standing="away"), small_mac(2))
    planner.observe(gone, 1.0)
    changes = plan(planner, 1.0).changes

    assert [(c.machine, c.act, c.model) for c in changes] == [("mac_002", "load", Q27)]
    assert planner.orders(MAC_1, (Q27,)) == (Q27,)
    assert planner.as_json(2.0)["away"] == [MAC_1]


def test_the_most_urgent_model_comes_first() -> None:
    """A Mac loads one model at a time, so the one that requests wait for heads its list."""
    planner = Planner(PlacementSettings(), 0.0)
    seen = FleetView((mac(0),), models(MIDDLE, Q27, SMALL, waiting={SMALL: 2}))
    planner.observe(seen, 0.0)
    plan(planner, 0.0)

    orders = planner.orders(MAC_0, ())
    assert orders is not None
    assert orders[0] == SMALL
    assert set(orders) == {MIDDLE, Q27, SMALL}


def test_a_copy_that_requests_began_to_wait_for_stays_after_all() -> None:
    """While the plan was worked out they came: nothing leaves and what needed its room waits."""
    planner = planned(view(small_mac(0, MIDDLE)))
    cold = view(small_mac(0, MIDDLE), waiting={Q27: 1})
    planner.observe(cold, 5.0)
    both = view(small_mac(0, MIDDLE), waiting={Q27: 1, MIDDLE: 1})
    made = plan(planner, 5.0, seen_then=both)

    assert planner.orders(MAC_0, (MIDDLE,)) == (MIDDLE,)
    assert {(c.act, c.model, c.later) for c in made.changes} == {
        ("unload", MIDDLE, True),
        ("load", Q27, True),
    }


def test_a_model_moves_by_loading_first_and_leaving_then() -> None:
    """A model that is asked for leaves its last place only when the next one is ready."""
    planner = Planner(PlacementSettings(), 0.0)
    asked = models(MIDDLE, Q27, LARGE, waiting={LARGE: 3})
    for second in range(0, 100, 20):
        planner.arrived(MIDDLE, PROMPT, COMPLETION, float(second))
        planner.arrived(Q27, PROMPT, COMPLETION, float(second))
    crowded = mac(0, "M2 Max", 96, places=ready(MIDDLE, Q27))
    for second in range(100, 150):
        planner.observe(FleetView((crowded, small_mac(1)), asked), float(second))
    first = {(c.machine, c.act, c.model): c.later for c in plan(planner, 150.0).changes}
    moved = next(model for _, act, model in first if act == "unload")

    assert first == {
        (MAC_1, "load", moved): False,
        (MAC_0, "unload", moved): True,
        (MAC_0, "load", LARGE): True,
    }
    assert set(planner.orders(MAC_0, ()) or ()) == {MIDDLE, Q27}
    planner.observe(FleetView((crowded, small_mac(1, moved, since_s=1.0)), asked), 160.0)
    assert planner.due(160.0)
    second_ = {(c.machine, c.act, c.model): c.later for c in plan(planner, 160.0).changes}
    assert second_ == {(MAC_0, "unload", moved): False, (MAC_0, "load", LARGE): False}


def test_an_answer_for_a_mac_that_has_gone_orders_nothing_there() -> None:
    """Lost while the plan was made: it gets no orders, the others get theirs."""
    planner = Planner(PlacementSettings(), 0.0)
    planner.observe(view(small_mac(0), small_mac(1)), 0.0)
    made = plan(planner, 0.0, seen_then=view(small_mac(0)))

    assert [machine for machine, _ in made.orders] == [MAC_0]


def test_one_load_is_ordered_for_a_hundred_requests() -> None:
    """However many wait for a cold model, one Mac loads it, and none again until it is ready."""
    macs = [small_mac(number, MIDDLE) for number in range(6)]
    planner = Planner(PlacementSettings(), 0.0)
    asked = view(*macs, waiting={Q27: 100})
    loads = []
    for second in range(12):
        planner.observe(asked, float(second))
        if planner.due(float(second)):
            loads += [c.model for c in plan(planner, float(second)).changes if c.act == "load"]

    assert loads == [Q27]


def test_a_load_spends_what_waiting_has_cost() -> None:
    """Bought with the rent so far: the next copy has to be paid for anew."""
    macs = [small_mac(0, MIDDLE), small_mac(1, MIDDLE)]
    asked = view(*macs, waiting={Q27: 1})
    planner = Planner(PlacementSettings(), 0.0)
    for second in range(5):
        planner.observe(asked, float(second))
    assert planner.explain(Q27, 4.0)["waiting_has_cost"] > 0
    plan(planner, 4.0)
    planner.observe(asked, 5.0)

    assert planner.explain(Q27, 5.0)["waiting_has_cost"] == 0


# ── what is told ──────────────────────────────────────────────────────────────────────


def told() -> Planner:
    macs = [small_mac(0, MIDDLE), small_mac(1, MIDDLE), mac(2, "M1", 8)]
    seen = view(*macs, waiting={Q27: 2}, pins=(Pin(MAC_0, MIDDLE), Pin(MachineId("x"), Q27)))
    planner = planned(seen)
    planner.observe(seen, 1.0)
    return planner


def test_everything_is_plain_json_without_a_number_that_json_lacks() -> None:
    """The plan, each model and each Mac can be sent as they are."""
    shown = told().as_json(2.0)

    assert json.loads(json.dumps(shown, allow_nan=False)) == shown
    assert shown["plan"]["cause"] == f"requests wait for {Q27}, which no Mac has"
    assert {entry["machine"] for entry in shown["macs"]} == {"mac_000", "mac_001", "mac_002"}
    assert {"machine": "x", "model": Q27, "why": "pinned, but the Mac is not here"} in shown[
        "plan"
    ]["refused"]


def test_each_change_says_why_with_its_numbers() -> None:
    """Who waits, how long it loads, what gives way and what stays of it."""
    last = told().last
    assert last is not None
    words = {(change.act, change.model): change.words for change in last.changes}

    assert words["load", Q27] == "2 requests wait and no Mac has it; loads in 11 s"
    assert words["unload", MIDDLE] == (
        f"gives way to {Q27}; 1 copy is elsewhere; nobody asks for it"
    )


def test_explaining_names_the_next_place_and_what_it_takes() -> None:
    """Each Mac without the model, the nearest to it first, with its barrier or its price."""
    planner = planned(view(small_mac(0, MIDDLE), small_mac(1, Q27), mac(2, "M1", 8)))
    for second in range(20):
        for _ in range(3):
            planner.arrived(MIDDLE, PROMPT, COMPLETION, float(second))
            planner.arrived(Q27, PROMPT, COMPLETION, float(second))
    macs = [small_mac(0, MIDDLE), small_mac(1, Q27), mac(2, "M1", 8)]
    planner.observe(view(*macs, waiting={MIDDLE: 1}), 20.0)
    first, second_ = planner.explain(MIDDLE, 20.0)["next"]

    assert (first["machine"], first["possible"]) == ("mac_001", False)
    assert first["gives_way"] == [Q27]
    assert first["what_it_takes"].startswith(
        f"would load in 7 s; {Q27} would give way; waiting has cost 5,120 cost tokens × s "
    )
    assert second_["what_it_takes"] == "needs 9.4 GB, has room for 3.9 GB"


def test_what_cannot_be_placed_says_what_is_nearest_and_why_not() -> None:
    """A cold model with no place open: the plan names the nearest Mac and what binds it."""
    planner = Planner(PlacementSettings(), 0.0)
    planner.arrived(MIDDLE, PROMPT, COMPLETION, 90.0)
    planner.observe(view(small_mac(0, MIDDLE, since_s=60.0), waiting={Q27: 2}), 100.0)
    (refusal,) = plan(planner, 100.0).refused

    assert (refusal.model, refusal.machine) == (Q27, MAC_0)
    assert refusal.words == (
        f"2 wait for it, but no room: {MIDDLE} has not been here for the minimum residency "
        "(540 s to go)"
    )


def test_explaining_a_model_that_is_not_on_offer_says_so() -> None:
    """404, with the name that was asked for."""
    with pytest.raises(NotFound, match="does not offer 'gone'"):
        told().explain(ModelId("gone"), 2.0)


def test_a_case_and_its_answer_can_go_to_another_process() -> None:
    """Pickled and back, they give the same plan."""
    planner = Planner(PlacementSettings(), 0.0)
    planner.observe(view(small_mac(0), small_mac(1), waiting={Q27: 2}), 0.0)
    case = planner.case(0.0)
    draft = draft_of(pickle.loads(pickle.dumps(case)))
    answer = pickle.loads(pickle.dumps(Answer(draft, solve_simply(draft.problem))))
    here = solve_simply(draft_of(case).problem)

    assert np.array_equal(answer.solution.copies, here.copies)
    assert planner.adopt(answer, 1.0) is not None


@pytest.mark.parametrize("fleet", [FleetView((), models(MIDDLE)), FleetView((mac(0),), ())])
def test_without_macs_or_models_there_is_nothing_to_plan(fleet: FleetView) -> None:
    """An empty market is observed and told about like any other."""
    planner = Planner(PlacementSettings(), 0.0)
    planner.observe(fleet, 0.0)

    assert planner.due(0.0) == ""
    shown = planner.as_json(0.0)
    assert (len(shown["models"]), len(shown["macs"])) == (len(fleet.models), len(fleet.macs))


def test_models_that_are_taken_off_the_market_leave() -> None:
    """What is no longer offered is in no order, and the next plan is due."""
    planner = planned(view(small_mac(0, MIDDLE), small_mac(1, Q27)))
    fewer = FleetView((small_mac(0, MIDDLE), small_mac(1, Q27)), (ModelView(SIZES[MIDDLE]),))
    planner.observe(fewer, 1.0)
    assert planner.due(1.0) == "the fleet has changed"
    plan(planner, 1.0)

    assert planner.orders(MAC_1, (Q27,)) == (MIDDLE,)
