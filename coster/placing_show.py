"""`coster placement` for people: the latest plan, each model, each Mac, and what comes next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from coster.table import NOTHING, Cell, Column, joined, plain, print_table, print_text
from market.routing.names import natural
from market.verdicts import span

MACS_SHOWN = 12
"""Macs shown before the rest is only counted."""

CHANGES_SHOWN = 12
USUAL = "nothing better is known for its room"
"""Why most models stay: told once instead of for each."""

STATES = {"ready": "green", "loading": "yellow", "leaving": "yellow", "failed": "red"}


def print_placement(out: TextIO, answer: dict[str, Any], *, every: bool) -> None:
    """All of it, what has just changed first."""
    if not answer["enabled"]:
        print_text(out, "Placement is off: every Mac keeps what it has (placement.enabled).")
        return
    if answer.get("models") is None:
        print_text(out, "No Mac has come yet, so there is nothing to place.")
        return
    names = answer["names"]
    answer["macs"].sort(
        key=lambda mac: (_is_usual(mac), natural(names.get(mac["machine"], mac["machine"])))
    )
    _print_plan(out, answer)
    out.write("\n")
    _print_models(out, answer["models"])
    _print_changes(out, answer, names, every=every)
    _print_next(out, answer, names)
    _print_macs(out, answer, names, every=every)
    _print_pins(out, answer["pins"], names)


def _is_usual(mac: Mapping[str, Any]) -> bool:
    """Nothing comes, goes, fails or is held there."""
    return all(each["why"].startswith(USUAL) for each in mac["models"])


def _print_plan(out: TextIO, answer: Mapping[str, Any]) -> None:
    plan = answer["plan"]
    if plan is None:
        print_text(out, "No plan has been made yet.")
    else:
        head = f"Plan {plan['number']}, made {span(plan['age_s'])} ago because {plan['cause']}"
        print_text(out, head, style="bold")
        loads = sum(change["act"] == "load" for change in plan["changes"])
        unloads = len(plan["changes"]) - loads
        facts = [
            f"{_count(loads, 'load')}, {_count(unloads, 'unload')}"
            if plan["changes"]
            else "nothing to change",
            f"worth {plan['share_of_bound']:.1%} of what any placement could be",
            f"{answer['swaps_this_hour']} swaps this hour" if answer["swaps_this_hour"] else "",
        ]
        print_text(out, joined(facts))
    if answer["being_made"]:
        print_text(out, f"Another is being made: {answer['being_made']}.")
    if answer["abandoned"]:
        print_text(out, f"! The last one could not be made: {answer['abandoned']}", style="yellow")


def _count(number: int, noun: str) -> str:
    return f"1 {noun}" if number == 1 else f"{number} {noun}s"


def _print_models(out: TextIO, models: Sequence[Mapping[str, Any]]) -> None:
    columns = (
        Column("model", most=44),
        Column("GB", right=True, drop=3),
        Column("ready", right=True),
        Column("loading", right=True),
        Column("waiting", right=True),
        Column("asked/s", right=True, drop=1),
        Column("can serve/s", right=True, drop=2),
    )
    rows: list[list[Cell]] = [
        [
            each["model"],
            f"{each['gb']:.1f}",
            str(each["ready"]),
            str(each["loading"]),
            str(each["waiting"]),
            f"{each['asked_per_s']:,.0f}",
            f"{each['served_per_s_at_most']:,.0f}",
        ]
        for each in models
    ]
    print_table(out, columns, rows)
    print_text(
        out, "asked and can serve: cost tokens a second, prompt and answer together", style="dim"
    )


def _print_changes(
    out: TextIO, answer: Mapping[str, Any], names: Mapping[str, str], *, every: bool
) -> None:
    """What the latest plan that changed anything did, and what the latest refuses."""
    changed = answer["changed"][-1:] if answer["changed"] else []
    for plan in changed:
        latest = answer["plan"] is not None and plan["number"] == answer["plan"]["number"]
        when = "" if latest else f" (plan {plan['number']}, {span(plan['age_s'])} ago)"
        print_text(out, f"latest changes{when}", style="bold")
        changes = plan["changes"] if every else plan["changes"][:CHANGES_SHOWN]
        for change in changes:
            who = plain(names.get(change["machine"], change["machine"]))
            later = "later: " if change["later"] else ""
            said = f"{later}{change['act']} {change['model']} on {who}: {change['why']}"
            print_text(out, said, indent="  ")
        if len(changes) < len(plan["changes"]):
            out.write(f"  … and {len(plan['changes']) - len(changes)} more (--all)\n")
    refused = answer["plan"]["refused"] if answer["plan"] is not None else ()
    if refused:
        print_text(out, "not possible", style="bold")
    for refusal in refused:
        where = ""
        if refusal["machine"]:
            where = f" on {plain(names.get(refusal['machine'], refusal['machine']))}"
        print_text(out, f"{refusal['model']}{where}: {refusal['why']}", indent="  ")


def _print_next(out: TextIO, answer: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """Where a further copy of each model would go, and what that would take."""
    print_text(out, "nearest place for a further copy", style="bold")
    for each in answer["models"]:
        said = "every Mac that counts has it"
        if each["next"]:
            best = each["next"][0]
            who = plain(names.get(best["machine"], best["machine"]))
            said = f"{who}, {best['what_it_takes']}"
        print_text(out, f"{each['model']}: {said}", indent="  ")


def _print_macs(
    out: TextIO, answer: Mapping[str, Any], names: Mapping[str, str], *, every: bool
) -> None:
    columns = (
        Column("mac", most=28),
        Column("model", most=40),
        Column("state"),
        Column("GB", right=True, drop=1),
        Column("for", right=True, drop=2),
        Column("free GB", right=True, drop=3),
        Column("busy", right=True, drop=4),
    )
    rows: list[list[Cell]] = []
    notes: list[str] = []
    macs = answer["macs"] if every else answer["macs"][:MACS_SHOWN]
    for mac in macs:
        who = plain(names.get(mac["machine"], mac["machine"]))
        own = [f"{mac['free_gb']:.1f}", f"{mac['busy_share']:.0%}"]
        if not mac["models"]:
            rows.append([who, NOTHING, NOTHING, "", "", *own])
            notes.append("")
        for number, each in enumerate(mac["models"]):
            state = (each["state"], STATES.get(each["state"], ""))
            first = number == 0
            rows.append(
                [
                    who if first else "",
                    each["model"],
                    state,
                    f"{each['gb']:.1f}",
                    span(each["since_s"]),
                    *(own if first else ["", ""]),
                ]
            )
            notes.append("" if each["why"].startswith(USUAL) else each["why"])
    out.write("\n")
    print_table(out, columns, rows, notes=notes)
    if "" in notes:
        print_text(out, f"Where no reason stands beneath, {USUAL}.", style="dim")
    if len(macs) < len(answer["macs"]):
        out.write(f"… and {len(answer['macs']) - len(macs)} more Macs (--all shows them)\n")
    if answer["away"]:
        away = ", ".join(plain(names.get(each, each)) for each in answer["away"])
        print_text(out, f"not counted, because they are drained or away: {away}")


def _print_pins(out: TextIO, pins: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> None:
    if pins:
        print_text(out, "pinned", style="bold")
    for pin in pins:
        who = plain(names.get(pin["machine"], pin["machine"]))
        print_text(out, f"{pin['model']} to {who}: {pin['reason']}", indent="  ")


def print_model(out: TextIO, answer: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    """One model: where it is, and the Macs that could take it, the nearest first."""
    names = answer["names"]
    print_text(out, f"{model['model']}, {model['gb']:.1f} GB", style="bold")
    print_text(out, model["summary"])
    here = [
        (plain(names.get(mac["machine"], mac["machine"])), each)
        for mac in answer["macs"]
        for each in mac["models"]
        if each["model"] == model["model"]
    ]
    for who, each in sorted(here, key=lambda pair: natural(pair[0])):
        print_text(out, f"{who}: {each['state']}, {each['why']}", indent="  ")
    if not here:
        print_text(out, "no Mac has it", indent="  ")
    if not model["next"]:
        return
    print_text(out, "where it could go, the nearest first", style="bold")
    for choice in model["next"]:
        who = plain(names.get(choice["machine"], choice["machine"]))
        print_text(out, f"{who}: {choice['what_it_takes']}", indent="  ")
