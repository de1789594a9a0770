"""Money over HTTP: paying in, the processor's notices, whose ids are whose, prices."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from market.accounting.prices import Price
from serve_app.limits import Limits
from serve_app.schemas import PriceList
from tests.http.asgi_client import Exchange, ask
from tests.http.ledger_market import LedgerMarket, call, open_market, validated
from tests.http.memory_accountant import MAC_OWNER
from tests.http.memory_payments import Payments

ROOT = Path(__file__).resolve().parents[2]
COST = 22 * 15 + 24 * 60
OWN = {"idempotency-key": "my-own-key"}


@pytest.fixture
async def market(tmp_path: Path) -> AsyncIterator[LedgerMarket]:
    """Real books, payments in memory."""
    async with open_market(tmp_path) as opened:
        yield opened


# ── paying in ─────────────────────────────────────────────────────────────────────────


async def test_a_topup_is_made_shown_and_listed(market: LedgerMarket) -> None:
    """201 with the page to pay on; every amount in cents, exact nano-USD and USD."""
    body = {"amount_cents": 2_501, "currency": "usd"}

    made = await call(market, "POST", "/v1/payments/topups", body)
    shown = await call(market, "GET", f"/v1/payments/topups/{made.json['id']}")
    listed = await call(market, "GET", "/v1/payments/topups")

    assert made.status == 201
    found = await validated(market, made, "TopUp")
    assert (found["object"], found["status"], found["url"]) == (
        "topup",
        "open",
        "https://pay.test/1",
    )
    assert (found["amount_cents"], found["amount_nano_usd"]) == (2_501, "25010000000")
    assert found["amount_usd"] == 25.01
    assert shown.json == found
    assert (await validated(market, listed, "TopUpList"))["data"] == [found]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"amount_cents": -1, "currency": "usd"}', "amount_cents"),
        (b'{"amount_cents": 0, "currency": "usd"}', "amount_cents"),
        (b'{"amount_cents": 10.5, "currency": "usd"}', "amount_cents"),
        (b'{"amount_cents": 10.0, "currency": "usd"}', "amount_cents"),
        (b'{"amount_cents": NaN, "currency": "usd"}', None),
        (b'{"amount_cents": 1e400, "currency": "usd"}', None),
        (b'{"amount_cents": 9223372036854775808, "currency": "usd"}', "amount_cents"),
        (b'{"amount_cents": 999999999999999999999999999999, "currency": "usd"}', "amount_cents"),
        (b'{"amount_cents": "100", "currency": "usd"}', "amount_cents"),
        (b'{"amount_cents": true, "currency": "usd"}', "amount_cents"),
        (b'{"amount_cents": null, "currency": "usd"}', "amount_cents"),
        (b'{"amount_cents": 100, "currency": "eur"}', "currency"),
        (b'{"amount_cents": 100}', "currency"),
        (b'{"amount_cents": 100, "currency": "usd", "fee": 0}', "fee"),
        (b"{}", "amount_cents"),
        (b"", "amount_cents"),
        (b"[]", None),
    ],
)
async def test_a_wrong_amount_is_named(
    market: LedgerMarket, body: bytes, param: str | None
) -> None:
    """400 with the field; payments are never asked."""
    exchange = await call(market, "POST", "/v1/payments/topups", body)

    assert (exchange.status, exchange.error["param"]) == (400, param), exchange.content
    assert not market.payments.calls


async def test_lists_page_back_without_losing_or_repeating(market: LedgerMarket) -> None:
    """`next_before` leads through all of them, newest first, and ends with null."""
    body = {"amount_cents": 500, "currency": "usd"}
    made = [(await call(market, "POST", "/v1/payments/topups", body)).json for _ in range(5)]
    seen, before = [], ""
    for _ in range(3):
        page = (await call(market, "GET", f"/v1/payments/topups?limit=2{before}")).json
        seen += [row["id"] for row in page["data"]]
        before = f"&before={page['next_before']}"

    assert seen == [row["id"] for row in reversed(made)]
    assert page["next_before"] is None


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "before=-1", "before=x", "limit=1e3"])
async def test_a_wrong_page_is_named(market: LedgerMarket, query: str) -> None:
    """400 with the parameter."""
    exchange = await call(market, "GET", f"/v1/payments/topups?{query}")

    assert (exchange.status, exchange.error["param"]) == (400, query.partition("=")[0])


async def test_refunds_and_withdrawals_are_the_owners_only(market: LedgerMarket) -> None:
    """Another account's ids are not found, in every route that takes one."""
    body = {"amount_cents": 500, "currency": "usd"}
    topup = (await call(market, "POST", "/v1/payments/topups", body)).json["id"]
    payout = (await call(market, "POST", "/v1/payouts/withdrawals", {})).json["id"]
    _, stranger = await market.key("billing:read", "payouts", "keys", account=MAC_OWNER)
    key_id, _ = await market.key("inference")

    for method, path in (
        ("GET", f"/v1/payments/topups/{topup}"),
        ("POST", f"/v1/payments/topups/{topup}/refund"),
        ("GET", f"/v1/payouts/withdrawals/{payout}"),
        ("GET", f"/v1/payments/topups/{payout}"),
        ("PATCH", f"/v1/keys/{key_id}"),
        ("POST", f"/v1/keys/{key_id}/rotate"),
        ("DELETE", f"/v1/keys/{key_id}"),
    ):
        exchange = await call(market, method, path, {}, key=stranger)
        assert exchange.status == 404, (path, exchange.content)
    own = {"idempotency-key": "k"}
    path = f"/v1/payments/topups/{topup}/refund"
    refund, again = [await call(market, "POST", path, {}, headers=own) for _ in range(2)]
    assert again.json == refund.json
    said = [done.answer_headers.get("x-coster-replayed") for done in (refund, again)]
    assert said == [None, "true"]
    assert (await validated(market, refund, "Refund"))["amount_nano_usd"] == "5000000000"


@pytest.mark.parametrize(
    ("path", "body", "other"),
    [
        (
            "/v1/payments/topups",
            {"amount_cents": 500, "currency": "usd"},
            {"amount_cents": 501, "currency": "usd"},
        ),
        ("/v1/payouts/withdrawals", {"amount_cents": 500}, {"amount_cents": 501}),
        ("/v1/keys", {"name": "a"}, {"name": "b"}),
        ("/v1/accounts", {"name": "a"}, {"name": "b"}),
    ],
)
async def test_money_and_keys_are_made_once_per_own_key(
    market: LedgerMarket, path: str, body: Any, other: Any
) -> None:
    """The same key and contents give the same object, secret included; others are 409. Of
    money it is said that it was made before.
    """
    own = {"idempotency-key": "a-key-that-nobody-guesses"}

    first = await call(market, "POST", path, body, headers=own)
    again = await call(market, "POST", path, body, headers=own)
    changed = await call(market, "POST", path, other, headers=own)

    assert (first.status, again.status) == (201, 201)
    assert again.json == first.json
    if path.startswith("/v1/pay"):
        assert "x-coster-replayed" not in first.answer_headers
        assert again.answer_headers["x-coster-replayed"] == "true"
    assert (changed.status, changed.error["code"]) == (409, "idempotency_key_reused")
    assert changed.answer_headers["x-should-retry"] == "false"


@pytest.mark.parametrize("own", ["", "x" * 256, "ключ", "a\nb"])
async def test_a_bad_own_key_is_400_on_every_route(market: LedgerMarket, own: str) -> None:
    """Before anything is made."""
    for path in ("/v1/payments/topups", "/v1/payouts/withdrawals", "/v1/keys", "/v1/accounts"):
        exchange = await call(market, "POST", path, {}, headers={"idempotency-key": own})
        assert (exchange.status, exchange.error["param"]) == (400, "Idempotency-Key")


async def test_an_accounts_own_key_must_be_hard_to_guess(market: LedgerMarket) -> None:
    """It fetches the account's key, so a short one is refused and told why."""
    exchange = await call(market, "POST", "/v1/accounts", {}, headers={"idempotency-key": "x" * 19})

    assert (exchange.status, exchange.error["code"]) == (400, "weak_idempotency_key")
    assert "20 characters" in exchange.error["message"]


# ── the webhook ───────────────────────────────────────────────────────────────────────


async def notice(market: LedgerMarket, body: bytes, signature: str | None, **more: Any) -> Exchange:
    headers = {} if signature is None else {"stripe-signature": signature}
    return await call(
        market,
        "POST",
        "/v1/payments/webhook",
        body,
        None,
        headers=headers | more.pop("headers", {}),
    )


async def test_a_signed_notice_is_taken_as_it_came(market: LedgerMarket) -> None:
    """Byte for byte: the signature is over the bytes; twice is as good as once."""
    raw = b'{ "id" : "evt_1",\n "type": "x" }'

    for _ in range(2):
        exchange = await notice(market, raw, Payments.SIGNATURE)
        assert (exchange.status, exchange.json) == (200, {"received": True})
    assert market.payments.notices == [raw, raw]


@pytest.mark.parametrize("signature", [None, "", "t=1,v1=bad", "t=1,v1=ключ", "x" * 5000])
async def test_an_unsigned_notice_is_400(market: LedgerMarket, signature: str | None) -> None:
    """Whatever is wrong with it, nothing is kept."""
    exchange = await notice(market, b"{}", signature)

    assert exchange.status == 400
    assert exchange.error["type"] == "invalid_request"
    assert not market.payments.notices


async def test_bad_signatures_are_limited_by_address_and_good_ones_never(tmp_path: Path) -> None:
    """A flood of forgeries ends in 429; the processor's own notices still pass."""
    bounds = replace(Limits(), forgeries_burst=3, forgeries_per_minute=1)
    async with open_market(tmp_path, limits=bounds) as market:
        statuses = [(await notice(market, b"{}", "bad")).status for _ in range(6)]
        good = await notice(market, b"{}", Payments.SIGNATURE)

    assert statuses == [400, 400, 400, 400, 429, 429]
    assert good.status == 200


async def test_a_notice_has_a_mebibyte_at_most(market: LedgerMarket) -> None:
    """413 beyond it, though other bodies may be larger."""
    exchange = await notice(market, b"x" * (2**20 + 1), Payments.SIGNATURE)

    assert exchange.status == 413
    assert (await call(market, "GET", "/v1/payments/webhook", key=None)).status == 404


# ── prices ────────────────────────────────────────────────────────────────────────────


async def test_prices_are_the_accountants_with_their_history(market: LedgerMarket) -> None:
    """A new price is shown with its cached line, by models too, and the old one is kept."""
    await market.ledger.set_price("coster/demo", Price(30, 7, 90), "op", "dearer")

    rows = (await call(market, "GET", "/v1/pricing", key=None)).json["models"]
    models = (await call(market, "GET", "/v1/models", key=None)).json["data"]
    history = await call(market, "GET", "/v1/pricing/history?model=coster/demo", key=None)

    row = next(row for row in rows if row["model"] == "coster/demo")
    assert (row["input_nano_usd_per_token"], row["output_nano_usd_per_token"]) == ("30", "90")
    assert row["cached_input_usd_per_1m"] == 0.007
    shown = next(model for model in models if model["id"] == "coster/demo")["pricing"]
    assert (shown["prompt_nano_usd"], shown["cached_prompt_nano_usd"]) == ("30", "7")
    old, new = (await validated(market, history, "PriceHistory"))["data"]
    assert (old["reason"], old["input_nano_usd_per_token"]) == ("listed", "15")
    assert old["since"] <= new["since"]
    assert (new["reason"], new["cached_input_nano_usd_per_token"]) == ("dearer", "7")
    answer = await ask(key=market.inference).go(market.app)
    assert int(answer.json["usage"]["cost_nano_usd"]) == 22 * 30 + 24 * 90


async def test_an_unknown_models_history_is_404(market: LedgerMarket) -> None:
    """And a missing name is 400."""
    gone = await call(market, "GET", "/v1/pricing/history?model=no/such", key=None)
    missing = await call(market, "GET", "/v1/pricing/history", key=None)

    assert (gone.status, missing.status) == (404, 400)


def test_the_published_schema_of_pricing_is_what_is_served() -> None:
    """Tools may rely on the file; a change of the answer changes it knowingly."""
    published = json.loads((ROOT / "docs/schemas/pricing.json").read_text())

    assert published == PriceList.model_json_schema()


async def test_pricing_validates_against_its_published_schema(market: LedgerMarket) -> None:
    """What the route answers is what the file says."""
    published = json.loads((ROOT / "docs/schemas/pricing.json").read_text())

    jsonschema.validate((await call(market, "GET", "/v1/pricing", key=None)).json, published)
