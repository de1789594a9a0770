"""What `coster ledger verify` prints, to people and to scripts."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from coster.databases import check_books, database_of, shown_books
from coster.main import app
from coster.paths import MarketPaths
from storage.database import LEDGER_FILE
from tests.support.ledger_bench import start
from tests.support.places import Place


@pytest.fixture
async def file(tmp_path: Path) -> Path:
    """A ledger with one settled request."""
    bench = await start(tmp_path / "data")
    await bench.do(bench.admit("req_1"))
    await bench.do(bench.settle("req_1"))
    await bench.accountant.stop()
    return tmp_path / "data" / LEDGER_FILE


def verify(*words: str) -> Result:
    return CliRunner().invoke(app, ["ledger", "verify", *words])


def test_sound_books_are_said_so(file: Path) -> None:
    """By folder and by database URL alike, with the head to keep elsewhere."""
    outputs = [
        verify("--data", str(file.parent)),
        verify("--database", f"sqlite:///{file}"),
    ]

    assert [output.exit_code for output in outputs] == [0, 0]
    assert outputs[0].output == outputs[1].output
    assert outputs[0].output.startswith("✓ the books balance to the nano: ")
    assert re.search(r"1 requests.*\n(.*\n)*  head [0-9a-f]{64}\n$", outputs[0].output)


async def test_books_on_a_server_are_found_again_by_their_folder(
    database: str, tmp_path: Path
) -> None:
    """`--database` names them; a folder that was opened with it remembers, and tells nobody."""
    place = Place(tmp_path / "data", database)
    bench = await place.start()
    await bench.do(bench.admit("req_1"))
    await bench.accountant.stop()
    paths = MarketPaths(place.data)
    check_books(paths, place.database)

    named = await asyncio.to_thread(verify, "--database", place.database)
    remembered = await asyncio.to_thread(verify, "--data", str(place.data))

    assert (named.exit_code, named.output) == (0, remembered.output)
    assert paths.secret_file("database").stat().st_mode & 0o777 == 0o600
    assert database_of(paths, "sqlite:///other") == "sqlite:///other"
    assert "@" not in shown_books(paths, place.database)


def test_a_url_that_cannot_be_is_one_plain_sentence() -> None:
    """It is named as such, and what it holds is not repeated."""
    result = verify("--database", "mysql://ann:s3cret@host/books")

    assert result.exit_code == 1
    assert "must look like postgresql+asyncpg://" in result.output
    assert "s3cret" not in result.output


def test_a_file_that_is_no_database_is_one_plain_sentence(file: Path) -> None:
    """One problem is one problem, said at once and counted among nothing."""
    file.write_bytes(b"this is not a database, " * 100)

    result = verify("--data", str(file.parent))

    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    assert line.startswith(f"✗ 1 problem: The ledger {file} cannot be opened: file is not a")


def test_several_problems_are_listed(file: Path) -> None:
    """Their number, among what, and then each on its line."""
    connection = sqlite3.connect(file)
    connection.execute("DROP TRIGGER batch_no_update")
    connection.execute("DROP TRIGGER batch_no_delete")
    connection.commit()
    connection.close()

    lines = verify("--data", str(file.parent)).output.splitlines()

    assert lines[0].startswith("✗ 2 problems in ")
    assert "1 requests" in lines[0]
    assert "  The trigger batch_no_update of the table batch is missing." in lines
    assert "  The trigger batch_no_delete of the table batch is missing." in lines


def test_a_database_url_names_a_file_and_not_its_neighbour(file: Path) -> None:
    """A damaged copy is red though the ledger beside it is sound; JSON says the same."""
    copy = Path(shutil.copy(file, file.with_name("copy.sqlite3")))
    copy.write_bytes(copy.read_bytes()[:100])

    result = verify("--database", f"sqlite:///{copy}", "--json")

    report = json.loads(result.output)
    assert (result.exit_code, report["ok"], report["problem_count"]) == (1, False, 1)
    assert verify("--database", f"sqlite:///{file}", "--json").exit_code == 0
    assert verify("--database", f"sqlite:///{file}x").exit_code == 1
