"""A seeded life of a market: thousands of acts on the books and on the model beside them.

The same seed gives the same life to the last bit, so that a failure can be lived again.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from market.accounting.store import LedgerStore
from market.types import Usage
from tests.support.ledger_model import DAY_NS, Lost, Wanted
from tests.support.twin import Twin
from tests.support.twin_registries import MOVES

OWNERS = [f"acct_{number}" for number in range(12)]
MACHINES = [f"mac_{number}" for number in range(6)]
OPEN_MAX = 60
KEYS_MAX = 60


class Life:
    """One market, lived by a random number generator."""

    def __init__(self, seed: int, opener: Callable[[], LedgerStore] | None = None) -> None:
        self.rng = random.Random(seed)
        self.twin = Twin(fee_bps=777, mature_days=2, crashes=False, opener=opener)
        self.requests = self.opened_keys = 0
        self.keys: list[str] = []
        for owner in OWNERS:
            self.twin.owner(owner, self.rng.randrange(5_000_000), None, None)
        for _ in OWNERS:
            self.new_key()
        self.acts: list[Callable[[], None]] = []
        for act, weight in (
            (self.admit, 34), (self.settle, 16), (self.checkpoint, 8), (self.void, 4),
            (self.repeat, 6), (self.pass_time, 4), (self.move, 9), (self.limit, 2),
            (self.new_key, 1), (self.change_owner, 1), (self.price, 1), (self.claim, 1),
            (self.restart, 1),
        ):  # fmt: skip
            self.acts += [act] * weight

    def live(
        self, steps: int, *, commit_every: int, check_every: int, check_growth: float = 0.0
    ) -> None:
        """That many acts; commits, restarts and checks come in between.

        A check reads all the books: in a long life one comes each time they have grown by this
        share, and no sooner than after `check_every` acts.
        """
        check_at = check_every
        for step in range(1, steps + 1):
            self.rng.choice(self.acts)()
            if step % commit_every == 0:
                self.twin.commit()
            if step == check_at:
                self.twin.check()
                check_at += max(check_every, int(step * check_growth))
        self.twin.check()
        self.restart()
        self.twin.check_reads()

    # ── acts ──────────────────────────────────────────────────────────────────────────

    def some_request(self) -> str:
        """An open request mostly; at times an ended one, or one nobody has heard of."""
        held = self.twin.model.open
        if held and self.rng.random() < 0.95:
            return self.rng.choice(list(held))
        return f"req_{self.rng.randrange(self.requests + 2)}"

    def usage(self, request: str) -> Usage:
        """Within the hold mostly."""
        rng, made = self.rng, self.twin.model.open.get(request)
        prompt = rng.randrange(made.prompt + 1) if made else rng.randrange(400)
        longest = made.longest * made.choices if made else 400
        tokens = longest if rng.random() < 0.3 else rng.randrange(longest + 1)
        too_many = rng.random() < 0.03
        return Usage(prompt, tokens + too_many * 10_000, rng.randrange(prompt + 1))

    def payee(self, machine: str) -> str:
        at = self.rng.random()
        return f"unclaimed_{machine}" if at < 0.4 else self.rng.choice(OWNERS)

    def lost(self, usage: Usage) -> tuple[list[Lost], int]:
        """Macs that were lost on the way, seldom more than one, and what the finisher asks.

        At times what no answer can be: too many parts, more tokens than there are, no ask.
        """
        rng = self.rng
        asks = [100, 100, 95, 50, 1] if rng.random() < 0.99 else [0, 101, -5]
        ask = rng.choice(asks) if rng.random() < 0.3 else 100
        if rng.random() < 0.7:
            return [], ask
        left, macs = usage.completion_tokens, []
        for _ in range(rng.choice([1, 1, 2, 3, 8, 8, 9])):
            tokens = rng.randrange(left + 1) if rng.random() < 0.98 else left + 1
            machine = rng.choice(MACHINES)
            macs.append(Lost(self.payee(machine), machine, tokens, rng.choice([100, 90, 33])))
            left = max(0, left - tokens)
        return macs, ask

    def admit(self) -> None:
        rng = self.rng
        if len(self.twin.model.open) >= OPEN_MAX:
            return self.settle()
        self.requests += 1
        self.twin.admit(
            Wanted(
                f"req_{self.requests}", rng.choice(self.keys), rng.randrange(400),
                rng.choice([None, rng.randrange(1, 300)]), 300, rng.choice([1, 1, 1, 3]),
                f"idem_{rng.randrange(3)}" if rng.random() < 0.2 else None,
                rng.choice(["body_1", "body_1", "body_2"]),
            )
        )  # fmt: skip
        return None

    def settle(self) -> None:
        request, machine = self.some_request(), self.rng.choice(MACHINES)
        usage = self.usage(request)
        self.twin.settle(request, self.payee(machine), machine, usage, *self.lost(usage))

    def checkpoint(self) -> None:
        request, machine = self.some_request(), self.rng.choice(MACHINES)
        payee = self.payee(machine) if self.rng.random() < 0.8 else None
        usage = self.usage(request)
        self.twin.checkpoint(request, payee, machine, usage, *self.lost(usage))

    def void(self) -> None:
        self.twin.void(self.some_request())

    def repeat(self) -> None:
        done = self.twin.done
        if done:
            del done[:-200]
            self.twin.repeat(self.rng.randrange(len(done)))

    def pass_time(self) -> None:
        seconds = self.rng.choice([1, 5, 20, 45, 61, 3_600])
        self.twin.tick_ns += seconds * 10**9
        self.twin.wall_ns += seconds * 10**9 * self.rng.choice([1, 1, 1, 1, -1])
        if self.rng.random() < 0.05:
            self.twin.wall_ns += self.rng.randrange(-3, 4) * DAY_NS
        self.twin.sweep()
        self.twin.tidy_up()

    def move(self) -> None:
        self.twin.move(
            self.rng.choice(sorted(MOVES)), self.rng.choice(OWNERS), self.rng.randrange(1, 900_000)
        )

    def caps(self) -> dict[str, int | None]:
        rng = self.rng
        return {
            window: rng.randrange(4_000_000) if rng.random() < 0.3 else None
            for window in ("day", "week", "month")
        }

    def limit(self) -> None:
        key, rng = self.rng.choice(self.keys), self.rng
        self.twin.key(
            key, "", self.caps(), self.twin.next_ns + DAY_NS if rng.random() < 0.1 else None
        )
        if rng.random() < 0.05 and len(self.keys) > len(OWNERS):
            self.twin.revoke(key)
            self.keys.remove(key)

    def new_key(self) -> None:
        if len(self.keys) >= KEYS_MAX:
            return self.limit()
        self.opened_keys += 1
        key = f"key_{self.opened_keys}"
        self.twin.key(key, OWNERS[self.opened_keys % len(OWNERS)], self.caps(), None)
        self.keys.append(key)
        return None

    def change_owner(self) -> None:
        rng = self.rng
        self.twin.owner(
            rng.choice(OWNERS), 0, rng.choice([None, None, rng.randrange(60_000)]),
            rng.choice([None, rng.randrange(10_001)]),
        )  # fmt: skip

    def restart(self) -> None:
        """Stop and start again, at times with a clock that was set while nobody looked."""
        self.twin.wall_ns += self.rng.choice([0, 0, -1, 1]) * DAY_NS
        self.twin.restart()

    def price(self) -> None:
        price_in = self.rng.randrange(300)
        self.twin.price((price_in, self.rng.randrange(price_in + 1), self.rng.randrange(1_000)))

    def claim(self) -> None:
        machine = self.rng.choice(MACHINES)
        owner = self.payee(machine) if self.rng.random() < 0.2 else self.rng.choice(OWNERS)
        self.twin.claim(machine, owner)
