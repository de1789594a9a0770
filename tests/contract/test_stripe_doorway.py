"""The doorway to Stripe against the fake over real sockets: every call, every way to fail."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from actors.stripe.calls import Patience
from actors.stripe.processor import StripeProcessor
from market.payments.processor import (
    Dispute,
    PaymentProcessor,
    ProcessorBalance,
    ProcessorBusy,
    ProcessorRefused,
    ProcessorUnknown,
)
from tests.support.fake_stripe import API_KEY, RETURN, SECRET, Desk, running_stripe

TRANSFER = "POST /v1/transfers"
REFUND = "POST /v1/refunds"


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with running_stripe() as running:
        yield running


async def open_page(desk: Desk, topup_id: str = "top_1", amount_cents: int = 2500) -> Any:
    return await desk.processor.open_checkout(
        topup_id, amount_cents, success_url=RETURN, cancel_url=RETURN
    )


async def test_a_checkout_is_opened_once_and_then_paid(desk: Desk) -> None:
    """The same top-up is the same page; paid, it names its payment and Stripe's fee."""
    processor: PaymentProcessor = desk.processor
    page = await open_page(desk)
    assert (page.status, page.paid, page.intent, page.topup_id) == ("open", False, None, "top_1")
    assert page.url.startswith(desk.url)
    assert await open_page(desk) == page
    assert desk.count("checkout.session") == 1

    await desk.fake.act("pay", id=page.session)

    paid = await processor.checkout(page.session)
    assert (paid.status, paid.paid, paid.amount_cents, paid.fee_cents) == (
        "complete",
        True,
        2500,
        103,
    )
    assert paid.intent is not None
    assert list(await processor.checkouts_of(paid.intent)) == [paid]
    assert list(await processor.checkouts_of("pi_another")) == []


async def test_a_bank_debit_is_complete_before_it_is_paid(desk: Desk) -> None:
    """A completed checkout is no money: only `paid` is."""
    page = await open_page(desk)
    await desk.fake.act("pay_later", id=page.session)
    waiting = await desk.processor.checkout(page.session)
    assert (waiting.status, waiting.paid, waiting.fee_cents) == ("complete", False, 0)

    await desk.fake.act("later_paid", id=page.session)

    assert (await desk.processor.checkout(page.session)).paid


async def test_a_recipient_becomes_active(desk: Desk) -> None:
    """A new recipient says what is missing; with everything given it can be paid."""
    made = await desk.processor.open_recipient("own_1", "GB")
    assert made.country == "GB"
    assert not made.active
    assert made.requirements
    assert await desk.processor.open_recipient("own_1", "GB") == made

    await desk.fake.act("complete_onboarding", id=made.account)

    ready = await desk.processor.recipient(made.account)
    assert (ready.active, ready.requirements) == (True, ())
    await desk.fake.act("restrict_account", id=made.account)
    assert not (await desk.processor.recipient(made.account)).active


async def test_an_onboarding_form_opens_once(desk: Desk) -> None:
    """A link is good for one visit; the next is sent to fetch a fresh one."""
    account = (await desk.processor.open_recipient("own_1", "US")).account
    url = await desk.processor.onboarding_url(
        account, return_url=f"{RETURN}?done", refresh_url=f"{RETURN}?again"
    )
    async with desk.http.get(url, allow_redirects=False) as first:
        assert first.status == 200
    async with desk.http.get(url, allow_redirects=False) as second:
        assert second.headers["Location"] == f"{RETURN}?again"
    form = {"act": "complete"}
    async with desk.http.post(url, data=form, allow_redirects=False) as sent:
        assert sent.headers["Location"] == f"{RETURN}?done"
    assert (await desk.processor.recipient(account)).active


async def test_money_goes_out_and_is_found_again(desk: Desk) -> None:
    """Transfers and refunds carry our ids, by which they are found; others are not."""
    await desk.rich()
    intent, account = await desk.paid(), await desk.payee()
    paid = await desk.processor.transfer("po_1", account, 1234)
    back = await desk.processor.refund("rf_1", intent, 700)
    assert (paid.amount_cents, back.status) == (1234, "succeeded")
    assert await desk.processor.find_transfer("po_1") == paid
    assert await desk.processor.find_transfer("po_2") is None
    assert await desk.processor.find_refund("rf_1", intent) == back
    assert await desk.processor.find_refund("rf_2", intent) is None
    assert await desk.processor.transfer("po_1", account, 1234) == paid

    await desk.fake.act("fail_refund", id=back.refund)
    status, _ = await desk.raw("POST", f"/v1/transfers/{paid.transfer}/reversals", "amount=34")

    assert status == 200
    assert (await desk.processor.refund_by_id(back.refund)).status == "failed"
    reversed_ = await desk.processor.find_transfer("po_1")
    assert reversed_ is not None
    assert reversed_.reversed_cents == 34


@pytest.mark.parametrize(
    ("act", "withdrawn", "status"), [("win", 0, "won"), ("lose", 2500, "lost")]
)
async def test_a_dispute_withdraws_and_perhaps_returns(
    desk: Desk, act: str, withdrawn: int, status: str
) -> None:
    """A dispute costs its sum and a fee; won, the sum comes back and the fee does not."""
    intent = await desk.paid()
    opened = (await desk.fake.act("open_dispute", id=intent))["id"]
    expected = Dispute(opened, intent, 2500, 2500, 1500, "open")
    assert await desk.processor.dispute(opened) == expected

    await desk.fake.act(f"{act}_dispute", id=opened)

    closed = replace(expected, withdrawn_cents=withdrawn, status=status)  # type: ignore[arg-type]
    assert list(await desk.processor.disputes_since(0)) == [closed]


async def test_the_balance_is_the_sum_of_its_lines(desk: Desk) -> None:
    """Lists are read through all their pages; their net sum is available plus pending."""
    await desk.rich()
    account = await desk.payee()
    intents = [await desk.paid(f"top_{n}") for n in range(3)]
    for number in range(120):
        await desk.processor.transfer(f"po_{number}", account, 10)
    await desk.processor.refund("rf_1", intents[0], 500)
    await desk.fake.act("open_dispute", id=intents[1])

    lines = list(await desk.processor.lines_since(0))
    balance = await desk.processor.balance()

    assert len(lines) == 4 + 120 + 1 + 1
    assert sum(line.net_cents for line in lines) == balance.available_cents + balance.pending_cents
    assert all(line.net_cents == line.amount_cents - line.fee_cents for line in lines)
    assert [line.created_s for line in lines] == sorted(line.created_s for line in lines)
    assert {line.our_id for line in lines if line.kind == "transfer"} == {
        f"po_{number}" for number in range(120)
    }
    refunded = [line for line in lines if line.kind == "refund"]
    assert [(line.our_id, line.intent) for line in refunded] == [("rf_1", intents[0])]
    assert list(await desk.processor.lines_since(desk.fake.world.now_s() + 10)) == []


async def test_money_is_pending_for_two_days(desk: Desk) -> None:
    """A payment can be paid out when it has settled; earlier a transfer is refused."""
    await desk.paid("top_1", 10_000)
    account = await desk.payee()
    assert await desk.processor.balance() == ProcessorBalance(0, 10_000 - 320)
    with pytest.raises(ProcessorRefused) as refused:
        await desk.processor.transfer("po_1", account, 100)
    assert refused.value.code == "balance_insufficient"

    await desk.fake.act("advance", seconds=2 * 86_400)

    assert await desk.processor.balance() == ProcessorBalance(9_680, 0)
    assert (await desk.processor.transfer("po_1", account, 100)).amount_cents == 100


async def test_an_executed_transfer_whose_answer_is_lost_happens_once(desk: Desk) -> None:
    """A connection cut after execution is repeated under the same key: one transfer."""
    await desk.rich()
    account = await desk.payee()
    desk.fake.turn(faults=[{"route": TRANSFER, "kind": "execute_then_drop", "times": 2}])

    paid = await desk.processor.transfer("po_1", account, 1234)

    assert desk.count("transfer") == 1
    assert await desk.processor.find_transfer("po_1") == paid


async def test_a_transfer_that_is_never_answered_is_unknown_and_found(desk: Desk) -> None:
    """With every answer lost the call is unknown; looking finds the one transfer."""
    await desk.rich()
    account = await desk.payee()
    desk.fake.turn(faults=[{"route": TRANSFER, "kind": "execute_then_drop", "times": 99}])

    with pytest.raises(ProcessorUnknown):
        await desk.processor.transfer("po_1", account, 1234)

    found = await desk.processor.find_transfer("po_1")
    assert found is not None
    assert desk.count("transfer") == 1


async def test_a_transfer_slower_than_our_patience_is_unknown_until_it_happens(desk: Desk) -> None:
    """Timed out while Stripe is still at it: unknown, and later exactly one transfer."""
    await desk.rich()
    account = await desk.payee()
    impatient = StripeProcessor(replace(desk.settings, timeout_s=0.2))
    desk.fake.turn(faults=[{"route": TRANSFER, "kind": "stall", "stall_s": 2.0}])

    with pytest.raises(ProcessorUnknown):
        await impatient.transfer("po_1", account, 1234)

    await impatient.close()
    async with asyncio.timeout(30):
        while await desk.processor.find_transfer("po_1") is None:
            await asyncio.sleep(0.05)
    assert desk.count("transfer") == 1


@pytest.mark.parametrize(("kind", "made"), [("fail_before", 0), ("fail_after", 1)])
async def test_server_errors_leave_a_refund_unknown(desk: Desk, kind: str, made: int) -> None:
    """A 500 says nothing about what happened; looking does."""
    intent = await desk.paid()
    desk.fake.turn(faults=[{"route": REFUND, "kind": kind, "times": 99}])

    with pytest.raises(ProcessorUnknown):
        await desk.processor.refund("rf_1", intent, 100)

    assert desk.count("refund") == made
    assert (await desk.processor.find_refund("rf_1", intent) is not None) == bool(made)


async def test_one_server_error_is_survived(desk: Desk) -> None:
    """A 500 that has done nothing is repeated and the refund made once."""
    intent = await desk.paid()
    desk.fake.turn(faults=[{"route": REFUND, "kind": "fail_before"}])
    assert (await desk.processor.refund("rf_1", intent, 100)).amount_cents == 100
    assert desk.count("refund") == 1


async def test_rate_limits_are_waited_out_and_then_busy(desk: Desk) -> None:
    """A 429 has done nothing: tried again, and busy with its wait when it goes on."""
    intent = await desk.paid()
    desk.fake.turn(faults=[{"route": REFUND, "kind": "rate_limit", "times": 2}])
    assert (await desk.processor.refund("rf_1", intent, 100)).status == "succeeded"
    desk.fake.turn(
        faults=[{"route": REFUND, "kind": "rate_limit", "times": 99, "retry_after_s": 60}]
    )
    with pytest.raises(ProcessorBusy) as busy:
        await desk.processor.refund("rf_2", intent, 100)
    assert busy.value.retry_after_s == 60
    assert desk.fake.knobs.faults[0].times == 98
    assert desk.count("refund") == 1


async def test_a_lost_answer_before_a_rate_limit_stays_unknown(desk: Desk) -> None:
    """What was left open by one attempt is not settled by a later "not now"."""
    intent = await desk.paid()
    desk.fake.turn(
        faults=[
            {"route": REFUND, "kind": "execute_then_drop"},
            {"route": REFUND, "kind": "rate_limit", "times": 99},
        ]
    )
    with pytest.raises(ProcessorUnknown):
        await desk.processor.refund("rf_1", intent, 100)
    assert desk.count("refund") == 1


async def test_nobody_at_the_door_is_busy(desk: Desk) -> None:
    """A refused connection was never a call: nothing has happened."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: nobody answers here
        base = f"http://127.0.0.1:{taken.getsockname()[1]}"
        alone = StripeProcessor(replace(desk.settings, api_base=base))
        with pytest.raises(ProcessorBusy):
            await alone.transfer("po_1", "acct_1", 100)
        with pytest.raises(ProcessorBusy):
            await alone.balance()
        await alone.close()


async def test_an_id_used_with_other_contents_is_not_paid_again(desk: Desk) -> None:
    """The same payout with another sum may have been paid before: look, and pay nothing."""
    await desk.rich()
    account = await desk.payee()
    await desk.processor.transfer("po_1", account, 100)
    with pytest.raises(ProcessorUnknown) as unknown:
        await desk.processor.transfer("po_1", account, 101)
    assert unknown.value.code == "idempotency_error"
    assert desk.count("transfer") == 1
    await open_page(desk, "top_1", 2500)
    with pytest.raises(ProcessorRefused):
        await open_page(desk, "top_1", 2501)


async def test_definite_refusals_carry_stripes_code(desk: Desk) -> None:
    """A no is a no, named by Stripe's code, and tried once."""
    account = (await desk.processor.open_recipient("own_1", "US")).account
    intent = await desk.paid()
    cases = [
        (desk.processor.transfer("po_1", account, 100), "insufficient_capabilities_for_transfer"),
        (desk.processor.transfer("po_2", "acct_none", 100), "resource_missing"),
        (desk.processor.transfer("po_3", account, 0), "parameter_invalid_integer"),
        (open_page(desk, "top_2", 49), "amount_too_small"),
        (desk.processor.open_recipient("own_2", "KP"), "country_unsupported"),
        (desk.processor.refund("rf_1", intent, 2501), "invalid_request_error"),
        (desk.processor.checkout("cs_test_none"), "resource_missing"),
        (desk.processor.recipient("acct_none"), "resource_missing"),
        (desk.processor.dispute("du_none"), "resource_missing"),
    ]
    for call, code in cases:
        with pytest.raises(ProcessorRefused) as refused:
            await call
        assert refused.value.code == code


async def test_a_key_that_is_not_accepted_makes_a_payout_wait_without_being_told(
    desk: Desk,
) -> None:
    """It says nothing about the payout; neither key nor secret is in an error or in settings."""
    wrong = StripeProcessor(replace(desk.settings, api_key="sk_test_wrong_one"))
    with pytest.raises(ProcessorBusy) as refused:
        await wrong.transfer("po_1", "acct_1", 100)
    await wrong.close()
    words = f"{refused.value!r} {desk.settings!r}"
    assert "wrong_one" not in words
    assert API_KEY not in words
    assert SECRET not in words


ANSWERS = {
    "not http": b"hello\r\n\r\n",
    "no json": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "an array": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
    "empty object": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "null error": b'HTTP/1.1 400 Bad\r\nContent-Length: 14\r\n\r\n{"error":null}',
    "html 404": b"HTTP/1.1 404 No\r\nContent-Length: 6\r\n\r\n<html>",
    "html 502": b"HTTP/1.1 502 No\r\nContent-Length: 6\r\n\r\n<html>",
    "cut body": b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"id":',
    "deep": b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n" + b"[" * 60_000,
    "bad utf-8": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\xff\xfe",
    "other": b'HTTP/1.1 200 OK\r\nContent-Length: 137\r\n\r\n{"id":"tr_1","object":"transfer",'
    b'"amount":99,"amount_reversed":0,"currency":"usd","destination":"acct_1",'
    b'"metadata":{"coster_id":"po_9"}}'.ljust(137),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
async def test_an_answer_that_makes_no_sense_is_unknown(desk: Desk, answer: bytes) -> None:
    """Whatever comes back that is not about our transfer leaves it open."""

    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    lost = StripeProcessor(
        replace(desk.settings, api_base=base, patience=Patience(2, 0.001), timeout_s=2.0)
    )
    try:
        with pytest.raises(ProcessorUnknown):
            await lost.transfer("po_1", "acct_1", 100)
        with pytest.raises((ProcessorUnknown, ProcessorBusy)):
            await lost.find_transfer("po_1")
    finally:
        await lost.close()
        server.close()
