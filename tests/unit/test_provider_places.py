"""Laws of a Mac with several models: what is loaded, what leaves, and that no job is lost."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.errors import MarketError, Unavailable
from market.provider_places import LEAVING_GRACE_S, Offer
from market.provider_state import failure_of
from market.types import ModelId
from tests.provider_kit import A, B, C, D, Mac, mac_with


def test_nothing_is_loaded_before_the_first_orders() -> None:
    """A Mac waits to hear what it should have."""
    mac = Mac()
    mac.tick(100.0)
    assert (mac.loading, mac.state.state) == ([], "starting")
    mac.order(B)
    assert mac.loading == [B]


def test_models_are_loaded_one_at_a_time_in_the_order_of_urgency() -> None:
    """The most urgent model comes first, whatever the market's own order."""
    mac = Mac()
    mac.order(B, A)
    assert (mac.loading, mac.state.state) == ([B], "starting")
    mac.load()
    assert (mac.loading, mac.state.state) == ([A], "ready")
    mac.load()
    assert mac.places() == {B: "ready", A: "ready"}


def test_without_a_word_from_the_router_a_mac_takes_the_first_model_that_fits() -> None:
    """Left to itself it has one model, and the next one when that can never be loaded."""
    mac = Mac(Offer((D, A, B), (20, 4, 4), 10))
    mac.done(mac.state.orders(drain=False, models=None, now_s=0.0))
    assert mac.loading == [A]
    mac.fail_load(permanent=True)
    assert mac.loading == [B]
    mac.load()
    assert mac.tick(100.0) == []
    assert mac.places() == {D: "failed", A: "failed", B: "ready"}


def test_no_news_from_the_router_changes_nothing() -> None:
    """Orders that say nothing of models leave those that were ordered before."""
    mac = mac_with(A, B)
    assert mac.done(mac.state.orders(drain=False, models=None, now_s=50.0)) == []


def test_a_swap_finishes_what_runs_and_takes_nothing_new() -> None:
    """A model that is not wanted stays until its last job has ended; then it goes."""
    mac = mac_with(A, B)
    mac.submit("r", A)
    mac.order(B, C)
    assert mac.places() == {A: "leaving", B: "ready"}
    mac.tick(60.0)
    with pytest.raises(Unavailable) as refused:
        mac.submit("late", A)
    assert failure_of(refused.value).code == "rejected"
    assert mac.loading == []  # there is no room before A has gone
    mac.finish("r")
    assert mac.closing == [A]
    assert mac.loading == []
    mac.close()
    assert mac.loading == [C]


def test_a_job_under_way_when_its_model_begins_to_leave_is_taken() -> None:
    """What was granted before the router heard of the swap is not turned back."""
    mac = mac_with(A)
    mac.order(C)
    mac.tick(LEAVING_GRACE_S / 2)
    mac.submit("r", A)
    mac.tick(LEAVING_GRACE_S)
    assert mac.closing == []
    mac.finish("r")
    assert mac.closing == [A]


def test_with_memory_for_both_the_new_model_need_not_wait() -> None:
    """A long job of the old model does not delay a new one that fits beside it."""
    mac = mac_with(A)
    mac.submit("r", A)
    mac.order(B)
    assert mac.loading == [B]


def test_a_leaving_model_that_is_wanted_again_is_back_at_once() -> None:
    """Changing one's mind costs nothing while the engine is still there."""
    mac = mac_with(A, B)
    mac.submit("r", A)
    mac.order(B)
    mac.tick(60.0)
    mac.order(B, A)
    assert mac.places() == {A: "ready", B: "ready"}
    mac.submit("next", A)


def test_wanted_again_while_it_is_closed_it_is_loaded_anew() -> None:
    """An engine that is being closed does not come back; a new one does, after it."""
    mac = mac_with(A)
    mac.order()
    mac.tick()
    assert mac.closing == [A]
    mac.order(A)
    assert mac.loading == []
    mac.close()
    assert mac.loading == [A]


def test_a_model_that_was_given_up_while_it_loaded_leaves_when_it_is_loaded() -> None:
    """A load is never broken off; its end is followed by the unload."""
    mac = Mac()
    mac.order(A)
    mac.order(B)
    assert mac.loading == [A]
    mac.load()
    assert mac.places() == {A: "leaving", B: "loading"}
    mac.tick()
    assert mac.closing == [A]


def test_a_mac_of_which_no_model_is_asked_stands_ready() -> None:
    """Having nothing by order is not a fault: it can be given something at any time."""
    mac = mac_with(A)
    mac.order()
    mac.tick()
    mac.close()
    assert mac.places() == {}
    assert mac.state.state == "ready"


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["order", "load", "close", "submit", "finish", "break", "fail", "tick", "gone"]
        ),
        st.integers(0, 5),
        st.lists(st.sampled_from([A, B, C, D]), max_size=4),
    ),
    max_size=80,
)


@settings(max_examples=150, deadline=None)
@given(ACTIONS, st.permutations([A, B, C]))
def test_whatever_happens_no_job_is_lost_and_the_mac_comes_to_its_orders(
    actions: list[tuple[str, int, list[ModelId]]], last: list[ModelId]
) -> None:
    """One load at a time, no engine closed under a job, memory kept (checked at each effect);
    every accepted job ends once; and in the end there is what was ordered, as far as it fits.
    """
    mac = Mac()
    accepted: list[str] = []
    for number, (action, which, models) in enumerate(actions):
        if action == "order":
            mac.order(*models)
        elif action == "load":
            mac.load()
        elif action == "close":
            mac.close()
        elif action == "submit":
            with contextlib.suppress(MarketError):
                mac.submit(f"r{number}", (A, B, C)[which % 3])
                accepted.append(f"r{number}")
        elif action == "finish" and mac.jobs:
            mac.finish(sorted(mac.jobs)[which % len(mac.jobs)])
        elif action == "break":
            mac.break_engine((A, B, C)[which % 3])
        elif action == "fail":
            mac.fail_load(permanent=which == 0)
        elif action == "tick":
            mac.tick(which * 0.4)
        seen = mac.state.snapshot(mac.now_s)
        assert seen.accepted == seen.finished + seen.in_flight_jobs
        assert seen.in_flight_jobs == len(mac.jobs)
        assert {facts.model for facts in seen.models} <= mac.engines
    mac.order()
    mac.settle()
    mac.order(*last)
    mac.settle()
    endings = [event.request_id for event in mac.heard if event.finish or event.error]
    assert sorted(endings) == sorted(accepted)
    assert mac.engines == set(last[:2])  # any two fit, and no three
    assert mac.places()[last[2]] == "failed"
