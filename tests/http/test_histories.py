"""Usage and earnings over HTTP: pages, filters and sums."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest

from tests.http.ledger_market import validated
from tests.http.past_market import (
    BEGIN_S,
    DAY_S,
    EARNINGS,
    HOUR_S,
    MACHINES,
    MODELS,
    USAGE,
    PastMarket,
    cost,
)


def moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# ── usage ─────────────────────────────────────────────────────────────────────────────


async def test_without_a_new_parameter_usage_is_what_it_was(past: PastMarket) -> None:
    """A plain list of the newest, as the price list's page documents it."""
    rows = (await past.get(USAGE, limit=3)).json

    assert [row["request_id"] for row in rows] == ["req_59", "req_58", "req_57"]
    assert "charged_at" not in rows[0]
    assert len((await past.get(USAGE)).json) == 60


async def test_pages_hold_every_charged_request_once(past: PastMarket) -> None:
    """Newest first, whatever the size of a page, and nothing that cost nothing."""
    for limit in (1, 7, 1_000):
        first = await past.get(USAGE, cursor="", limit=limit)
        await validated(past.market, first, "UsagePageAnswer")
        rows = await past.pages(USAGE, limit=limit)

        assert [row["request_id"] for row in rows] == [f"req_{n}" for n in range(59, -1, -1)]
        assert cost(rows) == sum(done.cost_nano for done, _, _ in past.settled)


async def test_filters_divide_the_whole(past: PastMarket) -> None:
    """By model, key and date: each part alone, and together they are everything."""
    whole = cost(await past.pages(USAGE))
    by_model = [await past.pages(USAGE, model=model) for model in MODELS]
    assert all(row["model"] == MODELS[0] for row in by_model[0])
    assert sum(map(cost, by_model)) == whole
    ids = [key for key, _ in past.keys.values()]
    by_key = [await past.pages(USAGE, key=key) for key in ids]
    assert sum(map(cost, by_key)) == whole
    assert all(by_model + by_key)
    both = await past.pages(USAGE, model=MODELS, key=ids, begin="2000-01-01", to="2100-01-01")
    assert cost(both) == whole
    days = ["2028-02-27", "2028-02-28", "2028-02-29", "2028-03-01", "2028-03-02"]
    by_day = [await past.pages(USAGE, begin=a, to=b) for a, b in pairwise(days)]
    assert sum(map(cost, by_day)) == whole
    for day, rows in zip(days, by_day, strict=False):
        assert {row["charged_at"][:10] for row in rows} <= {day}
        assert rows, day


async def test_a_moment_includes_its_beginning_and_not_its_end(past: PastMarket) -> None:
    """To the second, in any zone, on both sides of midnight."""
    whole = await past.pages(USAGE)
    at = whole[20]["charged_at"]
    younger = await past.pages(USAGE, begin=at)
    older = await past.pages(USAGE, to=at)
    assert younger + older == whole
    assert younger[-1]["charged_at"] == at
    assert await past.pages(USAGE, begin=at.replace("Z", "+00:00")) == younger


async def test_a_window_rolls_with_the_clock(past: PastMarket) -> None:
    """A request of 25 hours ago is in seven days and not in 24 hours."""
    newest_s = past.now_s
    await past.serve()
    for age_h, inside in ((23, {"24h", "7d", "30d", "all"}), (25, {"7d", "30d", "all"})):
        past.now_s = newest_s + age_h * HOUR_S
        found = {
            window
            for window in ("24h", "7d", "30d", "all")
            if "req_60" in str(await past.pages(USAGE, window=window))
        }
        assert found == inside


async def test_a_page_goes_on_while_others_settle(past: PastMarket) -> None:
    """What is settled between two pages is in neither: it is newer than the first."""
    first = (await past.get(USAGE, cursor="", limit=40)).json
    for _ in range(5):
        await past.serve()
    rest = (await past.get(USAGE, cursor=first["next_cursor"], limit=40)).json

    told = [row["request_id"] for row in first["data"] + rest["data"]]
    assert told == [f"req_{n}" for n in range(59, -1, -1)]
    assert rest["next_cursor"] is None


@pytest.mark.parametrize("limit", [5, 1000])
async def test_sums_of_use_are_the_sums_of_the_list(past: PastMarket, limit: int) -> None:
    """Told apart by anything, to the token and the nano; failures are counted besides."""
    whole = await past.pages(USAGE)
    for by in ("", "model", "key", "day", "hour", "model,key", "key,hour,model"):
        await _check_use(past, whole, by, limit)


async def _check_use(past: PastMarket, whole: list[Any], by: str, limit: int) -> None:
    page = await past.get(USAGE, by=by, limit=limit)
    await validated(past.market, page, "UsageSums")
    sums = await past.pages(USAGE, by=by, limit=limit)

    assert cost(sums) == cost(whole)
    assert sum(one["requests"] for one in sums) == len(whole)
    assert sum(one["failures"] for one in sums) == 9
    for name in ("prompt_tokens", "completion_tokens", "cached_tokens", "total_tokens"):
        assert sum(one[name] for one in sums) == sum(row[name] for row in whole)
    wanted = set(filter(None, by.split(",")))
    for one in sums:
        assert (one["model"] is not None) == ("model" in wanted)
        assert (one["key_id"] is not None) == ("key" in wanted)
        assert (one["start"] is not None) == bool({"hour", "day"} & wanted)
    if "day" in wanted:
        assert [one["start"][:10] for one in sums] == [
            "2028-03-01",
            "2028-02-29",
            "2028-02-28",
            "2028-02-27",
        ]


# ── earnings ──────────────────────────────────────────────────────────────────────────


async def test_without_a_new_parameter_earnings_are_what_they_were(past: PastMarket) -> None:
    """Balance, total, jobs and the newest payments, in total from sums and not from a scan."""
    found = await past.get(EARNINGS, past.owner, limit=2)
    told = await validated(past.market, found, "EarningsAnswer")

    assert told["jobs_served"] == past.parts
    assert int(told["total_earned_nano_usd"]) == sum(d.provider_nano for d, _, _ in past.settled)
    assert len(told["recent"]) == 2
    refused = await past.get(EARNINGS, past.owner, limit=201)
    assert (refused.status, refused.error["param"]) == (400, "limit")


@pytest.mark.parametrize("limit", [5, 1000])
async def test_sums_of_earnings_are_what_macs_were_paid(past: PastMarket, limit: int) -> None:
    """By machine, model and hour unless told otherwise; every part of an answer is its Mac's."""
    for by in (None, "", "machine", "model", "day", "hour", "machine,model", "day,machine"):
        await _check_work(past, by, limit)


async def _check_work(past: PastMarket, by: str | None, limit: int) -> None:
    asked: dict[str, Any] = {"window": "all", "limit": limit}
    if by is not None:
        asked["by"] = by
    page = await past.get(EARNINGS, past.owner, **asked)
    await validated(past.market, page, "EarningsSums")
    sums = await past.pages(EARNINGS, past.owner, **asked)

    assert cost(sums, "earned_nano_usd") == sum(d.provider_nano for d, _, _ in past.settled)
    assert sum(one["requests"] for one in sums) == len(past.settled)
    assert sum(one["jobs"] for one in sums) == past.parts
    wanted = {"hour", "machine", "model"} if by is None else set(filter(None, by.split(",")))
    assert {one["machine"] is not None for one in sums} == {"machine" in wanted}
    if wanted == {"machine"}:
        assert [one["machine"] for one in sums] == MACHINES
    places = [(one["start"] or "", one["machine"] or "", one["model"] or "") for one in sums]
    assert len(set(places)) == len(places)


async def test_earnings_are_filtered_by_machine_model_and_date(past: PastMarket) -> None:
    """Each part alone, and together they are everything."""
    whole = cost(await past.pages(EARNINGS, past.owner, by=""), "earned_nano_usd")
    for name, values in (("machine", MACHINES), ("model", MODELS)):
        parts = [await past.pages(EARNINGS, past.owner, by="", **{name: v}) for v in values]
        assert sum(cost(part, "earned_nano_usd") for part in parts) == whole
        assert all(parts)
    noon = "2028-02-29T12:00:00Z"
    older = await past.pages(EARNINGS, past.owner, to=noon)
    younger = await past.pages(EARNINGS, past.owner, begin=noon)
    assert cost(older + younger, "earned_nano_usd") == whole
    assert {one["start"] < noon for one in older} == {True}
    assert {one["start"] >= noon for one in younger} == {True}


async def test_pages_of_sums_are_of_one_stretch(past: PastMarket) -> None:
    """A window does not roll between two pages of it."""
    first = (await past.get(EARNINGS, past.owner, window="24h", limit=2)).json
    past.now_s += 2 * DAY_S
    rest = (await past.get(EARNINGS, past.owner, window="24h", cursor=first["next_cursor"])).json

    assert rest["begin"] == first["begin"]
    assert rest["end"] == first["end"]
    assert rest["data"]


async def test_what_is_told_of_the_beginning_is_true(past: PastMarket) -> None:
    """Sums say which stretch they are of, in UTC."""
    told = (await past.get(USAGE, by="day", begin="2028-02-28", to="2028-02-29")).json
    assert (told["begin"], told["end"]) == ("2028-02-28T00:00:00Z", "2028-02-29T00:00:00Z")
    ever = (await past.get(USAGE, by="model")).json
    assert ever["begin"] is None
    day = (await past.get(EARNINGS, past.owner, window="24h", by="machine")).json
    assert day["begin"] == moment(-(-(past.now_s - DAY_S) // 60) * 60)
    assert past.now_s > BEGIN_S
