"""What the doorway takes for an event of Stripe's, and that it takes nothing else."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import stripe

from actors.stripe.processor import StripeProcessor, StripeSettings
from market.errors import MarketError

SECRET = "whsec_contract"
SETTINGS = StripeSettings("sk_test_contract", SECRET)


@pytest.fixture
async def doorway() -> AsyncIterator[StripeProcessor]:
    """A doorway that calls nobody: reading a webhook needs no network."""
    processor = StripeProcessor(SETTINGS)
    yield processor
    await processor.close()


def signed(body: bytes, at_s: int, secret: str = SECRET) -> str:
    header = stripe.WebhookSignature.generate_signature_header(
        body.decode("utf-8", "surrogateescape"), secret, timestamp=at_s
    )
    return str(header)


EVENT = json.dumps(
    {
        "id": "evt_1",
        "object": "event",
        "type": "refund.failed",
        "created": 1_800_000_000,
        "data": {"object": {"id": "re_1"}},
    }
).encode()
THIN = json.dumps(
    {
        "id": "evt_2",
        "object": "v2.core.event",
        "type": "v2.core.account.created",
        "created": "2027-01-15T08:00:00.000Z",
        "related_object": {"id": "acct_1", "type": "v2.core.account", "url": "/"},
    }
).encode()
NOW_S = 1_800_000_000


@pytest.fixture
def at_noon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The doorway's clock stands still."""
    monkeypatch.setattr("actors.stripe.processor.time.time", lambda: float(NOW_S))


@pytest.mark.usefixtures("at_noon")
async def test_events_signed_by_stripes_own_code_are_read(doorway: StripeProcessor) -> None:
    """A snapshot and a thin event, signed as Stripe signs, are read up to five minutes apart."""
    for at_s in (NOW_S - 300, NOW_S, NOW_S + 300):
        event = doorway.read_event(EVENT, signed(EVENT, at_s))
        assert (event.event, event.kind, event.subject) == ("evt_1", "refund.failed", "re_1")
        thin = doorway.read_event(THIN, signed(THIN, at_s))
        assert (thin.subject, thin.created_s) == ("acct_1", NOW_S)
    rolled = StripeProcessor(replace(SETTINGS, webhook_secret="whsec_old, whsec_new"))
    assert rolled.read_event(EVENT, signed(EVENT, NOW_S, "whsec_new")).event == "evt_1"
    await rolled.close()


def hostile() -> dict[str, tuple[bytes, str, str]]:
    good = signed(EVENT, NOW_S)
    bodies = {
        "array": b"[]",
        "null": b"null",
        "number": b"1",
        "empty": b"",
        "no json": b"{",
        "deep": b"[" * 200_000,
        "no id": b'{"object":"event"}',
        "other object": b'{"object":"charge","id":"ch_1"}',
        "subject a list": EVENT.replace(b'"re_1"', b"[]"),
        "object a list": EVENT.replace(b'{"id": "re_1"}', b"[]"),
        "created text": EVENT.replace(b"1800000000", b'"now"'),
        "created true": EVENT.replace(b"1800000000", b"true"),
        "created nan": EVENT.replace(b"1800000000", b"NaN"),
        "created huge": EVENT.replace(b"1800000000", b"9" * 5000),
        "thin without time": THIN.replace(b"2027-01-15T08:00:00.000Z", b"soon"),
        "thin related text": THIN.replace(b'{"id": "acct_1"', b'["acct_1", {"id": 1').replace(
            b'"url": "/"}}', b'"url": "/"}]}'
        ),
    }
    corpus = {name: (b, signed(b, NOW_S), "webhook_body") for name, b in bodies.items()}
    headers = {
        "no header": "",
        "no time": good.partition(",")[2],
        "no mac": good.partition(",")[0],
        "two times": f"t=1,{good}",
        "a second time": f"{good},t=1",
        "another secret": signed(EVENT, NOW_S, "whsec_other"),
        "another body": signed(EVENT + b" ", NOW_S),
        "non-ascii mac": f"t={NOW_S},v1=é{'0' * 63}",
        "non-ascii digit": good.replace("t=1", "t=١"),
        "huge time": f"t={'9' * 5000},v1={'0' * 64}",
        "old scheme": good.replace("v1=", "v0="),
        "commas": "," * 100_000,
    }
    corpus |= {name: (EVENT, header, "webhook_signature") for name, header in headers.items()}
    corpus["stale"] = (EVENT, signed(EVENT, NOW_S - 301), "webhook_time")
    corpus["ahead"] = (EVENT, signed(EVENT, NOW_S + 301), "webhook_time")
    corpus["unsigned bad utf-8"] = (b"\xff\xfe", good, "webhook_signature")
    return corpus


@pytest.mark.usefixtures("at_noon")
@pytest.mark.parametrize(("body", "header", "code"), hostile().values(), ids=hostile().keys())
async def test_a_hostile_webhook_is_an_invalid_request(
    doorway: StripeProcessor, body: bytes, header: str, code: str
) -> None:
    """Anybody can post there: every bad body or header is a 400 with a helpful code."""
    with pytest.raises(MarketError) as refused:
        doorway.read_event(body, header)
    assert (refused.value.status, refused.value.code) == (400, code)
    assert SECRET not in str(refused.value)
