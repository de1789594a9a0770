"""`coster usage` and `coster earnings`, as they are typed: tables, sparklines, JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coster.histories import BARS, every_page, sparkline
from coster.options import usd
from market.errors import InvalidRequest, RateLimited
from tests.http.test_money_commands import Town

MODEL = "coster/demo"


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """A market in which four answers were paid for."""
    with Town(tmp_path_factory.mktemp("town")) as opened:
        for _ in range(4):
            opened.told("inference", "chat", "hello", "--max-tokens", "3")
        yield opened


def spent(town: Town) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = town.told("inference", "usage")
    return rows


def cost(rows: Sequence[dict[str, Any]], name: str = "cost_nano_usd") -> int:
    return sum(int(row[name]) for row in rows)


def test_plain_usage_is_what_it_was(town: Town) -> None:
    """The newest requests, a line each, and the documented list with --json."""
    result = town.run("inference", "usage", "--limit", "2")

    assert len(result.stdout.splitlines()) == 3
    assert [sorted(row)[:2] for row in spent(town)] == [["cached_tokens", "completion_tokens"]] * 4


@pytest.mark.parametrize("by", ["model", "key", "day", "hour", "day,model"])
def test_usage_in_sums_adds_up_in_every_form(town: Town, by: str) -> None:
    """A table with a total, JSON and CSV say the same, to the nano."""
    whole = cost(spent(town))
    table = town.run("inference", "usage", "--by", by).stdout
    told = town.told("inference", "usage", "--by", by)
    text = town.run("inference", "usage", "--by", by, "--csv").stdout

    assert cost(told["data"]) == whole
    rows = list(csv.DictReader(io.StringIO(text)))
    assert cost(rows) == whole
    assert {"start", "model", "key_id"} & set(rows[0]) == {
        {"day": "start", "hour": "start", "key": "key_id"}.get(name, name) for name in by.split(",")
    }
    last = table.splitlines()[-1].split()
    assert last[0] == "total"
    assert last[-1] == f"${whole // 10**9}.{whole % 10**9:09d}"
    assert last[1] == "4"


def test_all_of_usage_is_one_csv(town: Town) -> None:
    """Every request, newest first, with nothing else on the output."""
    rows = list(csv.DictReader(io.StringIO(town.run("inference", "usage", "--csv").stdout)))

    assert [row["request_id"] for row in rows] == [row["request_id"] for row in spent(town)]
    assert cost(rows) == cost(spent(town))
    none = town.run("inference", "usage", "--csv", "--until", "2001-01-01").stdout
    assert len(none.splitlines()) == 1


def test_usage_is_filtered(town: Town) -> None:
    """By model, key, window and dates; what was not there is said."""
    key = spent(town)[0]["key_id"]
    one = ("--model", MODEL, "--key-id", key, "--window", "24h")
    assert len(town.told("inference", "usage", *one)["data"]) == 4
    assert len(town.told("inference", "usage", "--limit", "1", *one)["data"]) == 1
    none = town.run("inference", "usage", "--model", "nobody/asks")
    assert none.stdout == "Nothing was charged yet.\n"
    none = town.run("inference", "usage", "--by", "model", "--until", "2001-01-01")
    assert none.stdout == "Nothing was used in this time.\n"


def test_earnings_show_the_day_as_a_line_of_bars(town: Town) -> None:
    """Below the block of the price list's page: 24 hours and what they brought."""
    result = town.run("owner", "earnings")
    nano = int(town.told("owner", "earnings")["total_earned_nano_usd"])

    lines = result.stdout.splitlines()
    assert lines[0] == "Coster Earnings"
    assert lines[-2] == "Last 24 hours:"
    bars, shown = lines[-1].split()
    assert len(bars) in (24, 25)
    assert bars[-1] == BARS[-1]
    assert set(bars[:-2]) == {BARS[0]}
    assert shown == usd(str(nano))


@pytest.mark.parametrize("by", ["device", "model", "day", "hour", "device,model,hour"])
def test_earnings_in_sums_add_up_in_every_form(town: Town, by: str) -> None:
    """A table with a total, JSON and CSV say what the balance says."""
    nano = int(town.told("owner", "earnings")["total_earned_nano_usd"])
    told = town.told("owner", "earnings", "--by", by)
    text = town.run("owner", "earnings", "--by", by, "--csv").stdout
    table = town.run("owner", "earnings", "--by", by).stdout

    assert cost(told["data"], "earned_nano_usd") == nano
    rows = list(csv.DictReader(io.StringIO(text)))
    assert cost(rows, "earned_nano_usd") == nano
    assert all(re.fullmatch(r"\d+\.\d{9}", row["earned_usd"]) for row in rows)
    assert table.splitlines()[-1].split()[0] == "total"
    assert f"{nano % 10**9:09d}" in table.splitlines()[-1]
    assert ("device" in table) == ("device" in by)


def test_all_of_earnings_is_one_csv(town: Town) -> None:
    """Every job that was paid; a filter alone is a table by device."""
    rows = list(csv.DictReader(io.StringIO(town.run("owner", "earnings", "--csv").stdout)))
    nano = int(town.told("owner", "earnings")["total_earned_nano_usd"])

    assert cost(rows, "amount_nano_usd") == nano
    machine = rows[0]["machine"]
    alone = town.told("owner", "earnings", "--device", machine)["data"]
    assert [row["machine"] for row in alone] == [machine]
    none = town.run("owner", "earnings", "--by", "day", "--until", "2001-01-01")
    assert none.stdout == "Nothing was earned in this time.\n"


def test_mistakes_are_said(town: Town) -> None:
    """Two forms at once, no such date, somebody else's Mac: an error, not a table."""
    for words, said in (
        (("usage", "--json", "--csv"), "either --json or --csv"),
        (("usage", "--since", "yesterday"), "from must be a day"),
        (("usage", "--by", "colour"), "by must be some of"),
        (("usage", "--window", "24h", "--since", "2026-01-01"), "either window"),
        (("earnings", "--device", "mac_of_nobody"), "no machine 'mac_of_nobody'"),
    ):
        result = town.run("management", *words)
        assert result.exit_code == 1, words
        assert said in result.output
        if "--json" in words:
            assert json.loads(result.stdout)["error"]["code"] == "contradiction"


class Slow:
    """A market that asks for slower reading, and then has three pages."""

    def __init__(self, refusals: int) -> None:
        self.asked: list[str] = []
        self._refusals = refusals

    def request(self, _: str, path: str) -> dict[str, Any]:
        self.asked.append(path)
        if len(self.asked) <= self._refusals:
            raise RateLimited("slower")
        page = len(self.asked) - self._refusals
        return {"data": [page], "next_cursor": None if page == 3 else f"c{page}", "end": "x"}


def test_pages_are_read_to_the_end_at_the_market_s_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """One answer of all pages; a market that never lets one in is given up."""
    monkeypatch.setattr("coster.histories.WAIT_S", 0.0)
    slow = Slow(5)
    assert every_page(slow, "x", {"by": "day"}) == {"data": [1, 2, 3], "end": "x"}  # type: ignore[arg-type]
    assert slow.asked[-1] == "x?by=day&limit=1000&cursor=c2"
    with pytest.raises(RateLimited):
        every_page(Slow(10**6), "x", {})  # type: ignore[arg-type]
    monkeypatch.setattr("coster.histories.PAGES_MAX", 1)
    with pytest.raises(InvalidRequest, match="shorter time"):
        every_page(Slow(0), "x", {})  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 2**63), max_size=40))
def test_bars_keep_the_order_of_their_values(values: list[int]) -> None:
    """More is never lower; the most is the highest bar, and only nothing is the lowest."""
    bars = [BARS.index(bar) for bar in sparkline(values)]

    assert len(bars) == len(values)
    for one, other in pairwise(values):
        assert (one <= other) <= (bars[values.index(one)] <= bars[values.index(other)])
    if any(values):
        assert max(bars) == len(BARS) - 1
        assert all((bar == 0) == (value == 0) for bar, value in zip(bars, values, strict=True))
    else:
        assert not any(bars)
