"""What a caller asks of the past: dates, windows, filters, and cursors that cannot be made up.

A cursor says how far a list was read and carries a keyed hash over that, the account and
every filter. So a forged one is known as such, and one cannot be used with other filters, by
another account or on another list.
"""

from __future__ import annotations

import hmac
import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Final, Literal, NamedTuple

import orjson
from fastapi import Query
from pydantic import Field

from market.accounting.asking import ApartBy, RequestsAsked, SumsAsked
from market.accounting.histories import Bounds
from market.accounting.paging import After
from market.accounting.periods import WINDOWS, Between, Period, Rolling, Stretch
from market.accounting.rollups import DAY_S, HOUR_S
from market.errors import InvalidRequest
from market.types import AccountId, KeyId, MachineId, ModelId
from serve_app.sealed import Sealer

VALUES_MOST: Final = 50
CURSOR_CHARS_MOST: Final = 600
YEARS: Final = range(2000, 2200)
_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_MOMENT: Final = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2})?(Z|[+-]\d{2}:\d{2})", re.ASCII)

Name = Annotated[str, Field(min_length=1, max_length=300)]
Names = Annotated[list[Name], Query(max_length=VALUES_MOST)]
When = Annotated[
    str | None, Query(max_length=40, description="A day, or a moment with its zone: RFC 3339")
]
From = Annotated[
    str | None,
    Query(alias="from", max_length=40, description="As `to`, and included; `to` is not"),
]
WindowName = Annotated[
    Literal["24h", "7d", "30d", "all"] | None,
    Query(
        description="A rolling window, in place of from and to; to the minute in lists, of whole "
        "hours in sums"
    ),
]
Cursor = Annotated[
    str | None,
    Query(max_length=CURSOR_CHARS_MOST, description="The `next_cursor` of the last page, or empty"),
]
By = Annotated[str | None, Query(max_length=60, pattern="^[a-z,]*$")]


@dataclass(frozen=True, slots=True)
class Filters:
    """What a caller has said about which part of the past it wants, as it was said."""

    begin: str | None = None
    end: str | None = None
    window: str | None = None
    models: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    machines: tuple[str, ...] = ()
    by: str | None = None

    @property
    def given(self) -> bool:
        """Whether anything was said at all."""
        return self != Filters()


def period_of(filters: Filters) -> Period:
    """The period that is meant; raises InvalidRequest for dates that cannot be."""
    if filters.window is not None:
        if filters.begin is not None or filters.end is not None:
            raise InvalidRequest("Say either window, or from and to.", "window", "contradiction")
        assert filters.window in WINDOWS
        return Rolling(filters.window)
    begin_s = _seconds("from", filters.begin)
    end_s = _seconds("to", filters.end)
    if begin_s is not None and end_s is not None and begin_s >= end_s:
        raise InvalidRequest(
            f"from ({filters.begin}) must be before to ({filters.end}), which is not included.",
            "from",
            "reversed_dates",
        )
    return Between(begin_s, end_s)


def _seconds(name: str, text: str | None) -> int | None:
    """A day's first second, or a moment's; InvalidRequest names the parameter."""
    if text is None:
        return None
    try:
        if _DAY.fullmatch(text):
            moment = datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC)
        elif _MOMENT.fullmatch(text):
            moment = datetime.fromisoformat(text)
        else:
            raise ValueError
        if moment.year not in YEARS:
            raise InvalidRequest(
                f"{name} must be in the years {YEARS.start} to {YEARS.stop - 1}.",
                name,
                "out_of_range",
            )
        seconds = (moment - datetime.fromtimestamp(0, UTC)) / timedelta(seconds=1)
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(
            f"{name} must be a day such as 2026-11-30, which begins at 00:00 UTC, or a moment with "
            "its zone such as 2026-11-30T14:00:00Z.",
            name,
            "invalid_date",
        ) from error
    return int(seconds)


def requests_asked(filters: Filters, limit: int, rest: Bounds | None) -> RequestsAsked:
    """Single requests, as the accountant takes the question."""
    return RequestsAsked(
        period_of(filters),
        tuple(map(ModelId, filters.models)),
        tuple(map(KeyId, filters.keys)),
        tuple(map(MachineId, filters.machines)),
        rest,
        limit,
    )


def sums_asked(
    filters: Filters, by: Sequence[str], limit: int, place: SumsPlace | None
) -> SumsAsked:
    """Sums told apart by these, as the accountant takes the question."""
    bucket_s = HOUR_S if "hour" in by else DAY_S if "day" in by else 0
    period = period_of(filters)
    return SumsAsked(
        period if place is None else Between(*place.stretch),
        tuple(_APART[name] for name in by if name in _APART),
        bucket_s,
        tuple(map(ModelId, filters.models)),
        tuple(map(KeyId, filters.keys)),
        tuple(map(MachineId, filters.machines)),
        None if place is None else place.after,
        limit,
    )


_APART: Final[dict[str, ApartBy]] = {"model": "model", "machine": "machine", "key": "key_id"}


def read_by(text: str | None, known: Sequence[str], default: Sequence[str]) -> tuple[str, ...]:
    """What is to be told apart, in the order of `known`; raises InvalidRequest."""
    named = list(default) if text is None else [name for name in text.split(",") if name]
    if set(named) - set(known) or len(set(named)) < len(named) or {"hour", "day"} <= set(named):
        raise InvalidRequest(
            f"by must be some of {', '.join(known)}, each once and with commas between; of hour "
            "and day only one.",
            "by",
            "invalid_value",
        )
    return tuple(name for name in known if name in named)


# ── cursors ───────────────────────────────────────────────────────────────────────────


class SumsPlace(NamedTuple):
    """How far sums were read, and of which stretch: a window must not roll between pages."""

    stretch: Stretch
    after: After


@dataclass(frozen=True, slots=True)
class Cursors:
    """The cursors of one list of one account under some filters."""

    sealer: Sealer
    account: AccountId
    listed: str
    filters: Filters

    def write(self, place: Sequence[object]) -> str:
        """The cursor of a place; `read` gives it back."""
        payload = json.dumps(place, separators=(",", ":")).encode()
        return urlsafe_b64encode(self._mark(payload) + payload).rstrip(b"=").decode()

    def read(self, text: str | None) -> Any:
        """The place of a cursor, None at the beginning; InvalidRequest for one that is not ours."""
        if not text:
            return None
        try:
            raw = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
        except (ValueError, UnicodeEncodeError):
            raw = b""
        mark, payload = raw[:_MARK_BYTES], raw[_MARK_BYTES:]
        if not hmac.compare_digest(mark, self._mark(payload)):
            raise InvalidRequest(
                "This cursor is not one of this list: give the next_cursor of the page before it, "
                "unchanged, with the same other parameters.",
                "cursor",
                "invalid_cursor",
            )
        return json.loads(payload)

    def bounds(self, text: str | None) -> Bounds | None:
        """The place of a cursor over single requests."""
        place = self.read(text)
        return None if place is None else Bounds(*place)

    def sums(self, text: str | None) -> SumsPlace | None:
        """The place of a cursor over sums."""
        place = self.read(text)
        return None if place is None else SumsPlace(Stretch(*place[0]), After(*place[1]))

    def _mark(self, payload: bytes) -> bytes:
        told = orjson.dumps(self.filters)
        return self.sealer.cursor(self.account, self.listed, told, payload)[:_MARK_BYTES]


_MARK_BYTES: Final = 16
