"""A Mac dies after each token of an answer in turn: real engines, wires, router and books.

The promise of continuation, whole: what the client reads is what an unbroken run says, it pays
once and the same, and the ledger pays each Mac for exactly what it had delivered.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest

from actors.engines.echo import EchoEngine
from actors.engines.factory import DEMO_FOLDER
from actors.engines.mlx.engine import MlxEngine
from actors.engines.simulated import SimulatedEngine, SimulatedMac
from market.accounting.laws import broken_laws
from market.accounting.rows import DeliveryRow, RequestRow
from market.catalogue import DEMO_MODEL
from market.ports import Engine
from market.settings import ModelSource
from market.types import MachineId, ModelId
from serve_app import metric_names
from serve_app.limits import Limits
from tests.http.asgi_client import Exchange
from tests.http.memory_accountant import ADA, TEN_DOLLARS
from tests.support.whole_macs import OneMac
from tests.support.whole_market import FEE_BPS, Whole, whole_market
from tests.tiny_model import build_tiny_model

LONG = bool(os.environ.get("COSTER_LONG"))
TOKENS = 48 if LONG else 16
LIMITS = Limits(tick_s=0.02, checkpoint_s=0.05, checkpoint_tokens=4)
TINY = ModelId("local/tiny")
SCRIPTS = "Größe 北海 🍐 ✗"
A, B, C = (MachineId(f"mac_{name}") for name in "abc")

GREEDY = {"temperature": 0}
SEEDED = {"temperature": 1.1, "top_p": 0.97, "seed": 7}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose answers are of many scripts."""
    return build_tiny_model(tmp_path_factory.mktemp("tiny"))


def echo(model: ModelId) -> Engine:
    return EchoEngine(model, folder=DEMO_FOLDER)


def paced(model: ModelId) -> Engine:
    return EchoEngine(model, folder=DEMO_FOLDER, pace_ms=3.0)


def simulated(model: ModelId) -> Engine:
    mac = SimulatedMac("M3 Ultra", seed=1, disk_bytes_per_s=1e15)
    return SimulatedEngine(model, mac=mac, folder=DEMO_FOLDER)


def mlx(folder: Path) -> Callable[[ModelId], Engine]:
    return lambda model: MlxEngine(model, folder, memory_bytes_budget=2**29)


@dataclass(frozen=True)
class Case:
    """An engine, how it draws, and where it is to be stopped: a piece of its own answer."""

    engine: str
    drawn: str
    stops: bool = False

    def __str__(self) -> str:
        return f"{self.engine}-{self.drawn}" + ("-stopped" if self.stops else "")


CASES = [
    Case("echo", "greedy"),
    Case("echo", "greedy", stops=True),
    Case("simulated", "greedy"),
    Case("simulated", "seeded", stops=True),
    Case("demo", "greedy"),
    Case("demo", "seeded"),
    Case("tiny", "greedy"),
    Case("tiny", "seeded", stops=True),
]


def macs_of(case: Case, tiny: Path, *names: str, ask_pct: int = 100) -> tuple[list[OneMac], str]:
    """Equal Macs of this engine, and the folder of the model they serve ("" is the demo's)."""
    engines: dict[str, Callable[[ModelId], Engine]] = {
        "echo": echo,
        "simulated": simulated,
        "demo": mlx(DEMO_FOLDER),
        "tiny": mlx(tiny),
    }
    model = TINY if case.engine == "tiny" else DEMO_MODEL
    made = [OneMac(name, engines[case.engine], (model,), ask_pct=ask_pct) for name in names]
    return made, str(tiny) if case.engine == "tiny" else ""


def body_of(case: Case, *, stream: bool, stop: str = "") -> dict[str, Any]:
    """A question in many scripts, to Mac A first and then to whoever is next."""
    body: dict[str, Any] = {
        "model": TINY if case.engine == "tiny" else DEMO_MODEL,
        "messages": [{"role": "user", "content": SCRIPTS}],
        "max_tokens": TOKENS,
        "stream": stream,
        "provider": {"order": ["prv_a", "prv_b"]},
        **(SEEDED if case.drawn == "seeded" else GREEDY),
    }
    if stream:
        body["stream_options"] = {"include_usage": True}
    return body | ({"stop": [stop]} if stop else {})


def read(exchange: Exchange) -> tuple[str, str, dict[str, Any]]:
    """The text, how it ended and the usage, as the client has them."""
    assert exchange.status == 200, exchange.content
    if exchange.answer_headers["content-type"].startswith("text/event-stream"):
        events = exchange.events
        assert exchange.content.endswith(b"data: [DONE]\n\n"), exchange.content
        ends = [c["finish_reason"] for event in events for c in event["choices"]]
        return exchange.text, next(end for end in ends if end), events[-1]["usage"]
    (choice,) = exchange.json["choices"]
    return choice["message"]["content"], choice["finish_reason"], exchange.json["usage"]


async def stop_in(market: Whole, case: Case) -> str:
    """A few characters of the answer itself, towards its end, that more than one token says."""
    if not case.stops:
        return ""
    text, _, _ = read(await market.ask(body_of(case, stream=False)))
    assert len(text) > 8, text
    return text[-4:-1]


def paid_nano(piece: DeliveryRow | RequestRow) -> int:
    """What its Mac's owner must get: tokens times price, less the fee."""
    cost = piece.completion_tokens * piece.price_out_nano
    cost += (piece.prompt_tokens - piece.cached_tokens) * piece.price_in_nano
    cost += piece.cached_tokens * (piece.price_cached_nano or 0)
    assert piece.cost_nano == cost
    return cost - cost * FEE_BPS // 10_000


async def earned_nano(market: Whole, *names: str) -> dict[str, int]:
    return {
        name: (await market.books.balance(f"acct_owner_{name}")).earnings_nano for name in names
    }


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("case", CASES, ids=str)
async def test_a_mac_that_dies_after_any_token_costs_a_pause_and_nothing_else(
    tmp_path: Path, tiny: Path, case: Case, stream: bool
) -> None:
    """The unbroken text and bill, one charge, and to each Mac exactly what it delivered."""
    macs, folder = macs_of(case, tiny, "a", "b")
    source = ModelSource(macs[0].models[0], folder)
    async with whole_market(tmp_path, *macs, sources=(source,), limits=LIMITS) as market:
        stop = await stop_in(market, case)
        body = body_of(case, stream=stream, stop=stop)
        before = await market.ask(body)
        unbroken, bill = read(before), market.row(before)
        tokens = bill.completion_tokens
        assert bill.attempts == 1
        assert tokens > 6
        assert unbroken[1] == "stop" or not case.stops
        assert case.engine == "demo" or not unbroken[0].isascii()

        for cut in range(tokens):
            await market.revive("a")
            before_nano = await earned_nano(market, "a", "b")
            market.macs["a"].dies_after = cut
            exchange = await market.ask(body)
            await market.settled()

            text, finish, usage = read(exchange)
            row = market.row(exchange)
            assert (text, finish) == unbroken[:2], cut
            assert row.cost_nano == bill.cost_nano == int(usage["cost_nano_usd"])
            assert (row.status, row.attempts, row.completion_tokens) == ("settled", 2, tokens)
            shares = market.shares(row)
            said = {machine: piece.completion_tokens for machine, piece in shares.items()}
            assert said == ({A: cut, B: tokens - cut} if cut else {B: tokens})
            assert said == market.links.said(row.request_id)
            now_nano = await earned_nano(market, "a", "b")
            for name in ("a", "b"):
                piece = shares.get(MachineId(f"mac_{name}"))
                due = paid_nano(piece) if piece is not None else 0
                assert now_nano[name] - before_nano[name] == due
        await assert_books(market)
        counted = market.app.counters()[metric_names.CONTINUATIONS]
        assert counted == tokens - 1
    print(f"{case}: {tokens} cuts, {tokens} identical, {len(market.ledger.requests)} charges")


async def assert_books(market: Whole) -> None:
    """Each request was charged once, Ada paid the sum, and the books keep their laws."""
    rows = market.ledger.requests.values()
    spent = TEN_DOLLARS - (await market.books.balance(ADA)).promo_nano
    assert spent == sum(row.cost_nano for row in rows)
    assert all(row.status == "settled" for row in rows)
    assert broken_laws(market.books.accountant._books.ledger) == []
    assert market.app.counters()[metric_names.COST_MISMATCHES] == 0


async def test_two_deaths_in_one_answer_at_every_pair_of_places(tmp_path: Path) -> None:
    """Three Macs that ask differently: the text of one, a bill of three, and nobody's twice."""
    tokens = 12 if LONG else 8
    macs = [OneMac(name, echo, ask_pct=asks) for name, asks in (("a", 90), ("b", 33), ("c", 100))]
    body = body_of(Case("echo", "greedy"), stream=True) | {"max_tokens": tokens}
    async with whole_market(tmp_path, *macs, limits=LIMITS) as market:
        unbroken = read(await market.ask(body))
        pairs = [(one, two) for two in range(tokens) for one in range(two + 1)]
        for one, two in pairs:
            await market.revive("a")
            await market.revive("b")
            before_nano = await earned_nano(market, "a", "b", "c")
            market.macs["a"].dies_after, market.macs["b"].dies_after = one, two - one
            exchange = await market.ask(body)
            await market.settled()

            text, finish, usage = read(exchange)
            row = market.row(exchange)
            assert (text, finish) == unbroken[:2], (one, two)
            assert (row.status, row.attempts) == ("settled", 3)
            shares = market.shares(row)
            wanted = {A: one, B: two - one, C: tokens - two}
            said = {m: piece.completion_tokens for m, piece in shares.items()}
            assert (
                said == {m: n for m, n in wanted.items() if n} == market.links.said(row.request_id)
            )
            assert int(usage["cost_nano_usd"]) == row.cost_nano
            assert row.cost_nano == sum(piece.cost_nano for piece in shares.values())
            now_nano = await earned_nano(market, "a", "b", "c")
            gains = {f"mac_{n}": now_nano[n] - before_nano[n] for n in before_nano}
            assert {m: n for m, n in gains.items() if n} == {
                m: paid_nano(piece) for m, piece in shares.items()
            }
        await assert_books(market)
    print(f"two deaths: {len(pairs)} pairs, {len(pairs)} identical")


@pytest.mark.parametrize("seed", range(24 if LONG else 4))
async def test_deaths_under_many_streams_break_none_of_them(tmp_path: Path, seed: int) -> None:
    """Macs die in the middle of whatever they say; each answer is whole and charged once."""
    random = Random(seed)
    macs = [OneMac(name, paced) for name in "abcd"]
    bodies = [
        body_of(Case("echo", "greedy"), stream=bool(number % 2)) | {"provider": {}, "user": "x"}
        for number in range(24)
    ]
    async with whole_market(tmp_path, *macs, limits=LIMITS) as market:
        (text, finish, _) = read(await market.ask(bodies[0]))
        asked = [asyncio.create_task(market.ask(body)) for body in bodies]
        for name in random.sample("abcd", 2):  # a third death may be one too many for a request
            await asyncio.sleep(random.uniform(0.0, 0.04))
            market.macs[name].dies_after = random.randrange(1, 40)
        exchanges = await asyncio.gather(*asked)
        await market.settled()
        assert {read(exchange)[:2] for exchange in exchanges} == {(text, finish)}
        for exchange in exchanges:
            row = market.row(exchange)
            said = {m: p.completion_tokens for m, p in market.shares(row).items()}
            assert said == market.links.said(row.request_id)
            assert row.attempts <= 3
        await assert_books(market)
        lost = market.app.counters().get(metric_names.CONTINUATIONS, 0)
    print(f"seed {seed}: {len(exchanges)} streams, {lost:.0f} continued, all identical")
