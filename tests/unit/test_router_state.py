"""Laws of granting and releasing slots, and of waiting for one."""

from __future__ import annotations

from market.errors import Unavailable
from market.routing.collecting import PATIENCE_S
from market.routing.messages import Busy, Grant, Outcome, Refused
from market.routing.state import (
    MAX_ATTEMPTS,
    REBUILD_S,
    RouterState,
)
from market.types import GatewayId, MachineId, RequestId
from tests.router_kit import (
    GATEWAY,
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


# ── granting ──────────────────────────────────────────────────────────────────────────


def test_slots_are_never_reserved_twice() -> None:
    """As many grants as there are slots, then Busy."""
    state = settled_router(provider_beat("a", slots=2), provider_beat("b", slots=1))
    replies = state.route([request(f"r{i}") for i in range(5)], 10.0)
    assert [type(r) for r in replies] == [Grant, Grant, Grant, Busy, Busy]
    assert in_flight(state) == {"mac_a": 2, "mac_b": 1}


def test_a_grant_says_where_and_whom_to_pay() -> None:
    """A grant carries the provider's public id, its owner and its address."""
    state = settled_router(provider_beat("a"))
    grant = granted(state, request("r"))
    assert (grant.machine, grant.provider, grant.payee) == ("mac_a", "prv_a", "acct_a")


def test_asking_again_for_the_same_attempt_returns_the_same_grant() -> None:
    """A batch that is sent twice reserves once."""
    state = settled_router(provider_beat("a"))
    assert granted(state, request("r")) == granted(state, request("r"))
    assert in_flight(state) == {"mac_a": 1}


def test_excluded_macs_are_never_chosen() -> None:
    """A Mac that failed the request is not tried again by it."""
    state = settled_router(provider_beat("a"), provider_beat("b"))
    for number in range(4):
        grant = granted(state, request(f"r{number}", attempt=2, excluded=("a",)))
        assert grant.machine == "mac_b"


def test_a_request_has_three_attempts() -> None:
    """The fourth attempt is refused, with a reason the client can act on."""
    state = settled_router(provider_beat("a"))
    granted(state, request("r", attempt=MAX_ATTEMPTS))
    reply = route_one(state, request("q", attempt=MAX_ATTEMPTS + 1))
    assert code_of(reply) == "attempts_exhausted"


def test_without_any_mac_the_refusal_says_how_the_fleet_stands() -> None:
    """503 no_provider names the count of Macs per reason and when to come back."""
    state = settled_router(provider_beat("a", state="draining"), provider_beat("b"))
    state.drain(MAC_B, "update")
    reply = route_one(state, request("r", queue=True))
    assert code_of(reply) == "no_provider"
    assert isinstance(reply, Unavailable)
    assert "0 of 2 Macs can take this now: 2 draining" in reply.message
    assert reply.retry_after_s is not None


def test_an_unknown_model_is_refused_at_once_but_not_while_rebuilding() -> None:
    """Just after a restart nobody has declared anything yet, so requests wait."""
    state = RouterState(started_s=0.0)
    assert isinstance(route_one(state, request("r", queue=True), 0.1), Busy)
    state.tick(REBUILD_S + 0.6)
    (refused,) = mail(state)
    assert isinstance(refused, Refused)
    assert code_of(refused.error) == "no_provider"


def test_a_restarted_router_trusts_what_macs_say_they_run() -> None:
    """Until gateways have declared their grants, a full Mac's own word keeps it closed."""
    state = RouterState(started_s=0.0)
    state.beat_provider(provider_beat("a", slots=2, running=2), 0.5)
    assert isinstance(route_one(state, request("r"), 0.6), Busy)
    assert isinstance(route_one(state, request("r"), REBUILD_S + 0.1), Grant)


def test_equal_history_and_seed_give_equal_decisions() -> None:
    """Replaying a history gives the same grants; another seed may differ."""

    def play(seed: int) -> list[str]:
        state = settled_router(*(provider_beat(x, slots=9) for x in "abcd"), seed=seed)
        return [granted(state, request(f"r{i}")).machine for i in range(20)]

    assert play(3) == play(3)
    assert any(play(3) != play(seed) for seed in range(4, 8))


# ── releasing ─────────────────────────────────────────────────────────────────────────


def test_a_grant_is_released_exactly_once() -> None:
    """An outcome that is reported twice frees one slot."""
    state = settled_router(provider_beat("a"))
    grant = granted(state, request("r"))
    granted(state, request("q"))
    state.report([outcome(grant)], 10.0)
    state.report([outcome(grant)], 10.0)
    assert in_flight(state) == {"mac_a": 1}


def test_a_free_slot_goes_to_who_waits() -> None:
    """The moment a slot is free, the waiting request has it, through its gateway's mail."""
    state = settled_router(provider_beat("a", slots=1))
    grant = granted(state, request("r"))
    assert route_one(state, request("w", queue=True)) == Busy(RequestId("w"), 1)
    assert mail(state) == []
    state.report([outcome(grant)], 11.0)
    assert state.woken() == {GATEWAY}
    (letter,) = mail(state)
    assert isinstance(letter, Grant)
    assert letter.request_id == "w"
    assert in_flight(state) == {"mac_a": 1}


def test_a_mac_that_arrives_serves_who_waits() -> None:
    """New room of any kind is offered to the queue first."""
    state = settled_router(provider_beat("a", slots=1))
    granted(state, request("r"))
    route_one(state, request("w", queue=True))
    state.beat_provider(provider_beat("b"), 11.0)
    (letter,) = mail(state)
    assert isinstance(letter, Grant)
    assert letter.machine == "mac_b"


def test_a_waiting_request_that_fits_is_not_blocked_by_one_that_does_not() -> None:
    """Who cannot use the free slot does not stand in the way of who can."""
    state = settled_router(provider_beat("a", slots=1), provider_beat("b", slots=1))
    first = granted(state, request("r0"))
    granted(state, request("r1"))
    free = first.machine.removeprefix("mac_")
    route_one(state, request("picky", queue=True, attempt=2, excluded=(free,)))
    route_one(state, request("easy", queue=True, consumer="acct_2"))
    state.report([outcome(first)], 11.0)
    assert [letter.request_id for letter in mail(state)] == ["easy"]


def test_a_wide_request_is_not_starved_by_narrow_ones() -> None:
    """After some patience a Mac is kept free until the request of n choices fits."""
    state = settled_router(provider_beat("a", slots=2))
    held = [granted(state, request("r0")), granted(state, request("r1"))]
    route_one(state, request("wide", queue=True, n=2))
    route_one(state, request("s0", queue=True, consumer="acct_2"))
    now_s = 10.0 + PATIENCE_S + 1.0
    state.beat_provider(provider_beat("a", slots=2), now_s)
    state.report([outcome(held[0])], 10.1)
    served = [letter.request_id for letter in mail(state)]
    assert served == ["s0"]
    state.tick(now_s)
    route_one(state, request("s1", queue=True, consumer="acct_2"), now_s)
    state.report([outcome(held[1])], now_s)
    assert mail(state) == []
    state.report([Outcome(RequestId("s0"), 1, MAC_A, "ok", True)], now_s)
    (wide,) = mail(state)
    assert isinstance(wide, Grant)
    assert wide.request_id == "wide"
    assert in_flight(state) == {"mac_a": 2}
    state.report([outcome(wide)], now_s)
    granted(state, request("s2"), now_s)


def test_a_wide_request_takes_a_whole_smaller_mac() -> None:
    """More choices than a Mac has slots reserve all of them instead of waiting for ever."""
    state = settled_router(provider_beat("a", slots=2))
    granted(state, request("wide", n=8))
    assert in_flight(state) == {"mac_a": 2}


def test_a_deadline_in_the_queue_is_told_with_the_reasons() -> None:
    """Who waited in vain hears 503 with how the fleet stood."""
    state = settled_router(provider_beat("a", slots=1))
    granted(state, request("r", max_tokens=5))
    route_one(state, request("w", queue=True, deadline_s=1.0))
    state.tick(11.1)
    (letter,) = mail(state)
    assert isinstance(letter, Refused)
    assert code_of(letter.error) == "queue_timeout"
    assert "1 busy" in str(letter.error)


def test_leaving_the_queue_leaves_nothing_behind() -> None:
    """A client that goes while waiting gets no slot later, even if its asking is late."""
    state = settled_router(provider_beat("a", slots=1))
    grant = granted(state, request("r"))
    route_one(state, request("w", queue=True))
    left = Outcome(RequestId("w"), 1, MachineId(""), "cancelled", final=True)
    state.report([left, outcome(grant)], 11.0)
    assert mail(state) == []
    assert in_flight(state) == {"mac_a": 0}
    assert code_of(route_one(state, request("w", queue=True), 11.0)) == "given_up"


def test_leaving_while_the_grant_is_in_the_mail_frees_it() -> None:
    """A slot granted to a client that has just left goes to the next one."""
    state = settled_router(provider_beat("a", slots=1))
    grant = granted(state, request("r"))
    route_one(state, request("w", queue=True))
    route_one(state, request("v", queue=True))
    state.report([outcome(grant)], 11.0)
    state.report([Outcome(RequestId("w"), 1, MachineId(""), "cancelled", final=True)], 11.0)
    assert [letter.request_id for letter in mail(state)] == ["v"]
