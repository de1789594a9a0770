"""Many light Macs in few processes of a real market: alike to everybody, lost and back together."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.live_market import LiveMarket, live_market
from tests.support.streams import Crowd

pytestmark = pytest.mark.cluster

MACS = 40
MODEL = "coster/demo"


def providers(market: LiveMarket) -> list[dict[str, Any]]:
    return [actor for actor in market.status()["actors"] if actor["role"] == "provider"]


def all_ready(market: LiveMarket) -> bool:
    here = providers(market)
    return len(here) == MACS and {each["state"] for each in here} == {"ready"}


async def test_a_process_of_many_macs_dies_and_they_all_come_back(tmp_path: Path) -> None:
    """Forty Macs live in two processes and over the fallback transport. One process is killed:
    its Macs are lost and nobody pays for what they were saying, the others go on, and soon all
    forty are there again under the same ids.
    """
    words = ("--engine", "echo", "--pace-ms", "20", "--transport", "ray_stream")
    with live_market(tmp_path / "data", *words, "--macs", str(MACS)) as market:
        market.until(lambda: all_ready(market))
        before = providers(market)
        processes = {each["process"]: each["pid"] for each in before}
        assert len(processes) == 2
        dead = {each["provider"] for each in before if each["process"] == "macs:1"}

        crowd = Crowd(market.base, market.key, MODEL, count=24, tokens=150)
        await crowd.flowing()
        os.kill(processes["macs:1"], signal.SIGKILL)
        seen = await crowd.ended()

        assert {one.outcome for one in seen if one.provider not in dead} == {"answered"}
        assert any(one.provider in dead for one in seen)
        assert {one.error for one in seen if one.outcome != "answered"} <= {"provider_lost"}
        market.until(lambda: all_ready(market))
        after = providers(market)
        assert {each["provider"] for each in after} == {each["provider"] for each in before}
        assert {each["pid"] for each in after if each["process"] == "macs:1"} != {
            processes["macs:1"]
        }
        again = await Crowd(market.base, market.key, MODEL, count=40, tokens=4).ended()
        assert {one.outcome for one in again} == {"answered"}
        report = market.verify()
        assert (report["ok"], report["problems"]) == (True, [])
