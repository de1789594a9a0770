"""`coster stats` and `coster leaderboard`: for people, for programs, and never both at once."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from coster import market_http
from coster.main import app
from coster.market_http import Connection
from coster.network import bars, board_lines, stats_lines
from tests.http.conftest import Server
from tests.http.memory_market import Market

MINUTES = [
    {"timestamp": f"2028-02-29T12:{at:02}:00Z", "requests": at % 9, "prompt_tokens": 10 * at,
     "completion_tokens": at, "total_tokens": 11 * at}
    for at in range(30)
]  # fmt: skip
STATS: dict[str, Any] = {
    "total_requests": 142_893, "total_prompt_tokens": 89_234_120,
    "total_completion_tokens": 31_047_880, "total_tokens": 120_282_000,
    "avg_tokens_per_request": 841.8, "active_providers": 12, "total_gpu_cores": 480,
    "total_cpu_cores": 192, "total_memory_gb": 768, "total_bandwidth_gbs": 9828.0,
    "providers": [], "models": [{"id": "qwen3.5-27b", "providers": 4},
                                {"id": "coster/demo", "providers": None}],
    "time_series": MINUTES, "snapshot_at": "2028-02-29T12:30:00Z",
}  # fmt: skip
TOTALS = {"window": "24h", "earnings_micro_usd": 12_480_000, "tokens": 148_203_450, "jobs": 7_923,
          "active_accounts": 38, "updated_at": "2028-02-29T12:30:00Z"}  # fmt: skip
BOARD = {
    "metric": "earnings", "window": "7d", "updated_at": "2028-02-29T12:30:00Z",
    "entries": [
        {"rank": 1, "pseudonym": "SwiftFalcon", "earnings_micro_usd": 8_420_000,
         "tokens": 91_234_567, "jobs": 4_821},
        {"rank": 2, "pseudonym": "IronHawk-3F2A", "earnings_micro_usd": 6_150_000,
         "tokens": 67_012_345, "jobs": 3_640},
    ],
}  # fmt: skip


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A market that answers with the documents' own samples; what it was asked."""
    paths: list[str] = []

    def request(self: Connection, method: str, path: str) -> Any:
        assert (self.key, method) == ("", "GET")
        paths.append(path)
        kind = path.partition("?")[0]
        return {"stats": STATS, "network/totals": TOTALS, "leaderboard": BOARD}[kind]

    monkeypatch.setattr(market_http.Connection, "request", request)
    return paths


def run(*words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--url", "http://127.0.0.1:1/v1"])


def test_stats_tell_the_network_in_a_few_lines(asked: list[str]) -> None:
    """Served, connected, the window, half an hour as a line of blocks, and the models."""
    lines = run("stats").stdout.splitlines()

    assert lines[0] == (
        "Served       142,893 requests · 120,282,000 tokens (89,234,120 in, 31,047,880 out) · "
        "841.8 each"
    )
    assert lines[1] == "Connected    12 Macs · 480 GPU cores · 768 GB · 9,828.0 GB/s"
    assert lines[2] == "Last 24h     7,923 jobs · 148,203,450 tokens · $12.480000 to 38 accounts"
    assert "8 at most in a minute" in lines[3]
    assert lines[6:8] == ["qwen3.5-27b       4", "coster/demo       —"]
    assert lines[-1] == "as of 2028-02-29 12:30:00 UTC"
    assert asked == ["network/totals?window=24h", "stats"]


def test_what_is_not_told_is_a_dash_and_no_zero() -> None:
    """Null figures of a market that withholds small groups are shown as such."""
    hidden = {**STATS, "total_requests": None, "total_tokens": None}
    hidden["time_series"] = [{**MINUTES[0], "requests": None}] * 30
    lines = stats_lines(hidden, {**TOTALS, "earnings_micro_usd": None, "active_accounts": None})

    assert lines[0].startswith("Served       — requests · — tokens")
    assert lines[2].endswith("— to — accounts")
    assert "0" not in lines[0].partition("(")[0]


def test_the_board_is_a_table_that_lines_up(asked: list[str]) -> None:
    """Ranks, names, six decimals; one line an account."""
    lines = run("leaderboard", "--metric", "tokens", "--window", "7d", "--limit", "2").stdout
    rows = lines.splitlines()

    assert len({len(row) for row in rows[:3]}) == 1
    assert rows[3:] == ["", "as of 2028-02-29 12:30:00 UTC"]
    assert "SwiftFalcon" in rows[1]
    assert "$8.420000" in rows[1]
    assert asked == ["leaderboard?metric=tokens&window=7d&limit=2"]
    (nobody,) = board_lines({**BOARD, "entries": []})
    assert nobody == "Nobody had served anything in this window, as of 2028-02-29 12:30:00 UTC."


@pytest.mark.parametrize(
    ("command", "columns", "rows"),
    [("stats", list(MINUTES[0]), MINUTES), ("leaderboard", list(BOARD["entries"][0]),  # type: ignore[index]
                                            BOARD["entries"])],
)  # fmt: skip
def test_csv_and_json_hold_the_same_and_nothing_else(
    asked: list[str], command: str, columns: list[str], rows: list[dict[str, Any]]
) -> None:
    """Each column of each row, read back by a program, is what the API said."""
    read = list(csv.DictReader(io.StringIO(run(command, "--csv").stdout)))
    whole = json.loads(run(command, "--json").stdout)

    assert list(read[0]) == columns
    assert read == [{name: str(row[name]) for name in columns} for row in rows]
    assert whole.get("entries", whole.get("time_series")) == rows


def test_two_formats_at_once_are_refused(asked: list[str]) -> None:
    """And nothing is asked."""
    result = run("stats", "--json", "--csv")

    assert result.exit_code == 1
    assert json.loads(result.stdout)["error"]["param"] == "--csv"
    assert asked == []


def test_the_commands_need_no_key_and_pass_refusals_on(market: Market) -> None:
    """Against a real door: its 400 is the command's error; so is its 503."""
    with Server(market) as server:
        bad = CliRunner().invoke(app, ["leaderboard", "--metric", "x&y", "--url", server.base_url])
        down = CliRunner().invoke(app, ["leaderboard", "--url", server.base_url])

    assert (bad.exit_code, "metric" in bad.stderr) == (1, True)
    assert (down.exit_code, "public figures cannot be made" in down.stderr) == (1, True)


@pytest.mark.parametrize(
    ("values", "line"),
    [([0, 0], "▁▁"), ([1, 8], "▂█"), ([None, 4], " █"), ([], ""), ([0, 1, 1000], "▁▂█")],
)
def test_a_sparkline_is_as_high_as_its_values(values: list[int | None], line: str) -> None:
    """Nothing is the lowest block, anything at all a higher one, and the largest the highest."""
    assert bars(values) == line
