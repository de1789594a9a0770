"""Laws of what commands print for people: it fits the terminal, and cannot harm it."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coster.fleet_show import ROWS, print_fleet
from coster.status_show import print_status
from coster.table import (
    COLUMNS_MIN,
    GAP,
    NOTHING,
    TEXT_MIN,
    THE_SAME,
    Cell,
    Column,
    plain,
    print_table,
    print_text,
)
from coster.why_show import CANDIDATES, print_request
from market.policy.decision import TOP_KEPT
from market.routing.stories import story_of
from market.types import MachineId
from tests.fleet_kit import choose, fleet_of, standing
from tests.router_kit import provider_beat, settled_router

CELLS = st.text(max_size=60)
SHAPES = st.lists(
    st.builds(Column, st.text("abc", min_size=1, max_size=12), st.booleans(), st.integers(0, 3)),
    min_size=1,
    max_size=6,
)


def shown(print_it: Any, *args: Any, **named: Any) -> list[str]:
    out = io.StringIO()
    print_it(out, *args, **named)
    return out.getvalue().splitlines()


@settings(max_examples=100, deadline=None)
@given(st.data(), SHAPES, st.integers(0, 6), st.integers(COLUMNS_MIN, 200))
def test_a_table_fits_where_it_can(data: Any, columns: list[Column], rows: int, wide: int) -> None:
    """No line is wider than the terminal where texts may be cut and columns dropped; each row is
    one line, and no line has a control character.
    """
    body: list[list[Cell]] = [[data.draw(CELLS) for _ in columns] for _ in range(rows)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(wide))
        lines = shown(print_table, columns, body)
    assert len(lines) == (rows + 1 if rows else 0)
    assert all(line.isprintable() for line in lines)
    if not any(column.right for column in columns):
        least = len(columns) * TEXT_MIN + (len(columns) - 1) * len(GAP)
        assert max(map(len, lines), default=0) <= max(wide, least)


def test_what_matters_least_is_dropped_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The highest `drop` goes first; what may not be dropped is cut."""
    columns = [Column("name"), Column("extra", drop=2), Column("more", drop=1)]
    row: list[list[Cell]] = [["a" * 30, "b" * 20, "c" * 12]]
    for wide, titles in ((100, ["name", "extra", "more"]), (60, ["name", "more"]), (40, ["name"])):
        monkeypatch.setenv("COLUMNS", str(wide))
        assert shown(print_table, columns, row)[0].split() == titles
    monkeypatch.setenv("COLUMNS", "40")
    assert shown(print_table, [Column("name", most=90)], [["x" * 80]])[1] == "x" * 39 + "…"


def test_a_note_is_wrapped_beneath_its_row_and_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same note again is only said to be the same."""
    monkeypatch.setenv("COLUMNS", "44")
    note = "its disk is full, and nobody has looked at it for a week or two"
    lines = shown(print_table, [Column("mac")], [["a"], ["b"], ["c"]], notes=[note, note, ""])
    assert [line for line in lines if line.strip() == THE_SAME] == [f"    {THE_SAME}"]
    assert all(len(line) <= 44 for line in lines)
    assert " ".join(" ".join(lines[2:4]).split()) == note


@given(st.text())
def test_plain_text_is_one_harmless_line(text: str) -> None:
    """Whatever a Mac calls itself or says of its state."""
    assert plain(text).isprintable()
    assert shown(print_text, text) != []


# ── a fleet ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("wide", ["40", "80", "160", "400"])
def test_a_hundred_macs_are_readable(wide: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sums, the worst first, and of those that earn only as many as fit a screen."""
    monkeypatch.setenv("COLUMNS", wide)
    beats = [provider_beat(f"{number}") for number in range(1, 100)]
    sick = provider_beat("sick", state="failing", models=())
    state = settled_router(*beats, sick)
    answer = state.fleet(10.0)

    few = shown(print_fleet, answer, sick=False, every=False)
    every = shown(print_fleet, answer, sick=False, every=True)

    assert few[0].startswith("100 Macs: 99 EARNING, 1 NOT EARNING")
    rows = [line for line in few if line.startswith("prv_")]
    assert (len(rows), rows[0].split()[0]) == (ROWS, "prv_sick")
    assert any(f"{100 - ROWS} more" in line for line in few)
    assert sum(line.startswith("prv_") for line in every) == 100
    assert all(len(line) <= int(wide) for line in every)


def test_a_mac_that_is_away_shows_no_speed() -> None:
    """What it last did is no news of what it does."""
    state = settled_router(provider_beat("a", running=1, decode_tps=207.0))
    assert any("207" in line for line in shown(print_fleet, state.fleet(10.0), **ALL))
    state.machine_lost(MachineId("mac_a"), "closed its lid", 10.0)
    lines = shown(print_fleet, state.fleet(10.0), **ALL)
    (row,) = [line for line in lines if "OFFLINE" in line and "prv_a" in line]
    assert "207" not in row
    assert row.split()[4:6] == [NOTHING, NOTHING]


def test_an_empty_fleet_and_a_healthy_one_say_so() -> None:
    """Never a table without rows."""
    nobody = settled_router().fleet(10.0)
    assert "No Mac has come yet." in shown(print_fleet, nobody, sick=False, every=False)
    well = settled_router(provider_beat("a")).fleet(10.0) | {"macs": []}
    assert "Every Mac earns." in shown(print_fleet, well, sick=True, every=False)


def test_a_mac_cannot_write_on_its_operators_terminal() -> None:
    """Names, reasons and ids that hold escape sequences are shown without them."""
    evil = "\x1b]0;owned\x07\x1b[2J"
    beat = replace(provider_beat("a", state="failing", models=()), reason=evil, name=evil)
    for wide in (False, True):
        lines = shown(print_fleet, settled_router(beat).fleet(10.0), sick=False, every=wide)
        assert all(line.isprintable() for line in lines)


# ── status ────────────────────────────────────────────────────────────────────────────


def test_status_lists_processes_and_folds_macs_that_are_well() -> None:
    """Of many Macs only those with which something is the matter have a line."""
    actors = [{"role": "router", "state": "ready", "pid": 1}]
    actors += [{"role": "provider", "name": f"m{n}", "state": "ready"} for n in range(40)]
    actors.append({"role": "provider", "name": "bad", "state": "failing", "reason": "no GPU"})
    fleet = settled_router().fleet(10.0) | {"missing": ["gone"]}
    model = {"model": "m", "desired": 2, "ready": 1, "loading": 0, "queued": 3, "free_slots": 0}
    full = [{"name": name, "provider": "", "reason": "disk full"} for name in ("x", "y")]
    refused = [{"name": "z", "machine": "mac_z", "why": "needs 40 GB"}]
    model |= {"failed": full, "refused": refused}
    answer = {"api_base": "http://x/v1", "actors": actors, "fleet": fleet, "models": [model]}

    lines = shown(print_status, answer, every=False)
    text = "\n".join(lines)

    assert "and 40 Macs that are well" in text
    assert "no GPU" in text
    assert "! away: gone" in text
    assert "! m on x, y: disk full" in text
    assert "! m on z: needs 40 GB" in text
    assert len(shown(print_status, answer, every=True)) == len(lines) + 39


def test_status_without_a_router_says_what_is_not_known() -> None:
    """Nothing is shown as zero that is only unknown."""
    lines = shown(print_status, {"api_base": "x", "actors": [], "fleet": None}, every=False)
    assert "The router does not answer" in lines[-1]


# ── why ───────────────────────────────────────────────────────────────────────────────


ALL = {"sick": False, "every": True}


def told_of(macs: int, *, every: bool) -> list[str]:
    """The story of one request before so many eligible Macs, and two that were not."""
    odd = [{"standing": standing("draining")}, {"in_flight": 4}]
    decision = choose(fleet_of(*[{} for _ in range(macs)], *odd))
    story = story_of(decision)
    who = decision.candidates.name(decision.index or 0)
    told = {
        "decided_s": 0.0, "waited_s": 0.0, "fleet_version": 1, "chosen": who.provider,
        "predicted_ttft_ms": 1.0, "predicted_total_ms": 2.0, "policy": "coster",
        "narrowed_by": [], "faults": [], "refusal": None, "summary": decision.in_words(),
        "macs": macs + 2, "ruled_out": dict(decision.counts), "candidates": [],
        "verdicts": story["verdicts"], "changes": story["changes"],
    }  # fmt: skip
    attempt = {"attempt": 1, "decision": told, "outcome": None}
    whole = {"request_id": "req_1", "model": "m", "state": "open", "attempts": [attempt]}
    return shown(print_request, whole | {"ledger": None, "names": {}}, every=every)


@pytest.mark.parametrize("macs", [1, CANDIDATES, 40])
def test_every_candidate_is_counted_and_all_are_shown_when_asked(macs: int) -> None:
    """The best few with their terms, the number of the others, and how many each reason ruled
    out; with --all, each of them by name.
    """
    few, every = told_of(macs, every=False), told_of(macs, every=True)
    rows = [line for line in few if "prv_" in line and "ms" not in line.split("prv_")[0]]
    scored = [line for line in rows if line.split()[-1].replace(".", "").isdigit()]
    assert len(scored) == min(macs, CANDIDATES)
    assert any("1 draining, 1 busy" in line for line in few)
    if macs > CANDIDATES:
        assert any(f"{macs - CANDIDATES} more that could" in line for line in few)
    for number in range(macs + 2):
        assert any(f"prv_{number}" in line for line in every)
    assert CANDIDATES == TOP_KEPT
