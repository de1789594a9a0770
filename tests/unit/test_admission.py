"""Laws of rate tiers and of affordable answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.accounting import admission
from market.accounting.admission import DAY_NS, TIERS, Meter, Tier
from market.errors import PaymentRequired, RateLimited

S = 1_000_000_000


def admit_at(meter: Meter, tier: Tier, tick_ns: int) -> bool:
    """One request; True when it passes."""
    try:
        meter.tat_ns = admission.next_arrival_ns(meter, tier, tick_ns)
    except RateLimited:
        return False
    return True


@pytest.mark.parametrize(("name", "limit"), [("free", 60), ("paid", 600)])
def test_a_burst_takes_exactly_a_minutes_allowance(name: str, limit: int) -> None:
    """At one instant the tier's number of requests pass, and not one more."""
    meter = Meter()

    assert [admit_at(meter, TIERS[name], S) for _ in range(limit + 1)] == [True] * limit + [False]


@given(st.lists(st.integers(0, 3 * S), min_size=80, max_size=200))
def test_no_minute_admits_twice_the_allowance(gaps: list[int]) -> None:
    """In any window of a minute at most 2·limit − 1 requests pass, however they arrive."""
    tier, meter, now, passed = Tier("t", 20, None), Meter(), 0, []
    for gap in gaps:
        now += gap
        if admit_at(meter, tier, now):
            passed.append(now)

    for start in passed:
        assert sum(start <= at < start + 60 * S for at in passed) <= 39


@given(st.integers(0, 10**6), st.integers(1, 600))
def test_the_named_wait_is_exact(start: int, limit: int) -> None:
    """One nanosecond before `retry_after_s` is refused, at it is admitted."""
    tier, meter = Tier("t", limit, None), Meter()
    while admit_at(meter, tier, start):
        pass
    with pytest.raises(RateLimited) as refused:
        admission.next_arrival_ns(meter, tier, start)
    wait_ns = round((refused.value.retry_after_s or 0) * S)

    assert not admit_at(meter, tier, start + wait_ns - 1)
    assert admit_at(meter, tier, start + wait_ns)


def test_a_refused_request_counts_against_nothing() -> None:
    """Hammering while refused does not push the next chance away."""
    meter, tier = Meter(), TIERS["free"]
    while admit_at(meter, tier, S):
        pass
    before = meter.tat_ns
    for _ in range(100):
        admit_at(meter, tier, S)

    assert meter.tat_ns == before


def test_an_operator_is_never_limited() -> None:
    """No rate and no tokens a day: the headers say nothing."""
    meter, tier = Meter(), TIERS["operator"]

    assert all(admit_at(meter, tier, S) for _ in range(10_000))
    assert admission.tokens_left_today(meter, tier) is None
    assert admission.rate_state(meter, tier, now_ns=0, tick_ns=0) is admission.UNLIMITED


def test_a_day_ends_at_midnight_utc() -> None:
    """Rolling to a new day frees the tokens; a step back does not bring them back."""
    meter = Meter(day=10, used_tokens=150_000)
    meter.reserve(50_000)
    assert admission.tokens_left_today(meter, TIERS["free"]) == 0

    meter.roll(9)
    assert admission.tokens_left_today(meter, TIERS["free"]) == 0
    meter.roll(11)
    assert admission.tokens_left_today(meter, TIERS["free"]) == 200_000
    meter.correct(day=10, reserved_tokens=50_000, used_tokens=40_000)
    assert admission.tokens_left_today(meter, TIERS["free"]) == 200_000


def test_a_full_day_names_the_seconds_to_midnight() -> None:
    """When used tokens are what blocks, waiting until 00:00 UTC helps."""
    now_ns = 20_000 * DAY_NS + 3_600 * S

    refusal = admission.refuse_day(
        Meter(20_000, 199_990), TIERS["free"], need_tokens=11, now_ns=now_ns
    )

    assert refusal.code == "tokens_per_day"
    assert refusal.retry_after_s == 23 * 3_600


def test_reserved_tokens_are_told_apart_from_used_ones() -> None:
    """When running requests are what blocks, waiting for them helps."""
    meter = Meter(20_000, 0)
    meter.reserve(199_990)

    refusal = admission.refuse_day(meter, TIERS["free"], need_tokens=11, now_ns=0)

    assert refusal.code == "tokens_in_flight"
    assert refusal.retry is True


BUDGET = st.integers(0, 10**9)


@given(
    st.one_of(st.none(), st.integers(1, 5_000)),
    st.integers(1, 5_000),
    st.integers(1, 8),
    st.integers(0, 5_000),
    st.integers(0, 1_000),
    st.integers(0, 1_000),
    BUDGET,
    BUDGET,
)
def test_an_answer_is_never_longer_than_what_is_affordable(
    asked: int | None, cap: int, n: int, prompt: int, pin: int, pout: int, free: int, held: int
) -> None:
    """What passes is covered and what was asked for; what is refused was not affordable."""
    least = prompt * pin + n * (asked or 1) * pout
    terms = {"asked": asked, "cap": cap, "n": n, "prompt_tokens": prompt}
    money = {
        "price_in_nano": pin,
        "price_out_nano": pout,
        "available_nano": free,
        "posted_nano": free + held,
    }
    if least > free:
        with pytest.raises(PaymentRequired) as refused:
            admission.resolve_max_tokens(**terms, **money)
        waiting_helps = least <= free + held
        assert refused.value.retry is waiting_helps
        assert (refused.value.code == "in_flight_budget") is waiting_helps
        assert (refused.value.retry_after_s is not None) is waiting_helps
        return

    tokens = admission.resolve_max_tokens(**terms, **money)

    assert tokens >= 1
    assert prompt * pin + n * tokens * pout <= free
    assert tokens == asked if asked else tokens <= cap
    if asked is None and tokens < cap:
        assert prompt * pin + n * (tokens + 1) * pout > free


def test_a_refusal_names_the_affordable_number() -> None:
    """The caller learns which max_tokens would pass, and that one does pass."""
    terms = {"cap": 1000, "n": 1, "prompt_tokens": 10, "price_in_nano": 100, "price_out_nano": 780}
    money = {"available_nano": 100_000, "posted_nano": 100_000}
    with pytest.raises(PaymentRequired, match="at most 126 is affordable") as refused:
        admission.resolve_max_tokens(asked=500, **terms, **money)

    assert refused.value.param == "max_tokens"
    assert admission.resolve_max_tokens(asked=126, **terms, **money) == 126
