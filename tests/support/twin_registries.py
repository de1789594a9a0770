"""The half of the twin ledgers that is no request: customers, keys, prices, machines, money."""

from __future__ import annotations

from collections.abc import Callable

from market import keys
from market.accounting.books import Books
from market.accounting.chart import Code, Posting
from market.accounting.prices import Price
from market.accounting.state_rows import KeyRow, OwnerRow, scopes_text
from market.errors import MarketError
from market.types import AccountId, KeyId, MachineId, ModelId
from tests.support.books import portrait
from tests.support.ledger_model import DAY_NS, Model, ModelKey

MODEL = ModelId("qwen3.5-27b-claude-opus-8bit")  # 100 and 780 nano-USD per token

MOVES: dict[str, list[tuple[Posting, Code, Code]]] = {
    "top_up": [(Posting.TOP_UP, Code.STRIPE_CLEARING, Code.CONSUMER_CASH)],
    "refund": [(Posting.REFUND, Code.CONSUMER_CASH, Code.STRIPE_CLEARING)],
    "goodwill": [(Posting.GOODWILL, Code.GOODWILL, Code.CONSUMER_PROMO)],
    "payout": [
        (Posting.PAYOUT, Code.PROVIDER_EARNINGS, Code.PAYOUT_IN_TRANSIT),
        (Posting.PAYOUT_SENT, Code.PAYOUT_IN_TRANSIT, Code.STRIPE_CLEARING),
    ],
    "payout_back": [
        (Posting.PAYOUT, Code.PROVIDER_EARNINGS, Code.PAYOUT_IN_TRANSIT),
        (Posting.PAYOUT_RETURNED, Code.PAYOUT_IN_TRANSIT, Code.PROVIDER_EARNINGS),
    ],
}
_POT_OF = {
    Code.CONSUMER_PROMO: "promo",
    Code.CONSUMER_CASH: "cash",
    Code.PROVIDER_EARNINGS: "earnings",
    Code.PAYOUT_IN_TRANSIT: "leaving",
}


def key_hash(key: str) -> bytes:
    return key.encode().ljust(32, b"\0")


class Registries:
    """Acts on both sides that no request is part of."""

    books: Books
    model: Model
    wall_ns: int

    @property
    def next_ns(self) -> int:
        """The ledger time of the next act: the wall clock, never going back."""
        return max(self.books.last_ts_ns + 1, self.wall_ns)

    def portrait(self) -> dict[str, object]:
        """Everything that decides the future, in an order of its own."""
        return portrait(self.books)

    def owner(
        self, name: str, promo_nano: int, day_tokens: int | None, fee_bps: int | None
    ) -> None:
        row = OwnerRow(
            AccountId(name), name, "operator", self.books.stamp(self.wall_ns),
            tokens_per_day=day_tokens, fee_bps=fee_bps,
        )  # fmt: skip
        if row.id in self.books.customers:
            self.books.change_owner(
                self.books.customers.get(row.id).row._replace(
                    tokens_per_day=day_tokens, fee_bps=fee_bps
                )
            )
        else:
            self.books.create_owner(row, promo_nano)
            self.model.grant(name, promo_nano)
        self.model.day_tokens[name], self.model.own_fee[name] = day_tokens, fee_bps

    def freeze(self, name: str, *, frozen: bool) -> None:
        row = self.books.customers.get(AccountId(name)).row
        self.books.change_owner(row._replace(frozen="a dispute" if frozen else ""))
        (self.model.frozen.add if frozen else self.model.frozen.discard)(name)

    def key(self, name: str, owner: str, caps: dict[str, int | None], ends_ns: int | None) -> None:
        """A new key, or other caps for a known one."""
        known = self.model.keys.get(name)
        row = KeyRow(
            KeyId(name), AccountId(known.owner if known else owner), key_hash(name), "",
            "sk-coster-abcd", scopes_text(keys.INFERENCE_SCOPES),
            self.books.stamp(self.wall_ns), ends_ns, None, "", *caps.values(),
        )  # fmt: skip
        if known:
            old = self.books.customers.key(row.owner, row.id).row
            self.books.change_key(
                old._replace(cap_day_nano=caps["day"], cap_week_nano=caps["week"],
                             cap_month_nano=caps["month"], expires_ns=ends_ns)
            )  # fmt: skip
            known.caps, known.ends_ns = caps, ends_ns
        else:
            self.books.add_key(row)
            self.model.keys[name] = ModelKey(owner, caps, ends_ns=ends_ns)

    def revoke(self, name: str) -> None:
        key = self.model.keys[name]
        self.books.revoke(AccountId(key.owner), KeyId(name), self.books.stamp(self.wall_ns))
        key.revoked = True

    def price(self, prices: tuple[int, int, int]) -> None:
        at_ns = self.books.stamp(self.wall_ns)
        self.books.set_price(MODEL, Price(*prices), actor="op", reason="", now_ns=at_ns)
        self.model.prices = prices

    def claim(self, machine: str, owner: str) -> None:
        """Link a machine; a machine of somebody else stays theirs."""
        at_ns = self.books.stamp(self.wall_ns)
        if self.model.linked.get(machine, owner) != owner or owner.startswith("unclaimed_"):
            self._refused(lambda: self.books.link(MachineId(machine), AccountId(owner), at_ns))
        else:
            self.books.link(MachineId(machine), AccountId(owner), at_ns)
            moved = self.books.claim(MachineId(machine), AccountId(owner), 0, at_ns)
            assert moved == self.model.claim(machine, owner)

    def _refused(self, act: Callable[[], object]) -> None:
        before = self.portrait()
        try:
            act()
        except MarketError:
            assert self.portrait() == before
        else:
            raise AssertionError("it should have been refused")

    def move(self, what: str, owner: str, sum_nano: int) -> None:
        """Money at the market's border, as far as the pot that it comes from goes."""
        first = _POT_OF.get(MOVES[what][0][1])
        if first:
            sum_nano = min(sum_nano, self.model.pots[first, owner])
        if sum_nano < 1:
            return
        ledger, pots = self.books.ledger, self.model.pots
        for posting, debit, credit in MOVES[what]:
            giver, taker = _POT_OF.get(debit), _POT_OF.get(credit)
            at_ns = self.books.stamp(self.wall_ns)
            ledger.post(
                f"moved:{what}:{at_ns}", 0,  # no payment: those have rows of their own
                debit=ledger.account(debit, owner if giver else ""),
                credit=ledger.account(credit, owner if taker else ""),
                amount_nano=sum_nano, posting=posting, ts_ns=at_ns,
            )  # fmt: skip
            if giver:
                pots[giver, owner] -= sum_nano
            else:
                self.model.came_in += sum_nano
            if taker:
                pots[taker, owner] += sum_nano
            else:
                self.model.went_out += sum_nano

    def tidy_up(self) -> None:
        """What the accountant does once a minute."""
        at_ns = self.books.stamp(self.wall_ns)
        assert self.books.ledger.mature(at_ns // DAY_NS, at_ns) == self.model.mature(
            at_ns // DAY_NS
        )
        changes = self.books.ledger.changes
        assert self.books.answers.forget(at_ns, changes) == self.model.forget(at_ns)
        if changes.fold is None:
            folding = self.books.folding
            folding.fold(folding.to_fold(at_ns // 10**9)[1], changes)
            folding.forget(folding.to_forget(at_ns // 10**9)[1], changes)
