"""What `coster sim` prints: tables for people."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from coster.output import styled
from simulator.report.scale import short, with_half
from simulator.report.words import alarm_words, counted, lasted
from simulator.results import folders
from simulator.runs.comparison import BETTER, DIFFERS, METRICS, WORSE, established
from simulator.runs.experiment import Comparison, Result
from simulator.runs.verdicts import Verdict

SHOWN: Final = (
    "ttft_s.p50", "ttft_s.p99", "e2e_s.mean", "e2e_s.p99", "goodput.attainment",
    "throughput.completion_tokens_per_s", "machines.loads_per_mac_hour", "machines.earned_gini",
    "bounds.e2e_over_no_queue", "bounds.e2e_over_bound",
)  # fmt: skip
POINTS_MAX: Final = 20
CELL: Final = 26


def _say(text: str = "") -> None:
    sys.stdout.write(f"{text}\n")


def print_run(result: Result) -> None:
    """The first page of a report."""
    summary = result.summary
    timing = folders.read_json(result.folder / folders.TIMING)
    _print_summary(
        result.folder,
        summary,
        f"{lasted(summary['world']['simulated_s'])} simulated in {timing['wall_s']:.1f} s",
    )


def print_measured(folder: Path, summary: Mapping[str, Any]) -> None:
    """The same of a market that was driven, and how well it was."""
    took = f"{lasted(summary['world']['simulated_s'])}, measured by its client"
    _print_summary(folder, summary, took)
    late, made = summary["generator"]["late_s"], summary["generator"]
    _say(
        f"  load    sent {short(late['p50'], 's')} late in the median, {short(late['p99'], 's')} "
        f"at p99; {made['open_max']} open at most; {_percent(made['cpu_share'])} of a core"
    )


def _print_summary(folder: Path, summary: Mapping[str, Any], took: str) -> None:
    count = summary["world"]["requests"]
    _say(
        f"{styled(summary['name'], 'bold', sys.stdout)} under {summary['policy']}, seed "
        f"{summary['seed']}: {counted(count, 'request')}, "
        f"{counted(summary['machines']['count'], 'Mac')}, {took}"
    )
    _say(f"  {'':14}" + "".join(f"{name:>10}" for name in ("p50", "p90", "p99", "p99.9")))
    for key, name, unit in (
        ("ttft_s", "first token", "s"),
        ("tpot_ms", "per token", "ms"),
        ("e2e_s", "whole answer", "s"),
        ("wait_s", "in the queue", "s"),
    ):
        cells = (short(summary[key][part], unit) for part in ("p50", "p90", "p99", "p999"))
        _say(f"  {name:14}" + "".join(f"{cell:>10}" for cell in cells))
    for line in _lines(summary):
        _say(f"  {line}")
    _print_alarms(summary["alarms"], summary["requests"]["by_code"])
    _say(f"  report  {folder / folders.REPORT}")


def _lines(summary: Mapping[str, Any]) -> list[str]:
    good, flow, macs = summary["goodput"], summary["throughput"], summary["machines"]
    money, bounds = summary["money"], summary["bounds"]
    kept, hits = _percent(good["attainment"]), _percent(summary["attempts"]["cache_hit_share"])
    usage, earns = _percent(macs["utilisation_mean"]), short(macs["earned_per_hour_usd"], "$")
    price = short(money["usd_per_million_tokens"], "$")
    return [
        f"{kept} kept the promise; {short(flow['completion_tokens_per_s'])} tokens a second",
        f"load {_percent(bounds['load'])} of what is possible, Macs busy {usage}",
        f"{short(macs['loads'])} models loaded, {hits} of prompts from caches",
        f"{short(money['revenue_usd'], '$')} for all, {price} a million tokens",
        f"a Mac earns {earns} an hour",
    ]


def _percent(share: float | None) -> str:
    return short(None if share is None else 100 * share, "%")


def _print_alarms(alarms: Sequence[Mapping[str, Any]], by_code: Mapping[str, int]) -> None:
    if not alarms:
        _say(f"  {styled('✓', 'green', sys.stdout)} nothing to look at")
    for alarm in alarms:
        name = alarm["name"].replace("_", " ")
        _say(f"  {styled('!', 'yellow', sys.stdout)} {name}: {alarm_words(alarm, by_code)}")


def print_comparison(comparison: Comparison) -> None:
    """Each point's numbers, and what is established."""
    summary = comparison.summary
    out = sys.stdout
    _say(
        f"{styled(summary['name'], 'bold', out)}: {len(summary['seeds'])} repetitions, paired by "
        "seed, 95 % intervals"
    )
    for point in summary["points"][:POINTS_MAX]:
        words = ", ".join(f"{key} = {value}" for key, value in point["settings"].items())
        if words:
            _say(f"{styled(words, 'bold', out)}")
        _print_point(summary["policies"], summary["reference"], point)
    left = len(summary["points"]) - POINTS_MAX
    if left > 0:
        _say(f"  … and {left} more points in summary.json")
    for why, count in comparison.again.items():
        runs = "run was" if count == 1 else "runs were"
        _say(f"  {styled('!', 'yellow', out)} {count} {runs} there and done again: {why}")
    _say(f"  report  {comparison.folder / folders.REPORT}")


def _print_point(policies: Sequence[str], reference: str, point: Mapping[str, Any]) -> None:
    _say(f"  {'':18}" + "".join(f"{name:>{CELL}}" for name in policies))
    for name in SHOWN:
        metric = METRICS[name]
        line = f"  {metric.label:18}"
        for policy in policies:
            found = point["policies"][policy].get(name)
            if found is None:
                line += f"{'—':>{CELL}}"
                continue
            ends = [found[key] for key in ("mean", "low", "high")]
            scaled = [None if end is None else end * metric.scale for end in ends]
            cell = f"{with_half(scaled[0], scaled[1], scaled[2], metric.unit):>{CELL}}"
            difference = point["differences"].get(policy, {}).get(name, {})
            style = {BETTER: "green", WORSE: "red"}.get(difference.get("verdict", ""))
            line += styled(cell, style, sys.stdout) if style else cell
        _say(line)
    for policy, found in point["differences"].items():
        better, worse, else_ = (
            ", ".join(established(found, said)) for said in (BETTER, WORSE, DIFFERS)
        )
        _say(
            f"  {policy} against {reference}: better: {better or 'nothing'}; worse: "
            f"{worse or 'nothing'}" + (f"; different: {else_}" if else_ else "")
        )
    for policy, names in point["alarms"].items():
        if names:
            mark = styled("!", "yellow", sys.stdout)
            _say(f"  {mark} {policy}: {', '.join(names).replace('_', ' ')}")


def print_verdicts(verdicts: Sequence[Verdict]) -> None:
    """Which runs are what they say they are, and whether a comparison is what they come to."""
    out = sys.stdout
    bad = [verdict for verdict in verdicts if not verdict.same]
    for verdict in verdicts:
        for reason in verdict.differs:
            _say(f"{styled('✗', 'red', out)} {verdict.folder}: {reason}")
        for note in verdict.notes:
            _say(f"{styled('!', 'yellow', out)} {verdict.folder}: {note}")
    if not bad:
        count = sum(not verdict.whole for verdict in verdicts)
        runs = "the run is" if count == 1 else f"all {count} runs are"
        whole = any(verdict.whole for verdict in verdicts)
        and_whole = ", and so is what they come to" if whole else ""
        _say(f"{styled('✓', 'green', out)} {runs} the same again, byte for byte{and_whole}")


def print_calibration(result: Mapping[str, Any]) -> None:
    """Errors with their intervals, and request by request where the loads are the same."""
    out = sys.stdout
    counts = " and ".join(f"{count:,}" for count in result["requests"])
    times = result["repetitions"]
    over = "" if times == 1 else f", over {times} repetitions"
    _say(f"{counts} answered requests, measured and simulated{over}")
    _say(f"  {'':26}{'measured':>12}{'simulated':>12}{'error':>10}   95 %")
    for error in result["errors"]:
        unit = "s" if error["name"].startswith(("ttft_s", "e2e_s")) else ""
        between = f"{_signed(error['low'])} to {_signed(error['high'])}"
        line = (
            f"  {error['name']:26}{short(error['real'], unit):>12}"
            f"{short(error['simulated'], unit):>12}{_signed(error['error']):>10}   {between}"
        )
        _say(line if error["within"] else styled(line, "yellow", out))
    for each in result["matched"]:
        together = "" if each["pearson"] is None else f", correlation {each['pearson']:.2f}"
        _say(
            f"  {each['name']}, {each['count']:,} requests one by one: "
            f"{_percent(each['mape'])} off, bias {_signed(each['bias'])}{together}"
        )
    for note in result["notes"]:
        _say(f"{styled('!', 'yellow', out)} {note}")
    limit = _percent(result["tolerance"])
    if result["calibrated"]:
        _say(f"{styled('✓', 'green', out)} everything within {limit}: calibrated")
    else:
        _say(f"{styled('!', 'yellow', out)} not everything is within {limit}")


def _signed(share: float | None) -> str:
    return "—" if share is None else f"{100 * share:+.1f} %"


def print_list(scenarios: Mapping[str, str], policies: Mapping[str, str]) -> None:
    """Names and what they are about."""
    for title, entries in (("Scenarios", scenarios), ("Policies", policies)):
        _say(styled(title, "bold", sys.stdout))
        for name, about in entries.items():
            _say(f"  {name:18} {about}")
    _say(f"  {'coster-TERM':18} ours without one of its terms")
