"""Laws of flow: what is refused early and when to come back, second tries, bad Macs, replays."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from market.errors import InvalidRequest, Unavailable
from market.policy.candidates import Candidates
from market.policy.decision import best
from market.policy.preferences import Preferences
from market.policy.prefixes import BLOCK_TOKENS, block_hashes
from market.routing.hedges import HEDGE_SHARE, Hedges
from market.routing.lengths import FIRST_TOKENS, Lengths
from market.routing.macs import QUARANTINE_S
from market.routing.messages import Busy, Grant, Outcome, QuotedMac, Refused
from market.routing.notes import Noted, replay
from market.routing.prefixes import Prefixes
from market.routing.state import RouterState
from market.routing.waits import wait_s
from market.types import AccountId, MachineId, ModelId, ProviderId, RequestId
from tests.router_kit import (
    FACTS,
    MODEL,
    granted,
    mail,
    outcome,
    provider_beat,
    request,
    route_one,
    settled_router,
)

B = ProviderId("prv_b")


def beating(state: RouterState, *names: str, now_s: float, slots: int = 4) -> None:
    for name in names:
        state.beat_provider(provider_beat(name, slots=slots), now_s)


# ── refusing early ────────────────────────────────────────────────────────────────────


def test_who_comes_back_when_told_is_served() -> None:
    """A request that would wait beyond its deadline is told at once, and when to come back."""
    state = settled_router(provider_beat("a", slots=1))
    running = granted(state, request("r", max_tokens=100))
    reply = route_one(state, request("w", queue=True, deadline_s=1.0))
    assert isinstance(reply, Unavailable)
    assert reply.code == "deadline_infeasible"
    assert reply.retry_after_s is not None
    later_s = 10.0 + reply.retry_after_s
    beating(state, "a", now_s=later_s, slots=1)
    again = route_one(state, request("w2", queue=True, deadline_s=1.0), later_s)
    assert isinstance(again, Busy)
    state.report([outcome(running)], later_s + 0.9)
    (letter,) = mail(state)
    assert isinstance(letter, Grant)


def test_a_deadline_no_mac_can_meet_is_refused_before_it_is_paid_for() -> None:
    """Ten thousand tokens in ten milliseconds: nobody is asked to try."""
    state = settled_router(provider_beat("a"))
    hurried = replace(request("r", max_tokens=5000), finish_by_s=0.01)
    reply = route_one(state, hurried)
    assert isinstance(reply, Unavailable)
    assert reply.code == "deadline_infeasible"
    assert not reply.retry
    assert state.metrics(10.0)["coster_router_rejected_early_total"] == 1.0


def test_asking_again_is_advised_only_where_an_idle_mac_would_be_in_time() -> None:
    """What load makes late may come in time later; what is late on the fastest Mac never does."""
    state = settled_router(provider_beat("a", bandwidth_gbs=100.0), provider_beat("b", slots=1))
    (alone_s,) = {mac.total_ms / 1e3 for mac in quoted_macs(state) if mac.provider == "prv_b"}
    running = granted(state, replace(request("r"), preferences=Preferences(only=(B,))))
    for finish_by_s, again in ((1.5 * alone_s, True), (0.5 * alone_s, False)):
        late = route_one(state, replace(request(f"q{again}"), finish_by_s=finish_by_s))
        assert isinstance(late, Unavailable)
        assert (late.code, late.retry) == ("deadline_infeasible", again)
    state.report([outcome(running)], 10.0)
    granted(state, replace(request("then"), finish_by_s=1.5 * alone_s))


def quoted_macs(state: RouterState) -> tuple[QuotedMac, ...]:
    (quote,) = state.quote([request("asked")], 10.0)
    return quote.macs


def test_whom_the_caller_insists_on_is_named_when_it_lacks_the_model() -> None:
    """The refusal says that, and not only that others are not named; `order` alone insists too."""
    other = replace(FACTS, model=ModelId("m/other"))
    state = settled_router(provider_beat("a"), provider_beat("b", models=(other,)))
    for wished in (Preferences(only=(B,)), Preferences(order=(B,), allow_fallbacks=False)):
        reply = route_one(state, replace(request("r"), preferences=wished))
        assert isinstance(reply, InvalidRequest)
        assert reply.code == "no_provider_matches"
        assert "prv_b does not have coster/demo loaded" in str(reply)


def test_the_wait_is_that_of_a_simulation() -> None:
    """The predicted wait equals playing the queue out slot by slot."""
    random = Random(3)
    for _ in range(50):
        slots, ahead = random.randint(1, 5), random.randint(0, 12)
        ends = [random.uniform(0, 20) for _ in range(slots)]
        free = sorted(ends)
        for _ in range(ahead):
            free = sorted([free[0] + 3.0, *free[1:]])
        assert wait_s(ends, [3.0] * ahead, slots, 0.0) == pytest.approx(max(free[0], 0.0))


# ── wishes ────────────────────────────────────────────────────────────────────────────


def test_wishes_that_leave_nobody_are_the_callers_error() -> None:
    """The filter that emptied the list is named, and what to relax."""
    state = settled_router(provider_beat("a"), provider_beat("b"))
    wished = Preferences(max_price_in_nano=1, ignore=(ProviderId("prv_b"),))
    asked = replace(request("r", queue=True), preferences=wished, price_in_nano=100)
    reply = route_one(state, asked)
    assert isinstance(reply, InvalidRequest)
    assert reply.code == "no_provider_matches"
    assert "1 ignored by you, 1 above your max_price" in reply.message
    assert "provider.ignore or provider.max_price" in reply.message


def test_a_provider_that_never_was_is_a_slip() -> None:
    """An unknown id in `only` or `order` is named; one that has just died is not unknown."""
    state = settled_router(provider_beat("a"), provider_beat("b"))
    state.machine_lost(MachineId("mac_b"), "died", 10.0)
    for field in ("only", "order"):
        wished = Preferences(**{field: (ProviderId("prv_typo"),)})  # type: ignore[arg-type]
        reply = route_one(state, replace(request(field), preferences=wished))
        assert isinstance(reply, InvalidRequest)
        assert (reply.param, reply.code) == (f"provider.{field}", "unknown_provider")
    wished = Preferences(only=(ProviderId("prv_b"),))
    assert isinstance(route_one(state, replace(request("r"), preferences=wished)), Busy)


# ── second tries ──────────────────────────────────────────────────────────────────────


def test_second_tries_stay_within_their_share() -> None:
    """However many ask, tokens granted twice never exceed the share of all tokens granted."""
    hedges, random = Hedges(), Random(5)
    start = hedges._granted
    first, second = 0.0, 0.0
    for _ in range(20_000):
        tokens = random.uniform(10, 3000)
        hedges.granted(tokens)
        first += tokens
        if hedges.allow(tokens):
            second += tokens
        assert second <= HEDGE_SHARE * (start + first) + 1e-6
    assert second > 0.9 * HEDGE_SHARE * first


def test_a_second_try_takes_nobodys_place() -> None:
    """With somebody in the queue, or no other Mac, there is none; else it goes elsewhere."""
    state = settled_router(provider_beat("a", slots=1), provider_beat("b", slots=1))
    first = granted(state, request("r"))
    assert first.hedge_after_ms > first.predicted_ttft_ms
    tried = (first.machine.removeprefix("mac_"),)
    second = replace(request("r", attempt=2, excluded=tried), hedge=True)
    grant = route_one(state, second)
    assert isinstance(grant, Grant)
    assert grant.machine != first.machine
    state.report([outcome(grant, "cancelled", final=False)], 10.0)
    granted(state, request("q"))
    route_one(state, request("w", queue=True, max_tokens=5))
    assert route_one(state, replace(second, request_id=RequestId("r3"))) == Busy(RequestId("r3"), 1)


# ── bad Macs ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("result", ["rejected", "failed"])
def test_a_mac_that_always_refuses_gets_few_requests_and_recovers(result: str) -> None:
    """Fewer than ten dispatches in any minute, and all its slots again once it works."""
    state = settled_router(provider_beat("bad", slots=8), provider_beat("good", slots=1))
    state.report([outcome(granted(state, request("warm")), "ok")], 10.0)
    now_s, given = 10.0, []
    for number in range(4000):
        now_s += 0.1
        if number % 10 == 0:
            beating(state, "good", now_s=now_s, slots=1)
            beating(state, "bad", now_s=now_s, slots=8)
        reply = route_one(state, request(f"r{number}", excluded=("good",), attempt=2), now_s)
        if isinstance(reply, Grant):
            given.append(now_s)
            state.report([outcome(reply, result)], now_s)
    assert all(sum(t <= s < t + 60 for s in given) < 10 for t in given)
    assert given[-1] > now_s - 61.0
    now_s += 61.0
    for number in range(2):
        beating(state, "bad", now_s=now_s, slots=8)
        probe = granted(state, request(f"ok{number}", excluded=("good",), attempt=2), now_s)
        state.report([outcome(probe, "ok")], now_s)
    now_s += 600.0
    beating(state, "bad", now_s=now_s, slots=8)
    held = [
        granted(state, request(f"h{n}", excluded=("good",), attempt=2), now_s) for n in range(8)
    ]
    assert {grant.machine for grant in held} == {"mac_bad"}


NONSENSE = [
    {"memory_bytes": 2**50},
    {"ask_pct": 0},
    {"trust": "utmost"},
    {"stats": {"decode_tps": float("nan")}},
    {"stats": {"decode_tps": 1e9, "running": 1}},
    {"stats": {"slots": 10**9}},
    {"stats": {"running": -1}},
    {"hardware": {"memory_gb": 10**6}},
    {"hardware": {"bandwidth_gbs": float("inf")}},
]


@pytest.mark.parametrize("wrong", NONSENSE, ids=lambda wrong: str(wrong)[:40])
def test_a_mac_that_says_the_impossible_is_set_apart(wrong: dict[str, object]) -> None:
    """It gets no work and says why, the others go on, and it is taken back when it makes sense."""
    state = settled_router(provider_beat("a"), provider_beat("odd"))
    beat = provider_beat("odd")
    changed = {
        name: replace(getattr(beat, name), **value) if isinstance(value, dict) else value
        for name, value in wrong.items()
    }
    state.beat_provider(replace(beat, **changed), 10.0)
    assert {granted(state, request(f"r{n}")).machine for n in range(3)} == {"mac_a"}
    (told,) = [mac for mac in state.status(10.0)["macs"] if mac["machine"] == "mac_odd"]
    assert told["quarantined"]
    later_s = 10.0 + QUARANTINE_S + 1.0
    for name in ("a", "odd"):
        state.beat_provider(provider_beat(name), later_s)
    assert "mac_odd" in {granted(state, request(f"q{n}"), later_s).machine for n in range(4)}


# ── what Macs remember ────────────────────────────────────────────────────────────────

SCOPE = "acct_c"


def test_a_conversation_returns_to_the_mac_that_has_read_it() -> None:
    """Of two equal Macs the one that holds the prefix is chosen, and another consumer's is not."""
    state = settled_router(provider_beat("a"), provider_beat("b"))
    tokens = list(range(5000))
    asked = replace(
        request("r", prompt_tokens=4000), prefix=block_hashes(tokens[:4000], SCOPE, MODEL)
    )
    first = granted(state, asked)
    ended = replace(outcome(first), prefix=block_hashes(tokens[:4500], SCOPE, MODEL))
    state.report([ended], 10.0)
    for number in range(6):
        again = replace(
            request(f"q{number}", prompt_tokens=5000), prefix=block_hashes(tokens, SCOPE, MODEL)
        )
        grant = granted(state, again)
        assert grant.machine == first.machine
        state.report([outcome(grant, "cancelled")], 10.0)
    assert not set(block_hashes(tokens, SCOPE, MODEL)) & set(block_hashes(tokens, "other", MODEL))


def test_what_was_thought_cached_and_was_not_is_forgotten() -> None:
    """An answer that had nothing cached corrects the mirror."""
    prefixes, machine = Prefixes(), MachineId("m")
    hashes = block_hashes(list(range(640)), SCOPE, MODEL)
    prefixes.note(machine, MODEL, hashes, 1000)
    assert prefixes.cached_tokens(MODEL, hashes) == {machine: 640}
    prefixes.correct(machine, MODEL, hashes, 2 * BLOCK_TOKENS)
    assert prefixes.cached_tokens(MODEL, hashes) == {machine: 3 * BLOCK_TOKENS}
    prefixes.forget(machine)
    assert len(prefixes) == 0
    assert prefixes.cached_tokens(MODEL, hashes) == {}


def test_the_mirror_is_as_large_as_the_cache_and_keeps_what_is_shared() -> None:
    """Beyond its size the least recently used goes, a shared beginning last of all."""
    prefixes, machine, model = Prefixes(), MachineId("m"), ModelId("x")
    shared = list(range(128))
    for number in range(20):
        own = shared + [1000 + number] * 256
        prefixes.note(machine, model, block_hashes(own, SCOPE, model), 10)
        assert len(prefixes) <= 10
    newest = block_hashes(shared + [1019] * 256, SCOPE, model)
    oldest = block_hashes(shared + [1000] * 256, SCOPE, model)
    assert prefixes.cached_tokens(model, newest) == {machine: 384}
    assert prefixes.cached_tokens(model, oldest) == {machine: 128}


# ── replays ───────────────────────────────────────────────────────────────────────────


def test_a_stored_decision_replayed_gives_the_same_mac_and_terms() -> None:
    """Over a thousand requests of all kinds: the winner is the least, the terms add up."""
    random = Random(11)
    names = "abcdefgh"
    state = settled_router(*(provider_beat(x, slots=random.randint(1, 6)) for x in names))
    now_s, held = 10.0, []
    for number in range(1000):
        now_s += random.uniform(0, 0.2)
        if number % 5 == 0:
            for name in names:
                state.beat_provider(provider_beat(name, slots=4), now_s)
        wished = random.choice(
            [Preferences(), Preferences(sort="price"), Preferences(preferred_min_tps=20.0)]
        )
        asked = replace(
            request(f"r{number}", n=random.choice([1, 1, 2]), prompt_tokens=random.randint(1, 900)),
            preferences=wished,
            price_in_nano=100,
            price_out_nano=700,
        )
        reply = route_one(state, asked, now_s)
        if isinstance(reply, Grant):
            held.append(reply)
        while len(held) > 12:
            done = held.pop(random.randrange(len(held)))
            ended = Outcome(
                done.request_id,
                1,
                done.machine,
                random.choice(["ok", "ok", "failed"]),
                True,
                completion_tokens=random.randint(2, 90),
                ttft_ms=random.uniform(20, 900),
                total_ms=random.uniform(900, 9000),
            )
            state.report([ended], now_s)
    notes = [note for note in state.take_journal() if isinstance(note, Noted)]
    assert len(notes) > 500
    for note in notes:
        record = note.record()
        assert record.packed is not None
        again = replay(record.packed)
        assert again.chosen == record.chosen
        assert [(v.machine, v.terms_ms) for v in best(again)] == [
            (mac.machine, mac.terms_ms) for mac in record.top
        ]
        assert isinstance(again.candidates, Candidates)


def test_queued_letters_are_grants_or_refusals() -> None:
    """What waits ends as one of the two, never as silence."""
    state = settled_router(provider_beat("a", slots=1))
    running = granted(state, request("r", max_tokens=5))
    for number in range(4):
        route_one(state, request(f"w{number}", queue=True, max_tokens=5, deadline_s=9.0))
    state.report([outcome(running)], 11.0)
    state.tick(19.5)
    letters = mail(state)
    assert len(letters) == 4
    assert [type(letter) for letter in letters] == [Grant, *[Refused] * 3]


# ── what answers are like ─────────────────────────────────────────────────────────────


def test_expectations_follow_what_was_answered() -> None:
    """The mean is that of the answers cut at the limit; nine in ten are below the high one."""
    lengths, random = Lengths(), Random(2)
    assert lengths.expected(MODEL, None, 1000) == (FIRST_TOKENS, 2 * FIRST_TOKENS)
    said = [min(4000.0, random.lognormvariate(5.0, 0.9)) for _ in range(3000)]
    for tokens in said:
        lengths.learn(MODEL, None, tokens)
    latest = said[-200:]
    for limit in (50, 300, 4000):
        mean, high = lengths.expected(MODEL, None, limit)
        assert mean == pytest.approx(sum(min(t, limit) for t in latest) / 200, rel=0.25)
        assert sum(min(t, limit) <= high * 1.1 for t in latest) / 200 > 0.8
    longer, _ = lengths.expected(MODEL, None, 4000, said=2000)
    assert longer < 2000.0


def test_a_consumers_own_answers_count_more_the_more_there_are() -> None:
    """One whose answers are short is expected to get short ones; a stranger gets the model's."""
    lengths = Lengths()
    ann, bob = AccountId("ann"), AccountId("bob")
    for _ in range(100):
        lengths.learn(MODEL, ann, 10)
        lengths.learn(MODEL, bob, 1000)
    for_ann, _ = lengths.expected(MODEL, ann, 4000)
    for_new, _ = lengths.expected(MODEL, AccountId("new"), 4000)
    for_bob, _ = lengths.expected(MODEL, bob, 4000)
    assert for_ann < 0.25 * for_new < for_new < for_bob
