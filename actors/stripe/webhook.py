"""Reading a webhook: who signed it, when, and what it is about.

The caller is anybody. Whatever is not a fresh event signed with a secret of ours is an
InvalidRequest and never another exception, for that would answer a stranger with a 500.
Stripe's own verifier lets times ahead of now pass and fails on some hostile input, so the
scheme is checked here: HMAC-SHA256 over `t.body`, a header `t=…,v1=…` with one or more v1.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256

from actors.stripe.reading import MALFORMED, event_of
from market.errors import InvalidRequest
from market.payments.processor import ProcessorEvent

EVENT_AGE_MAX_S = 300
"""Also how far the sender's clock may be ahead of ours."""
HEADER_CHARACTERS_MAX = 4096
TIME = re.compile(r"t=([0-9]{1,15})")
MAC = re.compile(r"v1=([0-9a-f]{64})")


def read_webhook(
    payload: bytes, signature: str, secrets: Sequence[str], now_s: int
) -> ProcessorEvent:
    """The event that was signed. Raises InvalidRequest for whatever else this is."""
    _require_signed(payload, signature, secrets, now_s)
    try:
        event = json.loads(payload.decode("utf-8"))
        if not isinstance(event, Mapping):
            raise TypeError("the body is not an object")
        return event_of(event)
    except (*MALFORMED, RecursionError):
        raise InvalidRequest(
            "The webhook's body is not an event of Stripe's: send it as it was signed.",
            None,
            "webhook_body",
        ) from None


def _require_signed(payload: bytes, signature: str, secrets: Sequence[str], now_s: int) -> None:
    items = signature[:HEADER_CHARACTERS_MAX].split(",")
    times = [match[1] for item in items if (match := TIME.fullmatch(item.strip()))]
    macs = [match[1] for item in items if (match := MAC.fullmatch(item.strip()))]
    if len(times) != 1 or not macs:
        raise _unsigned("The Stripe-Signature header is missing or not of the form t=…,v1=….")
    signed = times[0].encode() + b"." + payload
    ours = [hmac.new(secret.encode(), signed, sha256).hexdigest() for secret in secrets]
    if not any(hmac.compare_digest(mine, theirs) for mine in ours for theirs in macs):
        raise _unsigned("The Stripe-Signature header does not sign this body.")
    if abs(now_s - int(times[0])) > EVENT_AGE_MAX_S:
        raise InvalidRequest(
            f"The webhook was signed more than {EVENT_AGE_MAX_S} s ago or ahead of now: "
            "check this machine's clock; Stripe sends the event again.",
            None,
            "webhook_time",
        )


def _unsigned(reason: str) -> InvalidRequest:
    return InvalidRequest(
        f"{reason} Check that the signing secret is that of this endpoint.",
        None,
        "webhook_signature",
    )
