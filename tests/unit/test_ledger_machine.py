"""Any history at all, on the real books and on a small model of them: they agree after each step.

By default 100 histories of up to 50 steps; COSTER_LONG=1 runs 4,000.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from market.types import Usage
from tests.support.ledger_model import DAY_NS, Wanted
from tests.support.twin import MOVES, Twin

LONG = os.environ.get("COSTER_LONG") == "1"

OWNERS = st.sampled_from(["ann", "bob", "cat"])
KEYS = st.sampled_from([f"key_{owner}_{number}" for owner in ("ann", "bob") for number in "01"])
MACHINES = st.sampled_from(["mac_1", "mac_2"])
PAYEES = st.sampled_from(["ann", "bob", "cat", "unclaimed_mac_1", "unclaimed_mac_2", "new"])
PARTS = st.sampled_from([0.0, 0.3, 1.0])
REQUESTS = st.integers(0, 3).map("req_{}".format)
SUMS = st.integers(1, 2_000_000)
LIMITS = st.one_of(st.none(), st.none(), st.integers(0, 1_500_000))
CAPS = st.fixed_dictionaries({"day": LIMITS, "week": LIMITS, "month": LIMITS})
NO_CAPS: dict[str, int | None] = {"day": None, "week": None, "month": None}
FEES = st.one_of(st.none(), st.integers(0, 10_000))
PRICES = st.tuples(st.integers(0, 300), st.integers(0, 1_000)).flatmap(
    lambda pair: st.tuples(st.just(pair[0]), st.integers(0, pair[0]), st.just(pair[1]))
)
USAGES = st.integers(0, 500).flatmap(
    lambda prompt: st.builds(Usage, st.just(prompt), st.integers(0, 500), st.integers(0, prompt))
)
WANTED = st.builds(
    Wanted,
    REQUESTS,
    KEYS,
    st.integers(0, 500),
    st.one_of(st.none(), st.integers(1, 400)),
    st.just(400),
    st.integers(1, 2),
    st.one_of(st.none(), st.none(), st.sampled_from(["idem_1", "idem_2"])),
    st.sampled_from(["body_1", "body_2"]),
)


class TwoLedgers(RuleBasedStateMachine):
    """Every rule is done to both sides; a difference is an error."""

    @initialize(
        fee_bps=st.integers(0, 10_000), days=st.integers(0, 3), promo=st.integers(0, 5_000_000)
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

    @rule(want=WANTED, fresh=st.booleans())
    def admit(self, want: Wanted, *, fresh: bool) -> None:
        if fresh:
            self.count += 1
            want.request = f"req_new_{self.count}"
        self.twin.admit(want)

    @rule(key=KEYS, prompt=st.integers(0, 200), payee=PAYEES, machine=MACHINES, part=PARTS)
    def serve(self, key: str, prompt: int, payee: str, machine: str, part: float) -> None:
        """A whole request that asks for all it can get, and gets a part of it."""
        self.count += 1
        request = f"req_new_{self.count}"
        self.twin.admit(Wanted(request, key, prompt, None, 400))
        self.settle_an_open_one(0, payee, machine, part)

    @rule(request=REQUESTS, payee=PAYEES, machine=MACHINES, usage=USAGES)
    def settle(self, request: str, payee: str, machine: str, usage: Usage) -> None:
        self.twin.settle(request, payee, machine, usage)

    @rule(back=st.integers(0, 7), payee=PAYEES, machine=MACHINES, part=PARTS)
    def settle_an_open_one(self, back: int, payee: str, machine: str, part: float) -> None:
        held = list(self.twin.model.open.values())
        if held:
            made = held[-1 - back % len(held)]
            tokens = int(made.longest * made.choices * part)
            usage = Usage(made.prompt, tokens, int(made.prompt * part))
            self.twin.settle(made.request, payee, machine, usage)

    @rule(back=st.integers(0, 7), payee=PAYEES, machine=MACHINES, part=PARTS)
    def reach(self, back: int, payee: str, machine: str, part: float) -> None:
        """An open request has come so far; its gateway may never be heard of again."""
        held = list(self.twin.model.open.values())
        if held:
            made = held[-1 - back % len(held)]
            usage = Usage(made.prompt, int(made.longest * made.choices * part))
            self.twin.checkpoint(made.request, payee, machine, usage)

    @rule(request=REQUESTS)
    def void(self, request: str) -> None:
        self.twin.void(request)

    @rule(request=REQUESTS, payee=st.one_of(st.none(), PAYEES), machine=MACHINES, usage=USAGES)
    def checkpoint(self, request: str, payee: str | None, machine: str, usage: Usage) -> None:
        self.twin.checkpoint(request, payee, machine, usage)

    @rule(at=st.integers(0, 10_000))
    def repeat(self, at: int) -> None:
        if self.twin.done:
            self.twin.repeat(at)

    @rule(seconds=st.sampled_from([1, 29, 59, 61, 3_600, 86_400]))
    def time_passes(self, seconds: int) -> None:
        self.twin.wall_ns += seconds * 10**9
        self.twin.tick_ns += seconds * 10**9
        self.twin.sweep()

    @rule(days=st.integers(-8, 8))
    def the_wall_clock_is_set(self, days: int) -> None:
        self.twin.wall_ns += days * DAY_NS // 2

    @rule()
    def tidy_up(self) -> None:
        self.twin.tidy_up()

    @rule(key=KEYS, caps=CAPS, ends_s=st.one_of(st.none(), st.integers(0, 100_000)))
    def limit(self, key: str, caps: dict[str, int | None], ends_s: int | None) -> None:
        ends_ns = None if ends_s is None else self.twin.next_ns + ends_s * 10**9
        self.twin.key(key, "", dict(caps), ends_ns)

    @rule(key=KEYS)
    def lift_the_limits(self, key: str) -> None:
        self.twin.key(key, "", dict(NO_CAPS), None)

    @rule(key=st.sampled_from(["key_ann_1", "key_bob_1"]))
    def revoke(self, key: str) -> None:
        self.twin.revoke(key)

    @rule(name=OWNERS, tokens=st.one_of(st.none(), st.integers(0, 2_000)), fee=FEES)
    def change_owner(self, name: str, tokens: int | None, fee: int | None) -> None:
        self.twin.owner(name, 0, tokens, fee)

    @rule(name=OWNERS, frozen=st.booleans())
    def freeze(self, name: str, *, frozen: bool) -> None:
        self.twin.freeze(name, frozen=frozen)

    @rule(prices=PRICES)
    def price(self, prices: tuple[int, int, int]) -> None:
        self.twin.price(prices)

    @rule(machine=MACHINES, owner=OWNERS)
    def claim(self, machine: str, owner: str) -> None:
        self.twin.claim(machine, owner)

    @rule(what=st.sampled_from(sorted(MOVES)), owner=OWNERS, sum_nano=SUMS)
    def move(self, what: str, owner: str, sum_nano: int) -> None:
        self.twin.move(what, owner, sum_nano)

    @rule()
    def commit(self) -> None:
        self.twin.commit()

    @rule()
    def restart(self) -> None:
        self.twin.restart()

    @rule()
    def crash(self) -> None:
        self.twin.crash()

    @invariant()
    def both_agree(self) -> None:
        if hasattr(self, "twin"):
            self.twin.check()


TestTwoLedgers = TwoLedgers.TestCase
TestTwoLedgers.settings = settings(
    max_examples=4_000 if LONG else 100,
    stateful_step_count=50,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
    derandomize=not LONG,
)
