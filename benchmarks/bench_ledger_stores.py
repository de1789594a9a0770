"""The ledger on SQLite and on PostgreSQL, side by side, and plain sqlite3 as the yardstick.

Pairs of hold and settlement a second, in process and durable: 256 under way, which share
commits, and one at a time, which pays for two commits each. Plain sqlite3 writes the rows that
a pair leaves behind, with the same pragmas and nothing around it: no rules, no chain of hashes,
no second commit. PostgreSQL is a private server on the same disk, with its own defaults; where
it is not installed its side is left out. Afterwards all books must balance.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.bench_ledger import GATEWAYS, LANES, in_process
from benchmarks.figures import Report, ratio_of, read_options, spread_of
from market.accounting.rows import RequestRow, TransferRow
from market.types import AccountId, KeyId, MachineId, ModelId, ProviderId, RequestId
from storage import statements as sql
from storage.database import _WRITER_PRAGMAS, LEDGER_FILE, migrate
from storage.opening import verify_ledger
from tests.support.postgres import binaries, running_postgres

TOGETHER = GATEWAYS * LANES
RAW_PAIRS = 64  # of a group commit of the accountant's own, about
NAMES = {"sqlite": "SQLite", "postgres": "PostgreSQL", "raw": "plain sqlite3"}

Player = Callable[..., Awaitable[dict[str, Any]]]


def main() -> None:
    asked = read_options(str(__doc__).split("\n", maxsplit=1)[0], rounds=3)
    report = Report("ledger stores", f"hold and settle in process, {TOGETHER} under way, or one")
    found = asyncio.run(_measure(asked.rounds, asked.seconds, report))
    for how in ("together", "alone"):
        for store, name in NAMES.items():
            if played := found.get(f"{store} {how}"):
                report.row(f"{name}, {how}", spread_of(played, "pairs_per_s"), "pairs/s")
    for how in ("together", "alone"):
        ours = found[f"sqlite {how}"]
        if theirs := found.get(f"postgres {how}"):
            aim = "≥ 0.4" if how == "together" else ""
            ratio = ratio_of(theirs, ours, "pairs_per_s")
            report.row(f"PostgreSQL / SQLite, {how}", ratio, "×", aim)
        ratio = ratio_of(ours, found[f"raw {how}"], "pairs_per_s")
        report.row(f"SQLite / plain sqlite3, {how}", ratio, "×")
    report.show()


async def _measure(rounds: int, seconds: float, report: Report) -> dict[str, list[dict[str, Any]]]:
    folder = Path(tempfile.mkdtemp(prefix="coster-bench-"))
    with ExitStack() as server_stack:
        server_stack.callback(shutil.rmtree, folder, ignore_errors=True)
        databases = {"sqlite": ""}
        if binaries() is None:
            report.fact("PostgreSQL", "not installed, left out")
        else:
            server = server_stack.enter_context(running_postgres())
            await server.prepare_role()
            databases["postgres"] = server.url(await server.new_database())
        async with AsyncExitStack() as stack:
            sides: dict[str, Player] = {}
            for store, database in databases.items():
                side = await stack.enter_async_context(in_process(folder / store, database))
                sides[f"{store} together"] = side.round
                sides[f"{store} alone"] = partial(side.round, clients=1, lanes=1)
            raw = stack.enter_context(closing(Raw(folder / LEDGER_FILE)))
            sides["raw together"] = partial(raw.round, pairs=RAW_PAIRS)
            sides["raw alone"] = partial(raw.round, pairs=1)
            found = await _play(sides, rounds, seconds)
        for store, database in databases.items():
            books = verify_ledger(folder / store, database)
            if not books.ok:
                raise RuntimeError(f"the books of {store} do not balance: {books.problems}")
            report.fact(f"books on {store}", f"{books.counts['transfers']:,} transfers, balanced")
        return found


async def _play(
    sides: dict[str, Player], rounds: int, seconds: float
) -> dict[str, list[dict[str, Any]]]:
    """In turn, forwards and backwards; the first round of each is for warming up."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name in sides if number % 2 else reversed(sides):
            played = await sides[name](seconds)
            if number:
                found[name].append(played)
    return found


class Raw:
    """Plain sqlite3 on a file with our schema and pragmas."""

    def __init__(self, path: Path) -> None:
        migrate(path, 0)
        self._connection = sqlite3.connect(path, isolation_level=None, cached_statements=256)
        for name, value in _WRITER_PRAGMAS.items():
            self._connection.execute(f"PRAGMA {name}={value}")
        for number, code in ((1, 2110), (2, 2310), (3, 4000)):
            row = (number, code, "acct", 1, 0)
            self._connection.execute(sql.INSERT_ACCOUNT, row)
        self._pairs = 0

    async def round(self, seconds: float, pairs: int) -> dict[str, Any]:
        """Pairs a second, so many of them in each commit."""
        begun_s, before = time.perf_counter(), self._pairs
        while time.perf_counter() < begun_s + seconds:
            self._commit(range(self._pairs + 1, self._pairs + 1 + pairs))
            self._pairs += pairs
        return {"pairs_per_s": (self._pairs - before) / (time.perf_counter() - begun_s)}

    def _commit(self, numbers: range) -> None:
        """What pairs leave behind: two transfers and a request each, three balances in all."""
        run = self._connection
        run.execute("BEGIN IMMEDIATE")
        run.executemany(
            sql.INSERT_TRANSFER,
            [
                (2 * n + leg, *TransferRow(f"req_{n}", leg, 1, 2 + leg, 93_530, 3, n), n, 0)
                for n in numbers
                for leg in (0, 1)
            ],
        )
        run.executemany(sql.INSERT_REQUEST, [(n, *_request(n), n, 0) for n in numbers])
        run.executemany(sql.UPDATE_ACCOUNT, [(0, 0, 0, numbers[-1], n) for n in (2, 3)])
        run.execute("COMMIT")

    def close(self) -> None:
        self._connection.close()


def _request(number: int) -> RequestRow:
    who = (RequestId(f"req_{number}"), AccountId("acct"), KeyId("key"), ModelId("model"))
    return RequestRow(
        *who, "settled", 400, 200, 0, 0, 187_060, 177_707, 9_353, 187_060, 0, 0, 187_060,
        100, 780, 500, 200, 1, AccountId("payee"), MachineId("mac"), ProviderId("prv"), "stop",
        1, 12.5, 80.25, number, number,
    )  # fmt: skip


if __name__ == "__main__":
    main()
