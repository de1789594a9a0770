"""The caller's limits as headers, on answers and on refusals alike, in OpenAI's words."""

from __future__ import annotations

import math

from market.messages import RateState

Headers = list[tuple[bytes, bytes]]


def rate_headers(rate: RateState) -> Headers:
    """OpenAI's rate headers; an unlimited dimension has none."""
    headers: Headers = []
    rows = (
        (b"requests", rate.limit_requests, rate.remaining_requests, rate.reset_requests_s),
        (b"tokens", rate.limit_tokens, rate.remaining_tokens, rate.reset_tokens_s),
    )
    for unit, limit, remaining, reset_s in rows:
        if limit is not None:
            headers.append((b"x-ratelimit-limit-" + unit, b"%d" % limit))
            headers.append((b"x-ratelimit-remaining-" + unit, b"%d" % max(0, remaining or 0)))
            headers.append((b"x-ratelimit-reset-" + unit, duration(reset_s).encode()))
    return headers


def duration(seconds: float) -> str:
    """A duration as OpenAI writes it: `12ms`, `1s`, `6m0s`, `2h0m5s`."""
    if seconds < 1:
        return f"{max(0, math.ceil(seconds * 1000))}ms"
    whole = math.ceil(seconds)
    minutes, rest_s = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest_s}s"
    return f"{minutes}m{rest_s}s" if minutes else f"{rest_s}s"
