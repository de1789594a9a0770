"""Answers kept for callers who ask again: sealed here, stored by a ledger that cannot read them.

The sealing key is derived from the market's pepper, the account and the caller's own
Idempotency-Key, which is stored nowhere: whoever has the database, or even the database and
the pepper, cannot open an answer without the key its caller chose. The request's id is bound
in, so that one answer cannot stand in for another.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from market.accounting.kept_answers import OUTCOME_BYTES_MAX
from market.errors import InvalidRequest
from market.types import AccountId, RequestId

HEADER: Final = b"idempotency-key"
KEY_CHARS_MAX: Final = 255
_VERSION: Final = b"\x01"
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16


class UnopenableError(Exception):
    """A kept answer that this market's pepper and this caller's key do not open."""


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """What is sent again: the status, the content type and every byte of the body."""

    status: int
    content_type: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class OwnKey:
    """A caller's own key for one request. `hash` and `fingerprint` travel, `secret` does not."""

    hash: str
    fingerprint: str
    secret: str = field(repr=False)


def read_key(headers: list[tuple[bytes, bytes]]) -> str | None:
    """The Idempotency-Key of a request, None without one; InvalidRequest for a bad one."""
    found = [value for name, value in headers if name == HEADER]
    if not found:
        return None
    key = found[0].decode("latin-1")
    if len(found) > 1 or not 1 <= len(key) <= KEY_CHARS_MAX or not _is_plain(key):
        raise InvalidRequest(
            f"Idempotency-Key must be given once, as 1 to {KEY_CHARS_MAX} printable ASCII "
            "characters; a random UUID is a good one.",
            "Idempotency-Key",
            "invalid_idempotency_key",
        )
    return key


def _is_plain(key: str) -> bool:
    return key.isascii() and key.isprintable()


class Sealer:
    """The keyed hashes and seals of one market; every gateway has the same `pepper`."""

    def __init__(self, pepper: bytes) -> None:
        self._pepper = pepper

    def own_key(self, account: AccountId, key: str, route: str, body: bytes) -> OwnKey:
        """A caller's key for this body on this route; the same for every key of an account."""
        return OwnKey(
            hash=self._digest("idempotency", account.encode(), key.encode()).hex(),
            fingerprint=self._digest("contents", route.encode(), body).hex(),
            secret=key,
        )

    def place(self, network: str) -> str:
        """Where a sign-up comes from, as a keyed hash: says whether two are the same place."""
        return self._digest("place", network.encode()).hex()

    def session(self, account: AccountId, name: str) -> str:
        """A caller's name for a conversation as a keyed hash: the router need not read it."""
        return self._digest("session", account.encode(), name.encode()).hex()[:32]

    def cursor(self, account: AccountId, listed: str, filters: bytes, place: bytes) -> bytes:
        """What shows that we have given out a place in a list, for these filters only."""
        return self._digest("cursor", account.encode(), listed.encode(), filters, place)

    def seal(
        self, account: AccountId, own: OwnKey, request_id: RequestId, answer: KeptAnswer
    ) -> bytes | None:
        """The answer sealed; None when it is longer than what the ledger keeps."""
        length = len(answer.content_type)
        plain = b"".join(
            (answer.status.to_bytes(2), length.to_bytes(2), answer.content_type, answer.body)
        )
        if len(plain) + len(_VERSION) + _NONCE_BYTES + _TAG_BYTES > OUTCOME_BYTES_MAX:
            return None
        nonce = secrets.token_bytes(_NONCE_BYTES)
        cipher = self._cipher(account, own.secret)
        return _VERSION + nonce + cipher.encrypt(nonce, plain, _bound_to(request_id))

    def open(
        self, account: AccountId, own: OwnKey, request_id: RequestId, sealed: bytes
    ) -> KeptAnswer:
        """The answer again; UnopenableError when it was sealed otherwise or has been changed."""
        nonce, rest = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        if sealed[:1] != _VERSION or len(rest) < _TAG_BYTES:
            raise UnopenableError
        try:
            plain = self._cipher(account, own.secret).decrypt(nonce, rest, _bound_to(request_id))
        except InvalidTag as error:
            raise UnopenableError from error
        length = int.from_bytes(plain[2:4])
        return KeptAnswer(int.from_bytes(plain[:2]), plain[4 : 4 + length], plain[4 + length :])

    def _cipher(self, account: AccountId, key: str) -> AESGCM:
        return AESGCM(self._digest("outcome", account.encode(), key.encode()))

    def _digest(self, purpose: str, *parts: bytes) -> bytes:
        """HMAC of the parts under the pepper; lengths go in, so no two lists are alike."""
        mac = hmac.new(self._pepper, f"coster {purpose}".encode(), sha256)
        for part in parts:
            mac.update(len(part).to_bytes(8))
            mac.update(part)
        return mac.digest()


def _bound_to(request_id: RequestId) -> bytes:
    return b"coster outcome " + request_id.encode()
