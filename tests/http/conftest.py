"""A market per test, in process or behind a real socket."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Self

import pytest
import uvicorn

from tests.http.memory_market import Market
from tests.http.past_market import PAGES_MANY, PastMarket, open_past


@pytest.fixture
def market(tmp_path: Path) -> Market:
    """A market with three Macs and nothing running."""
    return Market(tmp_path)


@pytest.fixture
async def past(tmp_path: Path) -> AsyncIterator[PastMarket]:
    """Sixty requests over two and a half days, with a leap day among them."""
    async with open_past(
        tmp_path, 60, histories_per_minute=PAGES_MANY, histories_burst=PAGES_MANY
    ) as opened:
        yield opened


class Server:
    """The app under uvicorn, on a loop of its own thread, on a free loopback port."""

    def __init__(self, market: Market) -> None:
        self.market = market
        config = uvicorn.Config(market.app, port=0, log_level="error", timeout_keep_alive=5)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        asyncio.run(self._server.serve())

    def __enter__(self) -> Self:
        self._thread.start()
        while not self._server.started:
            self._thread.join(0.005)
            assert self._thread.is_alive()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive()

    @property
    def port(self) -> int:
        return int(self._server.servers[0].sockets[0].getsockname()[1])

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


@pytest.fixture
def server(market: Market) -> Iterator[Server]:
    """The market behind a real socket."""
    with Server(market) as running:
        yield running
