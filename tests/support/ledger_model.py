"""The market's money as a child would keep it: named pots, and sums moved between them.

An independent second opinion on `market.accounting`, for tests that run both side by side.
It shares no arithmetic with the books: windows are calendar names, the longest affordable
answer is searched for and not divided out, and nothing here knows debits from credits.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from math import ceil

from market.types import Usage

POTS = ("promo", "cash", "earnings")
DAY_NS = 86_400 * 10**9
NOTHING = Usage(0, 0)


@dataclass(frozen=True)
class Lost:
    """A Mac that was lost after so many tokens, and what it asks in per cent."""

    payee: str
    machine: str
    tokens: int
    ask: int = 100


@dataclass
class Purchase:
    """One request that money is set aside for."""

    request: str
    owner: str
    key: str
    prompt: int
    asked: int | None
    cap: int
    choices: int
    longest: int
    legs: dict[str, int]
    prices: tuple[int, int, int]
    fee_bps: int
    made_ns: int
    lease_ns: int
    idempotency: str | None
    reached: Usage = NOTHING
    payee: str | None = None
    machine: str | None = None
    ask: int = 100
    lost: tuple[Lost, ...] = ()

    @property
    def total(self) -> int:
        return sum(self.legs.values())

    @property
    def tokens(self) -> int:
        return self.prompt + self.longest * self.choices


@dataclass
class Ended:
    """How a request ended: its status and the three sums."""

    status: str
    cost: int = 0
    provider: int = 0
    fee: int = 0


@dataclass
class ModelKey:
    """A key: whose, with which caps by the name of their window."""

    owner: str
    caps: dict[str, int | None]
    revoked: bool = False
    ends_ns: int | None = None


@dataclass
class Wanted:
    """A request that asks to be admitted."""

    request: str
    key: str
    prompt: int
    asked: int | None
    cap: int
    choices: int = 1
    idempotency: str | None = None
    contents: str | None = None


def windows(now_ns: int) -> dict[str, str]:
    """The names of the day, ISO week and month of a moment."""
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=now_ns // 10**9)
    year, week, _ = at.isocalendar()
    return {"day": f"{at:%Y-%m-%d}", "week": f"{year}-W{week}", "month": f"{at:%Y-%m}"}


@dataclass
class Model:
    """Everything that decides a request or a balance. Sums are nano-USD."""

    lease_ns: int
    fee_bps: int
    mature_days: int
    prices: tuple[int, int, int]
    pots: defaultdict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    lots: defaultdict[tuple[str, int], int] = field(default_factory=lambda: defaultdict(int))
    fees: int = 0
    came_in: int = 0
    went_out: int = 0
    day_tokens: dict[str, int | None] = field(default_factory=dict)
    own_fee: dict[str, int | None] = field(default_factory=dict)
    frozen: set[str] = field(default_factory=set)
    keys: dict[str, ModelKey] = field(default_factory=dict)
    open: dict[str, Purchase] = field(default_factory=dict)
    ended: dict[str, Ended] = field(default_factory=dict)
    spent: defaultdict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    used: defaultdict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    replays: dict[tuple[str, str], tuple[str | None, str, str, int]] = field(default_factory=dict)
    linked: dict[str, str] = field(default_factory=dict)
    jobs: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    takings: defaultdict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    promo_to: defaultdict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    swept_ns: int = 0

    # ── what may start ────────────────────────────────────────────────────────────────

    def expect(self, want: Wanted, now_ns: int) -> int | str | Purchase:
        """The status of the refusal, "replay", or the purchase that will be made."""
        key = self.keys[want.key]
        if key.revoked or (key.ends_ns is not None and now_ns >= key.ends_ns):
            return 401
        if key.owner in self.frozen:
            return 403
        if want.idempotency is not None:
            known = self.replays.get((key.owner, want.idempotency))
            if known is not None and known[1] != want.request:
                return "replay" if known[0] == want.contents and known[2] == "ended" else 409
        if want.request in self.open:
            made = self.open[want.request]
            was = (made.key, made.prompt, made.asked, made.cap, made.choices)
            same = was == (want.key, want.prompt, want.asked, want.cap, want.choices)
            return made if same else 409
        if want.request in self.ended:
            return 409
        return self._buy(want, key, now_ns)

    def _buy(self, want: Wanted, key: ModelKey, now_ns: int) -> int | Purchase:
        price_in, _, price_out = self.prices
        purse = sum(self.pots[pot, key.owner] for pot in POTS)
        room = min([purse, *self._rooms(want.key, key, now_ns)])
        day_room = self._day_room(key.owner, now_ns)
        least = want.asked or 1

        def dear(tokens: int) -> bool:
            return want.prompt * price_in + want.choices * tokens * price_out > room

        def many(tokens: int) -> bool:
            return day_room is not None and want.prompt + want.choices * tokens > day_room

        if many(least):
            return 429
        if dear(least):
            return 402
        fits = range(1, want.cap + 1)
        longest = bisect_right(fits, 0, key=lambda tokens: int(dear(tokens) or many(tokens)))
        longest = want.asked or longest
        left, legs = want.prompt * price_in + want.choices * longest * price_out, {}
        for pot in POTS:
            legs[pot] = min(left, self.pots[pot, key.owner])
            left -= legs[pot]
        fee_bps = self.own_fee[key.owner]
        return Purchase(
            want.request, key.owner, want.key, want.prompt, want.asked, want.cap, want.choices,
            longest, legs, self.prices, self.fee_bps if fee_bps is None else fee_bps, now_ns, 0,
            want.idempotency,
        )  # fmt: skip

    def _rooms(self, name: str, key: ModelKey, now_ns: int) -> Iterator[int]:
        for kind, window in windows(now_ns).items():
            cap = key.caps[kind]
            if cap is not None:
                held = sum(
                    made.total
                    for made in self.open.values()
                    if made.key == name and windows(made.made_ns)[kind] == window
                )
                yield cap - held - self.spent[name, window]

    def _day_room(self, owner: str, now_ns: int) -> int | None:
        limit, today = self.day_tokens[owner], windows(now_ns)["day"]
        if limit is None:
            return None
        reserved = sum(
            made.tokens
            for made in self.open.values()
            if made.owner == owner and windows(made.made_ns)["day"] == today
        )
        return limit - reserved - self.used[owner, today]

    def begin(self, made: Purchase, want: Wanted, tick_ns: int) -> None:
        """The request is under way."""
        made.lease_ns = tick_ns + self.lease_ns
        self.open[made.request] = made
        for pot, sum_nano in made.legs.items():
            self.pots[pot, made.owner] -= sum_nano
        if want.idempotency is not None:
            place = (made.owner, want.idempotency)
            self.replays[place] = (want.contents, made.request, "runs", made.made_ns)

    # ── how it ends ───────────────────────────────────────────────────────────────────

    def earner(self, payee: str, machine: str | None) -> str:
        """Who is paid when a machine names this payee."""
        return self.linked.get(machine, payee) if machine else payee

    def finish(
        self,
        made: Purchase,
        usage: Usage,
        payee: str | None,
        status: str,
        now_ns: int,
        lost: Sequence[Lost] = (),
        ask: int = 100,
    ) -> Ended:
        """Pay every Mac for what it delivered and give the rest back."""
        del self.open[made.request]
        done = Ended(status)
        purse = dict(made.legs)
        if payee is not None:
            rest, workers = usage.completion_tokens, [payee]
            for mac in lost:
                rest -= mac.tokens
                earner = self.earner(mac.payee, mac.machine)
                workers += [earner] if mac.tokens else []
                due = _sum(made, Usage(0, mac.tokens), mac.ask)
                self._pay(made, purse, done, earner, due, now_ns)
            last = Usage(usage.prompt_tokens, rest, usage.cached_tokens)
            self._pay(made, purse, done, payee, _sum(made, last, ask), now_ns)
            for worker in workers if done.cost or status == "settled" else ():
                self.jobs[worker].append(made.request)
        for pot in POTS:
            self.pots[pot, made.owner] += purse[pot]
        self._count(made, usage, done.cost, status)
        self.ended[made.request] = done
        return done

    def _pay(
        self, made: Purchase, purse: dict[str, int], done: Ended, payee: str, due: int, now_ns: int
    ) -> None:
        """What one Mac's tokens cost, out of what its consumer has set aside."""
        taken, left = {}, due
        for pot in POTS:
            taken[pot] = min(left, purse[pot])
            purse[pot] -= taken[pot]
            left -= taken[pot]
        assert left == 0
        barren = taken["promo"] if payee == made.owner else 0
        part = -(-(due - barren) * (10_000 - made.fee_bps) // 10_000)  # rounded up: the rest
        self.fees += due - part
        of_promo = 0 if barren else min(part, taken["promo"])
        late = of_promo if self.mature_days else 0
        if part:
            self.pots["earnings", payee] += part - late
            self.takings[payee, made.owner] += part
            self.promo_to[made.owner, payee] += of_promo
            if late:
                self.lots[payee, now_ns // DAY_NS + self.mature_days] += late
        done.cost, done.provider, done.fee = (
            done.cost + due, done.provider + part, done.fee + due - part,
        )  # fmt: skip

    def _count(self, made: Purchase, usage: Usage, cost: int, status: str) -> None:
        then = windows(made.made_ns)
        if self.day_tokens[made.owner] is not None:
            self.used[made.owner, then["day"]] += usage.prompt_tokens + usage.completion_tokens
        if any(cap is not None for cap in self.keys[made.key].caps.values()):
            for window in then.values():
                self.spent[made.key, window] += cost
        if made.idempotency is not None:
            place = (made.owner, made.idempotency)
            contents, request, _, made_ns = self.replays[place]
            assert request == made.request
            if cost or status == "settled":
                self.replays[place] = (contents, request, "ended", made_ns)
            else:
                del self.replays[place]

    def sweep(self, tick_ns: int) -> list[Purchase]:
        """Whose gateways have been silent too long; after a sleep everybody starts afresh."""
        slept = tick_ns - self.swept_ns > 60 * 10**9
        self.swept_ns = tick_ns
        if slept:
            self.restart(tick_ns)
            return []
        return [made for made in self.open.values() if made.lease_ns <= tick_ns]

    def restart(self, tick_ns: int) -> None:
        """Every lease begins again."""
        self.swept_ns = tick_ns
        for made in self.open.values():
            made.lease_ns = tick_ns + self.lease_ns

    # ── other money ───────────────────────────────────────────────────────────────────

    def grant(self, owner: str, sum_nano: int) -> None:
        self.pots["promo", owner] += sum_nano
        self.came_in += sum_nano

    def claim(self, machine: str, owner: str) -> int:
        """What the machine has earned goes to its owner, still held back where it was."""
        self.linked[machine] = owner
        giver, moved = f"unclaimed_{machine}", 0
        if self.pots["earnings", giver]:
            moved += self.pots["earnings", giver]
            self.pots["earnings", owner] += self.pots.pop(("earnings", giver))
        for payee, day in list(self.lots):
            if payee == giver:
                late = self.lots.pop((payee, day))
                self.lots[owner, day] += late
                moved += late
        return moved

    def mature(self, today: int) -> int:
        """Release what is due; returns how many lots that were."""
        due = [lot for lot in self.lots if lot[1] <= today]
        for payee, day in due:
            self.pots["earnings", payee] += self.lots.pop((payee, day))
        return len(due)

    def forget(self, now_ns: int) -> int:
        """Replays are kept for a day."""
        old = [
            place
            for place, (_, _, state, made_ns) in self.replays.items()
            if state == "ended" and now_ns - made_ns > DAY_NS
        ]
        for place in old:
            del self.replays[place]
        return len(old)

    def held(self, owner: str) -> int:
        return sum(made.total for made in self.open.values() if made.owner == owner)

    def total(self) -> int:
        """All the money there is, wherever it lies."""
        held = sum(made.total for made in self.open.values())
        return sum(self.pots.values()) + sum(self.lots.values()) + held + self.fees


def _sum(made: Purchase, usage: Usage, ask: int) -> int:
    """What these tokens cost at so many per cent of each price, rounded up to whole nanos."""
    price_in, price_cached, price_out = (ceil(Fraction(ask * p, 100)) for p in made.prices)
    fresh = usage.prompt_tokens - usage.cached_tokens
    return (
        fresh * price_in + usage.cached_tokens * price_cached + usage.completion_tokens * price_out
    )
