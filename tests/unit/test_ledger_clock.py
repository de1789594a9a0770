"""Clocks that jump and processes that sleep: nobody loses a hold, a limit or a day by it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from market.accounting.caps import windows_of
from market.types import Usage
from tests.support.ledger_model import DAY_NS, Wanted, windows
from tests.support.twin import START_NS, Twin

S = 10**9
HOUR_NS = 3_600 * S
MONDAY_NS = int(datetime(2027, 1, 18, tzinfo=UTC).timestamp()) * S
LEAP_NS = int(datetime(2028, 2, 29, 12, tzinfo=UTC).timestamp()) * S
JUMPS = {
    "an hour ahead": HOUR_NS,
    "an hour back": -HOUR_NS,
    "a day ahead": DAY_NS,
    "a day back": -DAY_NS,
    "next Monday": MONDAY_NS - START_NS,
    "a leap day": LEAP_NS - START_NS,
}
CAPPED: dict[str, int | None] = {"day": 200_000, "week": None, "month": None}


@pytest.fixture
def twin() -> Twin:
    """An account whose key may spend 200,000 nano-USD, and whose day has 2,000 tokens."""
    twin = Twin(fee_bps=500, mature_days=2)
    twin.owner("ann", 10**9, 2_000, None)
    twin.owner("bob", 0, None, None)
    twin.key("key_ann", "ann", dict(CAPPED), None)
    twin.commit()
    return twin


def serve(twin: Twin, request: str) -> None:
    """A request of 100 + 100 tokens that costs 88,000 nano-USD."""
    twin.admit(Wanted(request, "key_ann", 100, 100, 400))
    twin.settle(request, "bob", "mac_1", Usage(100, 100))


@pytest.mark.parametrize("jump_ns", JUMPS.values(), ids=JUMPS)
@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
def test_leases_do_not_notice_the_wall_clock(twin: Twin, jump_ns: int, *, restart: bool) -> None:
    """Wherever the wall clock goes, a hold lives its lease of monotonic time and no less."""
    twin.admit(Wanted("req_1", "key_ann", 10, 10, 400))
    twin.wall_ns += jump_ns
    if restart:
        twin.restart()
    for _ in range(5):
        twin.tick_ns += 11 * S
        twin.sweep()
    assert set(twin.model.open) == {"req_1"}

    twin.tick_ns += 11 * S
    twin.sweep()
    assert twin.model.ended["req_1"].status == "expired"
    twin.check()


def test_a_process_that_was_suspended_expires_nothing_at_once(twin: Twin) -> None:
    """After half an hour of sleep every gateway gets a whole lease to speak up again."""
    twin.admit(Wanted("req_1", "key_ann", 10, 10, 400))
    twin.wall_ns += HOUR_NS // 2
    twin.tick_ns += HOUR_NS // 2

    twin.sweep()
    assert set(twin.model.open) == {"req_1"}
    twin.tick_ns += 59 * S
    twin.sweep()
    twin.settle("req_1", "bob", "mac_1", Usage(10, 10))

    assert twin.model.ended["req_1"].status == "settled"
    twin.check()


@pytest.mark.parametrize("jump_ns", JUMPS.values(), ids=JUMPS)
@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
def test_ledger_time_never_goes_back(twin: Twin, jump_ns: int, *, restart: bool) -> None:
    """Every act is later than the one before it, whatever the wall clock says."""
    before_ns = twin.books.last_ts_ns
    twin.wall_ns += jump_ns
    if restart:
        twin.restart()
    serve(twin, "req_1")
    twin.commit()

    written = [transfer[-3] for sealed in twin.disk.sealed for transfer in sealed.transfers]
    assert written == sorted(written)
    assert written[-1] > before_ns
    assert [sealed.batch.ts_ns for sealed in twin.disk.sealed if sealed.batch] == sorted(
        sealed.batch.ts_ns for sealed in twin.disk.sealed if sealed.batch
    )


@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
def test_a_clock_set_back_opens_no_day_again(twin: Twin, *, restart: bool) -> None:
    """What was spent and is held on the day that was reached still counts, after a restart too."""
    twin.wall_ns += DAY_NS
    serve(twin, "req_1")
    twin.admit(Wanted("req_2", "key_ann", 100, 100, 400))
    twin.wall_ns -= DAY_NS
    if restart:
        twin.restart()

    twin.admit(Wanted("req_3", "key_ann", 100, 100, 400))  # the third 88,000 is over the cap

    assert set(twin.model.open) == {"req_2"}
    twin.settle("req_2", "bob", "mac_1", Usage(100, 100))
    twin.admit(Wanted("req_4", "key_ann", 0, 31, 400))
    assert set(twin.model.open) == set()
    twin.admit(Wanted("req_5", "key_ann", 0, 30, 400))
    assert set(twin.model.open) == {"req_5"}
    twin.check()


@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
def test_holds_of_a_day_that_the_clock_has_left_again_still_count(
    twin: Twin, *, restart: bool
) -> None:
    """Also when nothing was settled on that day, so that only the holds remember it."""
    twin.wall_ns += DAY_NS
    for number in range(2):
        twin.admit(Wanted(f"req_{number}", "key_ann", 100, 100, 400))
    twin.wall_ns -= DAY_NS
    if restart:
        twin.restart()

    twin.admit(Wanted("req_2", "key_ann", 100, 100, 400))

    assert set(twin.model.open) == {"req_0", "req_1"}
    twin.check()


@pytest.mark.parametrize("days", [1, 2, 7, 45])
def test_a_clock_far_ahead_and_back_again_opens_each_day_once(twin: Twin, days: int) -> None:
    """Going ahead opens a new day, as it should; coming back does not open another."""
    serve(twin, "req_1")
    serve(twin, "req_2")
    for number, jump_ns in enumerate((days * DAY_NS, -days * DAY_NS, days * DAY_NS)):
        twin.wall_ns += jump_ns
        serve(twin, f"req_a{number}")
        serve(twin, f"req_b{number}")
        twin.restart()

    charged = [request for request, ended in twin.model.ended.items() if ended.cost]
    assert charged == ["req_1", "req_2", "req_a0", "req_b0"]
    twin.check()


def test_earnings_do_not_mature_early(twin: Twin) -> None:
    """Two days are two days of ledger time; the hour before is too early, also after a jump."""
    serve(twin, "req_1")
    late_nano = sum(twin.model.lots.values())
    assert late_nano == 83_600
    day_ends_ns = (START_NS // DAY_NS + 2) * DAY_NS
    for at_ns in (START_NS + DAY_NS, START_NS - 7 * DAY_NS, day_ends_ns - HOUR_NS):
        twin.wall_ns = at_ns
        twin.tidy_up()
        twin.restart()
        assert twin.model.pots["earnings", "bob"] == 0

    twin.wall_ns = day_ends_ns
    twin.tidy_up()

    assert twin.model.pots["earnings", "bob"] == late_nano
    twin.check()


def test_a_cap_binds_what_a_key_has_running_already(twin: Twin) -> None:
    """A key that gets its first cap while requests run can never be charged more than it."""
    twin.key("key_free", "ann", {"day": None, "week": None, "month": None}, None)
    for number in range(3):
        twin.admit(Wanted(f"req_{number}", "key_free", 0, 100, 400))
    twin.key("key_free", "", {"day": 300_000, "week": None, "month": None}, None)

    twin.admit(Wanted("req_3", "key_free", 0, 100, 400))  # 234,000 of 300,000 are held
    for number in range(3):
        twin.settle(f"req_{number}", "bob", "mac_1", Usage(0, 100))
    twin.admit(Wanted("req_4", "key_free", 0, 85, 400))
    assert set(twin.model.open) == set()
    twin.admit(Wanted("req_5", "key_free", 0, 84, 400))

    assert set(twin.model.open) == {"req_5"}
    twin.check()


def test_windows_are_the_calendars_own() -> None:
    """Over thirty years, leap days included: a number changes exactly when the name does."""
    first_ns = int(datetime(2000, 1, 1, tzinfo=UTC).timestamp()) * S
    numbers, names = windows_of(first_ns), windows(first_ns)
    for hour in range(6, 24 * 366 * 30, 6):
        at_ns = first_ns + hour * HOUR_NS
        numbers_now, names_now = windows_of(at_ns), windows(at_ns)
        for before, after, name in zip(numbers, numbers_now, names, strict=True):
            assert (after - before) == (names_now[name] != names[name])
        numbers, names = numbers_now, names_now
