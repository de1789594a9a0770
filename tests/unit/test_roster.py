"""Laws of the roster: who is meant by a name, who is missed, and who is forgotten."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.errors import InvalidRequest, NotFound
from market.routing.names import clean, natural
from market.routing.roster import KEPT_S, NAMED_MAX, ROSTER_MAX, KnownMac, Roster
from market.settings import MacSettings
from market.types import AccountId, Hardware, MachineId, ProviderId
from tests.router_kit import provider_beat

HARDWARE = Hardware("M4", 24, 10, 10, 120.0)


def settings(name: str) -> MacSettings:
    machine, provider = MachineId(f"mac_{name}"), ProviderId(f"prv_{name}")
    return MacSettings(machine, provider, name, AccountId("acct"), HARDWARE)


def roster_of(*names: str, complete: bool = True) -> Roster:
    roster = Roster()
    roster.declare([settings(name) for name in names], complete=complete)
    return roster


def found(roster: Roster, text: str, *intended: str) -> str:
    here = {mac.machine for mac in roster}
    return roster.find(text, here, [MachineId(each) for each in intended]).machine


# ── who is meant ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "text", ["mini-1", "MINI-1", " mini-1 ", "prv_mini-1", "mac_mini-1", "prv_mini-1\n"]
)
def test_a_whole_name_or_id_is_that_mac(text: str) -> None:
    """Though others begin with it; capitals and spaces around it do not matter."""
    assert found(roster_of("mini-1", "mini-10", "mini-11"), text) == "mac_mini-1"


@pytest.mark.parametrize("text", ["s", "stu", "prv_s", "mac_stud"])
def test_a_beginning_that_only_one_has_is_enough(text: str) -> None:
    """Of its name or of either id."""
    assert found(roster_of("studio", "mini-1", "mini-2"), text) == "mac_studio"


def test_a_beginning_that_several_have_names_them_all() -> None:
    """With their public ids; of many, the first ones and how many more."""
    with pytest.raises(InvalidRequest) as several:
        found(roster_of("mini-1", "mini-2", "studio"), "mini")
    assert "mini-1 (prv_mini-1), mini-2 (prv_mini-2)" in several.value.message
    assert several.value.code == "ambiguous_machine"
    with pytest.raises(InvalidRequest) as many:
        found(roster_of(*(f"mini-{n}" for n in range(20))), "mini")
    assert f"and {20 - NAMED_MAX} more" in many.value.message


def test_two_macs_of_one_name_are_told_apart_by_their_ids() -> None:
    """The name alone is refused; an id is not."""
    roster = Roster()
    twin = replace(settings("a"), machine=MachineId("mac_b"), provider=ProviderId("prv_b"))
    roster.declare([settings("a"), twin], complete=True)
    with pytest.raises(InvalidRequest):
        found(roster, "a")
    assert found(roster, "prv_b") == "mac_b"


def test_an_unknown_name_says_what_there_is() -> None:
    """What is spelt nearly so, else all there are; and where nobody is, that."""
    roster = roster_of("studio", "mini-1")
    with pytest.raises(NotFound, match="did you mean studio"):
        found(roster, "stduio")
    with pytest.raises(NotFound, match=r"There are mini-1 \(prv_mini-1\), studio"):
        found(roster, "zzzzzzzz")
    with pytest.raises(NotFound, match="no Mac has come yet"):
        found(Roster(), "a")


def test_a_mac_that_only_an_order_names_can_be_named() -> None:
    """So that a drain of a Mac that was forgotten since can be taken back."""
    assert found(Roster(), "mac_gone", "mac_gone") == "mac_gone"


@given(st.text(max_size=40))
def test_whatever_is_asked_for_is_a_mac_or_a_refusal(text: str) -> None:
    """No text is a fault of ours, and no refusal could harm a terminal."""
    said = ""
    try:
        found(roster_of("mini-1", "mini-2", "studio"), text)
    except (NotFound, InvalidRequest) as refusal:
        said = refusal.message
    assert said == "" or said.isprintable()


# ── who is missed ─────────────────────────────────────────────────────────────────────


def test_a_declared_mac_is_missed_until_it_is_declared_no_more() -> None:
    """Heard or not; with a complete list, nobody else is."""
    roster = roster_of("a", "b")
    roster.saw(provider_beat("c"), 5.0)
    assert [mac.name for mac in roster.missed(set())] == ["a", "b"]
    assert [mac.name for mac in roster.missed({MachineId("mac_a")})] == ["b"]
    roster.declare([settings("b")], complete=True)
    assert [mac.name for mac in roster.missed(set())] == ["b"]


def test_where_nobody_knows_all_macs_those_that_were_here_are_missed() -> None:
    """A Mac whose node has gone is no longer declared, and missed all the same, for a week."""
    roster = roster_of("a", complete=False)
    roster.saw(replace(provider_beat("b"), name="bee"), 5.0)
    assert {mac.called for mac in roster.missed(set())} == {"a", "bee"}
    assert roster.forget(5.0 + KEPT_S - 1.0) == []
    assert roster.forget(5.0 + KEPT_S) == ["mac_b"]
    assert [mac.called for mac in roster.missed(set())] == ["a"]


def test_the_roster_is_bounded() -> None:
    """Whoever was silent longest is forgotten first."""
    kept = [
        KnownMac(MachineId(f"mac_{n}"), ProviderId(f"prv_{n}"), heard_s=float(n))
        for n in range(ROSTER_MAX + 3)
    ]
    roster = Roster(kept)
    assert roster.forget(0.0) == ["mac_0", "mac_1", "mac_2"]


def test_what_changed_is_told_once_and_again_where_it_could_not_be_kept() -> None:
    """What is remembered is what was known last."""
    roster = roster_of("a")
    roster.saw(replace(provider_beat("a"), name="ay"), 5.0)
    (changed,) = roster.take_changed()
    assert (changed.name, changed.heard_s, changed.declared) == ("ay", 5.0, True)
    assert roster.take_changed() == []
    roster.keep([changed.machine, MachineId("mac_none")])
    assert roster.take_changed() == [changed]
    roster.heard(changed.machine, 9.0)
    assert roster.take_changed()[0].heard_s == 9.0


# ── names ─────────────────────────────────────────────────────────────────────────────


def test_a_name_cannot_move_the_cursor() -> None:
    """Control characters become question marks, and no name is longer than a line."""
    assert clean("a\x1b[2Jb\r\nc") == "a?[2Jb??c"
    assert len(clean("x" * 10_000)) == 80


@given(st.lists(st.text(max_size=30)))
def test_names_have_an_order(names: list[str]) -> None:
    """Whatever they hold, and however they come; numbers count as people count."""
    keys = sorted(natural(name) for name in names)
    assert [natural(name) for name in sorted(names, key=natural)] == keys
    assert sorted(["mac-10", "mac-9", "Mac-1"], key=natural) == ["Mac-1", "mac-9", "mac-10"]
