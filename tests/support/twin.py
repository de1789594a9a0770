"""The real books and the small model, side by side: every act is done to both and compared.

The books run over a store in memory, with the accountant's own order of things: what is not
known is looked up, what changed is taken and committed. The caller decides what happens and
when; after a step `check` compares everything that both sides know about money.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from copy import deepcopy
from typing import Any, TypeVar

from market import keys
from market.accounting.books import Books
from market.accounting.chart import Code, Posting
from market.accounting.holding import BookTerms
from market.accounting.laws import broken_laws
from market.accounting.prices import Price
from market.accounting.rows import LedgerStore
from market.accounting.state_rows import KeyRow, OwnerRow, scopes_text
from market.catalogue import Catalogue
from market.errors import MarketError
from market.messages import (
    Admit,
    Admitted,
    Balance,
    Checkpoint,
    Replay,
    Settle,
    Settled,
    Void,
    Voided,
)
from market.types import AccountId, KeyId, MachineId, ModelId, ProviderId, RequestId, Usage
from storage.memory import MemoryLedger, MemoryLedgerStore
from tests.support.books import portrait
from tests.support.ledger_model import DAY_NS, POTS, Model, ModelKey, Purchase, Wanted

MODEL = ModelId("qwen3.5-27b-claude-opus-8bit")  # 100 and 780 nano-USD per token
START_NS = 1_800_000_000 * 10**9
TTL_NS = 60 * 10**9
Result = TypeVar("Result")

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


def now(work: Coroutine[Any, Any, Result]) -> Result:
    """The result of a coroutine that never waits, which is all a store in memory has."""
    try:
        work.send(None)
    except StopIteration as done:
        result: Result = done.value
        return result
    raise AssertionError("it waited")


def key_hash(key: str) -> bytes:
    return key.encode().ljust(32, b"\0")


class Twin:
    """Two ledgers that must agree."""

    def __init__(
        self,
        *,
        fee_bps: int = 500,
        mature_days: int = 2,
        crashes: bool = True,
        opener: Callable[[], LedgerStore] | None = None,
    ) -> None:
        """`crashes`: keep what a crash would go back to; costs a copy per commit.

        `opener` opens the same ledger again and again, by a store that never waits.
        """
        self.terms = BookTerms(
            Catalogue(), fee_bps=fee_bps, lease_ttl_ns=TTL_NS, promo_maturity_days=mature_days
        )
        self.disk = MemoryLedger()
        self._opener = opener or (lambda: MemoryLedgerStore(self.disk))
        self.wall_ns, self.tick_ns = START_NS, 0
        self.model = Model(TTL_NS, fee_bps, mature_days, (100, 100, 780))
        self.done: list[tuple[object, object]] = []  # accepted operations and their answers
        self._crashes = crashes
        self._open()
        self.commit()

    def _open(self) -> None:
        self.store = self._opener()
        snapshot = now(self.store.load())
        self.books = Books(self.terms, snapshot, now_ns=self.wall_ns, tick_ns=self.tick_ns)

    @property
    def next_ns(self) -> int:
        """The ledger time of the next act: the wall clock, never going back."""
        return max(self.books.last_ts_ns + 1, self.wall_ns)

    # ── requests ──────────────────────────────────────────────────────────────────────

    def _try(self, op: Any) -> Any:
        unknown = self.books.unknown([op])
        rows = now(self.store.finished(unknown))
        deliveries = now(self.store.deliveries([row.request_id for row in rows]))
        self.books.ended.remember(rows, deliveries)
        before = self.books.last_ts_ns
        try:
            reply = self.books.apply(op, wall_ns=self.wall_ns, tick_ns=self.tick_ns)
        except MarketError as error:
            return error
        finally:
            assert self.books.last_ts_ns > before
        self.done.append((op, reply))
        return reply

    def admit(self, want: Wanted) -> None:
        """Ask for a hold; both sides must say the same, for the same sums."""
        expected = self.model.expect(want, self.next_ns)
        op = Admit(
            RequestId(want.request), key_hash(want.key), MODEL, want.prompt, want.asked,
            want.cap, want.choices, want.idempotency, want.contents,
        )  # fmt: skip
        reply = self._try(op)
        if isinstance(expected, Purchase):
            assert isinstance(reply, Admitted), reply
            legs = [expected.legs[pot] for pot in POTS]
            funding = reply.funding
            assert reply.max_tokens == expected.longest
            assert [funding.promo_nano, funding.cash_nano, funding.earnings_nano] == legs
            if want.request not in self.model.open:
                self.model.begin(expected, want, self.tick_ns)
        elif expected == "replay":
            assert isinstance(reply, Replay), reply
        else:
            assert isinstance(reply, MarketError), reply
            assert reply.status == expected, reply

    def settle(self, request: str, payee: str, machine: str, usage: Usage) -> None:
        """End a request with what was delivered."""
        made, ended = self.model.open.get(request), self.model.ended.get(request)
        at_ns = self.next_ns
        reply = self._try(
            Settle(
                RequestId(request), AccountId(payee), MachineId(machine), ProviderId("prv"),
                usage, "stop",
            )
        )  # fmt: skip
        if made is None:
            if isinstance(reply, Settled):  # the same settlement again
                assert ended is not None
                assert ended.status == "settled"
                assert self._sums(reply) == (ended.cost, ended.provider, ended.fee)
            else:
                assert reply.status == (404 if ended is None else 409)
        elif _fits(made, usage):
            paid = self.model.finish(
                made, usage, self.model.earner(payee, machine), "settled", at_ns
            )
            assert isinstance(reply, Settled), reply
            assert self._sums(reply) == (paid.cost, paid.provider, paid.fee)
        else:
            assert isinstance(reply, MarketError), reply
            assert reply.status == 409

    def _sums(self, reply: Settled) -> tuple[int, int, int]:
        assert reply.provider_nano + reply.fee_nano == reply.cost_nano
        return reply.cost_nano, reply.provider_nano, reply.fee_nano

    def void(self, request: str) -> None:
        made, ended = self.model.open.get(request), self.model.ended.get(request)
        at_ns = self.next_ns
        reply = self._try(Void(RequestId(request), "no provider"))
        if made is not None:
            assert isinstance(reply, Voided), reply
            self.model.finish(made, Usage(0, 0), None, "voided", at_ns)
        elif ended is not None and not ended.cost and ended.status != "settled":
            assert isinstance(reply, Voided), reply
        else:
            assert reply.status == (404 if ended is None else 409)

    def checkpoint(self, request: str, payee: str | None, machine: str, usage: Usage) -> None:
        made, ended = self.model.open.get(request), self.model.ended.get(request)
        named = None if payee is None else AccountId(payee)
        reply = self._try(
            Checkpoint(RequestId(request), usage, named, MachineId(machine), ProviderId("prv"))
        )
        if made is None:
            assert reply is None if ended else reply.status == 404
        elif not _fits(made, usage):
            assert reply.status == 409
        else:
            assert reply is None
            made.lease_ns = self.tick_ns + TTL_NS
            if payee is not None:
                made.reached, made.payee, made.machine = usage, payee, machine

    def sweep(self) -> None:
        """Close what has been silent for a lease."""
        due = self.model.sweep(self.tick_ns)
        rows = self.books.expire(wall_ns=self.wall_ns, tick_ns=self.tick_ns)
        assert {row.request_id for row in rows} == {made.request for made in due}
        for row in rows:
            made = self.model.open[row.request_id]
            usage, payee = Usage(0, 0), None
            if made.reached.completion_tokens and made.payee is not None:
                usage, payee = made.reached, self.model.earner(made.payee, made.machine)
            paid = self.model.finish(made, usage, payee, "expired", row.finished_ns)
            assert (row.cost_nano, row.provider_nano) == (paid.cost, paid.provider)

    def repeat(self, at: int) -> None:
        """Do something again that was accepted before; an end is answered as the first time."""
        op, first = self.done[at % len(self.done)]
        if isinstance(op, Admit):
            key = op.key_hash.rstrip(b"\0").decode()
            self.admit(
                Wanted(
                    op.request_id, key, op.prompt_tokens, op.max_tokens, op.max_tokens_cap, op.n,
                    op.idempotency, op.fingerprint,
                )
            )  # fmt: skip
        elif isinstance(op, Checkpoint):
            self.checkpoint(op.request_id, op.payee, op.machine or "", op.usage)
        else:
            before = self.portrait()
            assert self._try(op) == first
            assert self.portrait() == before

    # ── everything else ───────────────────────────────────────────────────────────────

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
                f"{what}:{at_ns}", 0,
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

    # ── the disk ──────────────────────────────────────────────────────────────────────

    def commit(self) -> None:
        now(self.store.commit(self.books.take()))
        if self._crashes:
            self._safe = deepcopy((self.model, self.done))

    def restart(self) -> None:
        """Stop in order and start again: nothing may have changed."""
        self.commit()
        before = self.portrait()
        self._open()
        assert self.portrait() == before
        self.model.restart(self.tick_ns)

    def crash(self) -> None:
        """Start again without having written what was under way."""
        self.model, self.done = deepcopy(self._safe)
        self._open()
        self.model.restart(self.tick_ns)

    # ── what must always hold ─────────────────────────────────────────────────────────

    def portrait(self) -> dict[str, object]:
        """Everything that decides the future, in an order of its own."""
        return portrait(self.books)

    def check(self) -> None:
        """Both sides agree, the laws hold, nothing is below zero, no cap is exceeded."""
        model, books = self.model, self.books
        assert broken_laws(books.ledger) == []
        assert model.total() == model.came_in - model.went_out
        assert all(sum_nano >= 0 for sum_nano in model.pots.values())
        held: dict[str, int] = {}
        for made in model.open.values():
            held[made.owner] = held.get(made.owner, 0) + made.total
        for owner in [owner.row.id for owner in books.customers.all()]:
            late = sum(nano for (payee, _), nano in model.lots.items() if payee == owner)
            pots = [model.pots[pot, owner] for pot in POTS]
            assert books.balance(owner) == Balance(*pots, held.get(owner, 0), late)
        assert (fee := books.ledger.find(Code.PLATFORM_FEE)) is None or fee.cpo == model.fees
        assert books.ledger.holds.keys() == model.open.keys()


def _fits(made: Purchase, usage: Usage) -> bool:
    return (
        usage.cached_tokens <= usage.prompt_tokens <= made.prompt
        and usage.completion_tokens <= made.longest * made.choices
    )
