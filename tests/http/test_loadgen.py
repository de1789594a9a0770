"""`coster loadgen` against the market's own door: what it writes, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from actors.engines.factory import DEMO_FOLDER
from coster.main import app
from market.catalogue import DEMO_MODEL
from market.errors import InvalidRequest, Unavailable
from serve_app.served_model import ServedModel, ServedModels
from simulator.results import folders
from simulator.results.calibrate import calibrate
from simulator.results.columns import COLUMNS
from simulator.results.parquet import read_machines, read_requests
from simulator.runs.verify import verify
from tests.http.conftest import Server
from tests.http.memory_market import Market

SCENARIO = """
models = ["coster/demo"]
[run]
name = "small"
requests = 40
warmup_share = 0.1
[[fleet.macs]]
chip = "M4"
[[workload]]
name = "chat"
rate_per_s = 100
prompt = { lognormal = { median = 60, sigma = 0.5, max = 300 } }
output = { lognormal = { median = 8, sigma = 0.5, max = 20 } }
consumers = { count = 3 }
sessions = { turns = 2, think_s = 0.05, tokens_per_s = 1_000 }
class = "batch"
deadline_s = 60
preferences = { sort = "price", max_price_pct = 100 }
"""


@pytest.fixture
def market(tmp_path: Path) -> Market:
    """A market whose model has words, as the ones that are loaded have."""
    made = Market(tmp_path)
    told = ServedModel(
        DEMO_MODEL, DEMO_FOLDER / "tokenizer.json", chat_template=None, context_tokens=1024
    )
    made.ports = replace(made.ports, models=ServedModels([told]))
    made.rebuild()
    return made


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "small.toml").write_text(SCENARIO)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def target(server: Server, place: Path) -> list[str]:
    return ["--url", server.base_url, "--key", Market.KEY]


def load(*words: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["loadgen", *words, "--json"])
    assert result.exit_code == code, result.output
    (line,) = result.stdout.splitlines()
    return json.loads(line)


def test_a_measured_run_is_a_folder_like_a_simulated_one(
    target: list[str], place: Path, market: Market
) -> None:
    """Same files and columns; every request is there once, billed what the ledger has; lengths
    are those that the workload drew; what no client can see is unknown, not zero.
    """
    told = load("small.toml", *target, "--out", "run")

    folder = place / "run"
    assert {file.name for file in folder.iterdir()} == {
        *(folders.MANIFEST, folders.REQUESTS, folders.MACHINES, folders.SUMMARY),
        *(folders.REPORT, folders.TIMING),
    }
    files = folders.read_manifest(folder)["files"]
    assert files == folders.digests_of(folder)
    assert folders.REPORT in files
    requests = read_requests(folder / folders.REQUESTS)
    assert sorted(requests["number"].tolist()) == list(range(40))
    assert requests.text("status").names == ("ok",)
    assert set(COLUMNS) >= {"ttft_s", "e2e_s"}
    assert np.all(requests["ttft_s"] <= requests["e2e_s"])
    assert np.array_equal(requests["said_tokens"], requests["output_tokens"])
    assert int(requests["cost_nano"].sum()) == market.funded_nano - market.ada.credit_nano
    assert np.isnan(requests["wait_s"]).all()
    asked = {r.request_id: r.prompt_tokens for r in market.fleet.requests}
    assert sorted(asked.values()) == sorted(requests["prompt_tokens"].tolist())
    macs = read_machines(folder / folders.MACHINES)
    assert sum(mac.completion_tokens for mac in macs) == int(requests["said_tokens"].sum())
    summary = told["summary"]
    assert summary == folders.read_json(folder / folders.SUMMARY)
    assert summary["checks"]["money_nano_off"] == summary["checks"]["tokens_off"] == 0
    assert summary["bounds"]["load"] is None
    assert summary["machines"]["loads"] is None
    assert summary["generator"]["miscounted_share"] == summary["generator"]["shorter_share"] == 0
    manifest = folders.read_manifest(folder)
    assert manifest["complete"]
    assert not manifest["live"]["fleet_known"]
    market.nothing_is_left()


def test_the_market_hears_what_the_workload_wishes(target: list[str], market: Market) -> None:
    """Class, deadline, conversation and preferences reach the router as the lab gives them to
    its own.
    """
    load("small.toml", *target, "--out", "run")

    card = market.catalogue.get(DEMO_MODEL)
    heard = market.fleet.requests
    assert {each.request_class for each in heard} == {"batch"}
    assert {each.preferences.sort for each in heard} == {"price"}
    assert {each.preferences.max_price_in_nano for each in heard} == {card.price_in_nano}
    assert all(each.finish_by_s is not None and each.finish_by_s <= 60 for each in heard)
    assert len({each.session for each in heard}) > 5
    assert "" not in {each.session for each in heard}


def test_turns_of_a_conversation_share_their_beginning(target: list[str], market: Market) -> None:
    """The router sees a later turn begin with the blocks of the one before."""
    values = ("--set", "workload.0.prompt={ fixed = 140 }", "--set", "run.requests=30")
    load("small.toml", *target, *values, "--out", "run")

    by_session: dict[str, list[tuple[int, ...]]] = {}
    for each in market.fleet.requests:
        by_session.setdefault(each.session, []).append(each.prefix)
    talks = [prefixes for prefixes in by_session.values() if len(prefixes) > 1]
    assert talks
    for earlier, later in (pair for talk in talks for pair in pairwise(talk)):
        assert later[: len(earlier)] == earlier
        assert len(later) > len(earlier)


def test_refusals_are_told_by_their_code(target: list[str], market: Market) -> None:
    """A market that refuses is measured too: the share and the codes are in the summary."""
    market.fleet.error = Unavailable("No.", None, "no_provider", 1.0)
    summary = load("small.toml", *target, "--out", "run")["summary"]
    assert summary["requests"]["refused_share"] == 1
    assert list(summary["requests"]["by_code"]) == ["no_provider"]
    assert "refusals" in {alarm["name"] for alarm in summary["alarms"]}


def test_an_answer_that_breaks_off_has_failed(target: list[str], market: Market) -> None:
    """What began and did not end is no answer, and nobody is said to have been paid."""
    for mac in market.fleet.macs:
        mac.fail_after = 3
    summary = load("small.toml", *target, "--out", "run")["summary"]
    assert summary["requests"]["failed_share"] > 0.9
    assert summary["money"]["revenue_nano"] == 0


def test_a_market_that_is_not_there_is_told_before_the_load(place: Path) -> None:
    """Nothing is written about a market that nobody could ask."""
    words = ["loadgen", "small.toml", "--url", "http://127.0.0.1:9/v1", "--key", "k"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 3
    assert "coster up" in result.output
    assert not (place / "runs").exists()


def test_a_run_that_is_interrupted_is_kept_and_says_so(
    server: Server, place: Path, market: Market
) -> None:
    """Ctrl-C ends it: every request that was sent is told, those under way as open; the folder is
    marked as a part, ends with code 130, and nobody takes it for a run.
    """
    for mac in market.fleet.macs:
        mac.pace_s = 0.5
    words = ("small.toml", "--url", server.base_url, "--key", Market.KEY, "--out", "part")
    process = subprocess.Popen(
        [sys.executable, "-m", "coster", "loadgen", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    give_up_s = time.monotonic() + 20
    while len(market.fleet.requests) < 40:
        assert time.monotonic() < give_up_s, (len(market.fleet.requests), process.poll())
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    said, errors = process.communicate(timeout=60)

    assert process.returncode == 130, errors
    assert "interrupted" in said
    folder = place / "part"
    assert not folders.read_manifest(folder)["complete"]
    assert not folders.is_whole(folder, {})
    requests = read_requests(folder / folders.REQUESTS)
    assert sorted(requests["number"].tolist()) == list(range(40))
    assert requests.is_("status", "open").any()
    with pytest.raises(InvalidRequest, match="not complete"):
        calibrate(folder, folder)
    with pytest.raises(InvalidRequest, match=r"not complete.*Measure it again"):
        verify(folder)


def test_a_measured_run_cannot_be_repeated_to_the_byte(target: list[str], place: Path) -> None:
    """`sim verify` says so instead of comparing what must differ."""
    load("small.toml", *target, "--out", "run")
    with pytest.raises(InvalidRequest, match="measured"):
        verify(place / "run")


def test_repetitions_have_a_folder_each(target: list[str], place: Path) -> None:
    """`--repeat` plays seeds one after the other, each in a folder of its own."""
    told = load("small.toml", *target, "--requests", "5", "--repeat", "2", "--out", "both")
    assert [Path(run["folder"]).name for run in told["runs"]] == ["000", "001"]
    seeds = [folders.read_manifest(place / "both" / n)["seed"] for n in ("000", "001")]
    assert seeds == [1, 2]


def test_a_trace_is_played_on_what_the_market_serves(target: list[str], place: Path) -> None:
    """A file of requests needs no scenario: its lengths and times go to the market's models."""
    lines = [
        {"timestamp": 50.0 * n, "input_length": 10 + n, "output_length": 3, "consumer": f"c{n % 2}"}
        for n in range(6)
    ]
    (place / "day.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    load("day.jsonl", *target, "--speed", "2", "--out", "run")

    requests = read_requests(place / "run" / folders.REQUESTS)
    order = np.argsort(requests["number"])
    assert requests["prompt_tokens"][order].tolist() == [10 + n for n in range(6)]
    assert requests["at_s"][order].tolist() == pytest.approx([0.025 * n for n in range(6)])


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["none"], 1, "There is no scenario"),
        (["small.toml", "--requests", "many"], 1, "whole number"),
        (["small.toml", "--speed", "2"], 1, "--speed is for traces"),
        (["small.toml", "--set", "workload.0.rho=0.5"], 1, "workload"),
        (["rho.toml"], 1, "rate_per_s"),
        (["small.toml", "--set", "models=['qwen3.5-7b']"], 1, "--model qwen3.5-7b"),
        (["small.toml", "--tokenizer", "small.toml"], 1, "tokenizer"),
        (["small.toml", "--accounts", "2"], 1, "--key or --accounts"),
        (["missing.jsonl"], 1, "missing.jsonl is not there"),
        (["broken.csv"], 1, "broken.csv"),
        (["small.toml", "--out", "."], 1, "exists already"),
    ],
)
def test_what_cannot_be_played_is_refused_before_anything_is_sent(
    words: list[str], code: int, said: str, target: list[str], place: Path, market: Market
) -> None:
    """Bad scenarios, settings, traces and options are named with what to do; no request leaves."""
    (place / "rho.toml").write_text(SCENARIO.replace("rate_per_s = 100", "rho = 0.5"))
    (place / "broken.csv").write_text("a,b\n1,2\n")
    result = CliRunner().invoke(app, ["loadgen", *words, *target])
    assert result.exit_code == code, result.output
    assert said in result.output
    assert market.fleet.requests == []


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["sk-coster-none"], "The key is none of this market's"),
        ([Market.KEY, "sk-coster-none"], "Key 2 of 2 is none of this market's"),
        ([Market.MANAGEMENT], "may not ask for answers"),
    ],
    ids=["wrong", "one of two", "no inference"],
)
def test_a_key_that_cannot_ask_ends_it_before_anything_is_sent(
    keys: list[str], said: str, server: Server, place: Path, market: Market
) -> None:
    """A load under a wrong key would be a table of refusals: it ends as without one, code 4, and
    leaves no folder.
    """
    words = ["small.toml", "--url", server.base_url, "--out", "run"]
    words += [word for key in keys for word in ("--key", key)]

    result = CliRunner().invoke(app, ["loadgen", *words])

    assert result.exit_code == 4, result.output
    assert said in result.output
    assert market.fleet.requests == []
    assert not (place / "run").exists()
