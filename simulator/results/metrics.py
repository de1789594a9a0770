"""What a run comes to in numbers: latency, goodput, work, money, fairness, prediction.

Each function takes the requests of the window and returns a part of the summary. What cannot be
known is None, never zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from market.money import NANO_PER_USD
from market.routing.fairness import gini, jain
from simulator.records import MacUsed
from simulator.results.columns import BoolArray, FloatArray, Requests
from simulator.results.fairness import worst_gap
from simulator.runs.stats import batch_interval
from simulator.setup.scenario import Slo

Part = dict[str, Any]

QUANTILES: Final[Mapping[str, float]] = {
    "p50": 0.5,
    "p90": 0.9,
    "p95": 0.95,
    "p99": 0.99,
    "p999": 0.999,
}
HOUR_S: Final = 3_600.0
MILLION: Final = 1_000_000


def spread(values: FloatArray) -> Part:
    """Mean and quantiles of what is known of them."""
    known = values[np.isfinite(values)]
    if len(known) == 0:
        return {"count": 0, "mean": None, **dict.fromkeys(QUANTILES), "max": None}
    found = np.quantile(known, list(QUANTILES.values()))
    return {
        "count": len(known),
        "mean": float(known.mean()),
        **{name: float(value) for name, value in zip(QUANTILES, found, strict=True)},
        "max": float(known.max()),
    }


def tpot_ms(requests: Requests) -> FloatArray:
    """Milliseconds per output token after the first; unknown for answers of one token."""
    after = requests["said_tokens"] - 1.0
    seconds = requests["e2e_s"] - requests["ttft_s"]
    with np.errstate(divide="ignore", invalid="ignore"):
        ms: FloatArray = np.where(after > 0, seconds * 1e3 / after, np.nan)
    return ms


def met(requests: Requests, slo: Mapping[str, Slo]) -> BoolArray:
    """Answered in full, the first token and the pace as promised to its class."""
    good = np.zeros(len(requests), dtype=np.bool_)
    pace = tpot_ms(requests)
    for name, promised in slo.items():
        soon = requests["ttft_s"] <= promised.ttft_s
        steady = ~(pace > promised.tpot_ms)  # an answer of one token has no pace to miss
        good |= requests.is_("request_class", name) & soon & steady
    return good & requests.is_("status", "ok")


def outcomes(requests: Requests) -> Part:
    """How many came, and what became of them."""
    count = max(len(requests), 1)
    part: Part = {"arrived": len(requests)}
    for status in ("ok", "refused", "failed", "open"):
        part[status] = int(requests.is_("status", status).sum())
        part[f"{status}_share"] = part[status] / count
    codes = requests.text("code")
    counted = np.bincount(codes.codes, minlength=len(codes.names))
    part["by_code"] = {
        name: int(number) for name, number in zip(codes.names, counted, strict=True) if name
    }
    return part


def latency(requests: Requests) -> Part:
    """Of those that were answered in full; the queue of all that were let in."""
    answered = requests.where(requests.is_("status", "ok"))
    admitted = requests.where(~requests.is_("status", "refused"))
    return {
        "ttft_s": spread(answered["ttft_s"]),
        "tpot_ms": spread(tpot_ms(answered)),
        "e2e_s": spread(answered["e2e_s"]),
        "wait_s": spread(admitted["wait_s"]),
    }


def precision(requests: Requests) -> Part:
    """Half widths of 95 % intervals within this one run, by batches, as shares of the values."""
    answered = requests.where(requests.is_("status", "ok"))
    order = np.argsort(answered["number"], kind="stable")
    part: Part = {}
    for column in ("ttft_s", "e2e_s"):
        values = answered[column][order]
        part[f"{column}.mean"] = batch_interval(values, _mean).relative_half
        part[f"{column}.p99"] = batch_interval(values, _p99).relative_half
    return part


def _mean(values: FloatArray) -> float:
    return float(values.mean())


def _p99(values: FloatArray) -> float:
    return float(np.quantile(values, 0.99))


def goodput(requests: Requests, slo: Mapping[str, Slo], length_s: float) -> Part:
    """Requests that kept what their class was promised, of all that arrived."""
    good = met(requests, slo)
    part: Part = {
        "requests_per_s": float(good.sum()) / length_s,
        "attainment": _share(good, np.ones(len(good), dtype=np.bool_)),
    }
    for name in slo:
        part[name] = _share(good, requests.is_("request_class", name))
    return part


def _share(good: BoolArray, among: BoolArray) -> float | None:
    count = int(among.sum())
    return float((good & among).sum()) / count if count else None


def throughput(requests: Requests, from_s: float, until_s: float) -> Part:
    """What ended within the window, a second."""
    end_s = requests["at_s"] + requests["e2e_s"]
    inside = requests.is_("status", "ok") & (end_s >= from_s) & (end_s <= until_s)
    length_s = max(until_s - from_s, 1e-9)
    return {
        "offered_per_s": float((requests["at_s"] >= from_s).sum()) / length_s,
        "requests_per_s": float(inside.sum()) / length_s,
        "prompt_tokens_per_s": float(requests["prompt_tokens"][inside].sum()) / length_s,
        "completion_tokens_per_s": float(requests["said_tokens"][inside].sum()) / length_s,
    }


def attempts(requests: Requests) -> Part:
    """How often one Mac was not enough, and what of the prompts caches had."""
    admitted = requests.where(requests["attempts"] > 0)
    count = max(len(admitted), 1)
    answered = requests.where(requests.is_("status", "ok"))
    prompt = int(answered["prompt_tokens"].sum())
    return {
        "attempts_mean": float(admitted["attempts"].mean()) if len(admitted) else None,
        "retried_share": float((admitted["attempts"] - admitted["hedged"] > 1).sum()) / count,
        "continued_share": float((admitted["continuations"] > 0).sum()) / count,
        "hedged_share": float(admitted["hedged"].sum()) / count,
        "cache_hit_share": float(answered["cached_tokens"].sum()) / prompt if prompt else None,
    }


def machines(macs: Sequence[MacUsed]) -> Part:
    """How busy the Macs were, how evenly, and what was loaded; over the whole run."""
    busy = [mac.busy_s / mac.here_s for mac in macs if mac.here_s > 0]
    here_h = sum(mac.here_s for mac in macs) / HOUR_S
    loads = sum(mac.loads for mac in macs)
    earned = [mac.earned_nano for mac in macs]
    return {
        "count": len(macs),
        "utilisation_mean": float(np.mean(busy)) if busy else None,
        "utilisation_min": min(busy, default=None),
        "utilisation_max": max(busy, default=None),
        "idle_share": sum(mac.jobs == 0 for mac in macs) / max(len(macs), 1),
        "earned_gini": gini(earned),
        "earned_jain": jain(earned),
        "jobs_gini": gini([mac.jobs for mac in macs]),
        "earned_per_hour_usd": sum(earned) / NANO_PER_USD / here_h if here_h else None,
        "losses": sum(mac.losses for mac in macs),
        "loads": loads,
        "loads_per_mac_hour": loads / here_h if here_h else None,
        "loaded_gb": sum(mac.loaded_bytes for mac in macs) / 1e9,
        "loading_share": sum(mac.loading_s for mac in macs) / (here_h * HOUR_S) if here_h else None,
    }


def consumers(requests: Requests) -> Part:
    """How alike consumers were treated: what was delivered of what was asked, and how soon."""
    names = requests.text("consumer")
    kinds = len(names.names)
    asked = np.bincount(names.codes, requests["output_tokens"], kinds)
    said = np.bincount(names.codes, requests["said_tokens"], kinds)
    served = said[asked > 0] / asked[asked > 0]
    first = requests["ttft_s"]
    known = np.isfinite(first)
    counts = np.bincount(names.codes[known], minlength=kinds)
    sums = np.bincount(names.codes[known], first[known], kinds)
    means = sums[counts > 0] / counts[counts > 0]
    return {
        "count": int((np.bincount(names.codes, minlength=kinds) > 0).sum()),
        "served_jain": jain(served.tolist()),
        "served_min": float(served.min()) if len(served) else None,
        "ttft_jain": jain(means.tolist()),
        "ttft_gini": gini(means.tolist()),
        "gap_over_bound": worst_gap(requests),
    }


def money(requests: Requests) -> Part:
    """What was charged. Costs are per million tokens of prompt and completion together."""
    cost = int(requests["cost_nano"].sum())
    answered = requests.where(requests.is_("status", "ok"))
    tokens = int(answered["prompt_tokens"].sum() + answered["said_tokens"].sum())
    return {
        "revenue_nano": cost,
        "providers_nano": int(requests["provider_nano"].sum()),
        "fees_nano": int(requests["fee_nano"].sum()),
        "revenue_usd": cost / NANO_PER_USD,
        "usd_per_million_tokens": cost / NANO_PER_USD * MILLION / tokens if tokens else None,
    }


def prediction(requests: Requests) -> Part:
    """How near the router's word for the first token came to what was, and what regret it had.

    It speaks when it grants a slot, so the queue before is left out; and only of the first Mac,
    so requests that needed another one are.
    """
    said, was = requests["predicted_ttft_s"], requests["ttft_s"] - requests["wait_s"]
    plain = (requests["attempts"] == 1) & ~requests["hedged"]
    known = plain & np.isfinite(said) & np.isfinite(was) & (was > 0)
    error = (said[known] - was[known]) / was[known]
    return {
        "count": int(known.sum()),
        "ttft_bias": float(error.mean()) if len(error) else None,
        "ttft_bias_median": float(np.median(error)) if len(error) else None,
        "ttft_mape": float(np.abs(error).mean()) if len(error) else None,
        "regret_ms": spread(requests["regret_ms"].astype(np.float64)),
    }
