"""Laws of a Mac with several models: what is loaded, what leaves, and that no job is lost."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.errors import MarketError, Unavailable
from market.provider_places import LEAVING_GRACE_S, RETRY_DELAYS_S, Load, Offer, Unload
from market.provider_state import Deliver, Effect, ExitProcess, ProviderState, failure_of
from market.types import Event, FinishReason, GatewayId, Job, ModelFacts, ModelId, RequestId

A, B, C, D = (ModelId(name) for name in "ABCD")
SIZES = {A: 4, B: 4, C: 3, D: 20}
OFFER = Offer((A, B, C, D), tuple(SIZES.values()), 10)
GATEWAY = GatewayId("gw")


def facts(model: ModelId) -> ModelFacts:
    return ModelFacts(model, "d", 100, 100, SIZES[model], 1, "4bit")


def job(name: str, model: ModelId) -> Job:
    return Job(RequestId(name), model, (1, 2), 5)


def end(name: str, finish: FinishReason = "stop") -> Event:
    return Event(RequestId(name), 0, (), "", 1, finish)


@dataclass
class Mac:
    """A Mac whose engines take as long as the test says. Checks the laws at every effect."""

    offer: Offer = OFFER
    now_s: float = 0.0
    loading: list[ModelId] = field(default_factory=list)
    engines: set[ModelId] = field(default_factory=set)
    closing: list[ModelId] = field(default_factory=list)
    broken: set[ModelId] = field(default_factory=set)
    jobs: dict[str, ModelId] = field(default_factory=dict)
    heard: list[Event] = field(default_factory=list)
    exited: bool = False
    room: float = OFFER.memory_bytes

    def __post_init__(self) -> None:
        self.state = ProviderState(self.offer)

    def done(self, effects: list[Effect]) -> list[Effect]:
        """Carry out what was decided."""
        for effect in effects:
            if isinstance(effect, Load):
                assert not self.loading, "one load at a time"
                assert effect.model not in {*self.engines, *self.closing}
                self.loading.append(effect.model)
            elif isinstance(effect, Unload):
                running = [name for name, model in self.jobs.items() if model == effect.model]
                assert effect.model in self.broken or not running, "nothing under a running job"
                self.engines.remove(effect.model)
                self.closing.append(effect.model)
            elif isinstance(effect, Deliver):
                self.heard += effect.events
                for event in effect.events:
                    self.jobs.pop(event.request_id, None)
            elif isinstance(effect, ExitProcess):
                self.exited = True
        held = [*self.loading, *self.engines, *self.closing]
        assert sum(SIZES[model] for model in held) <= self.room, "memory is promised once"
        return effects

    def order(self, *models: ModelId) -> list[Effect]:
        return self.done(self.state.orders(drain=False, models=models, now_s=self.now_s))

    def tick(self, seconds: float = LEAVING_GRACE_S) -> list[Effect]:
        self.now_s += seconds
        return self.done(self.state.tick(self.now_s))

    def load(self) -> None:
        """What is being loaded is loaded."""
        for model in list(self.loading):
            self.loading.remove(model)
            self.engines.add(model)
            self.broken.discard(model)
            self.done(self.state.loaded(facts(model), self.now_s))

    def fail_load(self, *, permanent: bool = False) -> None:
        for model in list(self.loading):
            self.loading.remove(model)
            self.done(self.state.load_failed(model, "no", self.now_s, permanent=permanent))

    def close(self) -> None:
        """What is being closed is closed."""
        for model in list(self.closing):
            self.closing.remove(model)
            self.done(self.state.unloaded(model, self.now_s))

    def submit(self, name: str, model: ModelId) -> None:
        self.state.submit(job(name, model), GATEWAY, self.now_s)
        self.jobs[name] = model

    def finish(self, name: str) -> None:
        if name in self.jobs:
            self.done(self.state.events([end(name)], self.now_s))

    def break_engine(self, model: ModelId) -> None:
        if model in self.engines:
            self.broken.add(model)
            self.done(self.state.engine_unhealthy(model, "stuck", self.now_s))

    def settle(self) -> None:
        """Let everything that was begun come to its end."""
        for name in list(self.jobs):
            self.finish(name)
        for _ in range(12):
            self.load()
            self.close()
            self.tick(max(RETRY_DELAYS_S))

    def places(self) -> dict[ModelId, str]:
        return {place.model: place.state for place in self.state.snapshot(self.now_s).places}


def mac_with(*models: ModelId) -> Mac:
    mac = Mac()
    mac.order(*models)
    for _ in models:
        mac.load()
    assert mac.engines == set(models)
    return mac


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
