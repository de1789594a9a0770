"""Macs, models and requests on the operator's listener: over a real router and real books."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from actors.admin import MarketAdmin
from actors.router import Router
from market.messages import Part, Settle
from market.routing.messages import Grant
from market.types import MachineId, ProviderId, RequestId, Usage
from serve_app.admin import create_admin_app
from tests.http.asgi_client import Exchange
from tests.placement_kit import LARGE, SMALL
from tests.router_kit import outcome, request
from tests.support.ledger_bench import Bench, start
from tests.support.live_fleet import LiveFleet, mac_beat, place
from tests.support.operations import Operations, admin_over

KEY = "adm-test-0123456789"
HOSTILE = [
    "", " ", "..", "../../etc/passwd", "\0", "\x1b[2J", "x" * 4000, "é", "𝕏" * 50, "null", "req_",
    "prv_", "mac_", "%", "%2F", "'; DROP TABLE macs; --", "a\nb", "{}", "-1", "req_" + "z" * 26,
]  # fmt: skip

PLAN_LOOKS = 100
"""How often it is looked whether the plan has taken notice of a drain."""


@dataclass
class Desk:
    """The listener, and what is behind it."""

    bench: Bench
    admin: MarketAdmin
    router: Router

    async def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        path, _, query = path.partition("?")
        raw = b"" if body is None else json.dumps(body).encode()
        exchange = Exchange(raw, path=path, method=method, key=KEY, query=query.encode())
        await exchange.go(create_admin_app(self.admin, KEY))  # type: ignore[arg-type]
        return exchange.status, json.loads(exchange.content)

    async def get(self, path: str) -> Any:
        status, answer = await self.ask("GET", path)
        assert status == 200, answer
        return answer


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    data = tmp_path / "data"
    bench = await start(data, fee_bps=500)
    fleet = LiveFleet(
        mac_beat("studio", place(SMALL), place(LARGE), memory_gb=128, slots=1),
        mac_beat("mini-1", place(SMALL), chip="M4", memory_gb=24),
        mac_beat("mini-2", place(SMALL, "failed", "disk full"), chip="M4", memory_gb=24),
    )
    router = await fleet.start(data)
    yield Desk(bench, admin_over(bench.accountant, data, router=router), router)
    await fleet.close()
    await bench.accountant.stop()


async def finished(desk: Desk, request_id: str, *parts: Part, completion: int = 187) -> None:
    """A request that the router has placed and the books have settled."""
    (grant,) = await desk.router.route([replace(request(request_id), model=SMALL)])
    assert isinstance(grant, Grant)
    await desk.router.report([outcome(grant)])
    await desk.bench.do(desk.bench.admit(request_id))
    (settled,) = await desk.bench.do(
        Settle(
            RequestId(request_id),
            desk.bench.provider,
            grant.machine,
            grant.provider,
            Usage(412, completion),
            "stop",
            before=parts,
        )
    )
    assert not isinstance(settled, Exception), settled


# ── looking ───────────────────────────────────────────────────────────────────────────


async def test_the_fleet_is_told_with_what_ails_it(desk: Desk) -> None:
    """Every Mac once, by name and ids, with its models' states and the reason of a failure."""
    told = await desk.get("/admin/fleet")
    assert [mac["name"] for mac in told["macs"]] == ["mini-2", "mini-1", "studio"]
    (failed,) = told["macs"][0]["places"]
    assert (failed["state"], failed["reason"]) == ("failed", "disk full")
    one = await desk.get("/admin/fleet/stud")
    assert (one["machine"], one["provider"]) == ("mac_studio", "prv_studio")
    assert one["only_here"] == [LARGE]


async def test_status_tells_what_is_wanted_and_what_is_there(desk: Desk) -> None:
    """Per model and over all, with the Mac and the reason of each failure."""
    told = await desk.get("/admin/status")
    models = {each["model"]: each for each in told["models"]}
    assert set(models) == {SMALL, LARGE}
    assert models[SMALL]["ready"] == 2
    assert [each["name"] for each in models[SMALL]["failed"]] == ["mini-2"]
    assert told["fleet"]["verdicts"] == {"EARNING": 2, "NOT EARNING": 1}
    assert "macs" not in told["fleet"]


async def test_why_tells_of_a_request_with_its_money(desk: Desk) -> None:
    """Candidates and outcomes from the router, and from the books who delivered what and was
    paid what: what was paid and the fees are what was charged.
    """
    part = Part(desk.bench.provider, MachineId("mac_mini-1"), ProviderId("prv_mini-1"), 100, 80)
    await finished(desk, "req_7", part)

    told = await desk.get("/admin/why/req_7")

    assert (told["kind"], told["names"]["prv_mini-1"]) == ("request", "mini-1")
    verdicts = told["attempts"][0]["decision"]["verdicts"]
    assert sorted(v["provider"] for v in verdicts) == ["prv_mini-1", "prv_mini-2", "prv_studio"]
    deliveries = told["ledger"]["deliveries"]
    assert [(d["completion_tokens"], d["ask_pct"]) for d in deliveries] == [(100, 80), (87, 100)]
    paid = sum(int(d["paid_nano_usd"]) + int(d["fee_nano_usd"]) for d in deliveries)
    assert paid == int(told["ledger"]["cost_nano_usd"])
    assert "acct_" not in json.dumps(told)


async def test_why_tells_of_a_request_that_only_the_books_know(desk: Desk) -> None:
    """Older than the router's log: the money is told, and that nothing else is kept."""
    await desk.bench.do(desk.bench.admit("req_old"))
    await desk.bench.do(desk.bench.settle("req_old"))
    told = await desk.get("/admin/why/req_old")
    assert (told["attempts"], told["ledger"]["status"]) == ([], "settled")


async def test_why_decides_again_when_asked(desk: Desk) -> None:
    """By the policy named in the query; one that there is not is a 400 that names them all."""
    await finished(desk, "req_7")
    told = await desk.get("/admin/why/req_7?replay=present")
    assert told["attempts"][0]["decision"]["replayed"]["same"] is True
    status, refused = await desk.ask("GET", "/admin/why/req_7?replay=nope")
    assert (status, refused["error"]["param"]) == (400, "policy")


async def test_why_tells_of_a_mac_and_says_what_else_it_could_have_meant(desk: Desk) -> None:
    """By its name; several are named; and for nothing at all, which id to take."""
    told = await desk.get("/admin/why/mini-2")
    assert (told["kind"], told["verdict"]) == ("mac", "NOT EARNING")
    status, refused = await desk.ask("GET", "/admin/why/mini")
    assert (status, refused["error"]["code"]) == (400, "ambiguous_machine")
    status, refused = await desk.ask("GET", "/admin/why/my-own-request-id")
    assert (status, refused["error"]["code"]) == (404, "nothing_known")
    assert "x-coster-request-id" in refused["error"]["message"]


# ── ordering ──────────────────────────────────────────────────────────────────────────


async def test_a_drain_says_what_is_left_and_what_the_market_misses(desk: Desk) -> None:
    """By any of a Mac's names; undraining says whether it was drained."""
    status, told = await desk.ask("POST", "/admin/drain/studio", {"reason": "RAM swap"})
    assert (status, told["machine"], told["drain"]) == (200, "mac_studio", True)
    assert (told["only_here"], told["in_flight"], told["here"]) == ([LARGE], 0, True)
    assert told["no_room"] == [LARGE], "the minis are too small for it"
    (mac,) = [m for m in (await desk.get("/admin/fleet"))["macs"] if m["name"] == "studio"]
    assert mac["drain"] == "RAM swap"
    answers = [await desk.ask("POST", "/admin/undrain/prv_studio") for _ in range(2)]
    assert [told["was_drained"] for _, told in answers] == [True, False]


async def test_a_pin_says_what_becomes_of_it_or_why_it_cannot_be(desk: Desk) -> None:
    """With the arithmetic in the refusal; and it is in the plan's list until it is unpinned."""
    body = {"mac": "mini-1", "model": LARGE, "reason": "for Ann"}
    status, refused = await desk.ask("POST", "/admin/placement/pin", body)
    assert (status, refused["error"]["code"]) == (400, "pin_impossible")
    assert "needs 45.1 GB" in refused["error"]["message"]
    status, told = await desk.ask("POST", "/admin/placement/pin", body | {"model": SMALL})
    assert (status, told["words"]) == (200, "it is there, and stays")
    placed = await desk.get("/admin/placement")
    assert [(p["machine"], p["reason"]) for p in placed["pins"]] == [("mac_mini-1", "for Ann")]
    assert placed["names"]["mac_mini-1"] == "mini-1"
    status, told = await desk.ask(
        "POST", "/admin/placement/unpin", {"mac": "mini-1", "model": SMALL}
    )
    assert (status, told["was_pinned"]) == (200, True)


async def test_a_policy_is_switched_by_name(desk: Desk) -> None:
    """And back; an unknown one is refused with all that there are."""
    status, told = await desk.ask("POST", "/admin/policy", {"name": "round_robin"})
    assert (status, told["policy"], told["after_restart"]) == (200, "round_robin", "coster")
    assert (await desk.get("/admin/policy"))["policy"] == "round_robin"
    status, refused = await desk.ask("POST", "/admin/policy", {"name": "nope"})
    assert (status, refused["error"]["type"]) == (400, "invalid_request")
    _, told = await desk.ask("POST", "/admin/policy", {"name": "coster-prefill"})
    assert told["policy"] in {each["name"] for each in told["policies"]}


async def test_a_pin_on_a_drained_mac_waits_until_it_is_undrained(desk: Desk) -> None:
    """It is here, so nobody waits for it to come back."""
    await desk.ask("POST", "/admin/drain/mini-1", {"reason": "update"})
    body = {"mac": "mini-1", "model": SMALL}
    for _ in range(PLAN_LOOKS):
        _, told = await desk.ask("POST", "/admin/placement/pin", body)
        if "waits" in told["words"]:
            break
        await asyncio.sleep(0.05)
    assert told["words"] == "it waits until the Mac is undrained"


async def test_the_placement_of_one_model_is_told_alone(desk: Desk) -> None:
    """And one that is not on offer is a 404."""
    told = await desk.get(f"/admin/placement?model={SMALL}")
    assert [each["model"] for each in told["models"]] == [SMALL]
    status, refused = await desk.ask("GET", "/admin/placement?model=nosuch")
    assert (status, refused["error"]["param"]) == (404, "model")


async def test_a_reason_is_one_line_that_can_be_printed(desk: Desk) -> None:
    """It is shown on terminals: nothing else is taken, and nothing is drained by it."""
    for reason in ("a\nb", "\x1b[2J", "", "x" * 201):
        status, _ = await desk.ask("POST", "/admin/drain/studio", {"reason": reason})
        assert status == 400, reason
    assert (await desk.get("/admin/fleet/studio"))["drain"] is None


# ── bad input ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", HOSTILE)
async def test_no_name_is_a_fault_of_ours(desk: Desk, name: str) -> None:
    """A Mac, a request or a refusal, each with its envelope; never a 5xx."""
    for method, path in (
        ("GET", "/admin/fleet/{}"),
        ("GET", "/admin/why/{}"),
        ("GET", "/admin/why/{}?replay={}"),
        ("POST", "/admin/drain/{}"),
        ("POST", "/admin/undrain/{}"),
    ):
        filled = path.replace("{}", name, 1).replace("{}", quote(name, safe=""))
        status, answer = await desk.ask(method, filled)
        assert status in (200, 400, 404), (path, status, answer)
        assert "error" in answer or status == 200
    for path, body in (
        ("placement/pin", {"mac": name, "model": SMALL}),
        ("placement/pin", {"mac": "studio", "model": name}),
        ("placement/unpin", {"mac": "studio", "model": name}),
        ("policy", {"name": name}),
    ):
        status, answer = await desk.ask("POST", f"/admin/{path}", body)
        assert status in (200, 400, 404, 413), (path, status, answer)


async def test_without_a_router_it_is_said_and_the_books_still_answer(tmp_path: Path) -> None:
    """503 for what only the router knows; status answers with null for what is not known."""
    bench = await start(tmp_path / "data")
    desk = Desk(bench, admin_over(bench.accountant, tmp_path / "data"), None)  # type: ignore[arg-type]
    for method, path in (
        ("GET", "fleet"), ("GET", "queue"), ("GET", "placement"), ("GET", "policy"),
        ("GET", "why/req_1"), ("POST", "drain/studio"), ("POST", "undrain/studio"),
    ):  # fmt: skip
        status, refused = await desk.ask(method, f"/admin/{path}")
        assert (status, refused["error"]["code"]) == (503, "router_away"), path
    status, told = await desk.ask("GET", "/admin/status")
    assert (status, told["ok"], told["fleet"], told["models"]) == (200, False, None, [])
    await bench.accountant.stop()


async def test_every_order_reaches_the_port_as_it_was_asked() -> None:
    """Fields in their places: the wrong Mac would be drained for good."""
    port = Operations()
    app = create_admin_app(port, KEY)
    for path, body in (
        ("drain/a/b", {"reason": "fan"}),
        ("undrain/prv_a", None),
        ("placement/pin", {"mac": "m", "model": "x/y", "reason": "Ann"}),
        ("placement/unpin", {"mac": "m", "model": "x/y"}),
        ("policy", {"name": "random"}),
    ):
        raw = b"" if body is None else json.dumps(body).encode()
        exchange = Exchange(raw, path=f"/admin/{path}", key=KEY)
        await exchange.go(app)  # type: ignore[arg-type]
        assert exchange.status == 200, exchange.content
    assert port.orders == [
        ("drain", "a/b", "fan"),
        ("undrain", "prv_a"),
        ("pin", "m", "x/y", "Ann"),
        ("unpin", "m", "x/y"),
        ("use_policy", "random"),
    ]
