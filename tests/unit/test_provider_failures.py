"""Laws of a Mac whose models do not load or whose engines fail."""

from __future__ import annotations

from market.provider_places import RETRY_DELAYS_S, Load, Offer
from market.types import ModelId
from tests.provider_kit import A, B, C, D, Mac, mac_with


def test_what_does_not_fit_fails_with_the_arithmetic_and_the_others_go_on() -> None:
    """Too large alone, too large beside more urgent ones, or not this Mac's: each says so."""
    other = ModelId("other")
    mac = Mac()
    mac.order(D, A, other, B, C)
    mac.load()
    mac.load()
    assert mac.places() == {
        D: "failed", A: "ready", B: "ready", C: "failed", other: "failed",
    }  # fmt: skip
    reasons = {place.model: place.reason for place in mac.state.snapshot(0.0).places}
    assert "GiB" in reasons[D]
    assert "beside A, B" in reasons[C]
    assert "may not" in reasons[other]
    assert mac.state.state == "ready"
    mac.order(B, C)
    mac.tick()
    mac.close()
    mac.load()
    assert mac.places() == {B: "ready", C: "ready"}


def test_a_model_that_is_larger_than_expected_does_not_come_and_go() -> None:
    """Once its true size is known and too much beside the others, it is not loaded again."""
    mac = Mac(Offer((A, B), (4, 1), 7), room=8)  # B was to take 1 and takes 4
    mac.order(A, B)
    mac.load()
    mac.load()
    assert mac.places() == {A: "ready", B: "leaving"}
    mac.tick()
    mac.close()
    for _ in range(5):
        assert not any(isinstance(e, Load) for e in mac.tick(60.0))
    assert mac.places() == {A: "ready", B: "failed"}


def test_a_model_is_declared_failed_only_when_it_is_given_up() -> None:
    """While tries are left it is still being loaded, with the reason told: a planner that hears
    of a failure takes the model elsewhere, and bars it here for minutes.
    """
    mac = mac_with(B)
    mac.order(A, B)
    for delay_s in RETRY_DELAYS_S:
        mac.fail_load()
        assert mac.places() == {B: "ready", A: "loading"}
        (place,) = [p for p in mac.state.snapshot(mac.now_s).places if p.model == A]
        assert "did not load: no" in place.reason
        mac.tick(delay_s)
        assert mac.loading == [A]
    mac.fail_load()
    assert mac.places() == {B: "ready", A: "failed"}


def test_a_fault_of_one_engine_leaves_the_jobs_of_the_others_alone() -> None:
    """Its own jobs fail over; the Mac goes on serving what works, and tries again."""
    mac = mac_with(A, B)
    mac.submit("a", A)
    mac.submit("b", B)
    mac.break_engine(A)
    assert [(e.request_id, e.error and e.error.code) for e in mac.heard] == [("a", "engine")]
    assert mac.places() == {A: "loading", B: "ready"}
    assert mac.state.state == "ready"
    mac.submit("b2", B)
    mac.tick(RETRY_DELAYS_S[0])
    assert mac.loading == []  # the broken one is still being closed
    mac.close()
    mac.tick()
    assert mac.loading == [A]
    mac.load()
    mac.submit("a2", A)


def test_a_model_given_up_does_not_end_a_process_that_serves_another() -> None:
    """Only a Mac with nothing left to serve starts afresh."""
    mac = mac_with(B)
    mac.order(B, A)
    for _ in range(len(RETRY_DELAYS_S) + 1):
        assert mac.loading == [A]
        mac.fail_load()
        mac.tick(max(RETRY_DELAYS_S))
    assert (mac.loading, mac.exited, mac.state.state) == ([], False, "ready")
    assert "did not help" in mac.state.snapshot(0.0).places[1].reason
    mac.order(B)
    assert mac.places() == {B: "ready", A: "failed"}  # its owner can still read why
    mac.order(B, A)  # asked for anew, it is tried anew
    assert mac.loading == [A]


def test_why_nothing_serves_is_told_until_it_is_tried_anew() -> None:
    """Orders that leave a broken model out do not make its Mac look well; once it is asked for
    again it is loaded again.
    """
    mac = mac_with()
    mac.order(A)
    mac.fail_load(permanent=True)
    mac.order()
    assert (mac.state.state, mac.places()) == ("failing", {A: "failed"})
    assert mac.state.snapshot(0.0).reason
    mac.order(A)
    assert mac.loading == [A]
