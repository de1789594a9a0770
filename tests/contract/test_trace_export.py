"""A market's past, exported as a trace, is what the lab then plays."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from actors.router import Router
from coster.main import app
from coster.trace_export import by_time
from market.accounting.rows import RequestRow
from market.messages import Void
from market.policy.preferences import NO_PREFERENCES
from market.routing.messages import Grant
from market.types import RequestId
from simulator.streams import Streams
from simulator.workloads.source import arrivals
from tests.router_kit import outcome, provider_beat, request
from tests.support.ledger_bench import MODEL, Bench, start
from tests.support.workload_kit import workloads_of

COUNT = 12
SESSION = "my very own words " * 20
"""A caller's name for a conversation: longer than a trace's, and nobody's business."""


def named(number: int) -> str:
    return f"req_{number:02d}"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve answered requests that ended in another order, two that were not answered, and the
    router's log of the last six.
    """
    folder = tmp_path / "data"
    asyncio.run(_live(folder))
    return folder


async def _live(folder: Path) -> None:
    bench = await start(folder)
    try:
        for number in range(COUNT + 2):
            await bench.do(bench.admit(named(number)))
        order = list(range(COUNT))
        random.Random(3).shuffle(order)
        for number in order:
            await bench.do(bench.settle(named(number), 10 + number))
        await _nobody_answered(bench)
    finally:
        await bench.accountant.stop()
    await _routed(folder)


async def _nobody_answered(bench: Bench) -> None:
    await bench.do(Void(RequestId(named(COUNT)), "no_mac"))
    await bench.do(bench.settle(named(COUNT + 1), 0))


async def _routed(folder: Path) -> None:
    router = Router(folder / "router.db")
    await router.start()
    try:
        await router.heartbeat(provider_beat("a", slots=64))
        for number in range(COUNT // 2, COUNT):
            wanted = replace(
                request(named(number)),
                request_id=RequestId(named(number)),
                request_class="batch" if number % 2 else "interactive",
                session=f"{SESSION}{number // 2}",
                preferences=replace(NO_PREFERENCES, sort="price", max_price_out_nano=900),
                finish_by_s=30.0,
            )
            (grant,) = await router.route([wanted])
            assert isinstance(grant, Grant)
            await router.report([outcome(grant)])
    finally:
        await router.close()


def export(data: Path, *words: str) -> tuple[str, str]:
    result = CliRunner().invoke(app, ["ledger", "export", "--trace", "--data", str(data), *words])
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_every_answered_request_is_there_in_order_of_arrival(data: Path) -> None:
    """Whatever order they ended in; what was not answered is left out and counted; times begin
    at zero; lengths are what was delivered.
    """
    text, told = export(data)

    lines = lines_of(text)
    assert [line["output_length"] for line in lines] == [10 + n for n in range(COUNT)]
    assert [line["timestamp"] for line in lines] == sorted(line["timestamp"] for line in lines)
    assert lines[0]["timestamp"] == 0
    assert {(line["input_length"], line["model"], line["max_tokens"]) for line in lines} == {
        (412, MODEL, 187)
    }
    assert {line["cached_tokens"] for line in lines} == {0}
    assert "2 requests left out" in told


def test_class_and_wishes_come_as_far_back_as_the_routers_log_goes(data: Path) -> None:
    """Where a decision is kept its request is told in full; where not, that is counted."""
    text, told = export(data)

    old, young = lines_of(text)[: COUNT // 2], lines_of(text)[COUNT // 2 :]
    assert not any("class" in line or "session" in line for line in old)
    assert [line["class"] for line in young] == ["interactive", "batch"] * 3
    assert {(line["sort"], line["max_price_out_nano"]) for line in young} == {("price", 900)}
    assert {line["deadline_ms"] for line in young} == {30_000}
    assert len({line["session"] for line in young}) == 3
    assert f"{COUNT // 2} requests whose class" in told


def test_nobody_is_named(data: Path) -> None:
    """No account, no request id and no word of a caller is in it, and two exports have no
    pseudonym in common; with names asked for, only accounts have theirs.
    """
    first, second = export(data)[0], export(data)[0]
    plain = export(data, "--no-anonymize")[0]

    for text in (first, second, plain):
        assert "req_" not in text
        assert "very own" not in text
    assert "acct_" not in first
    names = [{line["consumer"] for line in lines_of(text)} for text in (first, second)]
    assert not names[0] & names[1]
    assert {line["consumer"] for line in lines_of(plain)} == {"acct_consumer"}


@pytest.mark.parametrize("name", ["day.jsonl", "day.jsonl.gz"])
def test_the_lab_plays_what_was_exported(data: Path, tmp_path: Path, name: str) -> None:
    """The file is private, packed if its name says so, and its requests come to the lab with
    their times, lengths, classes, wishes and conversations.
    """
    path = tmp_path / name
    export(data, "--out", str(path))

    assert path.stat().st_mode & 0o777 == 0o600
    written = path.read_bytes()
    lines = lines_of((gzip.decompress(written) if name.endswith("gz") else written).decode())
    text = f'[[workload]]\nkind = "trace"\nfile = {json.dumps(str(path))}\n'
    played = list(arrivals(workloads_of(text, [MODEL]), Streams(1)))
    assert [a.at_s * 1e3 for a in played] == pytest.approx([line["timestamp"] for line in lines])
    assert [(a.prompt_tokens, a.output_tokens) for a in played] == [
        (412, 10 + n) for n in range(COUNT)
    ]
    assert [a.request_class for a in played[COUNT // 2 :]] == ["interactive", "batch"] * 3
    assert {a.preferences.sort for a in played[COUNT // 2 :]} == {"price"}
    assert len({a.session for a in played[COUNT // 2 :]}) == 3


def test_an_export_may_be_of_one_account_or_of_a_time(data: Path) -> None:
    """Other accounts' requests and those before the day are no part of it."""
    assert export(data, "--since", "2100-01-01")[0] == ""
    assert len(lines_of(export(data, "--account", "acct_consumer")[0])) == COUNT


def test_an_export_of_nothing_says_so(data: Path) -> None:
    """An empty range is told with its day; an account that is in no book is an error."""
    text, told = export(data, "--since", "2100-01-01", "--account", "acct_consumer")
    assert (text, told) == ("", "no requests since 2100-01-01 of acct_consumer\n")

    words = ("--data", str(data), "--account", "acct_nobody", "--out", str(data / "none.jsonl"))
    result = CliRunner().invoke(app, ["ledger", "export", "--trace", *words])
    assert result.exit_code == 1
    assert "No account of 'acct_nobody' is in the books" in result.stderr
    assert not (data / "none.jsonl").exists()


def test_an_export_is_never_written_over_by_accident(data: Path, tmp_path: Path) -> None:
    """What is at the place stays as it is until --replace is said."""
    path = tmp_path / "thesis.jsonl"
    path.write_text("years of work")
    words = ["ledger", "export", "--trace", "--data", str(data), "--out", str(path)]

    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1
    assert "exists already; give --replace" in result.stderr
    assert path.read_text() == "years of work"

    export(data, "--out", str(path), "--replace")
    assert len(lines_of(path.read_text())) == COUNT


def test_a_log_that_is_none_is_told(data: Path) -> None:
    """A router.db that is no database is named, and nothing is written."""
    (data / "router.db").write_bytes(b"no database at all" * 100)
    result = CliRunner().invoke(app, ["ledger", "export", "--trace", "--data", str(data)])
    assert result.exit_code == 1
    assert "router.db" in result.output


def row(created_ns: int, number: int) -> RequestRow:
    fields: dict[str, Any] = dict.fromkeys(RequestRow._fields, 0)
    return RequestRow(**{**fields, "request_id": f"req_{number}", "created_ns": created_ns})


@given(st.lists(st.integers(0, 50), max_size=60))
def test_rows_are_put_in_order_and_none_is_lost(times: list[int]) -> None:
    """However late rows are, all come, by time, and of one time in the order of the books."""
    rows = [row(created_ns, number) for number, created_ns in enumerate(times)]

    def again(notes: Counter[str]) -> Iterator[RequestRow]:
        notes["read"] += 1
        return iter(rows)

    notes: Counter[str] = Counter()
    found = list(by_time(again, notes))

    assert found == sorted(rows, key=lambda each: each.created_ns)
    assert notes["read"] == 1


def test_only_what_is_out_of_order_is_held() -> None:
    """Rows that are at most three places late are given out as soon as nothing can come before
    them, however many there are.
    """
    passes = read = 0

    def again(_: Counter[str]) -> Iterator[RequestRow]:
        nonlocal passes, read
        passes, read = passes + 1, 0
        for number in range(2_000):
            read += 1
            yield row(number - 2 * (number % 3), number)

    behind = [read - number for number, _ in enumerate(by_time(again, Counter()))]
    assert passes == 2
    assert max(behind[:-10]) <= 10


def test_the_books_alone_are_enough(data: Path) -> None:
    """A copy of the ledger without the router's log exports too."""
    (data / "router.db").unlink()
    text, told = export(data)
    assert len(lines_of(text)) == COUNT
    assert f"{COUNT} requests whose class" in told
