"""The fake Stripe holds what Stripe promises: parameters, keys, money, lists, memory, pages."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode

import pytest

from actors.fake_stripe.app import FakeStripe
from actors.fake_stripe.state_file import UnreadableStateError
from market.payments.processor import ProcessorRefused
from tests.support.fake_stripe import API_KEY, RETURN, SETTINGS, Desk, running_stripe

SESSION = {
    "mode": "payment",
    "success_url": RETURN,
    "line_items[0][quantity]": "1",
    "line_items[0][price_data][currency]": "usd",
    "line_items[0][price_data][unit_amount]": "2500",
    "line_items[0][price_data][product_data][name]": "credit",
}
TRANSFER = {"amount": "100", "currency": "usd", "destination": "acct_1"}
SESSIONS, TRANSFERS = "/v1/checkout/sessions", "/v1/transfers"
DAY_S = 86_400


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with running_stripe() as running:
        yield running


WRONG_FORMS = [
    # path, the form, Stripe's code, the parameter
    (SESSIONS, SESSION | {"payment_intent_data[metdata][x]": "1"}, "parameter_unknown", "metdata"),
    (SESSIONS, SESSION | {"mode": "paymnt"}, "parameter_invalid", "mode"),
    (SESSIONS, SESSION | {"mode": "subscription"}, None, "mode"),
    (SESSIONS, SESSION | {"success_url": "javascript:alert(1)"}, "url_invalid", "success_url"),
    (SESSIONS, SESSION | {"success_url": "https://a.example/\r\nX: 1"}, "url_invalid", "success"),
    (SESSIONS, SESSION | {"line_items[0][quantity]": "0"}, "parameter_invalid_integer", "quantity"),
    (SESSIONS, SESSION | {"line_items[0][quantity]": "1_0"}, "parameter_invalid_integer", "quan"),
    (SESSIONS, {"mode": "payment", "success_url": RETURN}, "parameter_missing", "line_items"),
    (SESSIONS, SESSION | {"currency": "usd"}, "not_modelled", "currency"),
    (TRANSFERS, TRANSFER | {"amount": "10.5"}, "parameter_invalid_integer", "amount"),
    (TRANSFERS, TRANSFER | {"amount": "10.0"}, "parameter_invalid_integer", "amount"),
    (TRANSFERS, TRANSFER | {"amount": "-5"}, "parameter_invalid_integer", "amount"),
    (TRANSFERS, TRANSFER | {"amount": "9" * 12}, "amount_too_large", "amount"),
    (TRANSFERS, TRANSFER | {"amount": "9" * 5000}, "parameter_invalid_integer", "amount"),
    (TRANSFERS, TRANSFER | {"currency": "eur"}, "currency_invalid", "currency"),
    (TRANSFERS, TRANSFER | {"metadata": "x"}, "parameter_invalid", "metadata"),
    (TRANSFERS, TRANSFER | {"amount[x]": "1"}, None, "amount"),
    (TRANSFERS, {"amount[x]": "1"} | TRANSFER, None, "amount"),
    (TRANSFERS, TRANSFER | {"expand[0]": "destination"}, None, "expand"),
    (TRANSFERS, {"amount": "1", "currency": "usd"}, "parameter_missing", "destination"),
    (TRANSFERS, TRANSFER, "resource_missing", "destination"),
    ("/v1/refunds", {"payment_intent": "pi_1", "amount": "1"}, "resource_missing", "payment_int"),
    ("/v1/refunds", {"reason": "bored"}, "parameter_invalid", "reason"),
]


@pytest.mark.parametrize(("path", "form", "code", "param"), WRONG_FORMS)
async def test_stripes_own_types_refuse_a_wrong_form(
    desk: Desk, path: str, form: dict[str, str], code: str | None, param: str
) -> None:
    """A misspelt, missing, mistyped or impossible parameter is named, and nothing is made."""
    status, body = await desk.raw("POST", path, urlencode(form))
    assert status in (400, 404)
    assert body["error"].get("code") == code
    assert param in body["error"]["param"]
    assert not desk.fake.world.objects


async def test_the_v2_api_takes_typed_json_only(desk: Desk) -> None:
    """v2 bodies are JSON of exactly Stripe's shape."""
    use = {"type": "account_onboarding"}
    wrong = [
        ("/v2/core/accounts", {"dashbord": "express"}, "dashbord"),
        ("/v2/core/accounts", {"identity": {"country": 7}}, "country"),
        ("/v2/core/accounts", {"identity": {"country": "KP"}}, "country"),
        ("/v2/core/accounts", {"configuration": {"merchant": {}}}, "merchant"),
        ("/v2/core/account_links", {"account": "acct_1"}, "use_case"),
        ("/v2/core/account_links", {"account": "acct_1", "use_case": use}, "account"),
    ]
    for path, body, param in wrong:
        status, answer = await desk.raw("POST", path, json.dumps(body))
        assert status == 400
        assert param in answer["error"]["param"]
    status, _ = await desk.raw("POST", "/v2/core/accounts", "identity[country]=US")
    assert status == 400


async def test_who_asks_and_in_which_version_matters(desk: Desk) -> None:
    """Another key, another version, another account and another route are refused."""
    assert (await desk.raw("GET", "/v1/balance"))[0] == 200
    assert (await desk.raw("GET", "/v1/balance", Authorization="Bearer sk_test_x"))[0] == 401
    assert (await desk.raw("GET", "/_fake/objects", Authorization="Bearer sk_test_x"))[0] == 401
    assert (await desk.raw("GET", "/v1/balance", Stripe_Version="2020-08-27"))[0] == 400
    assert (await desk.raw("GET", "/v1/balance", Stripe_Account="acct_1"))[0] == 400
    for method, path in [("GET", "/v1/customers"), ("DELETE", "/v1/balance"), ("GET", "/")]:
        assert (await desk.raw(method, path))[0] == 404


async def test_one_key_is_one_answer(desk: Desk) -> None:
    """The same key replays its answer; other parameters are refused; a day later it is new."""
    form = urlencode(SESSION)

    async def ask(body: str = form) -> tuple[int, dict[str, object], str | None]:
        headers = {"Authorization": f"Bearer {API_KEY}", "Idempotency-Key": "one"}
        async with desk.http.post(desk.url + SESSIONS, data=body, headers=headers) as answer:
            return answer.status, await answer.json(), answer.headers.get("Idempotent-Replayed")

    first, again = await ask(), await ask()
    assert (first[0], first[2], again[2]) == (200, None, "true")
    assert again[1] == first[1]
    status, other, _ = await ask(urlencode(SESSION | {"cancel_url": RETURN}))
    assert (status, other["error"]["type"]) == (400, "idempotency_error")  # type: ignore[index]
    assert desk.count("checkout.session") == 1

    await desk.fake.act("advance", seconds=DAY_S + 1)

    assert (await ask())[1]["id"] != first[1]["id"]


async def test_only_what_was_understood_is_remembered(desk: Desk) -> None:
    """A refusal for the state of things is replayed; a malformed question is not."""
    account = await desk.payee()
    form = TRANSFER | {"destination": account}
    poor = await desk.raw("POST", TRANSFERS, urlencode(form), Idempotency_Key="k")
    bad = await desk.raw("POST", TRANSFERS, "amount=x", Idempotency_Key="k2")
    assert (poor[0], bad[0]) == (400, 400)
    await desk.rich()
    assert await desk.raw("POST", TRANSFERS, urlencode(form), Idempotency_Key="k") != poor
    status, _ = await desk.raw("POST", TRANSFERS, urlencode(form), Idempotency_Key="k2")
    assert status == 200


async def test_a_key_in_use_is_a_conflict(desk: Desk) -> None:
    """Two requests with one key at once: one is worked on, the other is told so."""
    desk.fake.turn(faults=[{"route": f"POST {SESSIONS}", "kind": "stall", "stall_s": 1.0}])
    form = urlencode(SESSION)
    slow = asyncio.create_task(desk.raw("POST", SESSIONS, form, Idempotency_Key="k"))
    while desk.fake.knobs.faults[0].times:
        await asyncio.sleep(0.01)
    assert (await desk.raw("POST", SESSIONS, form, Idempotency_Key="k"))[0] == 409
    assert (await slow)[0] == 200
    assert desk.count("checkout.session") == 1


async def test_a_checkout_expires_after_a_day(desk: Desk) -> None:
    """An unpaid page closes by the clock, says so, and cannot be paid any more."""
    _, session = await desk.raw("POST", SESSIONS, urlencode(SESSION))
    await desk.fake.act("advance", seconds=DAY_S)
    assert (await desk.processor.checkout(session["id"])).status == "expired"
    kinds = [event.kind for event in await desk.processor.events_since(0)]
    assert kinds == ["checkout.session.expired"]
    assert (await desk.raw("POST", "/_fake/act", json.dumps({"act": "pay", "id": session["id"]})))[
        0
    ] == 400


async def test_refunds_never_exceed_the_payment(desk: Desk) -> None:
    """Parts add up to the whole at most; a failed refund can be made again."""
    intent = await desk.paid()
    first = await desk.processor.refund("rf_1", intent, 1500)
    with pytest.raises(ProcessorRefused):
        await desk.processor.refund("rf_2", intent, 1001)
    await desk.processor.refund("rf_3", intent, 1000)
    with pytest.raises(ProcessorRefused) as refused:
        await desk.processor.refund("rf_4", intent, 1)
    assert refused.value.code == "charge_already_refunded"
    await desk.fake.act("fail_refund", id=first.refund)
    desk.fake.turn(refunds_wait=True)
    slow = await desk.processor.refund("rf_5", intent, 1500)
    assert slow.status == "pending"
    await desk.fake.act("settle_refund", id=slow.refund)
    assert (await desk.processor.refund_by_id(slow.refund)).status == "succeeded"


async def test_lists_are_paged_both_ways(desk: Desk) -> None:
    """Pages join to the whole list without a gap, in either direction and API."""
    for number in range(7):
        await desk.raw("POST", SESSIONS, urlencode(SESSION | {"client_reference_id": number}))
        await desk.processor.open_recipient(f"own_{number}", "US")
    whole = [s["id"] for s in (await desk.raw("GET", f"{SESSIONS}?limit=100"))[1]["data"]]
    found: list[str] = []
    more, after = True, ""
    while more:
        _, page = await desk.raw("GET", f"{SESSIONS}?limit=3{after}")
        found += [session["id"] for session in page["data"]]
        more, after = page["has_more"], f"&starting_after={found[-1]}"
    assert found == whole
    _, before = await desk.raw("GET", f"{SESSIONS}?limit=2&ending_before={whole[4]}")
    assert ([s["id"] for s in before["data"]], before["has_more"]) == (whole[2:4], True)
    url, thin = "/v2/core/events?limit=3", []
    while url:
        _, page = await desk.raw("GET", url)
        thin += [event["related_object"]["id"] for event in page["data"]]
        url = page["next_page_url"]
    assert len(thin) == len(set(thin)) == 7
    for bad in ["limit=0", "limit=101", "limit=x", "starting_after=cs_x", "expand[]=data.mode"]:
        assert (await desk.raw("GET", f"{SESSIONS}?{bad}"))[0] == 400


async def test_a_long_random_life_keeps_the_books(desk: Desk) -> None:
    """Whatever people do, nothing is given back or paid out that was not there."""
    rng = random.Random(7)
    account = await desk.payee()
    intents = [await desk.paid("top_0", 50_000)]
    for number in range(150):
        act = rng.choice(["pay", "transfer", "refund", "fail", "dispute", "close", "advance"])
        world = desk.fake.world
        try:
            if act == "pay":
                intents.append(await desk.paid(f"top_{number}", rng.randrange(50, 9_000)))
            elif act == "transfer":
                before = (await desk.processor.balance()).available_cents
                sum_cents = rng.randrange(1, 9_000)
                await desk.processor.transfer(f"po_{number}", account, sum_cents)
                assert sum_cents <= before
            elif act == "refund":
                await desk.processor.refund(
                    f"rf_{number}", rng.choice(intents), rng.randrange(1, 9_000)
                )
            elif act == "advance":
                await desk.fake.act("advance", seconds=rng.randrange(2 * DAY_S))
            else:
                kind = {"fail": "refund", "dispute": "payment_intent", "close": "dispute"}[act]
                order = {"fail": "fail_refund", "dispute": "open_dispute"}.get(act)
                things = [thing["id"] for thing in world.all(kind)] or ["none"]
                order = order or rng.choice(["win_dispute", "lose_dispute"])
                body = json.dumps({"act": order, "id": rng.choice(things)})
                assert (await desk.raw("POST", "/_fake/act", body))[0] in (200, 400)
        except ProcessorRefused:
            continue
    assert all(0 <= c["amount_refunded"] <= c["amount"] for c in world.all("charge"))
    lines, balance = await desk.processor.lines_since(0), await desk.processor.balance()
    assert len(lines) > 60
    assert sum(line.net_cents for line in lines) == balance.available_cents + balance.pending_cents


async def test_everything_survives_a_restart(tmp_path: Path) -> None:
    """Objects, idempotency keys and the turned clock are as they were."""
    settings = replace(SETTINGS, state_file=tmp_path / "stripe.json")
    async with running_stripe(settings) as desk:
        await desk.rich()
        account = await desk.payee()
        paid = await desk.processor.transfer("po_1", account, 100)
        events = await desk.processor.events_since(0)
        before = [desk.fake.world.show(thing) for thing in desk.fake.world.objects.values()]
        balance = await desk.processor.balance()
    assert (tmp_path / "stripe.json").stat().st_mode & 0o777 == 0o600

    async with running_stripe(settings) as again:
        shown = [again.fake.world.show(thing) for thing in again.fake.world.objects.values()]
        assert shown == before
        assert await again.processor.balance() == balance
        assert await again.processor.transfer("po_1", account, 100) == paid
        assert again.count("transfer") == 1
        assert await again.processor.events_since(0) == events


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format":2}', '{"format":1}', "\xff\xfe"])
async def test_a_file_that_is_not_ours_is_refused_and_kept(tmp_path: Path, text: str) -> None:
    """An unreadable memory is an error that says what to do; it is never overwritten."""
    path = tmp_path / "stripe.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UnreadableStateError, match="move it away"):
        FakeStripe(replace(SETTINGS, state_file=path))
    assert path.read_bytes() == text.encode("latin-1")


async def test_the_page_lets_a_person_pay(desk: Desk) -> None:
    """The page says that no money moves, shows what is bought, and sends the payer back."""
    name, back = "<script>alert(1)</script>", f"{RETURN}?s={{CHECKOUT_SESSION_ID}}"
    form = SESSION | {"line_items[0][price_data][product_data][name]": name, "success_url": back}
    _, session = await desk.raw("POST", SESSIONS, urlencode(form))

    async def press(act: str | None) -> tuple[int, str, str | None]:
        method = "GET" if act is None else "POST"
        data = None if act is None else {"act": act}
        async with desk.http.request(
            method, session["url"], data=data, allow_redirects=False
        ) as answer:
            return answer.status, await answer.text(), answer.headers.get("Location")

    status, html, _ = await press(None)
    assert status == 200
    assert "Test payments: no money moves" in html
    assert "$25.00" in html
    assert "<script>" not in html
    assert "declined" in (await press("decline"))[1]
    assert (await press("steal"))[0] == 400
    paid_at = f"{RETURN}?s={session['id']}"
    assert (await press("pay"))[::2] == (303, paid_at)
    assert (await press("pay"))[::2] == (303, paid_at)
    assert (await press(None))[::2] == (303, paid_at)
    assert desk.count("charge") == 1
