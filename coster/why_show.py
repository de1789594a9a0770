"""`coster why REQUEST` for people: attempts, candidates with their terms, and who was paid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from coster.table import NOTHING, Cell, Column, joined, plain, print_table, print_text
from market.money import format_usd_exact
from market.policy.filters import BY_NAME, reasons_in_words

CANDIDATES = 8
"""Macs shown that could have taken it; more of them only with --all."""

CHANGES = 3
NAME_CHARS_MAX = 24


def print_request(out: TextIO, story: Mapping[str, Any], *, every: bool) -> None:
    """The whole story, in the order in which it happened."""
    names = story["names"]
    head = [story["request_id"], story.get("model") or "", story["state"]]
    print_text(out, joined(head), style="bold")
    ledger = story["ledger"]
    if ledger is None:
        print_text(out, "The books say nothing of it (it was never admitted, or they are away).")
    else:
        print_text(out, _charged(ledger))
    if not story["attempts"]:
        print_text(out, "Nothing is kept of its decisions; they are kept for 7 days.")
    for attempt in story["attempts"]:
        out.write("\n")
        _print_attempt(out, attempt, names, every=every)
    if ledger is not None and len(ledger["deliveries"]) > 0:
        out.write("\n")
        _print_deliveries(out, ledger["deliveries"], names)


def _charged(ledger: Mapping[str, Any]) -> str:
    cost = format_usd_exact(int(ledger["cost_nano_usd"]))
    cached = f" ({ledger['cached_tokens']} cached)" if ledger["cached_tokens"] else ""
    tokens = f"{ledger['prompt_tokens']} in{cached}, {ledger['completion_tokens']} out"
    why = f" ({ledger['finish_reason']})" if ledger["finish_reason"] else ""
    return f"{ledger['status']}{why}: {cost} for {tokens}"


def who_is(provider: str | None, names: Mapping[str, str]) -> str:
    """A Mac by its name, by its public id where it has none."""
    return plain(names.get(provider, provider)) if provider else "nobody"


# ── one attempt ───────────────────────────────────────────────────────────────────────


def _print_attempt(
    out: TextIO, attempt: Mapping[str, Any], names: Mapping[str, str], *, every: bool
) -> None:
    decision, outcome = attempt["decision"] or {}, attempt["outcome"] or {}
    chosen = decision.get("chosen") or outcome.get("provider")
    result = outcome.get("result") or ("refused" if decision.get("refusal") else "still running")
    public = f" ({chosen})" if chosen and who_is(chosen, names) != chosen else ""
    title = f"attempt {attempt['attempt']} → {who_is(chosen, names)}{public}: {result}"
    print_text(out, title, style="bold")
    if not decision:
        print_text(out, "Its decision was lost with the router that made it.", indent="  ")
    else:
        waited = decision["waited_s"]
        by = f"decided by {decision['policy'] or 'an older version'}"
        waiting = f"waited {waited:.3f} s" if waited else "did not wait"
        print_text(out, joined([decision["summary"], waiting, by]), indent="  ")
        if decision["refusal"]:
            print_text(out, _refused(decision), indent="  ")
        for fault in decision["faults"]:
            print_text(out, f"! left out: {fault}", indent="  ", style="yellow")
    _print_times(out, decision, outcome)
    if decision:
        _print_candidates(out, decision, names, every=every)
        _print_changes(out, decision.get("changes") or (), names, every=every)
        if "replayed" in decision:
            _print_replayed(out, decision, names)


def _refused(decision: Mapping[str, Any]) -> str:
    """With which code, and how long the quickest way there was would have taken."""
    said = f"refused with the code {decision['refusal']}"
    needed_ms = decision.get("predicted_total_ms")
    return said if needed_ms is None else f"{said}: it would have taken about {_ms(needed_ms)}"


def _print_times(out: TextIO, decision: Mapping[str, Any], outcome: Mapping[str, Any]) -> None:
    """What was predicted beside what was."""
    first, whole = outcome.get("ttft_ms"), outcome.get("total_ms")
    if first is None and whole is None:
        return
    parts = []
    for name, was, predicted in (
        ("first token", first, decision.get("predicted_ttft_ms")),
        ("whole answer", whole, decision.get("predicted_total_ms")),
    ):
        if was is not None:
            beside = "" if predicted is None else f" (predicted {_ms(predicted)})"
            parts.append(f"{name} {_ms(was)}{beside}")
    before = decision.get("said_tokens") or 0  # by Macs that were lost
    own = outcome["completion_tokens"] - before
    tokens = f"{own} tokens" + (f" after {before} of others" if before else "")
    cached = f"{outcome['cached_tokens']} of the prompt cached" if outcome["cached_tokens"] else ""
    print_text(out, joined([*parts, tokens, cached]), indent="  ")


def _ms(value: float) -> str:
    return f"{value:,.0f} ms" if value < 10_000 else f"{value / 1e3:,.1f} s"


# ── candidates ────────────────────────────────────────────────────────────────────────


def _print_candidates(
    out: TextIO, decision: Mapping[str, Any], names: Mapping[str, str], *, every: bool
) -> None:
    """Those that could take it, best first, with the terms that make up each total; then why the
    others could not.
    """
    verdicts = decision.get("verdicts")
    able = [mac for mac in verdicts or decision["candidates"] if not mac.get("reason")]
    able.sort(key=lambda mac: (not mac["chosen"], mac["total_ms"]))
    shown = able if every else able[:CANDIDATES]
    if shown:
        _print_scores(out, shown, names)
    if len(able) > len(shown):
        out.write(f"  … and {len(able) - len(shown)} more that could (--all)\n")
    if verdicts is None:
        ruled_out = dict(decision["ruled_out"])
        if len(able) + sum(ruled_out.values()) < decision["macs"]:
            print_text(out, "Only the best are kept of a decision so old or so large.", indent="  ")
    else:
        ruled_out = dict(Counter(mac["reason"] for mac in verdicts if mac["reason"]))
    if not ruled_out:
        return
    print_text(out, f"ruled out: {_in_words(ruled_out)}", indent="  ")
    if every and verdicts is not None:
        for mac in verdicts:
            if mac["reason"]:
                said = f"{who_is(mac['provider'], names)}: {_barred(mac['reason'])}"
                print_text(out, said, indent="    ")


def _barred(reason: str) -> str:
    """Why one Mac could not take it, and what would help."""
    rule = BY_NAME.get(reason)
    words = reason.replace("_", " ")
    return words if rule is None else f"{words}; it could be used if {rule.remedy}"


def _print_scores(out: TextIO, macs: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> None:
    terms = list(macs[0]["terms_ms"])
    columns = [
        Column("", most=1),
        Column("mac", most=NAME_CHARS_MAX),
        Column("total ms", right=True),
        *(Column(term, right=True, drop=1 + at) for at, term in enumerate(terms)),
    ]
    rows: list[list[Cell]] = [
        [
            "→" if mac["chosen"] else "",
            (who_is(mac["provider"], names), "green" if mac["chosen"] else ""),
            f"{mac['total_ms']:,.1f}",
            *(f"{mac['terms_ms'].get(term, 0.0):,.1f}" for term in terms),
        ]
        for mac in macs
    ]
    notes = [f"set aside: others meet {mac['aside']}" if mac.get("aside") else "" for mac in macs]
    print_table(out, columns, rows, indent="  ", notes=notes)


def _in_words(counts: Mapping[str, int]) -> str:
    """The reasons of today in their words, those of an older version by their names."""
    known = {name: count for name, count in counts.items() if name in BY_NAME}
    others = [f"{count} {name}" for name, count in counts.items() if name not in BY_NAME]
    return ", ".join(part for part in (reasons_in_words(known), *others) if part)


def _print_changes(
    out: TextIO, changes: Sequence[Mapping[str, Any]], names: Mapping[str, str], *, every: bool
) -> None:
    if not changes:
        return
    print_text(out, "what would have changed it:", indent="  ")
    for change in changes if every else changes[:CHANGES]:
        print_text(out, f"{who_is(change['provider'], names)}: {change['words']}", indent="    ")


def _print_replayed(out: TextIO, decision: Mapping[str, Any], names: Mapping[str, str]) -> None:
    again = decision["replayed"]
    if again["same"]:
        said = "the same Mac" if again["chosen"] else "nobody, too"
    else:
        said = who_is(again["chosen"], names)
        if again["behind_ms"] is not None:
            said += f", {again['behind_ms']:+,.0f} ms by the terms above"
    print_text(out, f"decided again by {again['policy']}: {said}", indent="  ")
    for fault in again["faults"]:
        print_text(out, f"! left out: {fault}", indent="  ", style="yellow")


# ── who was paid ──────────────────────────────────────────────────────────────────────


def _print_deliveries(
    out: TextIO, deliveries: Sequence[Mapping[str, Any]], names: Mapping[str, str]
) -> None:
    columns = (
        Column("delivered by", most=NAME_CHARS_MAX),
        Column("in", right=True),
        Column("cached", right=True, drop=2),
        Column("out", right=True),
        Column("ask", right=True),
        Column("cost", right=True),
        Column("paid", right=True),
        Column("fee", right=True, drop=1),
    )
    rows: list[list[Cell]] = [
        [
            who_is(each["provider"], names) if each["provider"] else NOTHING,
            str(each["prompt_tokens"]),
            str(each["cached_tokens"]),
            str(each["completion_tokens"]),
            f"{each['ask_pct']}%",
            format_usd_exact(int(each["cost_nano_usd"])),
            format_usd_exact(int(each["paid_nano_usd"])),
            format_usd_exact(int(each["fee_nano_usd"])),
        ]
        for each in deliveries
    ]
    print_table(out, columns, rows)
