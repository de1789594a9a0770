"""API keys: their shape, their checksum and the hash under which they are known.

A key is `sk-coster-`, 32 random bytes in base62 and a CRC-32 of those characters, so that
a typing error or a string that merely looks like a key is refused without a look-up, and
leak scanners can tell ours from noise. Only a keyed hash is ever stored or sent: a 256-bit
secret needs no slow hash, and the pepper makes a stolen database useless by itself.
"""

from __future__ import annotations

import hmac
import zlib
from hashlib import sha256
from typing import Final

PREFIX: Final = "sk-coster-"
RANDOM_BYTES: Final = 32
BODY_CHARS: Final = 43  # 62**43 > 2**256
CHECKSUM_CHARS: Final = 6  # 62**6 > 2**32
KEY_CHARS: Final = len(PREFIX) + BODY_CHARS + CHECKSUM_CHARS
SHOWN_CHARS: Final = len(PREFIX) + 4  # what lists show of a key
PEPPER_BYTES: Final = 32

INFERENCE: Final = "inference"  # spend: completions, quotes, models
BILLING_READ: Final = "billing:read"  # see balance, usage, generations
FLEET_READ: Final = "fleet:read"  # see one's own machines and what they earn
PAYOUTS: Final = "payouts"  # set up payouts and withdraw
KEYS: Final = "keys"  # create, list and revoke keys of the same account
ADMIN: Final = "admin"  # the operator's listener
SCOPES: Final = frozenset({INFERENCE, BILLING_READ, FLEET_READ, PAYOUTS, KEYS, ADMIN})
INFERENCE_SCOPES: Final = frozenset({INFERENCE, BILLING_READ})
PROVIDER_SCOPES: Final = frozenset({FLEET_READ, BILLING_READ, PAYOUTS})
MANAGEMENT_SCOPES: Final = frozenset({KEYS, BILLING_READ, FLEET_READ, PAYOUTS})

GIVEN_FREELY: Final = frozenset({INFERENCE})
"""What a key that manages keys may give without having it: it manages and never spends."""

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def beyond(giver: frozenset[str], given: frozenset[str]) -> frozenset[str]:
    """The scopes among `given` that a key with the scopes of `giver` may not pass on.

    Else `keys` alone would be every scope that an account can have.
    """
    return given - giver - GIVEN_FREELY


def _base62(number: int, width: int) -> str:
    digits: list[str] = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    assert number == 0
    return "".join(reversed(digits))


def new_secret(random_bytes: bytes) -> str:
    """The key made of these 32 random bytes. The caller shows it once and forgets it."""
    assert len(random_bytes) == RANDOM_BYTES
    body = _base62(int.from_bytes(random_bytes, "big"), BODY_CHARS)
    return f"{PREFIX}{body}{_checksum(body)}"


def new_id(prefix: str, random_bytes: bytes) -> str:
    """A private id such as `key_…` or `acct_…` from 12 random bytes (96 bits)."""
    assert len(random_bytes) == 12
    return f"{prefix}_{_base62(int.from_bytes(random_bytes, 'big'), 17)}"


def well_formed(secret: str) -> bool:
    """Whether this could be one of our keys: prefix, length, alphabet and checksum."""
    if len(secret) != KEY_CHARS or not secret.startswith(PREFIX) or not secret.isascii():
        return False
    body, checksum = secret[len(PREFIX) : -CHECKSUM_CHARS], secret[-CHECKSUM_CHARS:]
    return body.isalnum() and hmac.compare_digest(_checksum(body), checksum)


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode("ascii")), CHECKSUM_CHARS)


def key_hash(secret: str, pepper: bytes) -> bytes:
    """HMAC-SHA256 of the key under the market's pepper: 32 bytes, safe to store and send."""
    assert len(pepper) == PEPPER_BYTES
    return hmac.digest(pepper, secret.encode("utf-8", "surrogatepass"), sha256)


def shown_prefix(secret: str) -> str:
    """The first characters of a key, enough to tell two of one's own apart."""
    return secret[:SHOWN_CHARS]
