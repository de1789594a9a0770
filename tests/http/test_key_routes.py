"""Keys over HTTP: their caps, models, ends and rotation, and what the asking key may do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from market.accounting.promos import PromoRules
from serve_app.limits import Limits
from tests.http.asgi_client import ask, chat
from tests.http.ledger_market import LedgerMarket, call, open_market, validated
from tests.http.memory_fleet import Mac

ONE_TOKEN = 22 * 15 + 60


@pytest.fixture
async def market(tmp_path: Path) -> AsyncIterator[LedgerMarket]:
    """Real books."""
    async with open_market(tmp_path) as opened:
        yield opened


async def made(market: LedgerMarket, **fields: Any) -> dict[str, Any]:
    exchange = await call(market, "POST", "/v1/keys", fields)
    assert exchange.status == 201, exchange.content
    return dict(exchange.json)


async def test_a_key_has_the_limits_it_was_made_with(market: LedgerMarket) -> None:
    """Caps are exact decimal strings, the same out as in."""
    caps = {"day_usd": "1.50", "week_usd": "0.000000001", "month_usd": None}
    body = {
        "name": "lab",
        "scopes": ["inference", "fleet:read", "payouts"],
        "models": ["coster/demo"],
        "caps": caps,
        "expires_in_s": 3_600,
    }

    key = await made(market, **body)
    listed = await call(market, "GET", "/v1/keys")
    own = await call(market, "GET", "/v1/key", key=key["key"])

    assert key["caps"] == {"day_usd": "1.5", "week_usd": "0.000000001", "month_usd": None}
    assert (key["models"], key["scopes"]) == (["coster/demo"], sorted(body["scopes"]))  # type: ignore[arg-type]
    assert key["expires_at"] > key["created_at"]
    await validated(market, listed, "KeyList")
    shown = await validated(market, own, "ThisKey")
    assert shown["spend"]["day"]["cap_nano_usd"] == "1500000000"
    assert shown["spend"]["day"]["resets_at"].endswith("T00:00:00Z")
    assert shown["spend"]["month"]["cap_usd"] is None


async def test_a_cap_is_hard_and_its_spending_is_shown(market: LedgerMarket) -> None:
    """What was charged is in the window; the next request is 402 and says which cap."""
    key = await made(market, caps={"day_usd": "0.000000400"})
    spent = await ask(chat(max_tokens=1), key=key["key"]).go(market.app)

    refused = await ask(chat(max_tokens=1), key=key["key"]).go(market.app)
    shown = (await call(market, "GET", "/v1/limits", key=key["key"])).json["key"]["spend"]

    assert spent.status == 200
    assert (refused.status, refused.error["code"]) == (402, "key_cap_day")
    assert refused.answer_headers["x-should-retry"] == "false"
    assert shown["day"]["spent_nano_usd"] == str(ONE_TOKEN)
    assert shown["held_nano_usd"] == "0"


async def test_a_key_for_one_model_is_refused_others(market: LedgerMarket) -> None:
    """403 names it; a mistyped model is refused when the key is made."""
    key = await made(market, models=["qwen3.5-7b"])

    exchange = await ask(key=key["key"]).go(market.app)
    mistyped = await call(market, "POST", "/v1/keys", {"models": ["coster/demo", "gpt"]})

    assert exchange.status == 403
    assert (mistyped.status, mistyped.error["param"]) == (400, "models[1]")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"caps": {"day_usd": 1.5}}, "caps.day_usd"),
        ({"caps": {"day_usd": "-1"}}, "caps.day_usd"),
        ({"caps": {"day_usd": "1e3"}}, "caps.day_usd"),
        ({"caps": {"day_usd": "NaN"}}, "caps.day_usd"),
        ({"caps": {"day_usd": "0.0000000001"}}, "caps.day_usd"),
        ({"caps": {"day_usd": "9999999999.999999999"}}, "caps.day_usd"),
        ({"caps": {"day_usd": "１"}}, "caps.day_usd"),
        ({"caps": {"year_usd": "1"}}, "caps.year_usd"),
        ({"caps": "1"}, "caps"),
        ({"models": []}, "models"),
        ({"models": [""]}, "models[0]"),
        ({"models": ["x"] * 101}, "models"),
        ({"scopes": ["admin"]}, "scopes[0]"),
        ({"scopes": ["billing"]}, "scopes[0]"),
    ],
)
async def test_a_wrong_limit_is_named(
    market: LedgerMarket, fields: dict[str, Any], param: str
) -> None:
    """400 with the field, for making a key as for changing one."""
    posted = await call(market, "POST", "/v1/keys", fields)
    assert (posted.status, posted.error["param"]) == (400, param), posted.content
    if "scopes" not in fields:
        patched = await call(market, "PATCH", "/v1/keys/key_x", fields)
        assert (patched.status, patched.error["param"]) == (400, param)


async def test_a_change_touches_only_what_it_names(market: LedgerMarket) -> None:
    """One window of the caps changes, null lifts one, and the rest stays."""
    key = await made(
        market, name="a", models=["coster/demo"], caps={"day_usd": "1", "week_usd": "5"}
    )
    path = f"/v1/keys/{key['id']}"

    day = (await call(market, "PATCH", path, {"caps": {"day_usd": "2"}})).json
    named = (await call(market, "PATCH", path, {"name": "b"})).json
    lifted = (await call(market, "PATCH", path, {"caps": {"week_usd": None}})).json
    free = (await call(market, "PATCH", path, {"caps": None, "models": None})).json

    assert day["caps"] == {"day_usd": "2", "week_usd": "5", "month_usd": None}
    assert (named["name"], named["caps"], named["models"]) == ("b", day["caps"], ["coster/demo"])
    assert lifted["caps"] == {"day_usd": "2", "week_usd": None, "month_usd": None}
    assert (free["caps"]["day_usd"], free["models"]) == (None, None)


async def test_a_rotated_key_lives_on_for_its_grace(market: LedgerMarket) -> None:
    """Both work meanwhile; the new one may do the same; with no grace the old one is gone."""
    key = await made(market, caps={"day_usd": "1"})
    path = f"/v1/keys/{key['id']}/rotate"
    own = {"idempotency-key": "rotate-1"}

    new = await call(market, "POST", path, {"grace_s": 600}, headers=own)
    again = await call(market, "POST", path, {"grace_s": 600}, headers=own)

    assert (new.status, new.json["replaces"]) == (201, key["id"])
    assert (new.json["caps"], new.json["scopes"]) == (key["caps"], key["scopes"])
    assert again.json["key"] == new.json["key"]
    assert (await ask(key=key["key"]).go(market.app)).status == 200
    assert (await ask(key=new.json["key"]).go(market.app)).status == 200
    last = await call(market, "POST", f"/v1/keys/{new.json['id']}/rotate", {"grace_s": 0})
    assert (await ask(key=new.json["key"]).go(market.app)).status == 401
    assert (await ask(key=last.json["key"]).go(market.app)).status == 200


async def test_a_rotation_may_be_repeated_after_a_new_name(market: LedgerMarket) -> None:
    """The secret is fetched again whatever the key is called by now."""
    key = await made(market, name="a")
    path, own = f"/v1/keys/{key['id']}", {"idempotency-key": "rotate-2"}
    new = await call(market, "POST", f"{path}/rotate", {}, headers=own)
    await call(market, "PATCH", path, {"name": "b"})

    again = await call(market, "POST", f"{path}/rotate", {}, headers=own)

    assert again.json["key"] == new.json["key"]


@pytest.mark.parametrize("grace", [-1, 30 * 86_400 + 1, 1.5, "60"])
async def test_a_wrong_grace_is_named(market: LedgerMarket, grace: Any) -> None:
    """400 with the field."""
    exchange = await call(market, "POST", "/v1/keys/key_x/rotate", {"grace_s": grace})

    assert (exchange.status, exchange.error["param"]) == (400, "grace_s")


async def test_no_key_manages_itself(market: LedgerMarket) -> None:
    """A management key ends, changes and rotates others; itself is 403."""
    own = (await call(market, "GET", "/v1/key")).json["id"]

    for method, path in (
        ("DELETE", f"/v1/keys/{own}"),
        ("PATCH", f"/v1/keys/{own}"),
        ("POST", f"/v1/keys/{own}/rotate"),
    ):
        exchange = await call(market, method, path, {})
        assert (exchange.status, exchange.error["code"]) == (403, "own_key")


async def test_a_key_gives_only_what_it_has(market: LedgerMarket) -> None:
    """And inference. Neither a new key nor a rotated one is a way to further scopes; what is
    missing is named, and nothing was made.
    """
    _, minter = await market.key("keys", "billing:read")
    rich = await made(market, scopes=["payouts", "fleet:read"])
    plain = await made(market, scopes=["inference", "billing:read"])
    before = len((await call(market, "GET", "/v1/keys")).json["data"])

    made_by = {"scopes": ["payouts", "billing:read", "keys", "fleet:read"]}
    minted = await call(market, "POST", "/v1/keys", made_by, key=minter)
    rotated = await call(market, "POST", f"/v1/keys/{rich['id']}/rotate", {}, key=minter)
    strange = await call(market, "POST", "/v1/keys/key_x/rotate", {}, key=minter)
    after = len((await call(market, "GET", "/v1/keys")).json["data"])

    for refused, param in ((minted, "scopes"), (rotated, "key_id")):
        assert (refused.status, refused.error["code"]) == (403, "missing_scope")
        assert refused.error["param"] == param
        assert "lacks the scope fleet:read and payouts" in refused.error["message"]
    assert (strange.status, strange.error["code"]) == (404, "key_not_found")
    assert after == before
    for body in ({}, {"scopes": ["inference"]}, {"scopes": ["keys"]}):
        assert (await call(market, "POST", "/v1/keys", body, key=minter)).status == 201
    again = await call(market, "POST", f"/v1/keys/{plain['id']}/rotate", {}, key=minter)
    assert again.status == 201
    _, bare = await market.key("keys")
    assert (await call(market, "POST", "/v1/keys", {}, key=bare)).json["scopes"] == ["inference"]


async def test_the_key_an_account_is_opened_with_gives_every_scope(market: LedgerMarket) -> None:
    """It can make another like itself, and every other key of its account."""
    opened = await call(market, "POST", "/v1/accounts", {}, None)
    first = opened.json["management_key"]["key"]

    for scopes in (["inference"], ["keys", "billing:read", "fleet:read", "payouts"]):
        given = await call(market, "POST", "/v1/keys", {"scopes": scopes}, key=first)
        assert (given.status, given.json["scopes"]) == (201, sorted(scopes))


async def test_an_expired_key_is_refused_everywhere(market: LedgerMarket) -> None:
    """Its end is known to the gateway's cache, too."""
    now_s = market.ledger.accountant._now_ns() / 1e9
    _, secret = await market.key("inference", "billing:read", expires_s=now_s + 0.2)
    assert (await call(market, "GET", "/v1/key", key=secret)).status == 200
    await asyncio.sleep(0.25)

    for exchange in (
        await call(market, "GET", "/v1/key", key=secret),
        await ask(key=secret).go(market.app),
    ):
        assert (exchange.status, exchange.error["code"]) == (401, "expired_api_key")


async def test_a_key_revoked_elsewhere_is_refused_within_a_second(tmp_path: Path) -> None:
    """Another gateway trusts what it read for `key_cache_s` and no longer."""
    bounds = Limits(key_cache_s=0.05)
    async with open_market(tmp_path, limits=bounds) as market:
        key_id, secret = await market.key("billing:read")
        assert (await call(market, "GET", "/v1/payments/balance", key=secret)).status == 200
        await call(market, "DELETE", f"/v1/keys/{key_id}")
        await asyncio.sleep(0.06)

        assert (await call(market, "GET", "/v1/payments/balance", key=secret)).status == 401
    assert Limits().key_cache_s <= 1.0


async def test_limits_tell_the_tier_and_what_is_left(tmp_path: Path) -> None:
    """A request is missing from the minute, its tokens from the day; paid has no day."""
    async with open_market(tmp_path, tier="free") as market:
        before = await validated(market, await call(market, "GET", "/v1/limits"), "LimitsAnswer")
        await ask(key=market.inference).go(market.app)
        after = (await call(market, "GET", "/v1/limits")).json

        assert before["tier"] == after["tier"] == "free"
        assert before["requests_per_minute"]["remaining"] == 60
        assert after["requests_per_minute"]["remaining"] == 59
        assert 0 < after["requests_per_minute"]["resets_in_s"] <= 1
        assert after["tokens_per_day"]["remaining"] == 200_000 - 46
        await market.ledger.change_account("acct_ada", {"tier": "paid"}, "op", "paid")
        paid = (await call(market, "GET", "/v1/limits")).json
        assert (paid["tier"], paid["tokens_per_day"]) == ("paid", None)


RATE_HEADERS = {
    f"x-ratelimit-{part}-{unit}"
    for part in ("limit", "remaining", "reset")
    for unit in ("requests", "tokens")
}


@pytest.mark.parametrize("stream", [True, False])
async def test_rate_headers_are_complete_on_success(tmp_path: Path, stream: bool) -> None:
    """All six of OpenAI's names, also on a stream and under an own key."""
    async with open_market(tmp_path, tier="free") as market:
        own = {"idempotency-key": "k"}
        exchange = await ask(chat(stream=stream), key=market.inference, headers=own).go(market.app)

        assert exchange.answer_headers.keys() >= RATE_HEADERS


async def test_refusals_say_when_and_whether_to_come_again(tmp_path: Path) -> None:
    """429 and the 402 of running requests carry Retry-After and x-should-retry: true."""
    async with open_market(tmp_path, Mac("slow", pace_s=0.01), tier="free") as market:
        for _ in range(60):
            last = await ask(b"{", key=market.inference).go(market.app)
            assert last.status == 400
        many = await asyncio.gather(
            *(ask(chat(max_tokens=1), key=market.inference).go(market.app) for _ in range(62))
        )
        limited = [exchange for exchange in many if exchange.status == 429]
        assert limited
        assert int(limited[0].answer_headers["retry-after"]) >= 1
        assert limited[0].answer_headers["x-should-retry"] == "true"


# ── new accounts ──────────────────────────────────────────────────────────────────────


async def test_credit_is_granted_once_per_network(tmp_path: Path) -> None:
    """A second sign-up from the same /24 opens without, and is told why."""
    rules = PromoRules(5_000_000_000, per_fingerprint=1)
    async with open_market(tmp_path, promo=rules) as market:
        seen = []
        for peer in ("203.0.113.7", "203.0.113.250", "203.0.114.7"):
            exchange = await call(market, "POST", "/v1/accounts", {}, None, peer=peer)
            seen.append(await validated(market, exchange, "NewAccount"))

        assert [row["promo_nano_usd"] for row in seen] == ["5000000000", "0", "5000000000"]
        assert [row["promo_note"] is None for row in seen] == [True, False, True]
        assert "once per network" in seen[1]["promo_note"]


async def test_only_a_keyed_hash_of_the_network_is_kept(market: LedgerMarket) -> None:
    """The ledger learns whether two sign-ups came from one place, not from which."""
    exchange = await call(market, "POST", "/v1/accounts", {}, None, peer="203.0.113.7")

    row = await market.ledger.account(exchange.json["account_id"])
    assert len(row.fingerprint) == 64
    assert "203" not in row.fingerprint or row.fingerprint.isalnum()
