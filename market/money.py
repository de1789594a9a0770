"""Money is a count of nano-USD: an int, never a float.

One nano-USD is 10⁻⁹ dollars. Every price is a whole number of nano-USD per token, so
charging never rounds. What is shown (micro-USD, dollars, six decimals) is derived here,
and only here, so that two views of one sum cannot disagree by more than their unit.
"""

from __future__ import annotations

import re

NANO_PER_MICRO = 1_000
NANO_PER_USD = 1_000_000_000
NANO_PER_CENT = 10_000_000
MICRO_PER_USD = 1_000_000
TOKENS_PER_PRICE = 1_000_000  # prices are quoted per this many tokens
NANO_MAX = 2**63 - 1  # the ledger stores int64: about 9.2 billion dollars

_USD = re.compile(r"(-?)\$?(\d{1,10})(?:\.(\d{1,9}))?", re.ASCII)


ASK_PCT_MAX = 100
"""A Mac may ask less than the market's price, never more."""


def asked_nano(price_nano: int, ask_pct: int) -> int:
    """A price per token at `ask_pct` per cent of the market's, in whole nano-USD, rounded up.

    Whole, so that charging still never rounds; up, so that only 0 % is free.
    """
    return -(-price_nano * ask_pct // ASK_PCT_MAX)


def micro_floor(nano: int) -> int:
    """Micro-USD, rounded towards minus infinity: a display never promises a fraction more."""
    return nano // NANO_PER_MICRO


def usd_number(nano: int) -> float:
    """Dollars as a JSON number, for display; exact amounts travel as `nano_text`."""
    return nano / NANO_PER_USD


def nano_text(nano: int) -> str:
    """The exact sum as JSON carries it: a string, because 2⁵³ nano-USD is only $9.0M."""
    return str(nano)


def format_usd(nano: int) -> str:
    """Dollars with six decimals, as the command line shows them: `$9.999813`.

    Floors towards zero, so that neither a balance nor a debt is shown larger than it is.
    """
    sign = "-" if nano < 0 else ""
    dollars, micros = divmod(abs(nano) // NANO_PER_MICRO, MICRO_PER_USD)
    return f"{sign}${dollars}.{micros:06d}"


def format_usd_exact(nano: int) -> str:
    """Dollars with nine decimals: nothing is left out."""
    sign = "-" if nano < 0 else ""
    dollars, rest = divmod(abs(nano), NANO_PER_USD)
    return f"{sign}${dollars}.{rest:09d}"


def format_cents(cents: int) -> str:
    """Whole cents as a person writes them: `$10.50`."""
    sign = "-" if cents < 0 else ""
    return f"{sign}${abs(cents) // 100}.{abs(cents) % 100:02d}"


def parse_usd(text: str) -> int:
    """Nano-USD of a sum typed by a person: `10`, `$10.50`, `0.000187060`.

    Raises ValueError for anything else, and for more than nine decimals: a sum that
    cannot be kept exactly is refused, not rounded.
    """
    match = _USD.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text[:40]!r} is not a sum in dollars; write it like 10 or 10.50")
    sign, dollars, decimals = match.groups()
    nano = int(dollars) * NANO_PER_USD + int((decimals or "").ljust(9, "0"))
    if nano > NANO_MAX:
        raise ValueError(f"{text[:40]!r} is more than the ledger can hold")
    return -nano if sign else nano


def price_nano(text: str) -> int:
    """Nano-USD per token of a price in USD per million tokens: `0.015` is 15.

    Raises ValueError for anything that is no such price, or not a whole number of nano-USD.
    """
    per_million_nano = parse_usd(text)
    nano, rest = divmod(per_million_nano, TOKENS_PER_PRICE)
    if rest or per_million_nano < 0:
        raise ValueError(
            f"{text[:40]!r} is no price in USD per million tokens: give a multiple of 0.001, "
            "like 0.1 or 0.015"
        )
    return nano


def format_price(nano: int) -> str:
    """USD per million tokens of a price in nano-USD per token, as `price_nano` reads it."""
    return f"{nano // 1_000}.{nano % 1_000:03d}"
