"""The page of one run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from simulator.records import MacUsed
from simulator.report import charts
from simulator.report.page import cards, folded, head, page, paragraph, plots, section, table
from simulator.report.scale import short
from simulator.report.words import alarm_words, counted, lasted
from simulator.results.columns import Requests
from simulator.results.metrics import QUANTILES, met, tpot_ms
from simulator.setup.scenario import Scenario


def run_page(
    scenario: Scenario,
    summary: Mapping[str, Any],
    requests: Requests,
    macs: Sequence[MacUsed],
    manifest: Mapping[str, Any],
) -> str:
    """Everything about a run on one page."""
    until_s = float((requests["at_s"] + np.nan_to_num(requests["e2e_s"])).max(initial=1.0))
    window = summary["window"]
    after = requests.where(requests["at_s"] >= window["from_s"])
    answered = after.where(after.is_("status", "ok"))
    title = f"{scenario.name} under {summary['policy']}"
    below = f"{scenario.about} Seed {summary['seed']}, {counted(len(requests), 'request')}, "
    how = "measured" if "live" in manifest else "simulated"
    below += f"{counted(len(macs), 'Mac')}, {lasted(until_s)} {how}."
    return page(
        title,
        [
            head(title, below.strip()),
            alarm_list(summary["alarms"], summary["requests"]["by_code"]),
            cards(_first_numbers(summary)),
            section(
                "How long it took",
                paragraph(_window_words(window)),
                plots([
                    charts.distribution(
                        "Time to the first token and to the last",
                        [("first token", answered["ttft_s"]), ("whole answer", answered["e2e_s"]),
                         ("in the queue", answered["wait_s"])], "time",
                    ),
                    charts.distribution(
                        "Pace", [("time per token", tpot_ms(answered))], "time per token", "ms"
                    ),
                ]),
                _latency_table(summary),
                _by_model(scenario, after),
            ),
            section("Over time", plots([
                charts.flow(requests, until_s), charts.crowd(requests, until_s),
                charts.speed(requests, until_s),
            ])),
            section("Macs", plots([
                charts.load(requests, macs, until_s), charts.busy(macs), charts.earned(macs),
            ]), _mac_table(macs)),
            section("How far from the best", _bounds_table(summary)),
            section("What was run", *_what(manifest)),
        ],
    )  # fmt: skip


def alarm_list(alarms: Sequence[Mapping[str, Any]], by_code: Mapping[str, int]) -> str:
    """What somebody should look at."""
    if not alarms:
        return '<p class="good">✓ Nothing to look at: the run checked itself.</p>'
    items = "".join(
        f"<li><b>{escape(alarm['name'].replace('_', ' '))}</b>: "
        f"{escape(alarm_words(alarm, by_code))}.</li>"
        for alarm in alarms
    )
    return f'<ul class="alarms" aria-label="Alarms">{items}</ul>'


def _first_numbers(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    share = summary["goodput"]["attainment"]
    load = summary["bounds"]["load"]
    usage = summary["machines"]["utilisation_mean"]
    hits = summary["attempts"]["cache_hit_share"]
    return [
        ("first token, half within", short(summary["ttft_s"]["p50"], "s")),
        ("first token, 99 % within", short(summary["ttft_s"]["p99"], "s")),
        ("answer, half within", short(summary["e2e_s"]["p50"], "s")),
        ("answer, 99 % within", short(summary["e2e_s"]["p99"], "s")),
        ("kept the promise", short(None if share is None else share * 100, "%")),
        ("tokens a second", short(summary["throughput"]["completion_tokens_per_s"])),
        ("load, of what is possible", short(None if load is None else load * 100, "%")),
        ("Macs busy", short(None if usage is None else usage * 100, "%")),
        ("prompt found in caches", short(None if hits is None else hits * 100, "%")),
        ("price of a million tokens", short(summary["money"]["usd_per_million_tokens"], "$")),
    ]


def _window_words(window: Mapping[str, Any]) -> str:
    by = {"mser5": "found by MSER-5", "warmup_s": "as set", "warmup_share": "as set"}[window["by"]]
    return (
        f"The first {short(window['from_s'], 's')} are left out as warm-up ({by}); all numbers are "
        "of requests that arrived after it."
    )


def _latency_table(summary: Mapping[str, Any]) -> str:
    units = {"ttft_s": ("first token", "s"), "tpot_ms": ("per token", "ms"),
             "e2e_s": ("whole answer", "s"), "wait_s": ("in the queue", "s")}  # fmt: skip
    rows = [
        (name, *(short(summary[key][part], unit) for part in ("mean", *QUANTILES, "max")))
        for key, (name, unit) in units.items()
    ]
    labels = ("mean", "p50", "p90", "p95", "p99", "p99.9", "most")
    return table("Times of answered requests", ("", *labels), rows)


def _by_model(scenario: Scenario, counted: Requests) -> str:
    rows = []
    good = met(counted, scenario.slo)
    for model in counted.text("model").names:
        at = counted.is_("model", model)
        if not at.any():
            continue
        first = counted["ttft_s"][at]
        first = first[np.isfinite(first)]
        p50, p99 = (float(np.quantile(first, q)) if len(first) else None for q in (0.5, 0.99))
        rows.append((
            model, f"{int(at.sum()):,}", short(100 * float(good[at].mean()), "%"),
            short(p50, "s"), short(p99, "s"),
            short(100 * float((at & counted.is_("status", "refused")).sum() / at.sum()), "%"),
        ))  # fmt: skip
    columns = ("model", "requests", "promise kept", "TTFT p50", "TTFT p99", "refused")
    return table("By model", columns, rows)


def _mac_table(macs: Sequence[MacUsed]) -> str:
    rows = [
        (mac.name, mac.chip, f"{mac.memory_gb} GB", f"{mac.ask_pct} %", f"{mac.jobs:,}",
         short(mac.completion_tokens), str(mac.loads), str(mac.losses))
        for mac in macs
    ]  # fmt: skip
    columns = ("Mac", "chip", "memory", "asks", "jobs", "tokens", "loads", "losses")
    return table("Every Mac", columns, rows)


def _bounds_table(summary: Mapping[str, Any]) -> str:
    bounds, first = summary["bounds"], summary["ttft_s"]["mean"]
    whole = summary["e2e_s"]["mean"]
    rows = [
        ("first token, mean", short(first, "s"), "an empty fleet",
         short(bounds["no_queue_ttft_s"], "s"), short(bounds["ttft_over_no_queue"], "×")),
        ("whole answer, mean", short(whole, "s"), "an empty fleet",
         short(bounds["no_queue_e2e_s"], "s"), short(bounds["e2e_over_no_queue"], "×")),
        ("whole answer, mean", short(whole, "s"), "one pooled server, shortest first",
         short(bounds["srpt_e2e_s"], "s"), short(bounds["e2e_over_srpt"], "×")),
        ("whole answer, mean", short(whole, "s"), "the higher of these two",
         short(bounds.get("bound_e2e_s"), "s"), short(bounds.get("e2e_over_bound"), "×")),
        ("requests a second", short(summary["throughput"]["offered_per_s"]),
         "work as a fluid", short(bounds["fluid_requests_per_s"]),
         short(bounds["load"], "×")),
    ]  # fmt: skip
    return table(
        "No scheduler is below these times, or above this rate",
        ("", "here", "bound", "its value", "ratio"), rows,
    )  # fmt: skip


def _what(manifest: Mapping[str, Any]) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    git = manifest["git"]
    revision = f", revision {git['revision'][:12]}" if git else ""
    changed = " with changes" if git and git["changed"] else ""
    return [
        paragraph(f"{versions}{revision}{changed}. Setting {manifest['scenario_hash'][:16]}."),
        folded("The whole setting", json.dumps(manifest["config"], indent=1, ensure_ascii=False)),
    ]
