"""What operators see of the gateways: counted where it happens, described, and drawn."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from market.errors import Unavailable
from market.metrics import family_of, labelled, parts_of
from market.types import JobFailure
from serve_app import genai
from serve_app import metric_names as names
from serve_app.counters import Counters
from serve_app.exposition import FAMILIES, exposition
from serve_app.limits import Limits
from serve_app.measures import Measures
from tests.http.asgi_client import Exchange, ask, chat, settled
from tests.http.ledger_market import open_market
from tests.http.memory_accountant import TEN_DOLLARS
from tests.http.memory_fleet import Mac
from tests.http.memory_market import Market
from tests.http.routed_fleet import RoutedFleet

DASHBOARDS = Path(__file__).resolve().parents[2] / "dashboards"
DEMO = "coster/demo"
LEGACY = {"model": DEMO, "prompt": "abc", "max_tokens": 3}


def counted(market: Market, name: str, **labels: str | int) -> float:
    return market.app.counters().get(labelled(name, **labels), 0.0)


async def test_an_answer_is_measured_from_its_arrival_to_its_end(market: Market) -> None:
    """One observation each of first token, time per token, whole request and its tokens."""
    await ask(chat(stream=True)).go(market.app)

    about = {"route": "chat", "model": DEMO}
    for family in (names.TTFT, names.TOKEN_SECONDS):
        assert counted(market, f"{family.name}_count", **about) == 1.0
    assert counted(market, f"{names.REQUEST_SECONDS.name}_count", **about, error="") == 1.0
    tokens = f"{names.REQUEST_TOKENS.name}_sum"
    assert counted(market, tokens, **about, type="input") == 22.0
    assert counted(market, tokens, **about, type="output") == 24.0
    assert counted(market, names.COMPLETION_TOKENS, model=DEMO) == 24.0
    assert counted(market, f"{names.ATTEMPTS.name}_bucket", le="1") == 1.0


async def test_gaps_are_counted_between_batches_of_tokens(tmp_path: Path) -> None:
    """One gap fewer than writes with tokens, however an answer is cut into writes."""
    market = Market(tmp_path, Limits(coalesce_s=0.0))
    for mac in market.fleet.macs:
        mac.pace_s = 0.002
    exchange = await ask(chat(stream=True, max_tokens=6)).go(market.app)

    writes = sum(b'"content":"' in m.get("body", b"") for m in exchange.out[1:])
    gaps = counted(market, f"{names.GAP.name}_count", model=DEMO)
    assert writes - 1 <= gaps <= 5
    assert counted(market, f"{names.GAP.name}_sum", model=DEMO) > 0


async def test_a_refusal_says_which_gate_it_was(market: Market) -> None:
    """Key, request, admission, routing and serving are told apart, each with its code."""
    await ask(key="sk-nobody").go(market.app)
    await ask(chat(max_tokens=-1)).go(market.app)
    market.fund(1)
    await ask().go(market.app)
    market.fund(TEN_DOLLARS)
    market.fleet.error = Unavailable("None.", None, "no_provider", 1.0)
    await ask().go(market.app)
    market.fleet.error = None
    for mac in market.fleet.macs:
        mac.fails = [JobFailure("engine", "It broke.")]
    await ask().go(market.app)

    prefix = names.REJECTIONS + "{"
    told = {
        tuple(parts_of(key)[1].values()): value
        for key, value in market.app.counters().items()
        if key.startswith(prefix)
    }
    assert told == {
        ("key", "invalid_api_key"): 1.0,
        ("request", "out_of_range"): 1.0,
        ("admission", "balance"): 1.0,
        ("routing", "no_provider"): 1.0,
        ("serving", "attempts_exhausted"): 1.0,
    }
    assert counted(market, names.FAILOVERS) == 2.0
    assert counted(market, f"{names.ATTEMPTS.name}_bucket", le="0") == 2.0


async def test_tokens_are_counted_when_they_are_charged(market: Market) -> None:
    """Also those of an answer that its client left; none of one that failed."""
    for mac in market.fleet.macs:
        mac.pace_s = 0.002
    await ask(chat(stream=True), leave_after=3).go(market.app)
    await settled(market)

    charged = sum(row.completion_tokens for row in market.accountant.rows.values())
    assert 0 < charged < 24
    assert counted(market, names.COMPLETION_TOKENS, model=DEMO) == charged


async def test_other_routes_are_counted_by_their_pattern(market: Market) -> None:
    """What a caller wrote into a path is no label: it could be anything."""
    for path in ("/v1/models", "/v1/models/a/b/c", "/v1/generations/req_secret", "/no/such/thing"):
        await Exchange(b"", path=path, method="GET").go(market.app)

    keys = [key for key in market.app.counters() if key.startswith(names.API_REQUESTS)]
    routes = {parts_of(key)[1]["route"] for key in keys}
    assert routes == {"/v1/models", "/v1/models/{model_id:path}",
                      "/v1/generations/{request_id}", "unknown"}  # fmt: skip


async def everything(market: Market) -> dict[str, float]:
    """Counters of a gateway that has seen many kinds of ends."""
    await ask(chat(stream=True)).go(market.app)
    await ask(LEGACY, path="/v1/completions").go(market.app)
    await ask(chat(stream=True, n=2)).go(market.app)
    await ask(key=None).go(market.app)
    await ask(chat(stream=True), leave_after=1).go(market.app)
    await ask(headers={"Idempotency-Key": "k1"}).go(market.app)
    await ask(headers={"Idempotency-Key": "k1"}).go(market.app)
    market.fleet.macs[0].fails = [JobFailure("lost", "Gone.")]
    await ask().go(market.app)
    await Exchange(b"", path="/v1/pricing", method="GET").go(market.app)
    return market.app.counters()


async def test_everything_a_gateway_counts_is_described(market: Market) -> None:
    """Each sample has a family with just its labels."""
    for key in await everything(market):
        name, labels = parts_of(key)
        family = family_of(name, FAMILIES)
        assert family is not None, key
        labels.pop("le", None)
        assert tuple(labels) == family.labels, key


async def test_the_page_is_read_by_prometheus_own_parser(market: Market) -> None:
    """Every family is read back with its kind, its help and the very values."""
    values = await everything(market)
    strange = labelled(names.API_REQUESTS, route='a"b\\c\nd', status=200)
    page = exposition({**values, strange: 1.0}).decode()

    read = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    for key, value in {**values, strange: 1.0}.items():
        name, labels = parts_of(key)
        assert read[name, tuple(sorted(labels.items()))] == value
    assert "untyped" not in page


async def test_conventional_names_repeat_ours_and_measure_nothing_anew(market: Market) -> None:
    """Each OpenTelemetry name has the buckets, sums and counts of the histogram it stands for."""
    values = await everything(market)
    also = dict(genai.also_known_as(values))

    for theirs, ours in (
        ("gen_ai_server_time_to_first_token_seconds", names.TTFT.name),
        ("gen_ai_server_request_duration_seconds", names.REQUEST_SECONDS.name),
        ("gen_ai_client_token_usage", names.REQUEST_TOKENS.name),
        ("gen_ai_server_time_per_output_token_seconds", names.TOKEN_SECONDS.name),
    ):
        here = sorted(v for k, v in values.items() if parts_of(k)[0].startswith(ours + "_"))
        there = sorted(v for k, v in also.items() if parts_of(k)[0].startswith(theirs + "_"))
        assert here == there
        assert here
    legacy = labelled(
        "gen_ai_server_time_to_first_token_seconds_count",
        gen_ai_provider_name="coster",
        gen_ai_operation_name="text_completion",
        gen_ai_request_model=DEMO,
    )
    assert also[legacy] == 1.0


def test_conventional_buckets_are_those_that_are_asked_for() -> None:
    """The bounds are the specification's, so dashboards made for it draw ours."""
    bounds = {family.name: family.bounds for family in genai.FAMILIES}

    assert bounds["gen_ai_server_request_duration_seconds"] == tuple(
        0.01 * 2**power for power in range(14)
    )
    assert bounds["gen_ai_server_time_per_output_token_seconds"] == (
        0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
    )  # fmt: skip
    assert bounds["gen_ai_client_token_usage"] == tuple(4.0**power for power in range(14))


def test_one_observation_is_seen_at_once_wherever_it_is_looked_up() -> None:
    """Measures of one model are one object, so that nothing is counted apart."""
    measures = Measures(Counters())

    assert measures.of("chat", DEMO) is measures.of("chat", DEMO)  # type: ignore[arg-type]
    assert measures.of("chat", DEMO) is not measures.of("completion", DEMO)  # type: ignore[arg-type]


# ── what is drawn ─────────────────────────────────────────────────────────────────────

NAME = re.compile(r"\b(?:coster|gen_ai)_[a-z0-9_]+\b")
SELECTED = re.compile(r"\b((?:coster|gen_ai)_[a-z0-9_]+)\{([a-z_]+)")
GROUPED = re.compile(r"by \(([a-z_, ]+)\)")


def dashboard() -> dict[str, Any]:
    return dict(json.loads((DASHBOARDS / "market.json").read_text()))


def drawn() -> list[str]:
    return [t["expr"] for panel in dashboard()["panels"] for t in panel.get("targets", ())]


def alarms() -> list[str]:
    groups = yaml.safe_load((DASHBOARDS / "alerts.yml").read_text())["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


@pytest.mark.parametrize("expression", [*drawn(), *alarms()])
def test_whatever_is_drawn_or_alarmed_on_is_exposed(expression: str) -> None:
    """Each name in an expression is a family's, its labels are that family's, and a rate is
    taken only of what grows.
    """
    labels: set[str] = {"le"}
    found = [name for name in NAME.findall(expression) if family_of(name, FAMILIES)]
    assert found, expression
    for name in NAME.findall(expression):
        if name.startswith("gen_ai_") and name in labels | {
            label for family in genai.FAMILIES for label in family.labels
        }:
            continue
        family = family_of(name, FAMILIES)
        assert family is not None, f"{name} is not exposed"
        labels |= set(family.labels)
        grows = re.search(rf"(?:rate|increase)\({name}", expression) is not None
        assert grows == (family.kind != "gauge"), name
    for name, label in SELECTED.findall(expression):
        family = family_of(name, FAMILIES)
        assert family is not None
        assert label in family.labels
    for grouped in GROUPED.findall(expression):
        assert {label.strip() for label in grouped.split(",")} <= labels


async def test_a_quiet_market_s_page_has_what_is_drawn_and_alarmed_on(tmp_path: Path) -> None:
    """Every name has its TYPE before its first event, and every count whose labels are known a
    zero: an increase of what appears as 1 is none.
    """
    async with open_market(tmp_path, Mac("a")) as market:
        fleet = RoutedFleet(*market.fleet.macs)
        fleet.beat()
        page = exposition({
            **market.app.counters(),
            **fleet.state.metrics(time.monotonic(), macs=True),
            **await market.ledger.accountant.metrics(),
        }).decode()  # fmt: skip
    read = {family.name: family for family in text_string_to_metric_families(page)}

    names_drawn = {name for e in (*drawn(), *alarms()) for name in NAME.findall(e)}
    families = [found for name in names_drawn if (found := family_of(name, FAMILIES))]
    for family in families:
        assert read[family.name.removesuffix("_total")].type == family.kind, family.name
    begun = {family.name for family in read.values() if family.samples}
    known = {(), ("model",), ("name",), ("op",)}
    counts = [f for f in families if f.kind == "counter" and f.labels in known]
    from_the_start = {f.name.removesuffix("_total") for f in counts if "_tokens_" not in f.name}
    assert from_the_start <= begun
    stale = {sample.labels["name"] for sample in read["coster_gateway_stale_bodies"].samples}
    assert stale == set(names.PUBLIC_BODIES)


def test_the_dashboard_draws_what_an_operator_asks_first() -> None:
    """Requests, rejections, queues, attempts, times, tokens, holds, books, engines, placement."""
    named = [family_of(name, FAMILIES) for e in drawn() for name in NAME.findall(e)]
    shown = {family.name for family in named if family is not None}

    assert shown >= {
        "coster_gateway_requests_total", "coster_gateway_rejections_total",
        "coster_router_queue_depth", "coster_router_attempts_total",
        "coster_gateway_ttft_seconds", "coster_gateway_inter_token_gap_seconds",
        "coster_gateway_completion_tokens_total", "coster_ledger_open_holds",
        "coster_ledger_imbalance_nano_usd", "coster_mac_steps_total",
        "coster_mac_memory_used_bytes", "coster_router_swaps_total",
        "coster_router_loads_total", "coster_router_breakers",
        "coster_gateway_continuations_total", "coster_gateway_hedges_total",
    }  # fmt: skip


def test_panels_do_not_lie_on_each_other() -> None:
    """Every panel has its own place on a grid of 24 columns."""
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
