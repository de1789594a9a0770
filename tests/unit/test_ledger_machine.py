"""Any history at all, on the real books and on a small model of them: they agree after each step.

By default 150 histories of up to 50 steps; COSTER_LONG=1 runs 4,000.
"""

from __future__ import annotations

import os
from dataclasses import replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from market.types import Usage
from tests.support.ledger_model import DAY_NS, Lost, Purchase, Wanted
from tests.support.memory_audit import recount
from tests.support.twin import Twin
from tests.support.twin_registries import MOVES

LONG = os.environ.get("COSTER_LONG") == "1"

OWNERS = st.sampled_from(["ann", "bob", "cat"])
KEYS = st.sampled_from(["key_ann_0", "key_ann_0", "key_bob_0", "key_bob_1"])
MACHINES = st.sampled_from(["mac_1", "mac_2"])
PAYEES = st.sampled_from(["ann", "bob", "cat", "unclaimed_mac_1", "unclaimed_mac_2", "new"])
PARTS = st.sampled_from([0.0, 0.3, 1.0])
ENDS = st.one_of(st.none(), st.none(), st.integers(0, 100_000))
ASKS = st.sampled_from([100, 100, 100, 99, 50, 1])
SHARE = st.one_of(st.just(0.0), st.floats(0.0, 0.6))
LOST = st.lists(st.tuples(PAYEES, MACHINES, SHARE, ASKS), max_size=3)
"""Macs that were lost, each after a share of the tokens that were still to come."""
REQUESTS = st.integers(1, 6).map("req_{}".format)
SUMS = st.integers(1, 2_000_000)
LIMITS = st.one_of(st.none(), st.none(), st.integers(0, 1_500_000))
CAPS = st.fixed_dictionaries({"day": LIMITS, "week": LIMITS, "month": LIMITS})
NO_CAPS: dict[str, int | None] = {"day": None, "week": None, "month": None}
FEES = st.one_of(st.none(), st.integers(0, 10_000))
PRICES = st.tuples(st.integers(0, 200), st.integers(1, 1_000)).flatmap(
    lambda pair: st.tuples(st.just(pair[0]), st.integers(0, pair[0]), st.just(pair[1]))
)
USAGES = st.integers(0, 500).flatmap(
    lambda prompt: st.builds(Usage, st.just(prompt), st.integers(0, 500), st.integers(0, prompt))
)
WANTED = st.builds(
    Wanted,
    st.just(""),
    KEYS,
    st.integers(0, 500),
    st.one_of(st.none(), st.integers(1, 400)),
    st.just(400),
    st.integers(1, 2),
    st.one_of(st.none(), st.none(), st.just("idem")),
    st.sampled_from(["body_1", "body_2"]),
)


Share = tuple[str, str, float, int]


def lost_of(macs: list[Share], usage: Usage) -> list[Lost]:
    """Parts that fit into this usage."""
    left, lost = usage.completion_tokens, []
    for payee, machine, share, ask in macs:
        lost.append(Lost(payee, machine, int(left * share), ask))
        left -= lost[-1].tokens
    return lost


class TwoLedgers(RuleBasedStateMachine):
    """Every rule is done to both sides; a difference is an error."""

    @initialize(
        fee_bps=st.integers(0, 10_000),
        days=st.integers(0, 3),
        promo=st.sampled_from([3_000_000, 700_000]),
    )
    def begin(self, fee_bps: int, days: int, promo: int) -> None:
        self.count = 0
        self.twin = Twin(fee_bps=fee_bps, mature_days=days)
        for owner in ("ann", "bob", "cat"):
            self.twin.owner(owner, promo, None, None)
        for number in "01":
            for owner in ("ann", "bob"):
                self.twin.key(f"key_{owner}_{number}", owner, NO_CAPS, None)
        self.twin.commit()

    def an_open_one(self, back: int) -> Purchase:
        held = list(self.twin.model.open.values())
        return held[-1 - back % len(held)]

    def something_is_open(self) -> bool:
        return bool(self.twin.model.open)

    @rule(want=WANTED)
    def admit(self, want: Wanted) -> None:
        self.count += 1
        self.twin.admit(replace(want, request=f"req_{self.count}"))

    @rule(key=KEYS, prompt=st.integers(0, 200), payee=PAYEES, machine=MACHINES, part=PARTS)
    def serve(self, key: str, prompt: int, payee: str, machine: str, part: float) -> None:
        """A whole request that asks for all it can get, and gets a part of it."""
        self.count += 1
        self.twin.admit(Wanted(f"req_{self.count}", key, prompt, None, 300))
        if f"req_{self.count}" in self.twin.model.open:
            self.settle(0, payee, machine, part)

    @precondition(something_is_open)
    @rule(back=st.integers(0, 5), payee=PAYEES, machine=MACHINES, part=PARTS, macs=LOST, ask=ASKS)
    def settle_several(
        self, back: int, payee: str, machine: str, part: float, macs: list[Share], ask: int
    ) -> None:
        """One answer by several Macs, or by one below the market's prices."""
        made = self.an_open_one(back)
        usage = Usage(made.prompt, int(made.longest * made.choices * part), int(made.prompt * part))
        self.twin.settle(made.request, payee, machine, usage, lost_of(macs, usage), ask)

    @precondition(something_is_open)
    @rule(back=st.integers(0, 5), payee=PAYEES, machine=MACHINES, part=PARTS, macs=LOST, ask=ASKS)
    def reach_several(
        self, back: int, payee: str, machine: str, part: float, macs: list[Share], ask: int
    ) -> None:
        """An open request has come so far, over several Macs."""
        made = self.an_open_one(back)
        usage = Usage(made.prompt, int(made.longest * made.choices * part))
        self.twin.checkpoint(made.request, payee, machine, usage, lost_of(macs, usage), ask)

    @precondition(something_is_open)
    @rule(back=st.integers(0, 5), payee=PAYEES, machine=MACHINES, part=PARTS)
    def settle(self, back: int, payee: str, machine: str, part: float) -> None:
        made = self.an_open_one(back)
        tokens = int(made.longest * made.choices * part)
        usage = Usage(made.prompt, tokens, int(made.prompt * part))
        self.twin.settle(made.request, payee, machine, usage)

    @precondition(something_is_open)
    @rule(back=st.integers(0, 5), payee=PAYEES, machine=MACHINES, part=PARTS)
    def reach(self, back: int, payee: str, machine: str, part: float) -> None:
        """An open request has come so far; its gateway may never be heard of again."""
        made = self.an_open_one(back)
        usage = Usage(made.prompt, int(made.longest * made.choices * part))
        self.twin.checkpoint(made.request, payee, machine, usage)

    @precondition(something_is_open)
    @rule(back=st.integers(0, 5))
    def give_up(self, back: int) -> None:
        self.twin.void(self.an_open_one(back).request)

    @rule(request=REQUESTS, what=st.sampled_from(["settle", "void", "checkpoint"]), usage=USAGES)
    def stray(self, request: str, what: str, usage: Usage) -> None:
        """Word of a request that may be open, ended or unheard of."""
        if what == "settle":
            self.twin.settle(request, "bob", "mac_1", usage)
        elif what == "void":
            self.twin.void(request)
        else:
            self.twin.checkpoint(request, "bob", "mac_1", usage)

    @precondition(lambda self: bool(self.twin.done))
    @rule(at=st.integers(0, 1_000))
    def repeat(self, at: int) -> None:
        self.twin.repeat(at)

    @rule(seconds=st.sampled_from([1, 29, 59, 61, 3_600, 86_400]))
    def time_passes(self, seconds: int) -> None:
        self.twin.wall_ns += seconds * 10**9
        self.twin.tick_ns += seconds * 10**9
        self.twin.sweep()
        self.twin.tidy_up()

    @rule(half_days=st.integers(-8, 8))
    def the_wall_clock_is_set(self, half_days: int) -> None:
        self.twin.wall_ns += half_days * DAY_NS // 2
        self.twin.tidy_up()

    @rule(key=KEYS, caps=st.one_of(st.just(NO_CAPS), CAPS), ends_s=ENDS)
    def limit(self, key: str, caps: dict[str, int | None], ends_s: int | None) -> None:
        ends_ns = None if ends_s is None else self.twin.next_ns + ends_s * 10**9
        self.twin.key(key, "", dict(caps), ends_ns)

    @rule(act=st.sampled_from(["revoke", "freeze", "thaw"]), number=st.sampled_from("0111"))
    def close(self, act: str, number: str) -> None:
        if act == "revoke":
            self.twin.revoke(f"key_bob_{number}")
        else:
            self.twin.freeze("bob", frozen=act == "freeze")

    @rule(name=OWNERS, tokens=st.one_of(st.none(), st.integers(500, 3_000)), fee=FEES)
    def change_owner(self, name: str, tokens: int | None, fee: int | None) -> None:
        self.twin.owner(name, 0, tokens, fee)

    @rule(prices=PRICES)
    def price(self, prices: tuple[int, int, int]) -> None:
        self.twin.price(prices)

    @rule(machine=MACHINES, owner=OWNERS)
    def claim(self, machine: str, owner: str) -> None:
        self.twin.claim(machine, owner)

    @rule(what=st.sampled_from(sorted(MOVES)), owner=OWNERS, sum_nano=SUMS)
    def move(self, what: str, owner: str, sum_nano: int) -> None:
        self.twin.move(what, owner, sum_nano)

    @rule(what=st.sampled_from(["commit", "restart", "crash"]))
    def disk(self, what: str) -> None:
        {
            "commit": self.twin.commit,
            "restart": self.twin.restart,
            "crash": self.twin.crash,
        }[what]()

    def teardown(self) -> None:
        """The sums by time are those of the journal, whatever was folded, crashed or went back."""
        if hasattr(self, "twin"):
            self.twin.commit()
            problems: list[str] = []
            recount(self.twin.disk, problems.append)
            assert problems == []

    @invariant()
    def both_agree(self) -> None:
        if hasattr(self, "twin"):
            self.twin.check()


TestTwoLedgers = TwoLedgers.TestCase
TestTwoLedgers.settings = settings(
    max_examples=4_000 if LONG else 150,
    stateful_step_count=50,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
    derandomize=not LONG,
)
