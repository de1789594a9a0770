"""Known answers: what is wrong on purpose rings each alarm, in runs of the real world.

Where the policy is what is wrong, ours is silent at the same load: an alarm that always rings
says as little as one that never does.

A wrong choice alone does little harm: the filters leave out a Mac that has no slot or whose steps
became slow, and placement loads what is missing elsewhere. At four fifths of capacity the wrong
policy then rings next to nothing. So each of these runs takes away what would have rescued it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from market.catalogue import Catalogue
from market.policy.registry import Policy
from market.settings import PlacementSettings
from simulator.records import Arrival
from simulator.results import checks
from simulator.runs.experiment import run
from simulator.runs.tasks import WORLD
from simulator.setup.scenario import Scenario
from simulator.setup.scenario_files import parse
from simulator.workloads.given import Given
from simulator.world.run import Setting, Sink, Totals, World
from simulator.world.stand import Stand
from tests.support import lab_world

WRONG = "always_busiest"


@dataclass(frozen=True)
class Case:
    """What rings under the policy that is wrong, and what even ours cannot help."""

    why: str
    settings: Mapping[str, str]
    rung: frozenset[str]
    ours: frozenset[str] = field(default_factory=frozenset)
    world: str = WORLD


def names(*alarms: str) -> frozenset[str]:
    return frozenset(alarms)


ONE = "['qwen3.5-7b']"
LONG_NOW_AND_THEN = f"{{ values = [{'64, ' * 399}16000] }}"
CASES = (
    Case(
        "Slots without end, for work that may be slow: one Mac is given everything, at half of "
        "what all could do. It falls behind, its clients give up, and the others do nothing.",
        {
            "models": ONE, "fleet.slots": "1024", "run.requests": "800", "run.warmup_share": "0",
            "workload.0.rate_per_s": "2.25", "workload.0.class": "batch",
        },
        names("idle_while_waiting", "not_stable", "out_of_balance", "failures", "far_from_bound"),
    ),
    Case(
        "One prompt in 400 is very long: whoever reads it has the most to do, and is sent "
        "everybody else until it has no slot left.",
        {
            "models": ONE, "run.requests": "800", "workload.0.rate_per_s": "0.7",
            "workload.0.prompt": LONG_NOW_AND_THEN, "workload.0.output": "{ fixed = 40 }",
        },
        names("idle_while_waiting", "long_tail"),
    ),
    Case(
        "Half as much again is asked for as all Macs together can do. What is let in is in "
        "balance all the same: whose turn would come too late is told so at once.",
        {"run.requests": "600", "workload.0.rate_per_s": "5.0"},
        names("refusals"),
        names("refusals", "out_of_balance"),
    ),
    Case(
        "Whose answers were short begins to write long ones: until the first of those has ended "
        "nobody can know, and it has been given every slot.",
        {"fleet.macs": "[{ chip = 'M4 Max', count = 4 }]", "fleet.slots": "8",
         "run.warmup_share": "0"},
        names("unfair"),
        names("unfair", "out_of_balance", "not_stable"),
        f"{__name__}:suddenly_long",
    ),
)  # fmt: skip


def suddenly_long(scenario: Scenario, policy: Policy, seed: int, sink: Sink) -> Totals:
    """Two who always wait: one with answers of 200 tokens, one with 10 and suddenly with 2,000."""
    setting = Setting(
        scenario.macs, scenario.models[:1], Catalogue(), scenario.slots,
        placement=PlacementSettings(enabled=False),
    )  # fmt: skip
    asked = [("even", 200)] * 300 + [("sudden", 10)] * 300 + [("sudden", 2_000)] * 100
    arrivals = (
        Arrival(number, number / 100, who, scenario.models[0], 100, tokens, 4_096, "batch")
        for number, (who, tokens) in enumerate(asked)
    )
    return World(setting, policy, seed, sink).run(Given(arrivals))


def rung(case: Case, policy: str | Policy, out: Path) -> set[str]:
    what = parse(lab_world.SCENARIO, "small.toml", settings=case.settings)
    result = run(what, policy, out=out, world=case.world)
    return {alarm["name"] for alarm in result.summary["alarms"]}


@pytest.mark.parametrize("number", range(len(CASES)))
def test_the_policy_that_is_wrong_on_purpose_rings_the_alarms(number: int, tmp_path: Path) -> None:
    """It rings what it must, and its money adds up all the same; ours rings nothing of that
    which a policy can help.
    """
    case = CASES[number]

    wrong, ours = rung(case, WRONG, tmp_path / "wrong"), rung(case, "coster", tmp_path / "ours")

    assert case.rung <= wrong
    assert "books" not in wrong | ours
    assert ours <= case.ours


def test_who_never_gives_up_is_unfinished(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where clients wait for ever, what one overloaded Mac has not done is open in the end."""
    monkeypatch.setattr("simulator.world.door.TOTAL_S", 1e9)
    monkeypatch.setattr("simulator.world.run.DRAIN_S", 10.0)

    assert "unfinished" in rung(CASES[0], WRONG, tmp_path / "run")


def test_a_mac_that_does_not_count_all_it_delivers_is_found_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A token less than was charged for, now and then: the books do not add up, and say so."""
    honest = Stand.served

    def short(self: Stand, prompt: int, cached: int, completion: int) -> None:
        honest(self, prompt, cached, completion - (self.used.jobs % 50 == 0))

    monkeypatch.setattr(Stand, "served", short)

    assert "books" in rung(CASES[1], "coster", tmp_path / "run")


def test_every_alarm_has_been_heard() -> None:
    """There is no alarm that nothing rings: the last one, policy faults, is rung by policies of
    one's own in test_own_policies.
    """
    every = set(re.findall(r'ring\("(\w+)"', inspect.getsource(checks.alarms)))

    assert every == {"books", "unfinished", "policy_faults"}.union(*(case.rung for case in CASES))
