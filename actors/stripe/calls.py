"""When a call to the payment processor is made again, and what a failed one means.

A call that moves money is repeated only under the same idempotency key. Whatever leaves
open whether it took effect ends as "unknown": somebody must look before acting. The
judgement is apart from Stripe's package so that it can be read, and tested, on its own.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from market.payments.processor import ProcessorBusy, ProcessorRefused, ProcessorUnknown

log = logging.getLogger("coster.payments")

T = TypeVar("T")

RETRY_AFTER_MAX_S = 5.0
"""A longer wait than this is the caller's to make."""
AT_THE_DOOR_S = 60.0
"""When to ask again after a refusal of our key: a person has to act first."""
MESSAGE_CHARACTERS_MAX = 300
SECRET = re.compile(r"\b(?:sk|rk|pk|whsec)_[\w*]+")


class Effect(Enum):
    """What a call is for: it decides what an open end is called."""

    READS = "reads"
    MAKES = "makes"
    PAYS = "pays"


class Doubt(Enum):
    """What a failed call leaves behind."""

    NOTHING_DONE = "not now"
    REFUSED = "no"
    OTHER_BODY = "the key belongs to another body"
    UNSETTLED = "no clear answer"


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed attempt: what it leaves behind, in whose words.

    `at_the_door` marks a refusal made before the idempotency key was looked at (a bad key,
    no permission): it says nothing about an earlier attempt.
    """

    doubt: Doubt
    reason: str
    code: str | None = None
    param: str | None = None
    retry_after_s: float | None = None
    at_the_door: bool = False


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a call is tried, and the pause before the second try, which then doubles."""

    attempts_max: int = 4
    pause_s: float = 0.5


async def persist(
    what: str,
    call: Callable[[], Awaitable[T]],
    judge: Callable[[Exception], Failure | None],
    patience: Patience,
    *,
    effect: Effect,
) -> T:
    """The answer of `call`, tried while that is safe.

    `judge` names a failure, or gives None for an exception that is a fault of ours. A call
    that pays or makes something ends as unknown when any attempt was unsettled; one that
    only reads has then done nothing and is merely busy.
    """
    unsettled = False
    pause_s = patience.pause_s
    failure = Failure(Doubt.NOTHING_DONE, "it was not tried")
    for attempt in range(patience.attempts_max):
        if attempt:
            await asyncio.sleep(max(pause_s, failure.retry_after_s or 0.0))
            pause_s *= 2
        try:
            return await call()
        except Exception as error:
            judged = judge(error)
            if judged is None:
                raise
            failure = judged
        log.info("stripe: %s: %s, attempt %d", what, failure.doubt.value, attempt + 1)
        if failure.doubt in (Doubt.REFUSED, Doubt.OTHER_BODY):
            break
        unsettled |= failure.doubt is Doubt.UNSETTLED
        if (failure.retry_after_s or 0.0) > RETRY_AFTER_MAX_S:
            break
    raise _verdict(what, failure, effect, unsettled=unsettled)


def _verdict(
    what: str, failure: Failure, effect: Effect, *, unsettled: bool
) -> ProcessorRefused | ProcessorBusy | ProcessorUnknown:
    said = f"Stripe, asked to {what}: {_clean(failure.reason)}"
    if failure.doubt is Doubt.OTHER_BODY and effect is Effect.PAYS:
        # Something was asked under this id before, with other contents. It may have happened.
        return ProcessorUnknown(f"{said}. Look the object up.", failure.param, failure.code)
    if failure.at_the_door and not unsettled:
        # It says something about us and nothing about the payment: the payment waits.
        return ProcessorBusy(
            f"{said}. The operator has to mend the API key or its permissions.",
            failure.param,
            failure.code,
            AT_THE_DOOR_S,
            True,
        )
    refused = failure.doubt in (Doubt.REFUSED, Doubt.OTHER_BODY)
    if refused and not failure.at_the_door:
        return ProcessorRefused(said, failure.param, failure.code, None, False)
    if unsettled and effect is not Effect.READS:
        return ProcessorUnknown(
            f"{said}. It may have taken effect; look the object up.",
            failure.param,
            failure.code,
            failure.retry_after_s,
        )
    after_s = failure.retry_after_s or 1.0
    return ProcessorBusy(f"{said}. Try again.", failure.param, failure.code, after_s, True)


def judge_answer(status: int, body: object, headers: object) -> Failure:
    """What an error answer leaves behind; `body` is its JSON, if it had any."""
    details = body.get("error") if isinstance(body, Mapping) else None
    said: Mapping[str, object] = details if isinstance(details, Mapping) else {}
    kind, code, param = (_short(said.get(name)) for name in ("type", "code", "param"))
    if status == 429 or (status == 400 and code == "rate_limit"):
        return Failure(
            Doubt.NOTHING_DONE, "too many calls", code or "rate_limit", None, _wait_s(headers)
        )
    if status == 400 and kind == "idempotency_error":
        return Failure(Doubt.OTHER_BODY, "this id was used with other contents", kind)
    if 400 <= status < 500 and status != 409 and said:
        # A 409 is another call in progress under the same key: it may yet take effect.
        reason = "the API key is not accepted" if status == 401 else said.get("message")
        return Failure(
            Doubt.REFUSED,
            reason if isinstance(reason, str) else "it refused",
            "api_key" if status == 401 else code or kind or f"http_{status}",
            param,
            at_the_door=status in (401, 403),
        )
    return Failure(Doubt.UNSETTLED, f"it answered {status}", code or f"http_{status}", param)


def _wait_s(headers: object) -> float | None:
    """A Retry-After header in seconds; None for none and for one we cannot use."""
    value = headers.get("Retry-After") if isinstance(headers, Mapping) else None
    try:
        seconds = float(value or "")
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _short(value: object) -> str | None:
    return value[:100] if isinstance(value, str) else None


def _clean(reason: str) -> str:
    """Their words in one line without anything that looks like a key."""
    line = SECRET.sub("(a key)", " ".join(reason.split()))[:MESSAGE_CHARACTERS_MAX]
    return line.rstrip(". ")
