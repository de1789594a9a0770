"""Laws of one Mac's life: what it accepts, whose events go where, and how it ends."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.errors import Conflict, InvalidRequest, MarketError, Unavailable
from market.provider_places import RETRY_DELAYS_S, Load, Offer, Unload
from market.provider_state import (
    Announce,
    CancelJob,
    Deliver,
    Effect,
    ExitProcess,
    ProviderState,
    failure_of,
)
from market.types import Event, FinishReason, GatewayId, Job, ModelFacts, ModelId, RequestId

MODEL = ModelId("coster/demo")
FACTS = ModelFacts(MODEL, "d", 1024, 512, 1_000_000, 2048, "bf16")
OFFER = Offer((MODEL,), (FACTS.weight_bytes,), 10_000_000)
DRAIN = {"drain": True, "models": None, "now_s": 0.0}
A, B = GatewayId("gw_a"), GatewayId("gw_b")


def job(name: str, *, n: int = 1, prompt: int = 4, max_tokens: int = 8) -> Job:
    return Job(RequestId(name), MODEL, tuple(range(prompt)), max_tokens, n=n)


def event(name: str, index: int = 0, finish: FinishReason | None = None, count: int = 1) -> Event:
    return Event(RequestId(name), index, (7,), "x", count, finish)


def starting(**limits: int) -> ProviderState:
    """A Mac that has its orders and loads its model."""
    state = ProviderState(OFFER, **limits)
    assert Load(MODEL) in state.orders(drain=False, models=(MODEL,), now_s=0.0)
    return state


def ready(**limits: int) -> ProviderState:
    state = starting(**limits)
    state.loaded(FACTS, 0.0)
    return state


def delivered(effects: list[Effect]) -> dict[str, list[Event]]:
    return {str(e.gateway): list(e.events) for e in effects if isinstance(e, Deliver)}


def test_nothing_is_accepted_before_the_engine_is_loaded() -> None:
    """A starting Mac refuses work in a way that another Mac may take it."""
    state = starting()

    with pytest.raises(Unavailable) as refused:
        state.submit(job("r"), A, 0.0)

    assert failure_of(refused.value).code == "rejected"
    assert state.loaded(FACTS, 0.0) == [Announce("ready", "")]


def test_events_go_to_the_gateway_that_owns_the_job_and_in_order() -> None:
    """One engine step is split by owner; the order of a job's events is kept."""
    state = ready()
    state.submit(job("a"), A, 0.0)
    state.submit(job("b"), B, 0.0)

    effects = state.events([event("a"), event("b"), event("a", count=2)], 0.0)

    sent = delivered(effects)
    assert [e.count for e in sent["gw_a"]] == [1, 2]
    assert [e.request_id for e in sent["gw_b"]] == ["b"]


def test_a_job_of_several_choices_ends_with_its_last_choice() -> None:
    """A job holds its place until every choice has finished."""
    state = ready()
    state.submit(job("a", n=2), A, 0.0)

    state.events([event("a", 0, "stop")], 0.0)
    assert state.snapshot(0.0).in_flight_jobs == 1
    state.events([event("a", 1, "length")], 0.0)

    assert state.snapshot(0.0).in_flight_jobs == 0
    assert state.snapshot(0.0).finished == 1


def test_jobs_in_flight_never_exceed_the_limit() -> None:
    """The job beyond the limit is refused and the others stay."""
    state = ready(max_in_flight_jobs=2)
    state.submit(job("a"), A, 0.0)
    state.submit(job("b"), A, 0.0)

    with pytest.raises(Unavailable):
        state.submit(job("c"), A, 0.0)

    assert state.snapshot(0.0).in_flight_jobs == 2
    assert state.snapshot(0.0).refused == 1


def test_an_id_that_runs_here_is_a_conflict() -> None:
    """The same request never runs twice on one Mac."""
    state = ready()
    state.submit(job("a"), A, 0.0)
    with pytest.raises(Conflict):
        state.submit(job("a"), B, 0.0)


def test_a_job_beyond_the_context_is_invalid_everywhere() -> None:
    """A job that no Mac could do must not be retried on another one."""
    with pytest.raises(InvalidRequest) as refused:
        ready().submit(job("a", max_tokens=1024), A, 0.0)
    assert failure_of(refused.value).code == "invalid"


def test_an_invalid_job_names_its_field_to_the_gateway() -> None:
    """The field an engine refuses travels with the refusal."""
    refused = failure_of(InvalidRequest("top_k is too large.", "top_k"))
    assert (refused.code, refused.param) == ("invalid", "top_k")


def test_draining_finishes_what_runs_and_takes_nothing_new() -> None:
    """Drain lets jobs end, refuses new ones as `draining`, and is drained after the last."""
    state = ready()
    state.submit(job("a"), A, 0.0)

    assert state.orders(**DRAIN) == [Announce("draining", "the operator asked")]
    assert state.orders(**DRAIN) == []
    with pytest.raises(Unavailable) as refused:
        state.submit(job("b"), A, 0.0)
    assert failure_of(refused.value).code == "draining"
    effects = state.events([event("a", finish="stop")], 0.0)

    assert Announce("drained", "the operator asked") in effects
    assert state.orders(drain=False, models=None, now_s=0.0) == [Announce("ready", "")]
    state.submit(job("b"), A, 0.0)


def test_an_idle_mac_drains_at_once() -> None:
    """With nothing running there is nothing to wait for."""
    state = ready()
    state.drain("sleep", 0.0)
    assert state.state == "drained"


def test_a_drain_asked_for_while_loading_is_kept() -> None:
    """A Mac drained during its start never passes through ready."""
    state = starting()
    state.drain("maintenance", 0.0)
    assert state.state == "starting"
    state.loaded(FACTS, 0.0)
    assert state.state == "drained"


def test_a_gone_gateway_has_all_its_jobs_cancelled_and_no_one_elses() -> None:
    """The jobs of a gone gateway are named once; their late events reach nobody."""
    state = ready()
    state.submit(job("a"), A, 0.0)
    state.submit(job("b"), B, 0.0)

    assert state.gateway_gone(A) == [CancelJob(RequestId("a"), MODEL)]
    assert state.gateway_gone(A) == []
    effects = state.events([event("a", finish="cancelled"), event("b")], 0.0)

    assert list(delivered(effects)) == ["gw_b"]
    assert state.snapshot(0.0).orphaned_events == 1
    assert state.snapshot(0.0).in_flight_jobs == 1


def test_only_the_owner_may_cancel() -> None:
    """A gateway cannot stop another gateway's job."""
    state = ready()
    state.submit(job("a"), A, 0.0)
    assert state.cancel(RequestId("a"), B) == []
    assert state.cancel(RequestId("a"), A) == [CancelJob(RequestId("a"), MODEL)]


def test_an_unhealthy_engine_fails_every_job_once_and_restarts() -> None:
    """Each open job gets one failure that allows failover; the engine starts again."""
    state = ready()
    state.submit(job("a"), A, 0.0)
    state.submit(job("b", n=3), B, 0.0)

    effects = state.engine_unhealthy(MODEL, "stuck", 0.0)

    sent = delivered(effects)
    assert [[e.error.code for e in events if e.error] for events in sent.values()] == [
        ["engine"],
        ["engine"],
    ]
    assert Unload(MODEL) in effects
    assert state.state == "failing"
    assert state.engine_unhealthy(MODEL, "stuck", 0.0) == []
    state.unloaded(MODEL, 0.0)
    assert state.tick(0.0) == []
    again = Announce("starting", "loading coster/demo again")
    assert state.tick(RETRY_DELAYS_S[0]) == [Load(MODEL), again]
    assert state.events([event("a", finish="stop")], 0.0) == []


def fault_and_retry(state: ProviderState, now_s: float) -> tuple[list[Effect], float]:
    """One fault and the next try; what the fault led to, and when the try was made."""
    effects = state.engine_unhealthy(MODEL, "stuck", now_s)
    state.unloaded(MODEL, now_s)
    for delay_s in RETRY_DELAYS_S:
        if Load(MODEL) in state.tick(now_s + delay_s):
            state.loaded(FACTS, now_s + delay_s)
            return effects, delay_s
    return effects, 0.0


def test_tries_in_a_row_are_bounded_and_a_finished_job_forgives_them() -> None:
    """After the last allowed try the process ends; useful work resets the count."""
    state = ready()
    for number, delay_s in enumerate(RETRY_DELAYS_S):
        effects, waited_s = fault_and_retry(state, 100.0 * number)
        assert waited_s == delay_s
        assert not any(isinstance(e, ExitProcess) for e in effects)
    state.submit(job("a"), A, 600.0)
    state.events([event("a", finish="stop")], 600.0)

    for number, delay_s in enumerate(RETRY_DELAYS_S):
        assert fault_and_retry(state, 1000.0 + 100.0 * number)[1] == delay_s
    effects, waited_s = fault_and_retry(state, 2000.0)
    assert any(isinstance(e, ExitProcess) for e in effects)
    assert waited_s == 0.0


def test_a_model_that_can_never_load_is_not_retried() -> None:
    """A permanent load failure stays failing, with its reason, and restarts nothing."""
    state = starting()
    effects = state.load_failed(MODEL, "weights.npz is corrupt", 0.0, permanent=True)
    assert state.state == "failing"
    assert "weights.npz" in state.reason
    assert not any(isinstance(e, Load | ExitProcess) for e in effects)
    assert state.tick(1e6) == []


def test_a_job_that_the_engine_refuses_holds_nothing() -> None:
    """It has no place among the running ones, and its model can leave as if it had never come."""
    state = ready()
    state.submit(job("a"), A, 0.0)
    state.submit_failed(RequestId("a"), 0.0)
    seen = state.snapshot(0.0)
    assert (seen.in_flight_jobs, seen.refused) == (0, 1)
    state.orders(drain=False, models=(), now_s=0.0)
    assert Unload(MODEL) in state.tick(10.0)


def test_stopping_loses_open_jobs_aloud_and_is_final() -> None:
    """Each open job hears `lost`; a stopped Mac never works again."""
    state = ready()
    state.submit(job("a"), A, 0.0)

    sent = delivered(state.stop("shutting down"))

    assert sent["gw_a"][0].error is not None
    assert sent["gw_a"][0].error.code == "lost"
    assert state.loaded(FACTS, 0.0) == []
    assert state.orders(drain=False, models=(MODEL,), now_s=0.0) == []
    assert state.state == "stopped"


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["submit", "finish", "gone", "drain", "undrain", "unhealthy"]),
        st.integers(0, 5),
        st.sampled_from([A, B]),
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(ACTIONS)
def test_every_accepted_job_ends_exactly_once(actions: list[tuple[str, int, GatewayId]]) -> None:
    """Whatever happens: accepted = finished + in flight, and the limit holds."""
    state = ready(max_in_flight_jobs=3)
    for action, number, gateway in actions:
        name = f"r{number}"
        if action == "submit":
            with contextlib.suppress(MarketError):
                state.submit(job(name), gateway, 0.0)
        elif action == "finish":
            state.events([event(name, finish="stop")], 0.0)
        elif action == "gone":
            state.gateway_gone(gateway)
        elif action == "drain":
            state.drain("x", 0.0)
        elif action == "undrain":
            state.orders(drain=False, models=None, now_s=0.0)
        else:
            fault_and_retry(state, 0.0)
        seen = state.snapshot(0.0)
        assert seen.accepted == seen.finished + seen.in_flight_jobs
        assert seen.in_flight_jobs <= 3
        assert not (seen.state in ("drained", "failing") and seen.in_flight_jobs)
