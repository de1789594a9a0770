"""Usage and earnings as one stream: whole or broken off, in any form, and few at once."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from market.errors import Unavailable
from market.money import NANO_PER_USD
from serve_app import exporting
from tests.http.asgi_client import Exchange
from tests.http.past_market import (
    EARNINGS,
    MACHINES,
    USAGE,
    PastMarket,
    cost,
    open_past,
)


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
    for row, name in [(row, "cost") for row in rows] + [(job, "amount") for job in jobs]:
        dollars = int(row[f"{name}_nano_usd"]) / NANO_PER_USD
        expected = f"{dollars:.9f}" if form == "csv" else dollars
        assert row[f"{name}_usd"] == expected, "a number; in CSV with nine decimals"


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
