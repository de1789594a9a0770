"""The accountant's figures, by the names under which a scraper finds them."""

from __future__ import annotations

import re
from pathlib import Path

from actors.accountant import Accountant, AccountantSettings
from actors.accounting.core import Clock
from actors.accounting.operator import IMBALANCE_S
from market.accounting.metric_families import FAMILIES
from market.metrics import parts_of
from tests.support.ledger_bench import equip, start


async def test_metrics_bear_names_that_say_what_they_are(tmp_path: Path) -> None:
    """All begin alike; what only grows ends in `_total`, a present size does not."""
    bench = await start(tmp_path / "data")
    before = await bench.accountant.metrics()
    await bench.do(bench.admit("req_1"), bench.admit("req_2"))
    await bench.do(bench.settle("req_1"), bench.settle("req_none"))
    metrics = await bench.accountant.metrics()
    await bench.accountant.stop()

    sizes = {name for name in metrics if not name.partition("{")[0].endswith("_total")}
    assert all(re.fullmatch(r'coster_ledger_[a-z_]+(\{code="[a-z_]+"\})?', n) for n in metrics)
    assert sizes == {
        f"coster_ledger_{name}"
        for name in (
            *("owners", "keys", "open_holds", "finished_remembered", "holds_overdue"),
            *("audit_problems", "audited_batch", "suspense_nano_usd", "receivable_nano_usd"),
            *("imbalance_nano_usd", "held_nano_usd"),
        )
    }
    families = {family.name: family for family in FAMILIES}
    for key in metrics:
        name, labels = parts_of(key)
        assert families[name].labels == tuple(labels)
    assert metrics["coster_ledger_open_holds"] == 1
    assert metrics["coster_ledger_held_nano_usd"] > 0
    assert metrics["coster_ledger_imbalance_nano_usd"] == 0
    operations = "coster_ledger_operations_total"
    assert metrics[operations] - before[operations] == 4
    assert sum(value for name, value in metrics.items() if "refusals_total{" in name) == 1


async def test_books_that_do_not_balance_are_told(tmp_path: Path) -> None:
    """A debit without its credit shows as an imbalance of just its size, within the minute."""
    tick_s = [0]
    data = tmp_path / "data"
    clock = Clock(tick_ns=lambda: tick_s[0] * 10**9)
    accountant = Accountant(AccountantSettings(data), clock=clock)
    await accountant.start()
    bench = await equip(accountant, data, 10**9)
    await bench.do(bench.admit("req_1"))
    await bench.do(bench.settle("req_1"))
    assert (await bench.accountant.metrics())["coster_ledger_imbalance_nano_usd"] == 0
    account = next(iter(accountant._books.ledger.accounts()))
    account.dpo += 5
    unseen = (await accountant.metrics())["coster_ledger_imbalance_nano_usd"]
    tick_s[0] = IMBALANCE_S
    seen = (await accountant.metrics())["coster_ledger_imbalance_nano_usd"]
    account.dpo -= 5
    await accountant.stop()

    assert (unseen, seen) == (0, 5)
