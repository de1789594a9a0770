"""A real market with real models, used as its users do: SDK, curl, commands, and abuse."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import openai
import pytest

from tests.support.live_market import LiveMarket, coster, live_market

pytestmark = pytest.mark.cluster

MODEL = "coster/demo"
CANARY = "zanzibar-canary-3141592653"


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveMarket]:
    """One market of two demo Macs running the demo model for every test here."""
    with live_market(tmp_path_factory.mktemp("live") / "data") as running:
        yield running


@pytest.fixture
def sdk(market: LiveMarket) -> Iterator[openai.OpenAI]:
    """The official SDK with two lines changed."""
    with openai.OpenAI(base_url=market.base, api_key=market.key, max_retries=0) as client:
        yield client


def test_the_sdk_gets_words_and_a_bill(market: LiveMarket, sdk: openai.OpenAI) -> None:
    """A plain completion answers in words and is in the usage with the same tokens."""
    answer = sdk.chat.completions.create(
        model=MODEL,
        temperature=0,
        messages=[{"role": "user", "content": "What is the capital of France?"}],
    )

    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    with market.client() as client:
        row = client.get("payments/usage?limit=1").json()[0]
    assert answer.usage is not None
    assert row["prompt_tokens"] == answer.usage.prompt_tokens
    assert row["completion_tokens"] == answer.usage.completion_tokens
    nano = row["prompt_tokens"] * 15 + row["completion_tokens"] * 60
    assert row["cost_nano_usd"] == str(nano)


def test_a_stream_equals_the_plain_answer(sdk: openai.OpenAI) -> None:
    """Streamed pieces joined are the unary text, and the last chunk carries the usage."""
    question = {"role": "user", "content": "Tell me a story."}
    whole = sdk.chat.completions.create(
        model=MODEL, temperature=0, messages=[question], max_completion_tokens=40
    )
    pieces, usage = [], None
    for chunk in sdk.chat.completions.create(
        model=MODEL,
        temperature=0,
        messages=[question],
        max_completion_tokens=40,
        stream=True,
        stream_options={"include_usage": True},
    ):
        usage = chunk.usage or usage
        pieces += [choice.delta.content or "" for choice in chunk.choices]

    assert "".join(pieces) == whole.choices[0].message.content
    assert usage is not None
    assert whole.usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens == 40


def test_errors_are_typed_in_the_sdk(market: LiveMarket, sdk: openai.OpenAI) -> None:
    """Each refusal is the SDK's own exception with our type and code."""
    hello = [{"role": "user", "content": "hi"}]
    with pytest.raises(openai.NotFoundError) as unknown:
        sdk.chat.completions.create(model="no/such", messages=hello)
    with pytest.raises(openai.BadRequestError) as bad:
        sdk.chat.completions.create(model=MODEL, messages=hello, max_tokens=-1)
    with (
        openai.OpenAI(base_url=market.base, api_key="sk-coster-wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError) as refused,
    ):
        stranger.chat.completions.create(model=MODEL, messages=hello)

    assert (unknown.value.code, unknown.value.type) == ("model_not_found", "not_found")
    assert (bad.value.param, bad.value.type) == ("max_tokens", "invalid_request")
    assert refused.value.type == "auth"


def test_a_stream_closed_by_the_client_stops_costing(market: LiveMarket) -> None:
    """The answer ends as cancelled well before its length, and the engine goes idle.

    By how many tokens at most the bill may exceed what was sent is held with a paced Mac in
    tests/http/test_clients_that_leave.py; here the sockets' buffers stand between the two.
    """
    body = {
        "model": MODEL,
        "stream": True,
        "temperature": 0,
        "max_tokens": 900,
        "logit_bias": {"2": -100, "0": -100},
        "messages": [{"role": "user", "content": "Tell me a long story."}],
    }
    received = 0
    with (
        market.client() as client,
        client.stream("POST", "chat/completions", json=body) as response,
    ):
        request_id = response.headers["x-coster-request-id"]
        for line in response.iter_lines():
            received += '"content"' in line
            if received > 20:
                break

    def settled() -> bool:
        with market.client() as client:
            row = client.get(f"generations/{request_id}").json()
        return row["status"] != "held"

    market.until(settled)
    with market.client() as client:
        row = client.get(f"generations/{request_id}").json()
    assert row["finish_reason"] == "cancelled"
    assert 0 < row["completion_tokens"] < 900
    market.until(lambda: all(m["in_flight"] == 0 for m in market.status()["machines"]))


def test_the_commands_tell_the_same_story(market: LiveMarket) -> None:
    """chat, usage, why, balance, keys and ledger verify agree about one request."""
    data = ("--data", str(market.data))

    said = json.loads(coster("chat", "What is coster?", "--json", *data).stdout)
    row = json.loads(coster("usage", "--json", "--limit", "1", *data).stdout)[0]
    why = json.loads(coster("why", row["request_id"], "--json", *data).stdout)
    balance = json.loads(coster("balance", "--json", *data).stdout)
    keys = json.loads(coster("keys", "list", "--json", *data).stdout)
    report = json.loads(coster("ledger", "verify", "--json", *data).stdout)

    assert said["content"]
    assert row["completion_tokens"] == said["usage"]["completion_tokens"]
    assert why["attempts"][0]["outcome"]["result"] == "ok"
    assert why["attempts"][0]["outcome"]["ttft_ms"] > 0
    assert balance["balance_micro_usd"] < 10_000_000
    assert {key["name"] for key in keys["data"]} >= {"demo", "demo management"}
    assert report["ok"] is True


def test_a_made_key_works_until_it_is_revoked(market: LiveMarket) -> None:
    """A key made by the command is good at once and refused within a second of its end."""
    data = ("--data", str(market.data))
    made = json.loads(coster("keys", "create", "short-lived", "--json", *data).stdout)
    headers = {"authorization": f"Bearer {made['key']}"}

    before = httpx2.get(f"{market.base}/payments/balance", headers=headers)
    coster("keys", "revoke", made["id"], *data)
    time.sleep(1.1)
    after = httpx2.get(f"{market.base}/payments/balance", headers=headers)

    assert (before.status_code, after.status_code) == (200, 401)


def test_status_names_every_process(market: LiveMarket) -> None:
    """Two providers, two gateways, router, accountant and payments, each with pid and node."""
    market.until(lambda: market.status()["ok"])  # payments come up while the market serves
    answer = market.status()

    roles = sorted(actor["role"] for actor in answer["actors"])
    assert roles == [
        *("accountant", "gateway", "gateway", "payments", "provider", "provider", "router"),
    ]
    assert all(actor["pid"] and actor["node"] for actor in answer["actors"])
    assert answer["ok"] is True


def test_nothing_listens_beyond_loopback(market: LiveMarket) -> None:
    """Every listening socket of the market's processes is bound to this machine only."""
    ours = {int(pid) for pid, _ in json.loads((market.data / "run.json").read_text())["processes"]}
    ours.add(market.process.pid)
    listing = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout
    mine = [
        line
        for line in listing.splitlines()
        if {int(p) for p in re.findall(r"pid=(\d+)", line)} & ours
    ]

    assert len(mine) > 10
    for line in mine:
        assert re.search(r"127\.0\.0\.1|\[::1\]", line.split()[3]), line


def bytes_of(path: Path) -> bytes:
    """A file's content; nothing for a socket, a folder, or what ended while we looked."""
    try:
        return path.read_bytes() if path.is_file() else b""
    except FileNotFoundError:
        return b""


def test_a_prompt_and_a_key_are_kept_nowhere(market: LiveMarket) -> None:
    """A planted prompt and the API key appear in no log, no database and no standard output."""
    with market.client() as client:
        client.post(
            "chat/completions",
            json={"model": MODEL, "messages": [{"role": "user", "content": CANARY}]},
        )
        client.post(
            "chat/completions",
            json={"model": CANARY, "stop": [CANARY, 1], "messages": [{"role": CANARY}]},
        )
    time.sleep(2)
    secrets = (CANARY.encode(), market.key.encode())
    kept = market.data / "secrets" / "demo_key"
    run_dirs = [p for p in Path("/tmp").glob("coster-*") if p.is_dir()]
    found = [
        str(path)
        for root in (market.data, *run_dirs)
        for path in root.rglob("*")
        if path != kept and any(s in bytes_of(path) for s in secrets)
    ]

    assert found == []
    assert CANARY not in "".join(market.stderr)


def test_a_second_up_on_the_same_data_says_how_to_attach(market: LiveMarket) -> None:
    """It exits 3, names the running pid and the commands that use it."""
    done = coster("up", "--data", str(market.data), check=False)

    assert done.returncode == 3
    assert str(market.process.pid) in done.stderr
    assert "coster status" in done.stderr


def test_a_taken_port_is_named_with_the_fix(tmp_path: Path) -> None:
    """--port of somebody else is refused before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = coster("up", "--data", str(tmp_path), "--port", str(port), check=False)

    assert done.returncode == 1
    assert f"Port {port}" in done.stderr
    assert "--port" in done.stderr


def test_a_bad_model_folder_is_named_with_the_fix(tmp_path: Path) -> None:
    """A folder without a model is refused before anything is started, naming the file."""
    (tmp_path / "model").mkdir()

    done = coster(
        "up", "--data", str(tmp_path / "data"), "--model", str(tmp_path / "model"), check=False
    )

    assert done.returncode == 1
    assert "config.json" in done.stderr


def test_two_markets_run_side_by_side(market: LiveMarket, tmp_path: Path) -> None:
    """A second market on other data shares nothing with the first."""
    with live_market(tmp_path / "other", "--engine", "echo", "--macs", "1") as other:
        assert other.base != market.base
        for one in (market, other):
            with one.client() as client:
                answer = client.post(
                    "chat/completions",
                    json={
                        "model": MODEL,
                        "max_tokens": 4,
                        "messages": [{"role": "user", "content": "hi"}],
                    },
                )
            assert answer.status_code == 200, answer.text
        stranger = httpx2.get(f"{market.base}/payments/balance", headers=other.headers())
        assert stranger.status_code == 401
        assert other.verify()["ok"] is True


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("UPDATE account SET dpo = dpo + 1 WHERE code = 2110", "account"),
        ("DELETE FROM transfer WHERE seq = (SELECT max(seq) FROM transfer)", "transfer"),
        ("UPDATE transfer SET amount_nano = 1 + amount_nano WHERE leg = 0", "transfer"),
    ],
)
def test_verify_goes_red_on_a_damaged_copy(
    market: LiveMarket, tmp_path: Path, damage: str, named: str
) -> None:
    """An altered balance, a deleted row and a changed amount are each found and named."""
    copy = tmp_path / "copy"
    copy.mkdir()
    source = sqlite3.connect(f"file:{market.data / 'ledger.sqlite3'}?mode=ro", uri=True)
    target = sqlite3.connect(copy / "ledger.sqlite3")
    source.backup(target)
    for (name,) in target.execute(
        "SELECT name FROM sqlite_master WHERE type = 'trigger'"
    ).fetchall():
        target.execute(f"DROP TRIGGER {name}")
    target.execute(damage)
    target.commit()
    target.close()
    source.close()

    done = coster("ledger", "verify", "--json", "--data", str(copy), check=False)

    report = json.loads(done.stdout)
    assert done.returncode == 1
    assert report["ok"] is False
    assert named in " ".join(report["problems"]).lower()


async def test_a_crowd_of_mixed_clients_is_served_exactly(market: LiveMarket) -> None:
    """Thirty-two clients at once all get the greedy answer a single one gets."""
    question = {
        "model": MODEL,
        "temperature": 0,
        "messages": [{"role": "user", "content": "What is the capital of Japan?"}],
    }
    async with httpx2.AsyncClient(
        base_url=market.base, headers=market.headers(), timeout=60
    ) as client:
        alone = (await client.post("chat/completions", json=question)).json()
        crowd = await asyncio.gather(
            *(client.post("chat/completions", json=question) for _ in range(32))
        )

    texts = {answer.json()["choices"][0]["message"]["content"] for answer in crowd}
    assert texts == {alone["choices"][0]["message"]["content"]}


def test_metrics_are_behind_the_admin_key(market: LiveMarket) -> None:
    """/metrics answers on the operator's listener only, to the admin key only."""
    url = f"{market.ready['admin_base']}/metrics"
    stranger = httpx2.get(url, headers=market.headers())
    operator = httpx2.get(url, headers={"authorization": f"Bearer {market.ready['admin_key']}"})
    public = httpx2.get(market.base.removesuffix("/v1") + "/metrics")

    assert stranger.status_code == 401
    assert operator.status_code == 200
    assert "coster_" in operator.text
    assert public.status_code == 404


def test_doctor_finds_nothing_wrong(market: LiveMarket) -> None:
    """On a healthy checkout and running market every check passes."""
    done = coster("doctor", "--json", "--data", str(market.data), check=False)

    report = json.loads(done.stdout)
    assert [c for c in report["checks"] if not c["ok"]] == []


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_of_the_announcement_works_when_pasted(market: LiveMarket) -> None:
    """The one-line command with the key inside answers from a shell."""
    command = (
        f"curl -sN {market.base}/chat/completions -H 'Authorization: Bearer {market.key}'"
        " -H 'Content-Type: application/json'"
        f' -d \'{{"model":"{MODEL}","stream":true,'
        '"messages":[{"role":"user","content":"What is the capital of France?"}]}\''
    )
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)

    assert done.stdout.rstrip().endswith("data: [DONE]")
