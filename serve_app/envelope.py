"""Errors as the API speaks them: the envelope with all four keys, and the headers."""

from __future__ import annotations

import math
from typing import Any

import orjson

from market.errors import Conflict, MarketError, PaymentRequired
from market.messages import RateState
from serve_app.rates import Headers as Headers  # noqa: PLC0414 - the room takes it from here
from serve_app.rates import rate_headers

DEFAULT_RETRY_AFTER_S = 5.0


def error_object(error: MarketError) -> dict[str, Any]:
    """The value of the envelope's `error` key."""
    return {
        "message": error.message,
        "type": error.type,
        "param": error.param,
        "code": error.code,
    }


def error_body(error: MarketError) -> bytes:
    """The whole envelope as JSON."""
    return orjson.dumps({"error": error_object(error)})


def error_headers(error: MarketError) -> Headers:
    """Retry-After and x-should-retry, which the SDKs obey before the status.

    A 429 and a 503 always say when; a 402 and a 409 always say whether. Where the caller's
    limits are known they are told too.
    """
    headers: Headers = []
    after_s = error.retry_after_s
    if after_s is None and error.status in (429, 503):
        after_s = DEFAULT_RETRY_AFTER_S
    if after_s is not None:
        headers.append((b"retry-after", str(max(1, math.ceil(after_s))).encode()))
    retry = error.retry
    if retry is None and isinstance(error, PaymentRequired | Conflict):
        retry = False
    if retry is not None:
        headers.append((b"x-should-retry", b"true" if retry else b"false"))
    if isinstance(error.rate, RateState):
        headers += rate_headers(error.rate)
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return headers
