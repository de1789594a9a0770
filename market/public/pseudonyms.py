"""Names for accounts that nobody can trace back: two words from a keyed hash.

The key is the market's own, so the names cannot be computed by trying accounts, and are the
same after every restart. There are 65,536 of them; accounts whose names collide all get digits
of their hash behind it, so that no name depends on who came first.
"""

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Final

from market.public.words import ANIMALS, QUALITIES

_PURPOSE: Final = b"coster: pseudonyms"
SUFFIX_DIGITS: Final = (4, 8, 16)
"""Hexadecimal digits that tell colliding names apart, the first of these that does."""


def alias_key(pepper: bytes) -> bytes:
    """The key of the pseudonyms, derived from the market's pepper and good for nothing else."""
    return hmac.digest(pepper, _PURPOSE, sha256)


def pseudonyms(accounts: Iterable[str], key: bytes) -> Mapping[str, str]:
    """The name of each account among these. The same accounts always have the same names."""
    digests = {account: hmac.digest(key, account.encode(), sha256) for account in accounts}
    names = {account: _words(digest) for account, digest in digests.items()}
    for digits in SUFFIX_DIGITS:
        taken = Counter(names.values())
        colliding = [account for account, name in names.items() if taken[name] > 1]
        if not colliding:
            break
        for account in colliding:
            digest = digests[account]
            names[account] = f"{_words(digest)}-{digest[2:].hex()[:digits].upper()}"
    return names


def _words(digest: bytes) -> str:
    return QUALITIES[digest[0]] + ANIMALS[digest[1]]
