"""What leaves the ledger is what is in it: beancount itself is the judge."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from beancount import loader
from beancount.core import data as core
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from coster.main import app
from market.accounting.chart import Account, Code, Posting
from market.accounting.exports import Format, Selection, account_name
from market.types import AccountId
from storage.database import LEDGER_FILE
from storage.export import export_lines
from storage.sqlite_rows import SqliteRows
from tests.support.every_posting import BEGIN_NS, DAY_NS, write_every_posting

ANN = AccountId("acct_5Kd3NBUAdUnhyzenEwVLy9pBKxSwXvE9")


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    await write_every_posting(tmp_path / "data", ANN)
    return tmp_path / "data"


@pytest.fixture
def rows(data: Path) -> Iterator[SqliteRows]:
    opened = SqliteRows(data / LEDGER_FILE)
    yield opened
    opened.close()


def text_of(rows: SqliteRows, form: Format, **chosen: Any) -> str:
    return "".join(export_lines(rows, form, Selection(**chosen)))


def judged(text: str) -> tuple[list[Any], list[str]]:
    """Beancount's entries and the messages of its checker."""
    entries, errors, _ = loader.load_string(text)
    return entries, [error.message for error in errors]


def test_beancount_accepts_every_kind_of_transfer(rows: SqliteRows) -> None:
    """Each reason appears as a transaction, and each account's balance is asserted."""
    entries, errors = judged(text_of(rows, "beancount"))

    assert errors == []
    told = [entry for entry in entries if isinstance(entry, core.Transaction)]
    assert {entry.payee for entry in told} == {posting.name.lower() for posting in Posting}
    asserted = [entry for entry in entries if isinstance(entry, core.Balance)]
    assert len(asserted) == len(list(rows.accounts()))
    cash = next(e for e in asserted if e.account.startswith("Liabilities:Consumers:Cash:Acct-5K"))
    stored = next(a for a in rows.accounts() if a.code is Code.CONSUMER_CASH)
    assert cash.amount.number * 10**9 == -stored.posted_nano


def test_one_altered_nano_is_named(rows: SqliteRows) -> None:
    """In one posting the transaction is named; in both, the accounts whose balance is off."""
    text = text_of(rows, "beancount")
    place = text.index('"goodwill"')
    head, tail = text[:place], text[place:]

    _, one = judged(head + tail.replace(" 1.000000008 USD", " 1.000000009 USD", 1))
    _, both = judged(head + tail.replace("1.000000008 USD", "1.000000009 USD", 2))

    assert any("does not balance" in message for message in one)
    assert len(both) == 2
    assert any("Expenses:Goodwill" in message for message in both)
    assert any("Liabilities:Consumers:Promo:Acct-5K" in message for message in both)


def test_an_altered_counter_is_named(rows: SqliteRows) -> None:
    """The assertions are the ledger's counters, not sums of what was exported."""
    text = text_of(rows, "beancount")
    line = re.search(r"balance Income:Fees  (\S+) ~ 0 USD", text)
    assert line is not None

    _, errors = judged(text.replace(line[0], line[0].replace("000000", "000010", 1)))

    assert len(errors) == 1
    assert "Income:Fees" in errors[0]


@pytest.mark.parametrize("days", [0, 1, 7, 25, 1000])
@pytest.mark.parametrize("owner", ["", ANN])
def test_an_export_may_begin_anywhere(rows: SqliteRows, days: int, owner: str) -> None:
    """Openings and what follows come to the same balances, for all and for one owner."""
    since_ns = BEGIN_NS + days * DAY_NS

    entries, errors = judged(text_of(rows, "beancount", since_ns=since_ns, owner=owner))

    assert errors == []
    told = [entry for entry in entries if isinstance(entry, core.Transaction)]
    total = len(list(rows.journal("transfer")))
    whole = max(0, total - days)
    assert len(told) <= whole + (days > 0)
    if not owner:
        assert len(told) == whole + (days > 0)


def test_tables_hold_every_transfer_exactly(rows: SqliteRows) -> None:
    """CSV and JSON lines agree with each other and with the journal, cell by cell."""
    table = list(csv.DictReader(io.StringIO(text_of(rows, "csv"))))
    lines = [json.loads(line) for line in text_of(rows, "jsonl").splitlines()]
    stored = list(rows.journal("transfer"))

    assert [{k: str(v) for k, v in line.items()} for line in lines] == table
    assert [(int(row["number"]), row["id"], int(row["amount_nano_usd"])) for row in table] == [
        (row[0], row[1], row[5]) for row in stored
    ]
    assert all(
        row["amount_usd"].replace(".", "").lstrip("0") == row["amount_nano_usd"] for row in table
    )


def test_one_account_s_transfers_alone(rows: SqliteRows) -> None:
    """Only what concerns it; an account nothing was booked on is not found."""
    table = list(csv.DictReader(io.StringIO(text_of(rows, "csv", owner=ANN))))

    assert table
    assert all(ANN in (row["debit_account"], row["credit_account"]) for row in table)
    assert len(table) < len(list(rows.journal("transfer")))


IDS = st.from_regex(r"[a-zA-Z][A-Za-z0-9_-]{0,8}", fullmatch=True)
OWNERS = st.one_of(IDS, st.text(min_size=1))


@given(st.tuples(OWNERS, OWNERS))
def test_two_accounts_never_share_a_name(owners: tuple[str, str]) -> None:
    """Whatever ids are called, names are made from them one to one, and beancount reads them."""
    names = [account_name(Account(1, Code.CONSUMER_CASH, owner)) for owner in owners]

    assert (names[0] == names[1]) == (owners[0] == owners[1])
    assert all(re.fullmatch(r"[A-Z][A-Za-z]*(:[A-Z0-9][A-Za-z0-9-]*)+", name) for name in names)


def test_the_command_writes_a_private_file(data: Path, tmp_path: Path) -> None:
    """Whole, readable by its owner alone, and the same as on the screen."""
    run, out = CliRunner(), tmp_path / "books.beancount"
    folder = ["--data", str(data)]

    shown = run.invoke(app, ["ledger", "export", *folder])
    kept = run.invoke(app, ["ledger", "export", "--out", str(out), *folder])

    assert (shown.exit_code, kept.exit_code, kept.output) == (0, 0, "")
    assert out.read_text("utf-8") == shown.output
    assert out.stat().st_mode & 0o777 == 0o600
    assert judged(shown.output)[1] == []
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--format", "xml"], "beancount, csv, jsonl"),
        (["--since", "yesterday"], "a day like"),
        (["--account", "acct_nobody"], "No account of 'acct_nobody'"),
        (["--out", "/nowhere/at/all"], "cannot be written"),
    ],
)
def test_a_wrong_wish_is_told(data: Path, words: list[str], told: str) -> None:
    """One sentence with what would be right."""
    result = CliRunner().invoke(app, ["ledger", "export", "--data", str(data), *words])

    assert result.exit_code == 1
    assert told in result.output
