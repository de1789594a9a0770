"""`coster status` for people: what is wanted, what is there, and what is in the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from coster.table import NOTHING, Cell, Column, cut, plain, print_table, print_text

MACS_SHOWN = 12
"""Processes of Macs listed before those that are well are only counted."""

NAMED = 8
REASON_CHARS_MAX = 300
WELL = ("ready", "running")


def print_status(out: TextIO, answer: Mapping[str, Any], *, every: bool) -> None:
    """Processes first: without them nothing below is known."""
    out.write(f"API {answer['api_base']}\n")
    _print_actors(out, answer.get("actors", ()), every=every)
    _print_serve(out, answer.get("serve", ()))
    if answer.get("fleet") is None:
        print_text(out, "! The router does not answer, so nothing is known of Macs and models.")
        return
    out.write("\n")
    _print_macs(out, answer["fleet"])
    _print_models(out, answer["models"])


def _print_actors(out: TextIO, actors: Sequence[Mapping[str, Any]], *, every: bool) -> None:
    macs = [actor for actor in actors if actor.get("role") == "provider"]
    well = [mac for mac in macs if mac.get("state") in WELL]
    folded = [] if every or len(macs) <= MACS_SHOWN else well
    shown = [actor for actor in actors if actor not in folded]
    columns = (
        Column("role", most=12),
        Column("name", most=24),
        Column("state", most=12),
        Column("pid", right=True, drop=1),
        Column("node", drop=3, most=12),
        Column("detail", drop=2, most=60),
    )
    rows: list[list[Cell]] = []
    notes = []
    for actor in shown:
        state = str(actor.get("state", "?"))
        rows.append(
            [
                str(actor.get("role", "?")),
                str(actor.get("name") or actor.get("actor") or NOTHING),
                (state, "green" if state in WELL else "yellow"),
                str(actor.get("pid") or NOTHING),
                str(actor.get("node") or NOTHING),
                " ".join(str(actor[key]) for key in ("provider", "chip") if actor.get(key)),
            ]
        )
        notes.append(cut(plain(actor.get("reason") or ""), REASON_CHARS_MAX))
    print_table(out, columns, rows, notes=notes)
    if folded:
        out.write(f"… and {len(folded)} Macs that are well (--all, or coster fleet)\n")


def _print_serve(out: TextIO, deployments: Sequence[Mapping[str, Any]]) -> None:
    """Only what Serve itself is not content with."""
    for each in deployments:
        if each.get("state") != "healthy":
            said = f"! {each.get('deployment')} is {each.get('state')}: {each.get('replicas')}"
            message = cut(plain(each.get("message") or ""), REASON_CHARS_MAX)
            print_text(out, f"{said} {message}", style="yellow")


def _print_macs(out: TextIO, fleet: Mapping[str, Any]) -> None:
    verdicts = ", ".join(f"{count} {word}" for word, count in fleet["verdicts"].items())
    desired = sum(fleet["verdicts"].values())
    print_text(out, f"Macs: {desired} desired, {fleet['here']} here: {verdicts or NOTHING}")
    if fleet["missing"]:
        missing = _listed([plain(name) for name in fleet["missing"]])
        print_text(out, f"! away: {missing}", style="yellow")
    if fleet["attention_needed"]:
        print_text(out, "coster fleet says what is the matter and what to do.")


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return f"{', '.join(names[:NAMED])}{f' and {more} more' if more > 0 else ''}"


def _print_models(out: TextIO, models: Sequence[Mapping[str, Any]]) -> None:
    if not models:
        return
    columns = (
        Column("model", most=44),
        Column("desired", right=True),
        Column("ready", right=True),
        Column("starting", right=True),
        Column("failing", right=True),
        Column("waiting", right=True, drop=1),
        Column("free slots", right=True, drop=2),
    )
    rows: list[list[Cell]] = []
    for each in models:
        desired, ready = each["desired"], each["ready"]
        short = desired is not None and ready < desired
        failing = len(each["failed"])
        rows.append(
            [
                each["model"],
                NOTHING if desired is None else str(desired),
                (str(ready), "yellow" if short or (each["queued"] and not ready) else "green"),
                str(each["loading"]),
                (str(failing), "red") if failing else "0",
                str(each["queued"]),
                str(each["free_slots"]),
            ]
        )
    print_table(out, columns, rows)
    for each in models:
        by_reason: dict[str, list[str]] = {}
        for failure in each["failed"]:
            reason = cut(plain(failure["reason"]), REASON_CHARS_MAX)
            by_reason.setdefault(reason, []).append(plain(failure["name"] or failure["provider"]))
        for reason, macs in by_reason.items():
            print_text(out, f"! {each['model']} on {_listed(macs)}: {reason}", style="red")
        for refusal in each["refused"]:
            who = refusal["name"] or refusal["machine"]
            where = f" on {plain(who)}" if who else ""
            print_text(out, f"! {each['model']}{where}: {refusal['why']}")
