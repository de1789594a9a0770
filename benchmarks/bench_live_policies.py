"""A live market of eight simulated Macs: least-weighted routing against ours, block by block.

Four chips, two of each, with two models on every Mac (pinned, so that placement is no part of the
comparison) and talks that share long beginnings. Capacity is measured first, with a closed loop;
then requests come by chance at a share of it, whatever became of the ones before, the same ones for
both sides. The router changes its policy between blocks, A B then B A, once all that runs is over.
Everything but the engines is real, and so is the time that they take.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.common import Market, market, worker
from benchmarks.figures import Report, Spread, difference_of, percentile, read_options, spread_of
from benchmarks.open_load import FIELDS, Block
from benchmarks.worker import Worker

FLEET = (("M4 Max", 128), ("M2 Max", 96), ("M3 Pro", 36), ("M1 Max", 64))
COUNT = 2
MODELS, WEIGHTS = ("qwen3.5-7b", "qwen3.5-14b"), (0.7, 0.3)
GROUPS = 10
"""Talks of a block, new ones for each block: a Mac that has read the beginning of one need not read
it again, and no side finds what the other has left."""

SLOTS = 8
POLICIES = ("least_weighted", "coster")
LOADS = (0.7, 0.9)
CLIENTS = COUNT * len(FLEET) * SLOTS * 5 // 4
"""More than there are slots: no Mac is ever short of work."""

FILL_S = 12.0
WARM_S = 6.0
"""At the beginning of the capacity's block, and of each other one, that are not counted."""

FIRST_S, FIRST_PER_TOKEN_S = 2.0, 0.001
GAP_S = 0.1
"""A good answer: its first token within 2 s, which people wait for, and a millisecond more for each
token of the prompt, as the fastest chip here reads it; the others 100 ms apart in the mean, ten a
second, faster than people read. A request that is refused, or lost, is no good answer."""

PINNED_S_MAX = 300.0


def main() -> None:
    asked = read_options(
        str(__doc__).split("\n", maxsplit=1)[0], rounds=3, seconds=20.0, add=_flags
    )
    shares = tuple(float(share) for share in asked.own.loads.split(","))
    loads = shares[:1] if asked.quick else shares
    seconds = max(asked.seconds, 8.0)
    macs = COUNT * len(FLEET)
    about = f"{macs} simulated Macs of {len(FLEET)} chips, {len(MODELS)} models"
    report = Report("live policies", about)
    with tempfile.TemporaryDirectory(prefix="coster-bench-") as folder:
        fleet = _fleet_file(Path(folder))
        words = ["--engine", "simulated", "--fleet", str(fleet), "--slots", str(SLOTS)]
        for model in MODELS:
            words += ["--model", model]
        with market(*words) as running, worker("open_load") as client:
            side = Side(running, client)
            side.pin_everything(macs)
            capacity = asked.own.capacity or side.capacity(FILL_S + seconds)
            report.row("capacity, closed loop, coster", capacity, "requests/s")
            for load in loads:
                found = side.compare(load * capacity, asked.rounds, seconds)
                _show(report, load, found)
    report.show()


def _flags(parser: argparse.ArgumentParser) -> None:
    shares = ",".join(map(str, LOADS))
    parser.add_argument("--loads", default=shares, help=f"of capacity [default: {shares}]")
    parser.add_argument("--capacity", type=float, help="requests/s [default: measured first]")


def _fleet_file(folder: Path) -> Path:
    path = folder / "fleet.toml"
    entries = (
        f'[[macs]]\ncount = {COUNT}\nchip = "{chip}"\nmemory_gb = {memory_gb}\n'
        for chip, memory_gb in FLEET
    )
    path.write_text("\n".join(entries))
    return path


@dataclass
class Side:
    """The market, its operator and its load."""

    running: Market
    client: Worker
    blocks: int = 0

    def operate(self, method: str, path: str, body: Any = None) -> Any:
        ready = self.running.ready
        headers = {"authorization": f"Bearer {ready['admin_key']}"}
        url = f"{ready['admin_base']}{path}"
        answer = httpx2.request(method, url, headers=headers, json=body, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def pin_everything(self, macs: int) -> None:
        """Both models on every Mac, for as long as this runs."""
        self.running.await_macs(macs)
        for mac in self.operate("GET", "/admin/status")["machines"]:
            for model in MODELS:
                asked = {"mac": mac["machine"], "model": model, "reason": "benchmark"}
                self.operate("POST", "/admin/placement/pin", asked)
        give_up_s = time.monotonic() + PINNED_S_MAX
        while time.monotonic() < give_up_s:
            told = self.operate("GET", "/admin/placement")["macs"]
            ready = sum(m["state"] == "ready" for mac in told for m in mac["models"])
            if ready == macs * len(MODELS):
                return
            time.sleep(1.0)
        raise RuntimeError(f"not every Mac has every model within {PINNED_S_MAX:.0f} s")

    def block(self, policy: str, seconds: float, seed: int, **how: Any) -> dict[str, Any]:
        """One block under one policy; it ends when its last request has."""
        self.operate("POST", "/admin/policy", {"name": policy})
        base, key = self.running.ready["api_base"], self.running.key
        self.blocks += 1
        told = {"rate_per_s": 0.0, "salt": f"block {self.blocks}", **how}
        return self.client.round(
            Block(base, key, seed, seconds, models=MODELS, weights=WEIGHTS, groups=GROUPS, **told)
        )

    def capacity(self, seconds: float) -> float:
        """Answers a second with more asked for than there are slots."""
        played = self.block("coster", seconds, seed=0, clients=CLIENTS)
        ended = [one["at_s"] + one["total_s"] for one in _seen(played) if one["total_s"]]
        counted = [at_s for at_s in ended if FILL_S <= at_s < seconds]
        if not counted:
            raise RuntimeError(f"nothing was answered after the first {FILL_S:.0f} s")
        return len(counted) / (seconds - FILL_S)

    def compare(
        self, rate_per_s: float, rounds: int, seconds: float
    ) -> dict[str, list[dict[str, Any]]]:
        """Both policies, with the same requests in each round, in turn."""
        found: dict[str, list[dict[str, Any]]] = {policy: [] for policy in POLICIES}
        for number in range(rounds):
            for policy in POLICIES if number % 2 == 0 else reversed(POLICIES):
                played = self.block(
                    policy, WARM_S + seconds, seed=number + 1, rate_per_s=rate_per_s
                )
                figures = _figures(_seen(played), seconds)
                found[policy].append({**figures, "cores": played["cores"]})
        return found


def _seen(played: dict[str, Any]) -> list[dict[str, Any]]:
    return [dict(zip(FIELDS, told, strict=True)) for told in played["seen"]]


def _figures(seen: Sequence[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """What a block comes to, of the requests that were due after its warm-up.

    Times are of what was answered; what was not is in the goodput, and told beside it.
    """
    counted = [one for one in seen if one["at_s"] >= WARM_S]
    answered = [one for one in counted if one["total_s"] is not None and one["first_s"] is not None]
    good = sum(map(_is_good, answered))
    first_s = [one["first_s"] for one in answered]
    cached = sum(one["cached_tokens"] for one in answered)
    return {
        "goodput": good / seconds,
        "good_share": good / max(len(counted), 1),
        "refused_share": 1.0 - len(answered) / max(len(counted), 1),
        "first_s": first_s,
        "ttft_s_p99": percentile(first_s, 99),
        "ttft_s_p50": percentile(first_s, 50),
        "e2e_s": statistics.fmean([one["total_s"] for one in answered]) if answered else 0.0,
        "cached_share": cached / max(sum(one["prompt_tokens"] for one in answered), 1),
    }


def _is_good(one: dict[str, Any]) -> bool:
    if one["first_s"] > FIRST_S + FIRST_PER_TOKEN_S * one["prompt_tokens"]:
        return False
    gaps = max(one["completion_tokens"] - 1, 1)
    return bool((one["total_s"] - one["first_s"]) / gaps <= GAP_S)


FIGURES = (
    ("goodput", "goodput", "requests/s"),
    ("good_share", "of all asked", "share"),
    ("refused_share", "refused or lost", "share"),
    ("ttft_s_p99", "first token p99", "s"),
    ("ttft_s_p50", "first token p50", "s"),
    ("e2e_s", "whole answer, mean", "s"),
    ("cached_share", "prompt found in caches", "share"),
)

COMPARED = ("goodput", "ttft_s_p99", "e2e_s")


def _show(report: Report, load: float, found: dict[str, list[dict[str, Any]]]) -> None:
    theirs, ours = (found[policy] for policy in POLICIES)
    for figure, words, unit in FIGURES:
        for policy in POLICIES:
            report.row(f"{load:g}, {policy}: {words}", spread_of(found[policy], figure), unit)
        if figure in COMPARED:
            less = difference_of(ours, theirs, figure)
            report.row(f"{load:g}, ours less theirs: {words}", less, unit)
    for policy in POLICIES:
        pooled = [one for played in found[policy] for one in played["first_s"]]
        words = f"{load:g}, {policy}: first token p99 of all {len(pooled)}"
        report.row(words, percentile(pooled, 99), "s")
    cores = Spread.of([played["cores"] for side in found.values() for played in side])
    report.row(f"{load:g}, the client itself", cores, "cores")


if __name__ == "__main__":
    main()
