"""Who may start a request now, and how long an answer may get.

Three rules, each pure: requests per minute by GCRA, tokens per UTC day, and the number of
tokens a balance affords. A refused request counts against nothing. Times of the rate rule
are a monotonic `tick_ns`, so that a corrected wall clock neither frees nor jails a caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from market.errors import PaymentRequired, RateLimited
from market.messages import RateState
from market.money import format_usd_exact

MINUTE_NS: Final = 60_000_000_000
DAY_NS: Final = 86_400_000_000_000
IN_FLIGHT_RETRY_S: Final = 1.0  # running requests end in seconds; each end frees its hold


@dataclass(frozen=True, slots=True)
class Tier:
    """An account's limits; None is unlimited."""

    name: str
    requests_per_min: int | None
    tokens_per_day: int | None


TIERS: Final = {
    tier.name: tier
    for tier in (
        Tier("free", 60, 200_000),
        Tier("paid", 600, None),
        Tier("enterprise", None, None),
        Tier("operator", None, None),
    )
}

UNLIMITED: Final = RateState(None, None, 0.0, None, None, 0.0)


class Meter:
    """What one account has used of its limits.

    `tat_ns` is GCRA's theoretical arrival time. `used_tokens` are settled on `day`
    (days since the epoch, UTC); `reserved_tokens` belong to open holds of that day.
    """

    __slots__ = ("day", "reserved_tokens", "tat_ns", "used_tokens")

    def __init__(self, day: int = 0, used_tokens: int = 0) -> None:
        self.tat_ns = 0
        self.day = day
        self.used_tokens = used_tokens
        self.reserved_tokens = 0

    def roll(self, day: int) -> None:
        """Forget yesterday. A clock that steps back does not bring a day's tokens back."""
        if day > self.day:
            self.day, self.used_tokens, self.reserved_tokens = day, 0, 0

    def reserve(self, tokens: int) -> None:
        self.reserved_tokens += tokens

    def correct(self, *, day: int, reserved_tokens: int, used_tokens: int) -> None:
        """Replace a reservation by what was used; a reservation of an earlier day is gone."""
        if day == self.day:
            self.reserved_tokens -= reserved_tokens
            self.used_tokens += used_tokens


def day_of(now_ns: int) -> int:
    """Days since 1970-01-01 UTC."""
    return now_ns // DAY_NS


def next_arrival_ns(meter: Meter, tier: Tier, tick_ns: int) -> int:
    """GCRA: the arrival time to store if this request is admitted.

    A full minute's allowance may come as one burst. Raises RateLimited with the exact
    wait when the request comes too early.
    """
    if tier.requests_per_min is None:
        return meter.tat_ns
    interval_ns = MINUTE_NS // tier.requests_per_min
    burst_ns = interval_ns * (tier.requests_per_min - 1)
    tat_ns = max(meter.tat_ns, tick_ns)
    wait_ns = tat_ns - burst_ns - tick_ns
    if wait_ns > 0:
        raise RateLimited(
            f"The {tier.name} tier allows {tier.requests_per_min} requests a minute; "
            f"the next one may start in {wait_ns / 1e9:.3f} s.",
            None,
            "requests_per_minute",
            wait_ns / 1e9,
            True,
        )
    return tat_ns + interval_ns


def tokens_left_today(meter: Meter, tier: Tier) -> int | None:
    """Tokens the day still allows, reservations counted in full; None is unlimited."""
    if tier.tokens_per_day is None:
        return None
    return tier.tokens_per_day - meter.used_tokens - meter.reserved_tokens


def refuse_day(meter: Meter, tier: Tier, *, need_tokens: int, now_ns: int) -> RateLimited:
    """The refusal of a request that would exceed the day's tokens."""
    assert tier.tokens_per_day is not None
    if meter.used_tokens + need_tokens <= tier.tokens_per_day:
        return RateLimited(
            f"Running requests have reserved {meter.reserved_tokens} of the {tier.name} tier's "
            f"{tier.tokens_per_day} tokens a day; this one needs {need_tokens}. "
            "Try again when one of them has ended, or ask for fewer max_tokens.",
            None,
            "tokens_in_flight",
            IN_FLIGHT_RETRY_S,
            True,
        )
    left = max(0, tier.tokens_per_day - meter.used_tokens)
    return RateLimited(
        f"The {tier.name} tier allows {tier.tokens_per_day} tokens a day; {left} are left and "
        f"this request may need {need_tokens}. The day ends at 00:00 UTC.",
        None,
        "tokens_per_day",
        (DAY_NS - now_ns % DAY_NS) / 1e9,
        True,
    )


def affordable_tokens(
    *, budget_nano: int, prompt_tokens: int, n: int, price_in_nano: int, price_out_nano: int
) -> int | None:
    """Completion tokens per choice this budget covers after the prompt; None: no bound.

    Negative when not even the prompt is covered.
    """
    rest_nano = budget_nano - prompt_tokens * price_in_nano
    if price_out_nano == 0:
        return None if rest_nano >= 0 else -1
    return rest_nano // (price_out_nano * n)


def resolve_max_tokens(
    *,
    asked: int | None,
    cap: int,
    n: int,
    prompt_tokens: int,
    price_in_nano: int,
    price_out_nano: int,
    available_nano: int,
    posted_nano: int,
) -> int:
    """How many tokens each choice may have, so that a hold can cover them all.

    What was asked for is never cut: either the balance covers it or PaymentRequired names
    what it does cover. Absent, it is the smaller of `cap` and what is affordable.
    `posted_nano` is the balance with holds ignored: when it would suffice, the running
    requests are what is in the way, and waiting helps.
    """
    assert n >= 1
    assert cap >= 1

    def bound(budget_nano: int) -> int:
        tokens = affordable_tokens(
            budget_nano=budget_nano,
            prompt_tokens=prompt_tokens,
            n=n,
            price_in_nano=price_in_nano,
            price_out_nano=price_out_nano,
        )
        return max(cap, wanted) if tokens is None else tokens

    wanted = 1 if asked is None else asked
    affordable = bound(available_nano)
    if affordable >= wanted:
        return min(cap, affordable) if asked is None else asked
    in_flight = bound(posted_nano) >= wanted
    raise _too_poor(
        asked=asked,
        affordable=max(0, affordable),
        need_nano=prompt_tokens * price_in_nano + n * wanted * price_out_nano,
        available_nano=available_nano,
        held_nano=posted_nano - available_nano,
        in_flight=in_flight,
    )


def _too_poor(
    *,
    asked: int | None,
    affordable: int,
    need_nano: int,
    available_nano: int,
    held_nano: int,
    in_flight: bool,
) -> PaymentRequired:
    param = None if asked is None else "max_tokens"
    facts = (
        f"This request may cost up to {format_usd_exact(need_nano)} and "
        f"{format_usd_exact(available_nano)} is available"
    )
    advice = (
        f"max_tokens of at most {affordable} is affordable now"
        if affordable >= 1
        else "no completion token is affordable now"
    )
    if in_flight:
        return PaymentRequired(
            f"{facts}, because running requests hold {format_usd_exact(held_nano)}; {advice}. "
            "Try again when one of them has ended.",
            param,
            "in_flight_budget",
            IN_FLIGHT_RETRY_S,
            True,
        )
    return PaymentRequired(
        f"{facts}; {advice}. Add credit or ask for less.",
        param,
        "insufficient_balance",
        None,
        False,
    )


def rate_state(meter: Meter, tier: Tier, *, now_ns: int, tick_ns: int) -> RateState:
    """The caller's limits as headers show them."""
    if tier.requests_per_min is None and tier.tokens_per_day is None:
        return UNLIMITED
    remaining_requests: int | None = None
    reset_requests_s = 0.0
    if tier.requests_per_min is not None:
        ahead_ns = max(0, meter.tat_ns - tick_ns)
        interval_ns = MINUTE_NS // tier.requests_per_min
        remaining_requests = (interval_ns * tier.requests_per_min - ahead_ns) // interval_ns
        reset_requests_s = ahead_ns / 1e9
    left = tokens_left_today(meter, tier)
    return RateState(
        limit_requests=tier.requests_per_min,
        remaining_requests=remaining_requests,
        reset_requests_s=reset_requests_s,
        limit_tokens=tier.tokens_per_day,
        remaining_tokens=None if left is None else max(0, left),
        reset_tokens_s=0.0 if left is None else (DAY_NS - now_ns % DAY_NS) / 1e9,
    )
