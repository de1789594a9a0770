"""Requests generated from our own document: whatever it allows or forbids, no server errors.

`COSTER_LONG=1` generates twenty times as many. Answers are validated against the document.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from tests.http.asgi_client import Exchange
from tests.http.ledger_market import LedgerMarket, open_market
from tests.http.test_hostile import GENEROUS

CASES = 240 if os.environ.get("COSTER_LONG") else 12


class World:
    """One market and the loop it lives on, for a whole module of generated requests."""

    def __init__(self, folder: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self._opened = open_market(folder, limits=GENEROUS)
        self.market: LedgerMarket = self.loop.run_until_complete(self._opened.__aenter__())
        made = Exchange(b"", path="/openapi.json", method="GET", key=None)
        self.document: dict[str, Any] = self.loop.run_until_complete(made.go(self.market.app)).json

    def ask(self, made: Exchange) -> Exchange:
        return self.loop.run_until_complete(made.go(self.market.app))

    def close(self) -> None:
        self.loop.run_until_complete(self._opened.__aexit__(None, None, None))
        self.loop.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Real books, payments in memory."""
    made = World(tmp_path_factory.mktemp("market"))
    yield made
    made.close()


def test_generated_requests_make_no_server_error(world: World) -> None:
    """Every operation, valid and invalid: below 500, in the envelope, as documented."""
    schema = schemathesis.openapi.from_dict(world.document)
    seen: dict[str, set[int]] = {}
    for found in schema.get_all_operations():
        operation = found.ok()
        _try(world, operation, seen.setdefault(f"{operation.method} {operation.path}", set()))

    assert len(seen) == sum(len(item) for item in world.document["paths"].values())
    assert {200, 201, 400, 404} <= set().union(*seen.values())


def _try(world: World, operation: Any, statuses: set[int]) -> None:
    @settings(
        max_examples=CASES,
        database=None,
        derandomize=not os.environ.get("COSTER_LONG"),
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def run(case: Any) -> None:
        exchange = world.ask(_exchange(world.market, case))
        statuses.add(exchange.status)
        sane = exchange.status < 500 or exchange.error["code"] == "no_provider"
        assert sane, (operation.path, exchange.content)
        if exchange.status >= 400:
            _validate(world.document, exchange.json, "ErrorEnvelope")

    run()


def _exchange(market: LedgerMarket, case: Any) -> Exchange:
    body = case.body
    if type(body).__name__ == "NotSet":
        raw = b""
    elif isinstance(body, bytes):
        raw = body
    else:
        raw = json.dumps(body).encode("utf-8", "surrogatepass")
    inference = "completions" in case.path or case.path == "/v1/quote"
    made = Exchange(
        raw,
        path=case.formatted_path,
        method=case.method.upper(),
        key=market.inference if inference else market.management,
        query=urlencode(case.query or {}, doseq=True, errors="replace").encode(),
    )
    made.raw_headers = [
        (name.lower().encode(), str(value).encode("utf-8", "surrogatepass"))
        for name, value in (case.headers or {}).items()
        if name.lower() != "authorization"
    ]
    return made


def _validate(document: dict[str, Any], value: Any, name: str) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    jsonschema.validate(value, schema)
