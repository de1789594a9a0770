"""The operator's acts: what reaches the books, what is refused, and what is never guessed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from actors.admin import MarketAdmin
from serve_app.admin import create_admin_app
from tests.http.asgi_client import Exchange
from tests.support.ledger_bench import Bench, start
from tests.support.operations import Operations, admin_over

KEY = "adm-test-0123456789"
WHY = {"reason": "a test", "actor": "Olga"}


@dataclass
class Desk:
    """The listener over a real accountant."""

    bench: Bench
    admin: MarketAdmin

    async def ask(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, Any]:
        raw = b"" if body is None else json.dumps(body).encode()
        exchange = Exchange(raw, path=path, method=method, key=KEY, headers=headers)
        await exchange.go(create_admin_app(self.admin, KEY))  # type: ignore[arg-type]
        return exchange.status, json.loads(exchange.content)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    data = tmp_path / "data"
    bench = await start(data, fee_bps=500)
    yield Desk(bench, admin_over(bench.accountant, data))
    await bench.accountant.stop()


async def test_an_account_is_shown_and_changed(desk: Desk) -> None:
    """Only what is named changes; null gives the tier's own limit back."""
    path = "/admin/accounts/acct_consumer"
    status, before = await desk.ask("GET", path)
    assert status == 200
    assert before["balance"]["promo_nano_usd"] == str(10**9)
    assert [key["name"] for key in before["keys"]] == ["test"]

    body = {"tier": "paid", "fee_bps": 250, "tokens_per_day": 5, "frozen": "dispute", **WHY}
    status, changed = await desk.ask("POST", path, body)
    assert status == 200
    expected = {**before, "tier": "paid", "fee_bps": 250, "tokens_per_day": 5, "frozen": "dispute"}
    assert changed == {k: v for k, v in expected.items() if k not in ("balance", "keys")}
    (refused,) = await desk.bench.do(desk.bench.admit("req_1"))
    assert getattr(refused, "code", None) == "account_frozen"

    _, freed = await desk.ask("POST", path, {"frozen": "", "tokens_per_day": None, **WHY})
    assert (freed["frozen"], freed["tokens_per_day"], freed["fee_bps"]) == ("", None, 250)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("accounts/acct_consumer", {"tier": "gold", **WHY}, 400),
        ("accounts/acct_consumer", {"tier": "paid"}, 400),  # no reason
        ("accounts/acct_consumer", WHY, 400),  # nothing named
        ("accounts/acct_consumer", {"tier": None, **WHY}, 400),
        ("accounts/acct_consumer", {"fee_bps": 10_001, **WHY}, 400),
        ("accounts/acct_consumer", {"balance": 5, **WHY}, 400),
        ("accounts/acct_consumer", {"tier": "paid", "reason": "a\nb"}, 400),
        ("accounts/acct_nobody", {"tier": "paid", **WHY}, 404),
        ("accounts/acct_consumer/goodwill", {"amount_nano_usd": "-1", **WHY}, 400),
        ("accounts/acct_consumer/goodwill", {"amount_nano_usd": "0", **WHY}, 400),
        ("accounts/acct_consumer/goodwill", {"amount_nano_usd": 5, **WHY}, 400),
        ("accounts/acct_nobody/goodwill", {"amount_nano_usd": "5", **WHY}, 404),
        ("prices/coster/demo", {"input": "0.0001", "output": "1", **WHY}, 400),
        ("prices/coster/demo", {"input": "1", "cached": "2", "output": "1", **WHY}, 400),
        ("prices/coster/demo", {"input": "9999999", "output": "1", **WHY}, 400),
        ("prices/no/such", {"input": "1", "output": "1", **WHY}, 404),
        ("machines/mac_1/link", {"account": "acct_nobody"}, 404),
        ("ledger/retention", {"events_days": 1}, 400),
    ],
)
async def test_what_makes_no_sense_is_refused_and_changes_nothing(
    desk: Desk, path: str, body: dict[str, object], status: int
) -> None:
    """A clear refusal, and no row of the books is different after it."""
    before = (await desk.admin.report(), await desk.admin.account("acct_consumer"))

    answered, told = await desk.ask("POST", f"/admin/{path}", body)

    assert answered == status, told
    assert told["error"]["message"]
    assert (await desk.admin.report(), await desk.admin.account("acct_consumer")) == before
    assert not desk.bench.accountant._books.ledger.changes


async def test_goodwill_is_given_once_for_one_key(desk: Desk) -> None:
    """A repetition gives nothing more; other contents under the same key are a conflict."""
    path = "/admin/accounts/acct_consumer/goodwill"
    body = {"amount_nano_usd": "250", **WHY}
    key = {"idempotency-key": "case-17"}

    answers = [await desk.ask("POST", path, body, **key) for _ in range(2)]
    other, _ = await desk.ask("POST", path, {**body, "amount_nano_usd": "251"}, **key)
    again, more = await desk.ask("POST", path, body)

    assert [told["promo_nano_usd"] for _, told in answers] == [str(10**9 + 250)] * 2
    assert other == 409
    assert (again, more["promo_nano_usd"]) == (200, str(10**9 + 500))
    report = await desk.admin.report()
    assert report["costs_nano_usd"]["goodwill"] == "500"
    assert (await desk.admin.verify(full=True))["ok"]


async def test_much_goodwill_needs_two_people(desk: Desk) -> None:
    """Above $100 nobody decides alone, nor by naming themselves twice."""
    path, amount = "/admin/accounts/acct_consumer/goodwill", str(100 * 10**9 + 1)
    for second in ("", "Olga"):
        body = {"amount_nano_usd": amount, "second_approver": second, **WHY}
        status, told = await desk.ask("POST", path, body)
        assert (status, told["error"]["code"]) == (403, "second_approver_needed")

    body = {"amount_nano_usd": amount, "second_approver": "Piet", **WHY}
    assert (await desk.ask("POST", path, body))[0] == 200


async def test_a_price_holds_from_now_on(desk: Desk) -> None:
    """It is read as USD per million tokens, shown with its history, and charged."""
    path = "/admin/prices/qwen3.5-27b-claude-opus-8bit"
    await desk.bench.do(desk.bench.admit("req_old"))
    status, told = await desk.ask("POST", path, {"input": "0.2", "output": "0.015", **WHY})
    assert (status, told["input_usd_per_1m"], told["cached_usd_per_1m"]) == (200, "0.200", "0.200")

    await desk.bench.do(desk.bench.admit("req_new"))
    old, new = await desk.bench.do(desk.bench.settle("req_old"), desk.bench.settle("req_new"))

    assert old.cost_nano == 412 * 100 + 187 * 780  # type: ignore[attr-defined]
    assert new.cost_nano == 412 * 200 + 187 * 15  # type: ignore[attr-defined]
    _, shown = await desk.ask("GET", path)
    assert shown["output_usd_per_1m"] == "0.015"
    last = shown["history"][-1]
    assert (last["actor"], last["reason"]) == ("Olga", "a test")
    _, every = await desk.ask("GET", "/admin/prices")
    assert any(row["model"] == "coster/demo" for row in every["prices"])


async def test_a_linked_machine_earns_for_its_account(desk: Desk) -> None:
    """Linking answers what moved; a machine of another account stays there."""
    body = {"account": "acct_provider"}
    status, told = await desk.ask("POST", "/admin/machines/mac_9/link", body)
    assert (status, told["moved_nano_usd"]) == (200, "0")

    taken, _ = await desk.ask("POST", "/admin/machines/mac_9/link", {"account": "acct_consumer"})
    assert taken == 409


async def test_the_page_balances_and_warns(desk: Desk) -> None:
    """The report of a market with a fee of 5 % and a smallest top-up of $5."""
    await desk.bench.do(desk.bench.admit("req_1"))
    await desk.bench.do(desk.bench.settle("req_1"))

    _, page = await desk.ask("GET", "/admin/report")

    assert page["balanced"] is True
    assert page["revenue_nano_usd"]["fees"] == "9353"
    assert any("top-up below $14.29 loses money" in warning for warning in page["warnings"])
    assert await desk.ask("GET", "/admin/alerts") == (200, {"ok": True, "alerts": []})


async def test_the_payments_actor_is_asked_once(desk: Desk, tmp_path: Path) -> None:
    """Its answer is passed on; when it is away that is said, as a 503."""

    class Payments:
        async def reconcile(self) -> dict[str, object]:
            return {"ok": False, "matched": 3, "unmatched": ["txn_1"], "difference_cents": 5}

        async def run_weekly(self) -> dict[str, object]:
            return {"week": "2024-10-07", "payouts": 1, "amount_cents": 1_000, "passed": {}}

    status, told = await desk.ask("POST", "/admin/reconcile")
    assert (status, told["error"]["code"]) == (503, "payments_away")
    desk.admin = admin_over(desk.bench.accountant, tmp_path / "data", Payments())
    assert (await desk.ask("POST", "/admin/reconcile"))[1]["unmatched"] == ["txn_1"]
    assert (await desk.ask("POST", "/admin/payouts/run"))[1]["payouts"] == 1


async def test_every_act_reaches_the_port_as_it_was_asked() -> None:
    """Fields in their places: an act on the wrong account would be written for good."""
    port = Operations()
    app = create_admin_app(port, KEY)  # type: ignore[arg-type]
    for path, body in (
        ("accounts/a", {"name": "Ann", **WHY}),
        ("accounts/a/goodwill", {"amount_nano_usd": "7", "second_approver": "Piet", **WHY}),
        ("prices/x/y", {"input": "1", "cached": "0.5", "output": "2", **WHY}),
        ("machines/m/link", {"account": "a", "actor": "Olga"}),
        ("ledger/verify", {"full": True}),
        ("ledger/retention", {"events_days": 90}),
    ):
        exchange = Exchange(json.dumps(body).encode(), path=f"/admin/{path}", key=KEY)
        await exchange.go(app)  # type: ignore[arg-type]
        assert exchange.status == 200, exchange.content

    assert port.orders == [
        ("change_account", "a", {"name": "Ann"}, "Olga", "a test"),
        ("goodwill", "a", 7, "Olga", "a test", "Piet", None),
        ("set_price", "x/y", (1000, 500, 2000), "Olga", "a test"),
        ("link_machine", "m", "a", "Olga"),
        ("verify", True),
        ("forget_events", 90),
    ]
