"""Hard spending caps of a key: per UTC day, ISO week and month.

A hold counts in full against the windows it was made in, so what a key can ever be charged
for a window is at most its cap, however many requests run at once. A window that has passed
is forgotten; what its requests still cost belongs to it and not to the new one.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Final, NamedTuple

from market.accounting.admission import DAY_NS, IN_FLIGHT_RETRY_S
from market.accounting.state_rows import KeyRow, KeySpendRow
from market.errors import PaymentRequired
from market.money import format_usd_exact

NAMES: Final = ("day", "week", "month")
_EPOCH: Final = date(1970, 1, 1)
_MONDAY: Final = 3  # 1970-01-01 was a Thursday

Sums = tuple[int, int, int]
Caps = tuple[int | None, int | None, int | None]


class Windows(NamedTuple):
    """The numbers of a moment's UTC day, ISO week and month, counted from 1970."""

    day: int
    week: int
    month: int


def windows_of(now_ns: int) -> Windows:
    """The windows that a moment lies in."""
    day = now_ns // DAY_NS
    today = _EPOCH + timedelta(days=day)
    return Windows(day, (day + _MONDAY) // 7, (today.year - 1970) * 12 + today.month - 1)


def resets_at_s(window: int, numbers: Windows) -> float:
    """Unix time at which the window NAMES[window] ends."""
    if window == 0:
        first = _EPOCH + timedelta(days=numbers.day + 1)
    elif window == 1:
        first = _EPOCH + timedelta(days=(numbers.week + 1) * 7 - _MONDAY)
    else:
        year, month = divmod(numbers.month + 1, 12)
        first = date(1970 + year, month + 1, 1)
    return datetime(first.year, first.month, first.day, tzinfo=UTC).timestamp()


def caps_of(row: KeyRow) -> Caps:
    """A key's caps in the order of NAMES."""
    return (row.cap_day_nano, row.cap_week_nano, row.cap_month_nano)


class KeyMeter:
    """What a capped key has spent, and what its open holds reserve, in each present window."""

    __slots__ = ("numbers", "reserved", "used")

    def __init__(self, numbers: Windows | None = None, used: Sums = (0, 0, 0)) -> None:
        self.numbers = numbers or Windows(0, 0, 0)
        self.used = list(used)
        self.reserved = [0, 0, 0]

    def roll(self, numbers: Windows) -> None:
        """Forget windows that have passed; a clock that steps back brings none back."""
        for at, number in enumerate(numbers):
            if number > self.numbers[at]:
                self.used[at] = self.reserved[at] = 0
        self.numbers = Windows(*map(max, self.numbers, numbers))

    def reserve(self, nano: int, numbers: Windows) -> None:
        """Count a hold made in these windows."""
        for at, number in enumerate(numbers):
            if number == self.numbers[at]:
                self.reserved[at] += nano

    def correct(self, numbers: Windows, *, held_nano: int, cost_nano: int) -> None:
        """Replace a hold by what it cost, in the windows it was made in."""
        for at, number in enumerate(numbers):
            if number == self.numbers[at]:
                self.reserved[at] -= held_nano
                self.used[at] += cost_nano

    def room_nano(self, caps: Caps) -> int | None:
        """What a new hold may take at most; None without a cap."""
        rooms = [
            cap - used - reserved
            for cap, used, reserved in zip(caps, self.used, self.reserved, strict=True)
            if cap is not None
        ]
        return max(0, min(rooms)) if rooms else None

    def recall(self, row: KeySpendRow) -> None:
        """What was stored for one of the keys that share this meter: the latest counts."""
        numbers, used = (
            Windows(row.day, row.week, row.month),
            (row.day_nano, row.week_nano, row.month_nano),
        )
        self.roll(numbers)
        for at, number in enumerate(numbers):
            if number == self.numbers[at]:
                self.used[at] = max(self.used[at], used[at])

    def row(self, row: KeyRow) -> KeySpendRow:
        """As it is stored: settled sums only, open holds are counted again at start."""
        (day, week, month), (d, w, m) = self.numbers, self.used
        return KeySpendRow(row.id, day, d, week, w, month, m, row.created_ns)


def refuse_cap(key: KeyRow, meter: KeyMeter, *, need_nano: int, affordable: int) -> PaymentRequired:
    """Which cap is in the way of a hold of `need_nano`, and whether waiting helps.

    `affordable` is the longest answer per choice that the caps still allow.
    """
    caps = caps_of(key)
    for name, cap, used in zip(NAMES, caps, meter.used, strict=True):
        if cap is not None and used + need_nano > cap:
            return PaymentRequired(
                f"This request may cost {format_usd_exact(need_nano)}; the key {key.prefix}… has "
                f"{format_usd_exact(max(0, cap - used))} left of its cap for the {name} "
                f"({format_usd_exact(cap)}). At most {max(0, affordable)} tokens fit; ask for "
                "fewer, or raise the key's cap.",
                "max_tokens",
                f"key_cap_{name}",
                None,
                False,
            )
    return PaymentRequired(
        f"The running requests of the key {key.prefix}… hold the rest of its cap; one of them "
        f"ends soon. At most {max(0, affordable)} tokens fit now.",
        "max_tokens",
        "in_flight_budget",
        IN_FLIGHT_RETRY_S,
        True,
    )
