"""Where people come back to after a hosted page."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.payments.setup import places_of
from market.catalogue import DEMO_MODEL
from market.settings import MarketSettings, ModelSource
from tests.http.asgi_client import Exchange
from tests.http.memory_market import Market


@pytest.mark.parametrize("place", ["topup_done", "topup_cancelled", "payouts"])
async def test_every_place_a_payer_is_sent_back_to_exists(market: Market, place: str) -> None:
    """A page for people, without a key, that loads nothing from anywhere."""
    settings = MarketSettings(str(Path("data")), (ModelSource(DEMO_MODEL),), "1")
    path = getattr(places_of(settings), place).removeprefix("http://127.0.0.1:8000")

    answer = await Exchange(b"", path=path, method="GET", key=None).go(market.app)

    assert answer.status == 200
    assert answer.answer_headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.answer_headers["content-security-policy"]
    assert "src=" not in answer.content.decode()
    assert "href=" not in answer.content.decode()
