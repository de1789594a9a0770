"""The tools on each database: audits that go on, exports that balance, copies and the report."""

from __future__ import annotations

import shutil

import pytest
from beancount import loader

from market.accounting.exports import Selection
from market.accounting.report import report_of
from market.accounting.state_rows import VerifiedRow
from storage.backup import backup
from storage.database import StorageError
from storage.export import export_lines
from storage.opening import is_postgres, open_rows, verify_ledger
from tests.support.ledger_bench import Bench
from tests.support.places import Place
from tests.support.postgres import REQUIRED

NOW_NS = 1_800_000_000_000_000_000


async def trade(bench: Bench, *requests: str) -> None:
    for request in requests:
        await bench.do(bench.admit(request))
        await bench.do(bench.settle(request))


async def test_an_audit_goes_on_where_the_last_one_ended(place: Place) -> None:
    """Beside the running accountant and after a restart; both ways tell the same story."""
    bench = await place.start(fee_bps=500)
    await trade(bench, "req_1", "req_2")
    assert (await bench.accountant.audit()).ok
    await trade(bench, "req_3")
    quick = verify_ledger(place.data, place.database, full=False)
    full = verify_ledger(place.data, place.database, full=True)
    await bench.accountant.stop()
    bench = await place.start(fee_bps=500)
    await bench.accountant.stop()
    rows = open_rows(place.data, place.database)
    (kept,) = rows.state(VerifiedRow)
    meta = rows.meta()
    rows.close()

    assert (quick.problems, full.problems) == ([], [])
    assert 0 == full.since_batch < quick.since_batch < kept.number
    assert (quick.counts, quick.totals_nano) == (full.counts, full.totals_nano)
    assert quick.checkpoint == full.checkpoint
    assert meta is not None
    assert (kept.number, kept.hash) == (meta.head_number, meta.head_hash)


async def test_an_export_and_the_report_balance(place: Place) -> None:
    """Another program accepts what comes out of either database."""
    bench = await place.start(fee_bps=500)
    await trade(bench, "req_1", "req_2")
    rows = open_rows(place.data, place.database)
    text = "".join(export_lines(rows, "beancount", Selection()))
    page = report_of(rows.accounts())
    rows.close()
    await bench.accountant.stop()

    entries, errors, _ = loader.load_string(text)
    assert errors == []
    assert len(entries) > 6
    assert page.difference_nano == 0
    assert page.fees_nano == 2 * 9_353


async def test_a_copy_is_made_of_either(place: Place) -> None:
    """A file that was replayed, or a dump of a database that was; secrets only with files."""
    if is_postgres(place.database) and shutil.which("pg_dump") is None:
        reason = "pg_dump is not installed (Debian: postgresql-client-15)"
        pytest.fail(reason) if REQUIRED else pytest.skip(reason)
    bench = await place.start()
    await trade(bench, "req_1")
    made = backup(place.data, now_ns=NOW_NS, database=place.database)
    if is_postgres(place.database):
        with pytest.raises(StorageError, match="--with-secrets is for books in a file"):
            backup(place.data, now_ns=NOW_NS + 10**9, database=place.database, secrets=True)
    await bench.accountant.stop()

    assert made.path.stat().st_mode & 0o777 == 0o600
    assert made.size_bytes > 1_000
    assert made.replayed is not is_postgres(place.database)
    assert made.report.counts["requests"] == 1
    assert [path.name for path in made.path.parent.iterdir()] == [made.path.name]
