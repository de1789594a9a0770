"""The accountant's figures, by the names under which a scraper finds them."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.ledger_bench import start


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
        )
    }
    assert metrics["coster_ledger_open_holds"] == 1
    operations = "coster_ledger_operations_total"
    assert metrics[operations] - before[operations] == 4
    assert sum(value for name, value in metrics.items() if "refusals_total{" in name) == 1
