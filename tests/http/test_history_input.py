"""What histories are asked and cannot answer: dates, filters, cursors and loops that are wrong."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from tests.http.memory_accountant import MAC_OWNER
from tests.http.past_market import (
    EARNINGS,
    MACHINES,
    MODELS,
    USAGE,
    PastMarket,
    open_past,
)

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
    ({"begin": "2099-01-01"}, 400, "invalid_period"),
    ({"format": "csv"}, 400, "unknown_parameter"),
    ({"colour": "red", "cursor": ""}, 400, "unknown_parameter"),
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
