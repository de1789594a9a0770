"""The errors that end a request: its Macs, a deadline, its reader, the market."""

from __future__ import annotations

from market.errors import Conflict, InvalidRequest, MarketError, Unavailable
from market.types import JobFailure, RequestId

DRAIN_RETRY_AFTER_S = 5.0


def given_up(failure: JobFailure, attempts: int, written_tokens: int | None) -> MarketError:
    """No other Mac is tried: `written_tokens` is what the client already has, None for nothing."""
    if failure.code == "invalid":
        return InvalidRequest(failure.message[:300], failure.param, "invalid_job")
    if written_tokens is not None:
        return Unavailable(
            f"The Mac was lost after {written_tokens} tokens; nothing is charged. "
            "Send the request again.",
            None,
            "provider_lost",
            1.0,
        )
    return Unavailable(
        f"{attempts} Macs could not serve this; the last said: {failure.message[:200]}",
        None,
        "attempts_exhausted",
        2.0,
    )


def overdue(limit_s: float) -> Unavailable:
    """The request reached its deadline."""
    return Unavailable(
        f"The answer took longer than {limit_s:g} s; nothing is charged.", None, "deadline", 1.0
    )


def too_slow() -> InvalidRequest:
    """The client reads more slowly than the Mac writes."""
    return InvalidRequest(
        "The answer was not read as fast as it was made; it was broken off, and what was sent "
        "is charged.",
        None,
        "slow_reader",
    )


def draining(reason: str) -> Unavailable:
    """The market ends the request itself, so nobody pays, as when a Mac is lost."""
    return Unavailable(
        f"{reason} This request is ended and nothing is charged; send it again later.",
        None,
        "draining",
        DRAIN_RETRY_AFTER_S,
    )


def unconfirmed() -> Unavailable:
    """The market ends while the charge of a complete answer is on its way to the ledger."""
    return Unavailable(
        "The market stops before the ledger has confirmed this request; its charge is still "
        "being recorded. GET /v1/generations/{request_id} tells how it ended.",
        None,
        "settlement_delayed",
        DRAIN_RETRY_AFTER_S,
    )


def answered_meanwhile(request_id: RequestId) -> Conflict:
    """Another call with the same own key was answered while this one waited for a model."""
    return Conflict(
        f"Another request with this Idempotency-Key ({request_id}) was answered meanwhile; this "
        "one costs nothing. Send it again to be given that answer.",
        None,
        "answered_meanwhile",
        None,
        True,
    )
