"""`coster why MAC` for people: its verdict, its models and why they are there, what it won."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

from coster.fleet_show import STYLES, called
from coster.output import styled
from coster.table import NOTHING, Cell, Column, joined, plain, print_table, print_text
from market.policy.filters import BY_NAME


def print_mac(out: TextIO, story: Mapping[str, Any]) -> None:
    """The verdict first: most who ask want nothing else."""
    memory = f"{story['memory_gb']} GB" if story["memory_gb"] else ""
    chip = f"{story['chip'] or ''} {memory}".strip()
    print_text(
        out, joined([called(story), story["provider"], story["machine"], chip]), style="bold"
    )
    word = styled(story["verdict"], STYLES.get(story["verdict"], "yellow"), out)
    out.write(f"{word}\n")
    print_text(out, story["reason"], indent="  ")
    if story["fix"]:
        print_text(out, f"→ {story['fix']}", indent="  ")
    if story["drain"] and story["verdict"] == "EARNING":
        print_text(out, f"drained: {story['drain']}", indent="  ")
    for model, reason in story["pins"].items():
        print_text(out, f"pinned here: {model} ({reason})", indent="  ")
    if story["models"]:
        out.write("\n")
        _print_models(out, story)
    if story["placement"] is not None:
        _print_placement(out, story["placement"])
    _print_decisions(out, story["decisions"])


def _print_models(out: TextIO, story: Mapping[str, Any]) -> None:
    reasons = {}
    if story["placement"] is not None:
        reasons = {each["model"]: each["why"] for each in story["placement"]["models"]}
    columns = (
        Column("model", most=40),
        Column("state"),
        Column("could take a request now", most=40),
        Column("first token", right=True, drop=1),
        Column("tok/s", right=True, drop=2),
        Column("running", right=True, drop=3),
        Column("waiting", right=True, drop=4),
    )
    rows: list[list[Cell]] = []
    notes = []
    for each in story["models"]:
        ready = each["state"] == "ready" and story["verdict"] != "OFFLINE"
        ttft_ms, tps = each["predicted_ttft_ms"], each["predicted_tps"]
        rows.append(
            [
                each["model"],
                each["state"],
                _gate(each),
                f"{ttft_ms:,.0f} ms" if ready and ttft_ms is not None else NOTHING,
                f"{tps:,.0f}" if ready and tps is not None else NOTHING,
                str(each["running"]),
                str(each["queued"]),
            ]
        )
        why = reasons.get(each["model"])
        notes.append(f"placement: {why}" if why else "")
    print_table(out, columns, rows, notes=notes)


def _gate(each: Mapping[str, Any]) -> str:
    if each["gate"] is None:
        return "yes, it would be chosen" if each["chosen_now"] else "yes"
    if each["state"] != "ready":
        return (
            "no: it failed to load" if each["state"] == "failed" else f"no: it is {each['state']}"
        )
    phrase = BY_NAME[each["gate"]].phrase if each["gate"] in BY_NAME else each["gate"]
    return f"no: {phrase}"


def _print_placement(out: TextIO, placement: Mapping[str, Any]) -> None:
    facts = [
        f"{placement['room_gb']:.1f} GB of room, {placement['free_gb']:.1f} free",
        f"{placement['busy_share']:.0%} busy",
        f"{placement['swaps_left']} swaps left this hour",
        "" if placement["open"] else "gets nothing new now",
    ]
    print_text(out, f"memory: {joined(facts)}")


def _print_decisions(out: TextIO, decisions: Any) -> None:
    out.write("\n")
    if not decisions:
        print_text(out, "No recent request could have come here.")
        return
    columns = (Column("latest decisions", most=34), Column("model", most=40, drop=1), Column(""))
    rows: list[list[Cell]] = []
    for each in decisions:
        if each["chosen"]:
            said: Cell = ("chosen", "green")
        elif each["reason"] is not None:
            rule = BY_NAME.get(each["reason"])
            said = f"ruled out: {rule.phrase if rule is not None else each['reason']}"
        elif each.get("aside"):
            said = f"set aside: others meet {each['aside']}"
        elif each["behind_ms"] is None:
            said = "nobody was chosen"
        else:
            said = f"lost by {each['behind_ms']:,.0f} ms"
        rows.append([plain(each["request_id"]), each["model"], said])
    print_table(out, columns, rows)
