"""The options that many commands share, said once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from coster.output import fail
from market.errors import InvalidRequest, MarketError
from market.money import NANO_PER_CENT, format_usd, parse_usd

Data = Annotated[
    Path | None,
    typer.Option(
        "--data", help="The market's data folder [default: COSTER_DATA or ~/.local/share/coster]."
    ),
]
Url = Annotated[str | None, typer.Option("--url", help="The API's base, ending in /v1.")]
Key = Annotated[str | None, typer.Option("--key", help="API key [default: COSTER_API_KEY].")]
RetryKey = Annotated[
    str | None,
    typer.Option(
        "--retry-key",
        help="Repeat an earlier call under its Idempotency-Key [default: a new one].",
    ),
]
SEED_MAX: Final = 2**63 - 1
"""The lab's own bound, which cannot be imported for a help page: that takes too long."""

Seed = Annotated[
    int | None,
    typer.Option(
        min=0, max=SEED_MAX, help="The first repetition's seed [default: the scenario's]."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]

_DURATION = re.compile(r"(\d{1,6})([smhd])", re.ASCII)
_UNIT_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def duration_s(option: str, text: str) -> int:
    """Seconds of `90s`, `30m`, `12h` or `30d`; InvalidRequest names the option."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise InvalidRequest(
            f"{option} is {text[:20]!r}; write a number and a unit: 90s, 30m, 12h or 30d.", option
        )
    return int(match[1]) * _UNIT_S[match[2]]


def cents_of(option: str, text: str) -> int:
    """Whole cents of a sum in dollars such as `25` or `25.50`; InvalidRequest otherwise."""
    try:
        nano = parse_usd(text)
    except ValueError as error:
        raise InvalidRequest(f"{option}: {error}.", option) from error
    cents, rest = divmod(nano, NANO_PER_CENT)
    if rest or cents <= 0:
        raise InvalidRequest(
            f"{option} is {text[:20]!r}; it must be more than nothing and in whole cents, such as "
            "25.50.",
            option,
        )
    return cents


def count_of(requests: str | None) -> int | None:
    """`10000` or `1e6` of --requests; None when it is not given."""
    if requests is None:
        return None
    try:
        number = float(requests)
    except ValueError:
        number = 0.5
    if not number.is_integer() or number < 1:
        raise InvalidRequest(
            f"--requests is {requests[:20]!r}; it must be a whole number such as 10000 or 1e6.",
            "requests",
        )
    return int(number)


def usd(text: str) -> str:
    """An exact `*_nano_usd` string as people read it: `$4.821200`."""
    return format_usd(int(text))


@contextmanager
def reported(*, as_json: bool) -> Iterator[None]:
    """Turn a MarketError into its message and exit code."""
    try:
        yield
    except MarketError as error:
        fail(error, as_json=as_json)
