"""The two ids of a response: ours, which the ledger knows, and the caller's own, echoed."""

from __future__ import annotations

import re

from market.types import RequestId

# Crockford's alphabet: sorts like the number it spells, no letters that look alike.
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = tuple(a + b for a in _ALPHABET for b in _ALPHABET)
RANDOM_BYTES = 10
_ECHOED = re.compile(rb"[A-Za-z0-9._-]{1,128}\Z")


def new_request_id(now_s: float, random: bytes) -> RequestId:
    """`req_` and 26 characters that sort by creation: 48 bits of milliseconds, 80 random."""
    number = (int(now_s * 1000) & 0xFFFF_FFFF_FFFF) << 80 | int.from_bytes(random)
    text = "".join([_PAIRS[number >> shift & 0x3FF] for shift in range(120, -1, -10)])
    return RequestId("req_" + text)


def echoed_id(header: bytes | None, ours: str) -> str:
    """The caller's `x-request-id` when it is harmless, else ours."""
    if header is not None and _ECHOED.match(header):
        return header.decode("ascii")
    return ours
