"""Tables become workloads, or a word about what is wrong with them, where, and what to do."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.errors import InvalidRequest
from market.policy.preferences import Preferences
from simulator.setup.tables import Table
from simulator.workloads.gaps import Gaps
from simulator.workloads.intensity import Day, OnOff, Spikes
from simulator.workloads.laws import Exponential, Fixed, Lognormal, Pair
from simulator.workloads.parse_laws import ARRIVALS, LAWS
from simulator.workloads.parsing import KEYS, parse
from simulator.workloads.published import PUBLISHED
from simulator.workloads.spec import Drift, Rate, Replayed, Synthetic, Wishes
from simulator.workloads.trace_formats import FORMATS
from tests.support.workload_kit import MODELS, PLAIN, drawn, workloads_of

DOCS = (Path(__file__).parents[2] / "docs" / "workloads.md").read_text("utf-8")
EXAMPLES = re.findall(r"^```toml\n(.*?)^```", DOCS, re.MULTILINE | re.DOTALL)


def test_a_table_says_what_its_workload_is() -> None:
    """Each key arrives where it belongs, in its unit."""
    chat, trace = workloads_of("""
        [[workload]]
        name = "chat"
        rho = 0.7
        arrivals = { kind = "mmpp", on_s = 20, off_s = 60, ratio = 8, cv = 1.3 }
        day = { swing = 0.6 }
        spikes = { factor = 5, last_s = 60, at_s = [10, 500] }
        prompt = { lognormal = { median = 400, sigma = 0.8, max = 4_000 } }
        output = { exponential = { mean = 150 } }
        correlation = 0.2
        models = { "gemma-4-12b" = 3, "qwen3.5-7b" = 1 }
        drift = { every_s = 600, share = 0.5 }
        consumers = { count = 5, zipf = 1.2, budget_usd = 0.5 }
        sessions = { turns = { fixed = 4 }, think_s = 20 }
        prefixes = { count = 2, tokens = 700 }
        class = "batch"
        deadline_s = 90
        max_tokens = 900
        preferences = { sort = "latency", trust = "verified", max_price_pct = [60, 80], share = 0.3}

        [[workload]]
        kind = "trace"
        file = "some.csv"
        format = "azure"
        speed = 3
        from_s = 10
        until_s = 20
        renamed = { "*" = "qwen3.5-7b" }
        """)

    assert isinstance(chat, Synthetic)
    assert (chat.rate, chat.gaps) == (Rate(rho=0.7), Gaps("gamma", 1.3))
    assert chat.rhythm.on_off == OnOff(20, 60, 8)
    assert chat.rhythm.day == Day(86_400, 0.6, 50_400)
    assert chat.rhythm.spikes == Spikes(5, 60, at_s=(10, 500))
    assert chat.lengths == Pair(Lognormal(400, 0.8, 4_000), Exponential(150, 10_000_000), 0.2)
    assert [card.id for card in chat.models.cards] == ["gemma-4-12b", "qwen3.5-7b"]
    assert (chat.models.shares, chat.models.drift) == ((0.75, 0.25), Drift(600, 0.5))
    assert (chat.consumers.count, chat.consumers.zipf) == (5, 1.2)
    assert chat.consumers.budget_nano == 500_000_000
    assert chat.sessions is not None
    assert (chat.sessions.turns, chat.sessions.closed) == (Fixed(4), False)
    assert chat.prefixes is not None
    assert (chat.prefixes.count, chat.prefixes.tokens) == (2, Fixed(700))
    assert (chat.terms.request_class, chat.terms.deadline_s) == ("batch", 90)
    assert chat.terms.max_tokens == 900
    assert chat.terms.wishes == Wishes(Preferences(sort="latency", trust="verified"), (60, 80), 0.3)
    assert isinstance(trace, Replayed)
    assert (trace.name, trace.path, trace.format) == ("trace1", Path("some.csv"), "azure")
    assert (trace.speed, trace.from_s, trace.until_s) == (3, 10, 20)
    assert [(name, card.id) for name, card in trace.renamed] == [("*", "qwen3.5-7b")]


def test_a_published_table_brings_its_correlation() -> None:
    """Prompt and answer of one trace go together as there, unless something else is said."""
    text = PLAIN.replace("exponential = { mean = 600 }", 'table = "arxiv_summarisation"')
    both = text.replace("exponential = { mean = 150 }", 'table = "arxiv_summarisation"')
    found = [
        spec.lengths.correlation  # type: ignore[union-attr]
        for case in (text, both, both + "correlation = 0")
        for spec in workloads_of(case)
    ]

    assert found == [0.0, -0.48, 0.0]


# ── the page ──────────────────────────────────────────────────────────────────────────


def test_the_examples_of_the_page_are_workloads() -> None:
    """What the documentation shows can be written like that, and what is not a file is drawn."""
    kinds = []
    for text in EXAMPLES:
        for spec in workloads_of(text):
            kinds.append((type(spec), spec.closed))
            if isinstance(spec, Synthetic) and not spec.closed:
                drawn(text.replace("rho = 0.7 ", "rate_per_s = 5 "), 100)

    assert set(kinds) == {(Synthetic, False), (Synthetic, True), (Replayed, False)}


def test_the_page_has_every_key_and_every_name() -> None:
    """No key, law, kind of arrivals, published table or format is left to be found in the code."""
    names = {key for keys in KEYS.values() for key in keys}

    for name in (*names, *LAWS, *ARRIVALS, *PUBLISHED, *FORMATS):
        assert f"`{name}`" in DOCS or f"{name} =" in DOCS, name


# ── what is wrong ─────────────────────────────────────────────────────────────────────

WRONG = {
    # what is added to a good table, what is said
    "burst = 2": r"lab\.toml line 6, workload\.0\.burst: unknown key; there are name, kind",
    "rho = 0.5": r"give rate_per_s, or rho",
    "name = 'a name that is far too long to be one'": r"workload\.0\.name: it must be 1 to 24",
    "name = 'a b'": r"workload\.0\.name: it must be 1 to 24",
    "kind = 'random'": "it must be one of synthetic, resampled, trace",
    "class = 'vip'": "it must be one of interactive, batch",
    "deadline_s = -1": r"line 6, workload\.0\.deadline_s: it must be from 0\.001",
    "deadline_s = nan": r"deadline_s: it must be from",
    "max_tokens = 0": r"max_tokens: it must be from 1",
    "max_tokens = 'many'": r"'usual', 'model' or 'exact'",
    "max_tokens = [1]": r"max_tokens: it must be a number",
    "correlation = 2": r"correlation: it must be from -1 to 1",
    "models = { 'gpt-9' = 1 }": r"models\.gpt-9: the scenario has no such model; it has qwen3",
    "models = { 'qwen3.5-7b' = 0 }": r"models: at least one model must have a weight",
    "models = ['qwen3.5-7b']": r"models: it must be a table",
    "drift = { share = 2 }": r"drift\.share: it must be from 0 to 1",
    "drift = { every = 2 }": r"drift\.every: unknown key; there are every_s, share",
    "consumers = { count = 0 }": r"consumers\.count: it must be from 1",
    "consumers = { count = 2.5 }": r"consumers\.count: it must be a whole number",
    "consumers = { cv = 2 }": r"arrivals of kind gamma or weibull",
    "consumers = { cv_90 = 0.5 }": r"cv_90: it must be from 1 to 40",
    "arrivals = { kind = 'pareto' }": r"arrivals\.kind: it must be one of poisson",
    "arrivals = { kind = 'poisson', cv = 2 }": r"arrivals of kind poisson have no cv",
    "arrivals = { cv = 2 }": r"arrivals of kind poisson have no cv",
    "arrivals = { kind = 'gamma' }": r"arrivals: it has no cv",
    "arrivals = { kind = 'mmpp', on_s = 1 }": r"arrivals: it has no off_s",
    "arrivals = { table = 'arxiv_summarisation' }": r"only lengths are known",
    "arrivals = { table = 'mine' }": r"arrivals\.table: it must be one of azure_2023_conv",
    "arrivals = { table = 'azure_2023_conv', cv = 1 }": r"give nothing beside it",
    "day = { period_s = 1 }": r"day\.period_s: it must be from 60",
    "day = { swing = 1.5 }": r"day\.swing: it must be from 0 to 1",
    "spikes = { factor = 5, last_s = 5 }": r"spikes: give per_hour, or the times",
    "spikes = { factor = 5, last_s = 5, at_s = [5, 1] }": r"the times must ascend",
    "spikes = { factor = 5, last_s = 5, at_s = ['x'] }": r"'x' is no number",
    "spikes = { last_s = 5, per_hour = 1 }": r"spikes: it has no factor",
    "sessions = { think_s = 5 }": r"sessions: it has no turns",
    "sessions = { turns = 0 }": r"sessions\.turns: it must be from 1",
    "sessions = { turns = 2, closed = 1 }": r"sessions\.closed: it must be true or false",
    "prefixes = { count = 0 }": r"prefixes\.count: it must be from 1",
    "prefixes = { tokens = 'x' }": r"prefixes\.fixed: it must be a number",
    "users = { count = 5 }": r"users say how many requests there are",
    "preferences = { sort = 'beauty' }": r"preferences\.sort: it must be one of price",
    "preferences = { max_price_pct = 120 }": r"max_price_pct: it must be from 1 to 100",
    "preferences = { max_price_pct = [90, 50] }": r"max_price_pct: give one number or two",
    "preferences = { only = 'prv_1' }": r"preferences\.only: it must be a list of texts",
    "preferences = { share = 2 }": r"preferences\.share: it must be from 0 to 1",
    "file = 'x.csv'": r"workload\.0\.file: unknown key",
    "kind = 'trace'": r"unknown key|it has no file",
}


@pytest.mark.parametrize("addition", WRONG)
def test_what_is_wrong_is_named(addition: str) -> None:
    """A key, a range, a kind: said with the place, what is wrong, and what there is instead."""
    with pytest.raises(InvalidRequest, match=WRONG[addition]):
        workloads_of(PLAIN + addition + "\n")


LENGTHS = {
    "{}": r"prompt: give exactly one of table, fixed",
    "{ fixed = 1, values = [2] }": r"prompt: give exactly one of",
    "{ pareto = 3 }": r"prompt\.pareto: unknown key; there are table",
    "{ table = 'mine' }": r"prompt\.table: it must be one of azure",
    "{ fixed = -1 }": r"prompt\.fixed: it must be from 0",
    "{ fixed = 'x' }": r"prompt\.fixed: it must be a number",
    "{ exponential = 5 }": r"prompt\.exponential: it must be a table",
    "{ exponential = { } }": r"prompt\.exponential: it has no mean",
    "{ lognormal = { median = 5 } }": r"prompt\.lognormal: it has no sigma",
    "{ lognormal = { median = 5, sigma = 9 } }": r"sigma: it must be from 0 to 5",
    "{ quantiles = [[0.5, 3]] }": r"give from 2 to 10000 points",
    "{ quantiles = [[0.5, 3], [0.4, 5]] }": r"shares and values must ascend",
    "{ quantiles = [[0.5, 3], [0.6, 2]] }": r"shares and values must ascend",
    "{ quantiles = [[0.5, 3], [1.6, 5]] }": r"each point is \[share, value\]",
    "{ quantiles = [[0.5, 3], 7] }": r"each point is \[share, value\]",
    "{ values = [] }": r"give a list of 1 to 10000 numbers",
    "{ values = [1, -2] }": r"each must be from 0",
    "5": r"prompt: it must be a table",
}


@pytest.mark.parametrize("law", LENGTHS)
def test_a_wrong_law_is_named(law: str) -> None:
    """A law of lengths that is none is said with its place."""
    text = PLAIN.replace("{ exponential = { mean = 600 } }", law)

    with pytest.raises(InvalidRequest, match=LENGTHS[law]):
        workloads_of(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PLAIN.replace("rate_per_s = 20\n", ""), "give rate_per_s, or rho"),
        (re.sub("prompt = .*\n", "", PLAIN), "it has no prompt"),
        (PLAIN + PLAIN.replace("[[workload]]", '[[workload]]\nname = "workload"'), "names differ"),
        ("[[workload]]\nkind = 'trace'\n", "it has no file"),
        ("[[workload]]\nkind = 'resampled'\nrate_per_s = 1\n", "it has no file"),
        ("[[workload]]\nkind = 'trace'\nfile = 'x'\nspeed = 2\nrho = 0.5\n", "not both"),
        ("[[workload]]\nkind = 'trace'\nfile = 'x'\nfrom_s = 5\nuntil_s = 4\n", "after from_s"),
        ("[[workload]]\nkind = 'trace'\nfile = 'x'\nformat = 'xls'\n", "like auto|mooncake"),
        ("[[workload]]\nkind = 'trace'\nfile = 7\n", "file: it must be the path of a file"),
        ("[[workload]]\nkind = 'trace'\nfile = 'x'\nprompt = { fixed = 1 }\n", "unknown key"),
        (
            "[[workload]]\nkind = 'trace'\nfile = 'x'\nrenamed = { a = 'gpt-9' }\n",
            "one of the scenario's models",
        ),
        (
            PLAIN.replace("rate_per_s = 20", "users = { count = 3 }\nconsumers = { cv = 2 }")
            + "arrivals = { kind = 'gamma', cv = 1 }\n",
            "users say how many",
        ),
    ],
)
def test_what_does_not_go_together_is_named(text: str, expected: str) -> None:
    """Two answers to one question, or none, are no workload."""
    with pytest.raises(InvalidRequest, match=expected):
        workloads_of(text)


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(
            st.sampled_from(["count", "kind", "cv", "mean", "fixed", "turns", "share", "x"]),
            below,
            max_size=3,
        )
    ),
    max_leaves=6,
)


@settings(max_examples=150)
@given(st.dictionaries(st.sampled_from(sorted({k for keys in KEYS.values() for k in keys})), ANY))
def test_any_table_is_a_workload_or_refused(values: dict[str, object]) -> None:
    """Whatever is in a table, nothing else comes of it than a workload or a word."""
    good = tomllib.loads(PLAIN)["workload"][0]
    table = Table({**good, **values}, "lab.toml", ("workload", 0))

    try:
        (found,) = parse([table], [*MODELS])  # type: ignore[list-item]
    except InvalidRequest as error:
        message = error.message
    else:
        message = f"lab.toml, workload.0: {found.name}"

    assert message.startswith("lab.toml, workload.0")
