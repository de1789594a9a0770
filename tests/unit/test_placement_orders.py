"""Orders: what counts as loading, leaving or failed before a Mac has said a word."""

from __future__ import annotations

from market.placement.orders import BEGIN_S_MAX, NOT_BEGUN, RETRY_S, Orders
from market.placement.view import FleetView, MacView
from market.routing.messages import Place
from market.types import MachineId, ModelId
from tests.placement_kit import MIDDLE, mac, ready

Q27 = ModelId("qwen3.5-27b")
MAC_0 = MachineId("mac_000")


def small_mac(number: int, *names: ModelId) -> MacView:
    return mac(number, "M4 Max", 36, places=ready(*names))


def places(orders: Orders, one: MacView, now_s: float) -> dict[ModelId, tuple[str, float]]:
    applied = orders.applied(FleetView((one,), ()), now_s).macs[0]
    return {place.model: (place.state, place.since_s) for place in applied.places}


def test_what_is_ordered_counts_as_loading_and_what_is_not_as_leaving() -> None:
    """Before the Mac has said a word, so that nothing is ordered twice."""
    orders = Orders()
    orders.give(MAC_0, (Q27,), 1, 0.0)

    assert places(orders, small_mac(0, MIDDLE), 1.0) == {
        MIDDLE: ("leaving", 5000.0),
        Q27: ("loading", 0.0),
    }
    assert places(orders, small_mac(0, MIDDLE), 4.0)[Q27] == ("loading", 3.0)
    assert places(orders, small_mac(0, Q27), 5.0) == {Q27: ("ready", 5000.0)}


def test_a_load_that_never_begins_has_failed() -> None:
    """A Mac that ignores its orders does not keep a model from being loaded elsewhere."""
    orders = Orders()
    orders.give(MAC_0, (Q27,), 0, 0.0)
    places(orders, small_mac(0), 0.0)
    places(orders, small_mac(0), BEGIN_S_MAX)

    assert places(orders, small_mac(0), BEGIN_S_MAX + 1.0) == {Q27: ("failed", 1.0)}
    applied = orders.applied(FleetView((small_mac(0),), ()), BEGIN_S_MAX + 1.0)
    assert applied.macs[0].places[0].reason == NOT_BEGUN


def test_failures_in_a_row_bar_a_mac_for_longer_each_time() -> None:
    """Ten minutes, then twenty; a load that works is forgiven."""
    orders = Orders()

    def fails(at_s: float, seen_s: float) -> bool:
        since_s = seen_s - at_s
        one = mac(0, places=[Place(Q27, "failed", "no disk", since_s=since_s)])
        return Q27 in places(orders, one, seen_s)

    def barred(seen_s: float) -> bool:
        return Q27 in places(orders, small_mac(0), seen_s)

    assert fails(0.0, 1.0)
    assert barred(RETRY_S - 1.0)
    assert not barred(RETRY_S)
    assert fails(RETRY_S + 10.0, RETRY_S + 11.0)
    assert barred(RETRY_S + 10.0 + 2 * RETRY_S - 1.0)
    places(orders, small_mac(0, Q27), 2 * RETRY_S)
    assert not barred(2 * RETRY_S + 1.0)


def test_swaps_are_counted_for_an_hour() -> None:
    """What gave way is remembered against the Mac's budget, and then forgotten."""
    orders = Orders()
    orders.give(MAC_0, (Q27,), 2, 0.0)
    orders.give(MAC_0, (MIDDLE,), 1, 1800.0)

    assert (orders.swaps(MAC_0, 3599.0), orders.swapped(3599.0)) == (3, 3)
    assert orders.swaps(MAC_0, 3600.0) == 1
    assert orders.swaps(MAC_0, 5400.0) == 0
