"""Everything that may be said no to, in one tree.

    MarketError
    ├── InvalidRequest     400 invalid_request     the caller must change the request
    ├── Unauthenticated    401 auth                missing, malformed or revoked key
    ├── PaymentRequired    402 billing             a balance, cap or in-flight budget
    ├── Forbidden          403 forbidden           a valid key without this right
    ├── NotFound           404 not_found           no such route, model, request
    ├── Conflict           409 conflict            same id, another body
    ├── TooLarge           413 too_large           a body beyond the limit
    ├── RateLimited        429 rate_limit          the caller's own limit
    ├── Unavailable        503 service_unavailable the market's capacity or a deadline
    └── Internal           500 internal            our fault; counted and alarmed

Errors cross processes: positional arguments only, so that pickle rebuilds them. A message
says what was wrong, where, and what to do; it never quotes a prompt or a key.
"""

from __future__ import annotations

from typing import ClassVar, Self


class MarketError(Exception):
    """An error with a place in the API's vocabulary.

    `param` names the offending field. `code` is the machine-readable reason. `retry`
    says whether the same request may succeed later without being changed;
    `retry_after_s` when. `rate` is the caller's `market.messages.RateState` where it is known.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "internal"

    def __init__(
        self,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
        retry: bool | None = None,
        rate: object = None,
    ) -> None:
        super().__init__(message, param, code, retry_after_s, retry, rate)
        self.message = message
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s
        self.retry = retry
        self.rate = rate

    def __str__(self) -> str:
        return self.message

    def with_rate(self, rate: object) -> Self:
        """The same error, telling the caller's limits too."""
        return type(self)(self.message, self.param, self.code, self.retry_after_s, self.retry, rate)


class InvalidRequest(MarketError):
    """The request is malformed; sending it again unchanged cannot help."""

    status, type = 400, "invalid_request"


class Unauthenticated(MarketError):
    """No key, a malformed key, an unknown key or a revoked one."""

    status, type = 401, "auth"


class PaymentRequired(MarketError):
    """Not enough money: the balance, a key's cap, or the budget of running requests."""

    status, type = 402, "billing"


class Forbidden(MarketError):
    """The key is valid but lacks the scope or does not own the thing."""

    status, type = 403, "forbidden"


class NotFound(MarketError):
    """No such route, model, request or key."""

    status, type = 404, "not_found"


class Conflict(MarketError):
    """An id already used with other contents, or still in progress."""

    status, type = 409, "conflict"


class TooLarge(MarketError):
    """The body exceeds the limit."""

    status, type = 413, "too_large"


class RateLimited(MarketError):
    """The caller exceeded its own rate; `retry_after_s` is when it may go on."""

    status, type = 429, "rate_limit"


class Unavailable(MarketError):
    """The market cannot serve this now: no provider, no slot, or a deadline passed."""

    status, type = 503, "service_unavailable"


class Internal(MarketError):
    """A fault of ours."""

    status, type = 500, "internal"
