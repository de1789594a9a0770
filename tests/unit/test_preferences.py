"""Laws of what callers may wish: hard wishes rule out, soft ones only reorder."""

from __future__ import annotations

from market.policy.decision import materialise
from market.policy.predictor import predict
from market.policy.soft import SOFT
from market.types import MachineId, ProviderId
from tests.fleet_kit import FAST, ask, busy, choose, fleet_of, standing, wish
from tests.router_kit import MODEL


def test_sorting_by_price_takes_the_cheapest_however_slow() -> None:
    """`sort: price` is a choice of the caller, not one reason among others."""
    fleet = fleet_of({"chip": FAST, "ask_pct": 100.0}, {"chip": "M1", "ask_pct": 99.0})
    assert choose(fleet).chosen == "mac_0"
    assert choose(fleet, **wish(sort="price")).chosen == "mac_1"


def test_sorting_by_latency_or_throughput_looks_at_that_alone() -> None:
    """A Mac that reads slowly and writes fast wins by throughput, its opposite by latency."""
    fleet = fleet_of({"scale_step": 0.5, "prefill_until_s": 6.0}, {"scale_step": 2.0})
    assert choose(fleet, **wish(sort="throughput")).chosen == "mac_0"
    assert choose(fleet, **wish(sort="latency")).chosen == "mac_1"


def test_an_order_is_followed_and_falls_back_when_nobody_of_it_is_left() -> None:
    """The first of the order that may take it; others only when none of them can."""
    fleet = fleet_of({"chip": FAST}, {}, {"chip": "M1"})
    wished = wish(order=(ProviderId("prv_2"), ProviderId("prv_1")))
    first = choose(fleet, **wished)
    assert (first.chosen, first.narrowed) == ("mac_2", ("order",))
    fleet.set(MachineId("mac_2"), standing=standing("lost"))
    assert choose(fleet, **wished).chosen == "mac_1"
    fleet.set(MachineId("mac_1"), standing=standing("lost"))
    assert choose(fleet, **wished).chosen == "mac_0"


def test_soft_wishes_never_leave_nobody() -> None:
    """What no Mac can promise is ignored; what some can decides between them."""
    fleet = fleet_of({"chip": FAST}, {"chip": "M1", "ask_pct": 1.0})
    for wished in (
        wish(preferred_min_tps=1e9),
        wish(preferred_max_latency_ms=1e-9),
        {"finish_by_s": 1e-9},
    ):
        decision = choose(fleet, **wished)
        assert decision.chosen is not None
        assert decision.narrowed == ()
    step_ms = float(predict(fleet.candidates(MODEL), ask()).step_ms[0])
    chosen = choose(fleet, **wish(preferred_min_tps=900.0 / step_ms, sort="price"))
    assert (chosen.chosen, chosen.narrowed) == ("mac_0", ("preferred_min_throughput",))
    verdict = next(v for v in materialise(chosen) if v.machine == "mac_1")
    assert (verdict.reason, verdict.aside) == (None, "preferred_min_throughput")


def test_own_macs_come_first_when_preferred() -> None:
    """`own: prefer` uses one's own Macs while they can, however slow, and others after that."""
    fleet = fleet_of({"chip": FAST}, {"chip": "M1"})
    wished = wish(own="prefer", own_machines=(MachineId("mac_1"),))
    assert choose(fleet, **wished).chosen == "mac_1"
    busy(fleet, 1, 4)
    assert choose(fleet, **wished).chosen == "mac_0"
    assert set(SOFT) >= {"own_first", "order", "deadline"}
