"""An operator's commands about Macs, models and requests: what they do, print and exit with."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from coster.main import app
from coster.output import ERROR, NOT_RUNNING
from market.routing.messages import Grant
from market.settings import MacSettings
from market.types import AccountId, MachineId, ProviderId
from tests.placement_kit import LARGE, SMALL
from tests.router_kit import outcome, request
from tests.support.listener import listening
from tests.support.live_fleet import LiveFleet, mac_beat, place

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "operator.md"
SHOWN = re.compile(r"^\$ coster ((?:fleet|drain|undrain|queue|placement|policy|why)\b.*)$", re.M)


@pytest.fixture(scope="module")
def fleet() -> LiveFleet:
    mini = mac_beat("mini-3", place(SMALL), chip="M4", memory_gb=24)
    gone = MacSettings(
        MachineId("mac_gone"), ProviderId("prv_gone"), "gone-9", AccountId("a"), mini.hardware
    )
    beats = (
        mac_beat("studio-1", place(SMALL), place(LARGE), memory_gb=128, slots=1),
        mac_beat("max-2", place(SMALL), memory_gb=64),
        mini,
        mac_beat("mini-4", place(SMALL, "failed", "disk full"), chip="M4", memory_gb=24),
    )
    return LiveFleet(*beats, declared=[gone])


@pytest.fixture(scope="module")
def market(fleet: LiveFleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    data = tmp_path_factory.mktemp("steering") / "data"
    with listening(data, None, fleet):
        yield data


def run(data: Path, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--data", str(data)], env={"COLUMNS": "100"})


def told(data: Path, *words: str) -> Any:
    result = run(data, *words, "--json")
    assert len(result.output.splitlines()) == 1, result.output
    return json.loads(result.output)


def granted(fleet: LiveFleet, name: str, *excluded: str) -> Grant:
    asked = replace(request(name, excluded=excluded), model=SMALL)
    (grant,) = fleet.call("route", [asked])
    assert isinstance(grant, Grant), grant
    return grant


def test_the_fleet_is_shown_and_told(market: Path) -> None:
    """One line a Mac, the worst first; the Mac that is away is there; scripts get all of it."""
    whole = "5 Macs: 3 EARNING, 1 NOT EARNING, 1 OFFLINE"
    shown = run(market, "fleet")
    for _ in range(50):  # beats that a busy machine holds up make a Mac silent
        if shown.output.startswith(whole):
            break
        time.sleep(0.1)
        shown = run(market, "fleet")
    every = told(market, "fleet")
    lines = shown.output.splitlines()
    assert lines[0].startswith(whole)
    table = lines[[line.split()[0] for line in lines].index("mac") + 1 :]
    names = [line.split()[0] for line in table if not line.startswith((" ", "~"))]
    assert names == ["mini-4", "gone-9", "max-2", "mini-3", "studio-1"]
    assert "disk full" in shown.output
    assert [mac["name"] for mac in every["macs"]] == names
    sick = told(market, "fleet", "--sick")
    assert [mac["name"] for mac in sick["macs"]] == ["mini-4", "gone-9"]


def test_a_mac_is_drained_by_how_its_name_begins(market: Path) -> None:
    """What is left and what the market misses is said; several are refused and listed."""
    drained = run(market, "drain", "stu", "--reason", "RAM swap")
    assert "studio-1 takes nothing new (RAM swap); nothing runs." in drained.output
    assert f"No other Mac that takes work has {LARGE}" in " ".join(drained.output.split())
    assert run(market, "undrain", "studio-1").output == "studio-1 may work again.\n"
    assert run(market, "undrain", "prv_studio-1").output == "studio-1 was not drained.\n"
    several = run(market, "drain", "mini")
    assert (several.exit_code, "mini-3 (prv_mini-3), mini-4" in several.output) == (ERROR, True)
    nobody = run(market, "drain", "stdio-1")
    assert (nobody.exit_code, "did you mean studio-1" in nobody.output) == (ERROR, True)


def test_a_mac_that_is_away_is_drained_too(market: Path) -> None:
    """It is said what that means, and the fleet shows it."""
    assert "is away; it gets nothing to do when it comes back" in run(
        market, "drain", "gone-9", "--reason", "sold"
    ).output.replace("\n", " ")
    assert "drained, too (sold)" in run(market, "fleet", "--sick").output
    assert "once it is back" in run(market, "undrain", "gone-9").output


def test_a_drain_that_is_waited_for_ends_with_the_last_request(
    market: Path, fleet: LiveFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In time: exit 0. Out of time: exit 1, what is left, and that it stays drained."""
    grant = granted(fleet, "slow", "studio-1", "mini-3")
    late = run(market, "drain", "max-2", "--wait", "--timeout", "1s")
    assert (late.exit_code, "1 request is still there after 1s" in late.output) == (ERROR, True)
    answer = told(market, "drain", "max-2", "--wait", "--timeout", "1s")
    assert (answer["in_flight"], answer["drain"]) == (1, True)

    run(market, "undrain", "max-2")
    try:
        _report_after_drain(monkeypatch, fleet, grant)
        ended = run(market, "drain", "max-2", "--wait", "--timeout", "20s")
        assert ended.exit_code == 0, ended.output
        assert "1 request is left there." in ended.output
        assert "Nothing runs on max-2 any more." in ended.output
        assert run(market, "drain", "max-2", "--wait", "--timeout", "soon").exit_code == ERROR
    finally:
        run(market, "undrain", "max-2")


def _report_after_drain(monkeypatch: pytest.MonkeyPatch, fleet: LiveFleet, grant: Grant) -> None:
    """The request ends once the command has been told that it runs, however slow the machine."""
    router = fleet.router
    assert router is not None
    drain = router.drain

    async def drain_and_end(machine: MachineId, reason: str) -> dict[str, Any]:
        answer = await drain(machine, reason)
        await router.report([outcome(grant)])
        return answer

    monkeypatch.setattr(router, "drain", drain_and_end)


def test_who_waits_is_shown_in_order(market: Path, fleet: LiveFleet) -> None:
    """With how the fleet stands; nobody waiting is said."""
    assert run(market, "queue").output == "Nobody waits.\n"
    held = granted(fleet, "held", "max-2", "mini-3")
    waiting = [
        replace(request(f"wait-{n}", queue=True, excluded=("max-2", "mini-3")), model=SMALL)
        for n in range(3)
    ]
    fleet.call("route", waiting)

    shown, answer = run(market, "queue").output, told(market, "queue")

    assert f"{SMALL}: 3 requests wait" in shown
    assert shown.index("wait-0") < shown.index("wait-1") < shown.index("wait-2")
    assert "acct_" not in json.dumps(answer)
    assert answer["queues"][0]["waiting"] == 3
    fleet.call("report", [replace(outcome(held), result="ok")])


def test_what_is_where_and_why_is_shown(market: Path) -> None:
    """The plan, each model, each Mac; of one model, where it is and where it could go."""
    shown, one = run(market, "placement").output, ""
    for _ in range(50):  # a Mac that was drained a moment ago is looked at within a second
        one = run(market, "placement", "--model", LARGE).output
        if "max-2" in one:
            break
        time.sleep(0.1)
    assert shown.startswith("Plan ")
    assert "nearest place for a further copy" in shown
    assert "studio-1: ready" in one
    assert "max-2: needs 45.1 GB, has room for 43.2 GB" in one
    assert told(market, "placement")["models"][0]["model"] == SMALL
    missing = run(market, "placement", "--model", "gpt-2")
    assert (missing.exit_code, "does not offer 'gpt-2'" in missing.output) == (ERROR, True)


def test_a_model_is_pinned_or_it_is_said_why_not(market: Path) -> None:
    """The arithmetic of a refusal is the error; pins are shown until they are taken back."""
    never = run(market, "placement", "pin", "mini-3", LARGE)
    assert never.exit_code == ERROR
    assert "needs 45.1 GB (39.7 of weights, 5.4 to work with)" in never.output
    pinned = run(market, "placement", "pin", "mini-3", SMALL, "--reason", "for Ann")
    assert pinned.output == f"{SMALL} is pinned to mini-3: it is there, and stays.\n"
    assert f"{SMALL} to mini-3: for Ann" in run(market, "placement").output
    undone = [run(market, "placement", "unpin", "mini-3", SMALL).output for _ in range(2)]
    assert undone == [
        f"{SMALL} is no longer pinned to mini-3.\n",
        f"{SMALL} was not pinned to mini-3.\n",
    ]


def test_a_policy_is_shown_and_switched(market: Path) -> None:
    """All are listed; another one routes until the router starts again."""
    assert "least_weighted" in run(market, "policy").output
    switched = run(market, "policy", "round_robin").output
    assert switched == (
        "Requests are routed by round_robin until the router starts again; then by coster.\n"
    )
    assert run(market, "policy", "coster").output == "Requests are routed by coster.\n"
    assert run(market, "policy", "nope").exit_code == ERROR


def test_why_of_a_request_and_of_a_mac(market: Path, fleet: LiveFleet) -> None:
    """Candidates with terms and names, what else would have been chosen; of a Mac its verdict."""
    grant = granted(fleet, "req_why", "studio-1")
    fleet.call("report", [replace(outcome(grant), ttft_ms=12.0)])

    shown = run(market, "why", "req_why", "--replay", "present").output
    assert "attempt 1 → max-2 (prv_max-2): ok" in shown
    assert "1 already tried, 1 that cannot load it" in shown
    assert "first token 12 ms (predicted" in shown
    assert "decided again by coster: the same Mac" in shown
    assert (
        "studio-1: excluded; it could be used if" in run(market, "why", "req_why", "--all").output
    )
    mac = run(market, "why", "max-2").output
    assert "EARNING\n" in mac
    assert "yes" in mac
    assert "req_why" in mac
    failed = run(market, "why", "mini-4").output
    assert "no: it failed to load" in failed
    unknown = run(market, "why", "my-own-id")
    assert (unknown.exit_code, "x-coster-request-id" in unknown.output) == (ERROR, True)


def test_status_says_what_is_wanted_and_what_is_there(market: Path) -> None:
    """Macs and models, those that are missing by name; scripts get the same."""
    shown, answer = run(market, "status").output, told(market, "status")
    assert "Macs: 5 desired, 4 here: 3 EARNING, 1 NOT EARNING, 1 OFFLINE" in shown
    assert "! away: gone-9" in shown
    assert f"! {SMALL} on mini-4: disk full" in shown
    assert {model["model"] for model in answer["models"]} == {SMALL, LARGE}


def test_every_command_that_the_page_shows_can_be_typed(market: Path, fleet: LiveFleet) -> None:
    """With the Macs it names and the requests of this market; none is refused."""
    grant = granted(fleet, "req_shown")
    fleet.call("report", [outcome(grant)])
    commands = SHOWN.findall(PAGE.read_text())
    assert len(commands) >= 8
    for command in commands:
        words = re.sub(r"req_\w+|REQUEST_ID", "req_shown", command)
        words = words.replace("qwen3.5-27b", LARGE)
        result = run(market, *re.findall(r'"[^"]*"|\S+', words))
        refused_on_purpose = "cannot be pinned" in result.output
        assert result.exit_code == 0 or refused_on_purpose, (command, result.output)


def test_without_a_market_every_command_says_so(tmp_path: Path) -> None:
    """Exit 3, and how to start one."""
    for words in (["fleet"], ["drain", "x"], ["undrain", "x"], ["queue"], ["placement"],
                  ["policy"], ["why", "x"], ["status"]):  # fmt: skip
        result = run(tmp_path, *words)
        assert (result.exit_code, "coster up" in result.output) == (NOT_RUNNING, True), words
