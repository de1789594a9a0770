"""Known answers: how fair the queue is, and whose the money is, through the whole real world."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

import simulator.world.run as world_run
from market.accounting.chart import Code
from market.catalogue import Catalogue
from market.money import NANO_PER_USD, asked_nano
from market.routing.fair_queue import INPUT_COST, OUTPUT_COST
from market.types import AccountId, ModelId
from simulator.records import Arrival
from simulator.results.columns import Requests
from simulator.results.fairness import worst_gap
from simulator.runs.experiment import Result, run
from simulator.setup.scenario_files import parse
from simulator.workloads.given import Given
from tests.support import lab_world
from tests.support import queue_kit as kit

Asked = tuple[float, str, int]
"""When, who, and how many tokens it will be."""


def served(asked: Iterable[Asked], macs: int) -> Requests:
    """Macs that do one at a time, and what became of each request."""
    rows = kit.Rows()
    world = kit.world(rows, macs, 1, "least_request", kit.MODEL)
    world.run(
        Given(
            Arrival(number, at_s, who, kit.MODEL, 1, tokens, tokens, "batch")
            for number, (at_s, who, tokens) in enumerate(sorted(asked))
        )
    )
    return rows.requests


def test_two_who_wait_throughout_are_served_alike_whatever_they_send() -> None:
    """One sends few long requests, one many that are ten times as short, all at once: as long as
    both wait, what they are given never parts by more than the bound of the fair queue, counted
    in what the answers really cost.
    """
    requests = served([(0.0, "long", 200)] * 100 + [(0.0, "short", 20)] * 500, macs=4)
    consumers, granted_s = requests.text("consumer"), requests["at_s"] + requests["wait_s"]
    both_s = min(granted_s[consumers.rows_of(who)].max() for who in ("long", "short"))
    cost = INPUT_COST * requests["prompt_tokens"] + OUTPUT_COST * requests["said_tokens"]
    given = [cost[consumers.rows_of(w) & (granted_s < both_s)].sum() for w in ("long", "short")]

    assert requests.is_("status", "ok").all()
    assert min(given) > 40 * cost.max(), "they waited together for long"
    gap = worst_gap(requests)
    assert gap is not None
    assert gap <= 1.0


def test_a_flood_costs_another_no_more_than_one_request_of_its() -> None:
    """Two Macs, 400 requests of one consumer at once, and another who asks now and then: at most
    one of the flood is served before each of the other's, and it never waits for two.
    """
    now_and_then = [(2.0 + 5.0 * number, "light", 50) for number in range(40)]
    requests = served([*now_and_then, *[(0.0, "flood", 200)] * 400], macs=2)
    consumers, granted_s = requests.text("consumer"), requests["at_s"] + requests["wait_s"]
    light, flood = consumers.rows_of("light"), consumers.rows_of("flood")

    overtaken = [
        int(((granted_s[flood] > at_s) & (granted_s[flood] < until_s)).sum())
        for at_s, until_s in zip(requests["at_s"][light], granted_s[light], strict=True)
    ]
    assert requests.is_("status", "ok")[light].all()
    assert requests["wait_s"][flood].max() > 100, "there was a flood"
    assert max(overtaken) <= 1
    assert requests["wait_s"][light].max() < 2 * kit.service_s([200])[0]


FEE_BPS = 333
BUDGET_NANO = 3_000_000
HARD = f"""
[faults]
crash_per_hour = 30
hang_per_hour = 6
hang_s = 20
partition_per_hour = 10

[market]
platform_fee_bps = {FEE_BPS}
"""
"""Everything that money can go astray by: lost Macs, answers that go on, odd fees, asks below the
market's price, and consumers who come to the end of what they have."""


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, world_run.World]:
    """Such a run, and the world that it was."""
    kept: list[world_run.World] = []

    class Kept(world_run.World):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)  # type: ignore[arg-type]
            kept.append(self)

    text = lab_world.SCENARIO.replace("ask_pct = 80", "ask_pct = 83") + HARD
    settings = {
        "run.requests": "1500", "workload.0.rate_per_s": "1.5",
        "workload.0.consumers.budget_usd": f"{BUDGET_NANO / NANO_PER_USD}",
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world_run, "World", Kept)
        out = tmp_path_factory.mktemp("hard") / "run"
        result = run(parse(text, "hard.toml", settings=settings), "random", out=out)
    return result, kept[0]


def test_money_is_conserved_to_the_nano_whatever_happens(
    hard: tuple[Result, world_run.World],
) -> None:
    """What each consumer had is what it was charged and what it has left; what was charged is
    what the Macs and the platform got: in the rows, in the books and in the Macs' own sums.
    """
    result, world = hard
    rows, books = result.requests, world.bank.books
    spent, earned, fees = (int(rows[f"{n}_nano"].sum()) for n in ("cost", "provider", "fee"))
    happened = result.summary["attempts"], result.summary["requests"]["by_code"]
    assert min(happened[0]["continued_share"], happened[0]["hedged_share"]) > 0.01, happened
    assert happened[1]["insufficient_balance"] > 10, happened

    assert spent == earned + fees
    assert earned == sum(mac.earned_nano for mac in result.machines)
    accounts = books.ledger.accounts()
    assert sum(a.posted_nano for a in accounts if a.code is Code.PLATFORM_FEE) == fees
    consumers = rows.text("consumer")
    for name in consumers.names:
        left = books.balance(AccountId(f"acct_{name}"))
        paid = int(rows["cost_nano"][consumers.rows_of(name)].sum())
        assert left.held_nano == 0
        assert left.balance_nano >= 0
        assert paid + left.balance_nano == BUDGET_NANO
    assert result.summary["world"]["problems"] == []
    checks = result.summary["checks"]
    assert [checks[f"{of}_off"] for of in ("money_nano", "earned_nano", "tokens")] == [0, 0, 0]


def test_each_answer_costs_its_tokens_at_what_its_mac_asks(
    hard: tuple[Result, world_run.World],
) -> None:
    """Recomputed from the price list: prompt and answer at the asked price, the fee its share of
    that, rounded down, and the rest the Mac's. What did not end well costs nothing.
    """
    result, _ = hard
    rows, cards, macs = result.requests, Catalogue().cards, result.machines
    models = rows.text("model")
    plain = rows.is_("status", "ok") & (rows["attempts"] == 1)

    assert plain.sum() > 300
    assert {macs[at].ask_pct for at in set(rows["mac"][plain].tolist())} == {83, 100}
    for at in np.flatnonzero(plain):
        card = cards[ModelId(models.names[models.codes[at]])]
        ask_pct = macs[int(rows["mac"][at])].ask_pct
        cost = asked_nano(card.price_in_nano, ask_pct) * int(rows["prompt_tokens"][at])
        cost += asked_nano(card.price_out_nano, ask_pct) * int(rows["said_tokens"][at])
        fee = cost * FEE_BPS // 10_000
        found = [int(rows[f"{name}_nano"][at]) for name in ("cost", "provider", "fee")]
        assert found == [cost, cost - fee, fee]
    assert not rows["cost_nano"][~rows.is_("status", "ok")].any()
