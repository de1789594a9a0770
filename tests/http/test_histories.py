"""Usage and earnings over HTTP: pages, filters, sums and exports of any length, and bad input."""

from __future__ import annotations

import asyncio
import base64
import csv
import io
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from market.errors import Unavailable
from serve_app import exporting
from tests.http.asgi_client import Exchange
from tests.http.ledger_market import validated
from tests.http.memory_accountant import MAC_OWNER
from tests.http.past_market import (
    BEGIN_S,
    DAY_S,
    HOUR_S,
    MACHINES,
    MODELS,
    PastMarket,
    open_past,
)

USAGE, EARNINGS = "/v1/payments/usage", "/v1/provider/earnings"
PAGES_MANY = 10_000


@pytest.fixture
async def past(tmp_path: Path) -> AsyncIterator[PastMarket]:
    """Sixty requests over two and a half days, with a leap day among them."""
    async with open_past(
        tmp_path, 60, histories_per_minute=PAGES_MANY, histories_burst=PAGES_MANY
    ) as opened:
        yield opened


def cost(entries: list[Any], name: str = "cost_nano_usd") -> int:
    return sum(int(entry[name]) for entry in entries)


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


# ── exports ───────────────────────────────────────────────────────────────────────────


def rows_of(exchange: Exchange, form: str) -> list[dict[str, Any]]:
    text = exchange.content.decode()
    if form == "csv":
        return list(csv.DictReader(io.StringIO(text)))
    if form == "jsonl":
        return [json.loads(line) for line in text.splitlines()]
    found: list[dict[str, Any]] = json.loads(text)
    return found


@pytest.mark.parametrize("form", ["csv", "json", "jsonl"])
async def test_an_export_holds_everything_whatever_its_form(
    past: PastMarket, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streamed page by page; every row once, in the order of the list, exact to the nano."""
    monkeypatch.setattr("serve_app.routes_histories.PAGE_ROWS", 7)
    usage = await past.get(f"{USAGE}/export", format=form)
    earned = await past.get(f"{EARNINGS}/export", past.owner, format=form)

    assert usage.status == earned.status == 200
    assert usage.writes > 5
    assert f'filename="coster-usage.{form}"' in usage.answer_headers["content-disposition"]
    assert "content-length" not in usage.answer_headers
    rows, jobs = rows_of(usage, form), rows_of(earned, form)
    assert [row["request_id"] for row in rows] == [f"req_{n}" for n in range(59, -1, -1)]
    assert cost(rows) == sum(done.cost_nano for done, _, _ in past.settled)
    assert len(jobs) == past.parts
    assert cost(jobs, "amount_nano_usd") == sum(d.provider_nano for d, _, _ in past.settled)
    assert {job["machine"] for job in jobs} == set(MACHINES)
    for job in jobs:
        shares = int(job["amount_nano_usd"]) + int(job["fee_nano_usd"])
        assert shares == int(job["cost_nano_usd"])


@pytest.mark.parametrize("form", ["csv", "json", "jsonl"])
async def test_an_export_of_nothing_is_whole_too(past: PastMarket, form: str) -> None:
    """No rows, and still what its form promises."""
    found = await past.get(f"{USAGE}/export", format=form, to="2001-01-01")

    assert found.status == 200
    assert rows_of(found, form) == []
    assert found.out[-1].get("more_body") is False


async def test_an_export_is_what_there_was_when_it_began(
    past: PastMarket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that are settled while it is read are not in it, and disturb nothing."""
    monkeypatch.setattr("serve_app.routes_histories.PAGE_ROWS", 5)
    accountant, original = past.market.ledger.accountant, None
    original = accountant.usage_page

    async def settling(*args: Any) -> Any:
        page = await original(*args)
        await past.serve()
        return page

    monkeypatch.setattr(accountant, "usage_page", settling)
    found = await past.get(f"{USAGE}/export", format="jsonl")

    assert [row["request_id"] for row in rows_of(found, "jsonl")] == [
        f"req_{n}" for n in range(59, -1, -1)
    ]
    assert len(past.settled) > 70


async def test_an_export_that_cannot_be_finished_is_broken_off(
    past: PastMarket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never ended as if it were whole; and its place is free again."""
    monkeypatch.setattr("serve_app.routes_histories.PAGE_ROWS", 5)
    accountant, original, pages = past.market.ledger.accountant, None, 0
    original = accountant.usage_page

    async def failing(*args: Any) -> Any:
        nonlocal pages
        pages += 1
        if pages == 4:
            raise Unavailable("away", None, "restarting", 1.0)
        return await original(*args)

    monkeypatch.setattr(accountant, "usage_page", failing)
    found = await past.get(f"{USAGE}/export", format="json")

    assert found.status == 200
    assert found.out[-1]["more_body"] is True
    with pytest.raises(json.JSONDecodeError):
        found.json  # noqa: B018
    again = await past.get(f"{USAGE}/export", format="json")
    assert len(again.json) == 60


async def test_a_reader_who_goes_or_stands_still_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing more is read for them, and their place is free again."""
    monkeypatch.setattr("serve_app.routes_histories.PAGE_ROWS", 2)
    async with open_past(tmp_path, 20, write_s=0.05) as past:
        for how in ({"leave_after": 3}, {"stall_after": 3}):
            made = Exchange(
                b"", path=f"{USAGE}/export", method="GET", key=past.market.management,
                query=b"format=csv", **how,  # type: ignore[arg-type]
            )  # fmt: skip
            await made.go(past.market.app)
            assert made.writes <= 4
            assert made.out[-1]["more_body"] is True
        whole = await past.get(f"{USAGE}/export", format="csv")
        assert len(rows_of(whole, "csv")) == 20


async def test_exports_are_few_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of each account and so many in all; the others are told to wait, and then may."""
    async with open_past(tmp_path, 4, exports_at_once=2) as past:
        slots = exporting.Slots(2)
        slots.take("a")
        with pytest.raises(Exception, match="Another export of this account"):
            slots.take("a")
        slots.take("b")
        with pytest.raises(Exception, match="Too many exports"):
            slots.take("c")
        slots.free("a")
        slots.take("c")

        made = Exchange(
            b"", path=f"{USAGE}/export", method="GET", key=past.market.management,
            query=b"format=csv", stall_after=1,
        )  # fmt: skip
        running = asyncio.create_task(made.go(past.market.app))
        while not made.writes:
            await asyncio.sleep(0.002)
        refused = await past.get(f"{USAGE}/export", format="csv")
        assert (refused.status, refused.error["code"]) == (429, "export_running")
        assert "retry-after" in refused.answer_headers
        made.resume.set()
        await running
        assert (await past.get(f"{USAGE}/export", format="csv")).status == 200


# ── bad input ─────────────────────────────────────────────────────────────────────────

BAD: list[tuple[dict[str, Any], int, str]] = [
    ({"begin": "2028-03-01", "to": "2028-02-01"}, 400, "reversed_dates"),
    ({"begin": "2028-03-01", "to": "2028-03-01"}, 400, "reversed_dates"),
    ({"begin": "2027-02-29"}, 400, "invalid_date"),
    ({"begin": "2028-02-30"}, 400, "invalid_date"),
    ({"begin": "yesterday"}, 400, "invalid_date"),
    ({"begin": ""}, 400, "invalid_date"),
    ({"begin": "2028-03-01T10:00:00"}, 400, "invalid_date"),
    ({"begin": "2028-03-01T25:00:00Z"}, 400, "invalid_date"),
    ({"begin": "2028-03-01T10:00:00+99:99"}, 400, "invalid_date"),
    ({"begin": "1800-01-01"}, 400, "out_of_range"),
    ({"to": "9999-12-31"}, 400, "out_of_range"),
    ({"to": "٢٠٢٨-٠٣-٠١"}, 400, "invalid_date"),
    ({"to": "0" * 41}, 400, "too_long"),
    ({"window": "1d"}, 400, "invalid_value"),
    ({"window": ""}, 400, "invalid_value"),
    ({"window": "24h", "begin": "2028-03-01"}, 400, "contradiction"),
    ({"by": "colour"}, 400, "invalid_value"),
    ({"by": "hour,day"}, 400, "invalid_value"),
    ({"by": "model,model"}, 400, "invalid_value"),
    ({"by": "MODEL"}, 400, "invalid_value"),
    ({"model": ["m"] * 51}, 400, "too_long"),
    ({"model": "x" * 301}, 400, "too_long"),
    ({"model": ""}, 400, "empty"),
    ({"limit": 0, "cursor": ""}, 400, "out_of_range"),
    ({"limit": 1001, "cursor": ""}, 400, "out_of_range"),
    ({"limit": "abc", "cursor": ""}, 400, "invalid_type"),
    ({"cursor": "x" * 601}, 400, "too_long"),
    *(({"cursor": made}, 400, "invalid_cursor") for made in (
        "x", "AAAA", "%", "é", "=", "A" * 600, "-" * 40, "null", "0",
        base64.urlsafe_b64encode(b"\0" * 16 + b"[0,9,0,9]").decode(),
    )),
]  # fmt: skip


async def test_what_cannot_be_answered_is_refused_in_words(past: PastMarket) -> None:
    """400 in the envelope, with the parameter that is wrong, on both lists."""
    for query, status, code in BAD:
        for path, key in ((USAGE, ""), (EARNINGS, past.owner)):
            refused = await past.get(path, key, **query)
            assert (refused.status, refused.error["code"]) == (status, code), (query, path)
            assert refused.error["type"] == "invalid_request"
    refused = await past.get(USAGE, by="day", begin="2028-03-01T10:30:00Z")
    assert (refused.status, refused.error["code"]) == (400, "too_fine")


async def test_nobody_sees_what_is_another_s(past: PastMarket) -> None:
    """Another account's key or machine is not found; its cursor is none of ours."""
    theirs, _ = await past.market.key("billing:read", account=MAC_OWNER)
    for name, value in (("key", theirs), ("key", "key_of_nobody")):
        refused = await past.get(USAGE, **{name: value})
        assert (refused.status, refused.error["code"]) == (404, "key_not_found")
    for machine in ("mac_of_nobody", MACHINES[0]):
        refused = await past.get(EARNINGS, machine=machine)  # Ada has no Macs
        assert (refused.status, refused.error["code"]) == (404, "machine_not_found")
    cursor = (await past.get(USAGE, cursor="", limit=1)).json["next_cursor"]
    _, stranger = await past.market.key("billing:read", account=MAC_OWNER)
    refused = await past.get(USAGE, stranger, cursor=cursor)
    assert (refused.status, refused.error["code"]) == (400, "invalid_cursor")
    assert (await past.get(USAGE, past.keys["one"][1], cursor="")).status == 403
    assert (await past.get(f"{USAGE}/export", None, format="csv")).status == 401


async def test_a_cursor_is_of_one_list_and_its_filters(past: PastMarket) -> None:
    """With another model, date, order or list it is refused; with another limit it goes on."""
    first = (await past.get(USAGE, model=MODELS, limit=2)).json["next_cursor"]
    assert (await past.get(USAGE, model=MODELS, limit=9, cursor=first)).status == 200
    for query in (
        {},
        {"model": MODELS[0]},
        {"model": MODELS[::-1]},
        {"model": MODELS, "window": "all"},
        {"model": MODELS, "by": "model"},
    ):
        refused = await past.get(USAGE, cursor=first, **query)
        assert (refused.status, refused.error["code"]) == (400, "invalid_cursor"), query
    for at in range(0, len(first), 3):
        spoilt = first[:at] + ("A" if first[at] != "A" else "B") + first[at + 1 :]
        assert (await past.get(USAGE, model=MODELS, cursor=spoilt)).status == 400


async def test_a_loop_of_pages_is_slowed_down(tmp_path: Path) -> None:
    """429 with Retry-After, for this account only, and the plain list still answers."""
    async with open_past(tmp_path, 3, histories_burst=4) as past:
        statuses = [(await past.get(USAGE, cursor="")).status for _ in range(8)]
        assert statuses[:4] == [200] * 4
        assert statuses[-1] == 429
        refused = await past.get(f"{USAGE}/export", format="csv")
        assert (refused.status, refused.error["code"]) == (429, "too_many_pages")
        assert "retry-after" in refused.answer_headers
        assert (await past.get(USAGE)).status == 200
        assert (await past.get(EARNINGS, past.owner, window="all")).status == 200


async def test_what_is_told_of_the_beginning_is_true(past: PastMarket) -> None:
    """Sums say which stretch they are of, in UTC."""
    told = (await past.get(USAGE, by="day", begin="2028-02-28", to="2028-02-29")).json
    assert (told["begin"], told["end"]) == ("2028-02-28T00:00:00Z", "2028-02-29T00:00:00Z")
    ever = (await past.get(USAGE, by="model")).json
    assert ever["begin"] is None
    day = (await past.get(EARNINGS, past.owner, window="24h", by="machine")).json
    assert day["begin"] == moment(-(-(past.now_s - DAY_S) // 60) * 60)
    assert past.now_s > BEGIN_S
