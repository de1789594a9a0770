"""How the fake tells the market: at least once, signed, and as badly as the knobs say."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.fake_stripe import (
    SETTINGS,
    Desk,
    Inbox,
    running_inbox,
    running_stripe,
    settled,
    stripe_with_inbox,
)

Pair = tuple[Desk, Inbox]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with stripe_with_inbox() as running:
        yield running


def heard(pair: Pair) -> list[str]:
    desk, inbox = pair
    return [desk.processor.read_event(*letter).event for letter in inbox.letters]


async def told(pair: Pair) -> list[str]:
    return [event.event for event in await pair[0].processor.events_since(0)]


async def test_every_event_is_delivered_signed_and_listed(pair: Pair) -> None:
    """What the webhook hears is what the events list holds, thin events included."""
    desk, inbox = pair
    await desk.rich()
    account, intent = await desk.payee(), await desk.paid()
    await desk.processor.transfer("po_1", account, 100)
    await desk.processor.refund("rf_1", intent, 100)
    dispute = await desk.fake.act("open_dispute", id=intent)
    await desk.fake.act("win_dispute", id=dispute["id"])
    events = await told(pair)
    await inbox.until(lambda: len(inbox.letters) >= len(events))
    assert sorted(heard(pair)) == sorted(events)
    assert len(set(events)) == len(events)
    kinds = {event.kind for event in await desk.processor.events_since(0)}
    assert kinds >= {
        "checkout.session.completed",
        "transfer.created",
        "refund.created",
        "charge.dispute.funds_reinstated",
        "balance.available",
        "v2.core.account[requirements].updated",
    }


async def test_duplicates_are_sent_as_often_as_told(pair: Pair) -> None:
    """With two duplicates every event arrives three times."""
    desk, inbox = pair
    desk.fake.turn(webhooks={"duplicates": 2, "delay_s": 0.001})
    await desk.paid()
    events = await told(pair)
    await inbox.until(lambda: len(inbox.letters) >= 3 * len(events))
    assert Counter(heard(pair)) == dict.fromkeys(events, 3)


async def test_a_window_turns_the_order_around(pair: Pair) -> None:
    """A full window is delivered last first; the rest comes when the window is opened."""
    desk, inbox = pair
    desk.fake.turn(webhooks={"reorder_window": 3})
    await desk.paid()
    events = [event["id"] for event in desk.fake.world.objects.values() if "data" in event]
    await inbox.until(lambda: len(inbox.letters) >= 3)
    assert heard(pair) == events[::-1]


async def test_a_dropped_notice_is_found_in_the_list(pair: Pair) -> None:
    """Lost notices are lost for good: only the events list still has them."""
    desk, inbox = pair
    desk.fake.turn(webhooks={"drop_next": 2})
    await desk.paid()
    await desk.paid("top_2")
    events = await told(pair)
    await inbox.until(lambda: len(inbox.letters) >= len(events) - 2)
    assert set(events) - set(heard(pair)) == set(_outcomes(desk, "dropped"))
    assert len(_outcomes(desk, "dropped")) == 2


async def test_a_share_of_notices_can_be_lost(pair: Pair) -> None:
    """Of every hundred notices as many are dropped as told: here all of them."""
    desk, inbox = pair
    desk.fake.turn(webhooks={"drop_percent": 100})
    await desk.paid()
    events = await told(pair)
    await settled(lambda: sorted(_outcomes(desk, "dropped")) == sorted(events))
    assert inbox.letters == []


async def test_what_was_not_heard_is_sent_after_a_restart(tmp_path: Path) -> None:
    """The outbox is part of the memory: a notice outlives the process that owed it."""
    async with running_inbox() as inbox:
        inbox.status = 500
        settings = replace(SETTINGS, state_file=tmp_path / "s.json", webhook_url=inbox.url)
        async with running_stripe(settings) as desk:
            await desk.paid()
            events = await told((desk, inbox))
        inbox.status, inbox.letters = 200, []
        async with running_stripe(settings) as again:
            await inbox.until(lambda: len(inbox.letters) >= len(events))
            assert set(heard((again, inbox))) == set(events)


async def test_an_unheard_notice_is_sent_again(pair: Pair) -> None:
    """A market that answers 500 is told again until it answers 200."""
    desk, inbox = pair
    inbox.status = 500
    await desk.paid()
    events = await told(pair)
    await inbox.until(lambda: len(inbox.letters) >= len(events) + 3)
    inbox.status = 200
    # The last letter is here before the sender knows that it was heard.
    await inbox.until(lambda: set(_outcomes(desk, 200)) >= set(events) - {heard(pair)[-1]})
    assert set(heard(pair)) == set(events)


def _outcomes(desk: Desk, outcome: object) -> list[str]:
    notes = desk.fake.postman.deliveries
    return [note["event"] for note in notes if note["outcome"] == outcome]


async def test_knobs_are_typed_and_readable(pair: Pair) -> None:
    """Knobs turn over HTTP too, and a knob that does not exist is refused."""
    desk, _ = pair
    status, knobs = await desk.raw("POST", "/_fake/knobs", '{"webhooks":{"duplicates":1}}')
    assert (status, knobs["webhooks"]["duplicates"]) == (200, 1)
    assert await desk.raw("GET", "/_fake/knobs") == (200, knobs)
    for wrong in ['{"webhook":{}}', '{"webhooks":{"duplicates":-1}}', '{"self":1}', "[]", "{"]:
        assert (await desk.raw("POST", "/_fake/knobs", wrong))[0] == 400
    for wrong in ['{"act":"rob"}', '{"act":["pay"]}', '{"self":1}', '{"act":"advance"}']:
        assert (await desk.raw("POST", "/_fake/act", wrong))[0] == 400
    assert (await desk.raw("GET", "/_fake/deliveries"))[0] == 200
