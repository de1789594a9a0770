"""Laws of scenarios: strict reading, and errors that name the file, the line, the key, the fix."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.errors import InvalidRequest, MarketError
from simulator.setup.scenario import Scenario
from simulator.setup.scenario_files import load, of_config, parse, set_values, shipped
from simulator.setup.settings import settings_of, swept_of
from simulator.setup.tables import lines_of
from tests.support.lab_world import SCENARIO


def small(**settings: str) -> Scenario:
    values = {key.replace("__", "."): text for key, text in settings.items()}
    return parse(SCENARIO, "small.toml", settings=values)


def refusal(text: str, **settings: str) -> str:
    """The words with which a text is refused."""
    values = {key.replace("__", "."): value for key, value in settings.items()}
    with pytest.raises(InvalidRequest) as caught:
        parse(text, "small.toml", settings=values)
    return caught.value.message


def test_every_shipped_scenario_is_a_scenario() -> None:
    """All of them parse, have from 8 to 12 Macs of at least four chips, and say what they are."""
    names = shipped()

    assert set(names) >= {
        *("demo", "heterogeneous", "multi_model", "shared_prefixes", "churn", "bursts"),
        *("price_sensitive", "overload"),
    }
    for name in names:
        scenario = load(name)
        assert scenario.name == name
        assert scenario.about
        assert 8 <= len(scenario.macs) <= 12
        assert len({mac.hardware.chip for mac in scenario.macs}) >= 4


def test_the_market_of_the_documentation_has_the_models_of_its_load() -> None:
    """Who copies the first commands of the page gets answers: `up` serves all that the `loadgen`
    behind it asks for.
    """
    page = (Path(__file__).parents[2] / "docs" / "research.md").read_text("utf-8")
    commands = [line.split("#")[0].split() for line in page.split("```")[1].splitlines()]
    (up,) = (words for words in commands if words[:2] == ["coster", "up"])
    (load_of,) = (words[2] for words in commands if words[:2] == ["coster", "loadgen"])

    served = {model for option, model in pairwise(up) if option == "--model"}

    assert served == set(load(load_of).models)


def test_what_a_manifest_keeps_is_the_same_scenario() -> None:
    """A scenario's canonical JSON parses to an equal scenario with the same hash."""
    scenario = small()

    again = of_config(json.loads(scenario.config), "manifest.json")

    assert again == scenario
    assert again.hash == scenario.hash


def test_the_hash_names_what_is_simulated_and_not_how_often() -> None:
    """Policy, seed and repeats leave the hash alone; anything else changes it."""
    base = small().hash

    assert small(policy="random", run__seed="99", run__repeat="3").hash == base
    assert small(run__requests="401").hash != base
    assert small(workload__0__rate_per_s="1.5").hash != base
    assert small(fleet__macs__0__ask_pct="99").hash != base


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("requests = 400", "request = 400", ("small.toml line 8, run.request", "unknown key")),
        ("requests = 400", "", ("needs an end", "requests = 10_000")),
        ("requests = 400", "requests = 0", ("line 8", "from 1 to")),
        ("requests = 400", "requests = 1.5", ("line 8", "whole number")),
        ("requests = 400", 'requests = "many"', ("line 8", "must be a number")),
        ("requests = 400", "requests = nan", ("small.toml line 8, run.requests", "nan")),
        ("seed = 7", "seed = -1", ("line 10", "from 0")),
        ("warmup_share = 0.1", "warmup_share = 0.1\nwarmup_s = 3", ("not both",)),
        ("warmup_share = 0.1", "duration_s = 10\nwarmup_s = 20", ("less than duration_s",)),
        ('"qwen3.5-14b"]', '"gpt-4"]', ("line 2, models", "there is no model 'gpt-4'")),
        ('"qwen3.5-14b"]', '"qwen3.5-7b"]', ("line 2, models", "each once")),
        ('"qwen3.5-14b"]', '"deepseek-v3"]', ("fits no Mac", "GiB", "larger Mac")),
        ('policy = "coster"', 'policy = "best"', ("line 3, policy", "There is no policy 'best'")),
        ('chip = "M1"', 'chip = "M9"', ("line 27, fleet.macs.3.chip", "Unknown chip")),
        ("count = 3\nchip", "count = 0\nchip", ("line 17, fleet.macs.1.count", "from 1")),
        ("count = 3\nchip", "colour = 3\nchip", ("line 17, fleet.macs.1.colour", "unknown key")),
        ("count = 3\nchip", 'models = ["x", 3]\nchip', ("line 17, fleet.macs.1.models", "list")),
        ("count = 3\nchip", "models = []\nchip", ("line 17, fleet.macs.1.models", "leave it out")),
        ("count = 3\nchip", 'private = "no"\nchip', ("line 17, fleet.macs.1.private", "true")),
        ("count = 3\nchip", 'trust = "me"\nchip', ("line 17, fleet.macs.1.trust", "basic")),
        ("ask_pct = 80", "ask_pct = 101", ("line 23, fleet.macs.2.ask_pct", "from 1 to 100")),
        ("ask_pct = 80", "memory_gb = 24", ("line 23, fleet.macs.2.memory_gb", "16 or 32 GB")),
        ("ask_pct = 80", "memory_gb = 512", ("line 23, fleet.macs.2.memory_gb", "M2 Pro")),
        ('count = 2\nchip = "M1"', "count = 2", ("line 25, fleet.macs.3", "has no chip")),
        ("[[workload]]", "[fleet]\nslot = 1\n[[workload]]", ("fleet.slot", "macs, file, slots")),
        ("mean = 600", "mean = inf", ("line 31, workload.0.prompt.exponential.mean", "inf")),
        ("mean = 600", "means = 600", ("line 31, workload.0.prompt.exponential",)),
        ("count = 6", "counts = 6", ("line 33, workload.0.consumers.counts", "unknown key")),
        ("[[workload]]", "[[workloads]]", ("small.toml", "workloads", "unknown key")),
        ("[[workload]]", "[faults]\ncrash_per_hour = -1\n[[workload]]", ("crash_per_hour",)),
        ("[[workload]]", "[faults]\nlightning = 1\n[[workload]]", ("faults.lightning",)),
        ("[[workload]]", "[faults]\nlying_share = 2\n[[workload]]", ("from 0 to 1",)),
        ("[[workload]]", "[slo]\nfast = 1\n[[workload]]", ("slo.fast", "interactive, batch")),
        ("[[workload]]", "[placement]\nenabled = 1\n[[workload]]", ("true or false",)),
        ("[[workload]]", "[market]\ncredit_usd = -1\n[[workload]]", ("market.credit_usd",)),
        (
            "rate_per_s = 1.0",
            "since = 2026-01-01",
            ("small.toml line 30, workload.0.since", "date"),
        ),
        ("models = [", "models = ", ("small.toml", "not TOML")),
    ],
)
def test_bad_scenarios_are_refused_by_name(old: str, new: str, words: tuple[str, ...]) -> None:
    """The refusal names the file, the line where there is one, the key and what is allowed."""
    assert old in SCENARIO

    message = refusal(SCENARIO.replace(old, new, 1))

    for word in words:
        assert word in message
    assert "small.toml" in message


FLEET = """# mine
[[macs]]
count = 2
chip = "M4 Max"

[[macs]]
count = 3
chip = "M4"
"""


def with_fleet_file(folder: Path, fleet: str) -> Scenario:
    """The small scenario with its Macs in a file beside it."""
    (folder / "fleet.toml").write_text(fleet, "utf-8")
    start, end = SCENARIO.index("[[fleet.macs]]"), SCENARIO.index("[[workload]]")
    text = SCENARIO[:start] + '[fleet]\nfile = "fleet.toml"\n\n' + SCENARIO[end:]
    return parse(text, "small.toml", folder)


def test_a_fleet_has_its_own_file(tmp_path: Path) -> None:
    """Macs may be told in a file of their own, which is then part of the scenario."""
    scenario = with_fleet_file(tmp_path, FLEET)

    assert [mac.name for mac in scenario.macs] == [
        *("m4-max-1", "m4-max-2", "m4-3", "m4-4", "m4-5"),
    ]
    assert of_config(json.loads(scenario.config), "manifest.json") == scenario


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"M4"', '"M4"\nmemory_gb = 512', ("fleet.toml line 9, macs.1.memory_gb", "16, 24 or 32")),
        ('"M4"', '"M9"', ("fleet.toml line 8, macs.1.chip", "Unknown chip")),
        ("count = 3", "colour = 3", ("fleet.toml line 7, macs.1.colour", "unknown key")),
        ("# mine", "slots = 3", ("fleet.toml line 1, slots", "unknown key", "macs")),
        ("# mine", "a b", ("fleet.toml is not TOML",)),
        (FLEET, "# mine", ("fleet.toml", "has no Macs")),
    ],
)
def test_what_is_wrong_in_a_fleet_file_is_said_with_its_own_line(
    old: str, new: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    """It is that file that has to be mended, not the scenario which names it."""
    with pytest.raises(InvalidRequest) as caught:
        with_fleet_file(tmp_path, FLEET.replace(old, new))

    for word in words:
        assert word in caught.value.message


def test_macs_that_are_real_have_what_they_say() -> None:
    """A folder of a live market tells of Macs with memory that the tables do not have; only who
    makes Macs up is held to what is sold.
    """
    config = json.loads(small().config)
    config["fleet"]["macs"][2]["memory_gb"] = 24

    assert of_config(config, "manifest.json").macs[5].hardware.memory_gb == 24
    config["fleet"]["file"] = "fleet.toml"
    with pytest.raises(InvalidRequest, match=r"manifest\.json, fleet\.file: .*in place"):
        of_config(config, "manifest.json")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("fleet.macs.2.memory_gb", "24", ("fleet.macs.2.memory_gb", "16 or 32 GB")),
        ("fleet.macs", "[{ chip = 'M4', memory_gb = 512 }]", ("fleet.macs.0.memory_gb", "M4")),
        ("fleet.macs", "3", ("fleet", "has no Macs")),
        ("fleet.macs", "[3]", ("fleet.macs.0", "not a table")),
    ],
)
def test_macs_that_are_set_are_read_as_strictly(
    key: str, value: str, words: tuple[str, ...]
) -> None:
    """A sweep over fleets makes Macs up as well."""
    message = refusal(SCENARIO, **{key.replace(".", "__"): value})

    for word in words:
        assert word in message


def test_a_sweep_over_macs_is_of_macs_that_are_sold() -> None:
    """Each point of a sweep is a setting of a scenario that is right already: what it sets of the
    fleet is looked at again, all of it together, and nothing else is.
    """
    config = json.loads(small().config)
    config["fleet"]["macs"][0]["memory_gb"] = 24  # a real one's

    set_values(config, {"run.seed": "3"})
    assert of_config(config, "a sweep").seed == 3
    config["fleet"]["macs"][0].pop("memory_gb")
    set_values(config, {"fleet.macs.1.memory_gb": "48", "fleet.macs.1.chip": "M4 Pro"})
    with pytest.raises(InvalidRequest, match=r"--set, fleet\.macs\.1\.memory_gb: .*no M1 with 48"):
        set_values(config, {"fleet.macs.1.chip": "M1"})
    for macs in ("3", "[3]", "[{}]", "[{ chip = 3 }]", "[{ chip = ['M1'] }]", "[{ chip = 'M9' }]"):
        set_values(config, {"fleet.macs": macs})
        with pytest.raises(InvalidRequest, match="a sweep, fleet"):
            of_config(config, "a sweep")


def test_a_run_may_have_two_ends() -> None:
    """Given both, what comes first ends it."""
    scenario = small(run__duration_s="60")

    assert (scenario.requests, scenario.duration_s) == (400, 60.0)


def test_a_fleet_without_macs_is_refused() -> None:
    """Nobody can be simulated."""
    text = SCENARIO[: SCENARIO.index("[[fleet.macs]]")] + "[[workload]]\nrate_per_s = 1\n"

    assert "has no Macs" in refusal(text)


def test_a_model_that_nobody_may_load_is_refused() -> None:
    """An allow-list of the owners can make a model impossible, and that is said."""
    text = SCENARIO.replace("count = 2\n", 'count = 2\nmodels = ["qwen3.5-7b"]\n')
    text = text.replace("count = 3\n", 'count = 3\nmodels = ["qwen3.5-7b"]\n')

    assert "no Mac of the fleet may load qwen3.5-14b" in refusal(text)


def test_a_setting_replaces_one_value() -> None:
    """Numbers, texts and lists are what TOML makes of them; other values stay."""
    scenario = small(workload__0__rate_per_s="2.5", policy="random", run__requests="1e3")

    workload = json.loads(scenario.config)["workload"][0]
    assert workload["rate_per_s"] == 2.5
    assert workload["consumers"] == {"count": 6}
    assert (scenario.policy, scenario.requests) == ("random", 1_000)


def test_a_rate_takes_the_place_of_the_other_kind_of_rate() -> None:
    """A scenario in shares of its fleet is played at a rate, and back, by one setting; two at
    once are refused.
    """
    shared = small(workload__0__rho="0.5")
    text = SCENARIO.replace("rate_per_s = 1.0", "rho = 0.5")

    rated = parse(text, "small.toml", None, {"workload.0.rate_per_s": "2"})

    assert "rate_per_s" not in json.loads(shared.config)["workload"][0]
    assert json.loads(rated.config)["workload"][0]["rate_per_s"] == 2
    both = {"workload__0__rho": "0.5", "workload__0__rate_per_s": "2"}
    assert "give rate_per_s, or rho" in refusal(SCENARIO, **both)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("workload__3__rate_per_s", "has 1 entries, from 0"),
        ("workload__x__rate_per_s", "has 1 entries, from 0"),
        ("run__seed__deep", "is a value and holds nothing"),
        ("run__sed", "unknown key"),
    ],
)
def test_a_setting_that_leads_nowhere_is_refused(key: str, words: str) -> None:
    """A typing error does not make an experiment."""
    assert words in refusal(SCENARIO, **{key: "1"})


def test_there_is_a_way_out_of_a_wrong_name() -> None:
    """An unknown scenario names the ones that there are."""
    with pytest.raises(InvalidRequest, match="there are bursts, churn, demo"):
        load("dmo")


def test_lines_are_found_through_lists_of_tables() -> None:
    """Each key is where it was written, also in the third of four tables of one name."""
    text = "a = 1\n[[b]]\nc = 1\n[[b]]\n# c = 2\nc = 3\n[b.d]\ne.f = 4\n[[b.g]]\n[[b.g]]\nh = 1\n"

    lines = lines_of(text)

    assert lines[("a",)] == 1
    assert lines[("b", 0, "c")] == 3
    assert lines[("b", 1, "c")] == 6
    assert lines[("b", 1, "d", "e", "f")] == 8
    assert lines[("b", 1, "g", 1, "h")] == 11


@given(st.text(max_size=200))
def test_no_text_breaks_the_reader(text: str) -> None:
    """Whatever is in the file, what is no scenario is refused, naming the file."""
    with pytest.raises(MarketError, match=r"any\.toml"):
        parse(text, "any.toml")


def test_settings_are_split_where_they_vary() -> None:
    """Commas in brackets and quotes belong to a value; the others part the values of a sweep."""
    fixed, over = swept_of(["a.b=1,2", 'c="x,y"', "d=[1,2]", "e={f = 1, g = 2},{f = 2}"])

    assert fixed == {"c": '"x,y"', "d": "[1,2]"}
    assert over == {"a.b": ["1", "2"], "e": ["{f = 1, g = 2}", "{f = 2}"]}


@pytest.mark.parametrize("texts", [["a"], ["=1"], ["a=1", "a=2"]])
def test_settings_that_say_nothing_are_refused(texts: list[str]) -> None:
    """No key, no value, or the same key twice."""
    with pytest.raises(InvalidRequest, match="--set"):
        settings_of(texts)


@pytest.mark.parametrize("texts", [["a=1"], ["a=1,1"], ["a=1,"]])
def test_a_sweep_needs_different_values(texts: list[str]) -> None:
    """One value, the same twice, or an empty one is no sweep."""
    with pytest.raises(InvalidRequest, match=r"several values|there twice"):
        swept_of(texts)
