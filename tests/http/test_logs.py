"""What gateways and actors write down: JSON, the request's id, and nothing a caller said."""

from __future__ import annotations

import ast
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.process import FIELDS, JsonLines
from market.errors import Unavailable
from market.types import JobFailure
from tests.http.asgi_client import Exchange, ask, chat, settled
from tests.http.memory_market import Market
from tests.tidy.tree import ROOMS

PROMPT = "zyxprompt"
OWN_KEY = "zyxownkey"
SESSION = "zyxsession"
ROOT = Path(__file__).resolve().parents[2]


class Log:
    """Everything written by our loggers, as it would be in the file."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.handler = logging.StreamHandler(self.stream)
        self.handler.setFormatter(JsonLines("gateway"))

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def log() -> Iterator[Log]:
    """Our loggers at their most talkative."""
    kept, root = Log(), logging.getLogger("coster")
    before = root.level
    root.addHandler(kept.handler)
    root.setLevel(logging.DEBUG)
    yield kept
    root.removeHandler(kept.handler)
    root.setLevel(before)


def planted(**fields: Any) -> dict[str, Any]:
    return chat(messages=[{"role": "user", "content": PROMPT}], **fields)


async def test_a_request_that_ends_badly_can_be_found_by_its_id(market: Market, log: Log) -> None:
    """Refused by the books, by the router or by its Macs: one line with id, gate and code."""
    market.fund(1)
    broke = await ask(planted()).go(market.app)
    market.fund(10**10)
    market.fleet.error = Unavailable("None.", None, "no_provider", 1.0)
    homeless = await ask(planted()).go(market.app)
    market.fleet.error = None
    for mac in market.fleet.macs:
        mac.fails = [JobFailure("engine", PROMPT)]
    failed = await ask(planted()).go(market.app)

    late = await ask(planted(max_tokens=-1)).go(market.app)

    refused = [line for line in log.lines if line["message"] == "refused"]
    found = {line["request_id"]: (line["gate"], line["code"], line["status"]) for line in refused}
    assert found == {
        late.answer_headers["x-coster-request-id"]: ("request", "out_of_range", 400),
        broke.answer_headers["x-coster-request-id"]: ("admission", "balance", 402),
        homeless.answer_headers["x-coster-request-id"]: ("routing", "no_provider", 503),
        failed.answer_headers["x-coster-request-id"]: ("serving", "attempts_exhausted", 503),
    }
    tries = [line for line in log.lines if line.get("provider")]
    assert {line["request_id"] for line in tries} == {failed.answer_headers["x-coster-request-id"]}
    assert [line["code"] for line in tries] == ["engine", "engine"]


async def test_no_log_holds_what_a_caller_said(market: Market, log: Log) -> None:
    """Prompts, answers, keys, own keys and sessions: answered, refused, broken off, replayed,
    failed over, beyond our own faults — none of it is in any line.
    """
    secrets = {PROMPT, PROMPT.upper(), OWN_KEY, SESSION, Market.KEY, Market.MANAGEMENT}
    twice = {"headers": {"Idempotency-Key": OWN_KEY}}
    await ask(planted(stream=True), **twice).go(market.app)
    await ask(planted(stream=True), **twice).go(market.app)
    await ask(planted(temperature=PROMPT)).go(market.app)
    await ask(planted(session_id=SESSION)).go(market.app)
    await ask(planted(stream=True), leave_after=1).go(market.app)
    await ask(planted(), key="sk-coster-" + PROMPT).go(market.app)
    await ask(f'{{"{PROMPT}": 1, '.encode()).go(market.app)
    for code in ("lost", "invalid", "engine"):
        for mac in market.fleet.macs:
            mac.fails = [JobFailure(code, f"broke on {PROMPT}")]  # type: ignore[arg-type]
        await ask(planted(stream=True)).go(market.app)
    market.fleet.error = ValueError(PROMPT)  # type: ignore[assignment]
    await ask(planted()).go(market.app)
    market.fleet.error = None
    for mac in market.fleet.macs:
        mac.fails = []
        mac.refuses = RuntimeError(PROMPT)
    await ask(planted(stream=True)).go(market.app)
    await Exchange(b"", path=f"/v1/generations/{PROMPT}", method="GET").go(market.app)
    await settled(market)

    assert len(log.lines) > 5
    assert [secret for secret in secrets if secret in log.text] == []


async def test_a_fault_of_ours_is_told_with_the_place_and_the_request(
    market: Market, log: Log
) -> None:
    """Its type and frames, the request's id, and not the exception's message."""
    market.fleet.error = ValueError(PROMPT)  # type: ignore[assignment]
    exchange = await ask(planted()).go(market.app)

    (line,) = [line for line in log.lines if "failed" in line["message"]]
    assert line["request_id"] == exchange.answer_headers["x-coster-request-id"]
    assert "ValueError at " in line["message"]
    assert (line["role"], line["level"]) == ("gateway", "error")


def test_a_line_carries_the_named_fields_only(log: Log) -> None:
    """Whatever else is put on a record stays out of the file."""
    extra = {"request_id": "req_1", "prompt": PROMPT, "status": 503}
    logging.getLogger("coster.door").info("refused", extra=extra)

    (line,) = log.lines
    assert (line["request_id"], line["status"]) == ("req_1", 503)
    assert line.keys() - {"time", "level", "role", "pid", "logger", "message"} <= set(FIELDS)
    assert PROMPT not in log.text


def test_every_logger_of_ours_reaches_the_file() -> None:
    """A process's file takes what is logged below `coster`: no module logs under its own name."""
    others = []
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "logging.getLogger":
                    name = ast.unparse(node.args[0]) if node.args else "'the root'"
                    if name == "__name__" or (name[0] == "'" and not name.startswith("'coster")):
                        others.append(f"{path.relative_to(ROOT)} {name}")

    assert others == ["actors/fake_stripe/__main__.py 'uvicorn'"]
