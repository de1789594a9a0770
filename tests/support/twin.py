"""The real books and the small model, side by side: every act is done to both and compared.

The books run over a store in memory, with the accountant's own order of things: what is not
known is looked up, what changed is taken and committed. The caller decides what happens and
when; after a step `check` compares everything that both sides know about money.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from copy import deepcopy
from typing import Any, TypeVar

from market.accounting.books import Books
from market.accounting.chart import Code
from market.accounting.holding import BookTerms
from market.accounting.laws import broken_laws
from market.accounting.store import LedgerStore
from market.catalogue import Catalogue
from market.errors import MarketError
from market.messages import (
    Admit,
    Admitted,
    Balance,
    Checkpoint,
    Part,
    Replay,
    Settle,
    Settled,
    Void,
    Voided,
)
from market.types import AccountId, MachineId, ProviderId, RequestId, Usage
from storage.memory import MemoryLedger, MemoryLedgerStore
from tests.support.ledger_model import POTS, Lost, Model, Purchase, Wanted
from tests.support.twin_registries import MODEL, Registries, key_hash

START_NS = 1_800_000_000 * 10**9
TTL_NS = 60 * 10**9
Result = TypeVar("Result")


def now(work: Coroutine[Any, Any, Result]) -> Result:
    """The result of a coroutine that never waits, which is all a store in memory has."""
    try:
        work.send(None)
    except StopIteration as done:
        result: Result = done.value
        return result
    raise AssertionError("it waited")


class Twin(Registries):
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

    def settle(
        self,
        request: str,
        payee: str,
        machine: str,
        usage: Usage,
        lost: Sequence[Lost] = (),
        ask: int = 100,
    ) -> None:
        """End a request with what was delivered."""
        made, ended = self.model.open.get(request), self.model.ended.get(request)
        at_ns = self.next_ns
        reply = self._try(
            Settle(
                RequestId(request), AccountId(payee), MachineId(machine), ProviderId("prv"),
                usage, "stop", ask_pct=ask, before=_parts(lost),
            )
        )  # fmt: skip
        if made is None:
            if isinstance(reply, Settled):  # the same settlement again
                assert ended is not None
                assert ended.status == "settled"
                assert self._sums(reply) == (ended.cost, ended.provider, ended.fee)
            else:
                assert reply.status == (404 if ended is None else 409)
        elif (refusal := _refusal(made, usage, lost, ask)) is None:
            paid = self.model.finish(
                made, usage, self.model.earner(payee, machine), "settled", at_ns, lost, ask
            )
            assert isinstance(reply, Settled), reply
            assert self._sums(reply) == (paid.cost, paid.provider, paid.fee)
        else:
            assert isinstance(reply, MarketError), reply
            assert reply.status == refusal

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

    def checkpoint(
        self,
        request: str,
        payee: str | None,
        machine: str,
        usage: Usage,
        lost: Sequence[Lost] = (),
        ask: int = 100,
    ) -> None:
        made, ended = self.model.open.get(request), self.model.ended.get(request)
        named = None if payee is None else AccountId(payee)
        reply = self._try(
            Checkpoint(
                RequestId(request), usage, named, MachineId(machine), ProviderId("prv"),
                ask, _parts(lost),
            )
        )  # fmt: skip
        if made is None:
            assert reply is None if ended else reply.status == 404
        elif (refusal := _refusal(made, usage, lost, ask)) is not None:
            assert reply.status == refusal
        else:
            assert reply is None
            made.lease_ns = self.tick_ns + TTL_NS
            if payee is not None:
                made.reached, made.payee, made.machine = usage, payee, machine
                made.ask, made.lost = ask, tuple(lost)

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
            paid = self.model.finish(
                made, usage, payee, "expired", row.finished_ns, made.lost, made.ask
            )
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
            lost = [
                Lost(part.payee, part.machine, part.completion_tokens, part.ask_pct)
                for part in op.before
            ]
            self.checkpoint(op.request_id, op.payee, op.machine or "", op.usage, lost, op.ask_pct)
        else:
            before = self.portrait()
            assert self._try(op) == first
            assert self.portrait() == before

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

    def check_reads(self) -> None:
        """What the store tells of earnings, revenue and promo is what the model has seen paid.

        Call it when everything is committed.
        """
        model, store = self.model, self.store
        payees = {payee for payee, _ in model.takings} | set(model.jobs)
        for payee in sorted(payees):
            told = now(store.earned([AccountId(payee)], 1_000))
            taken = sum(nano for (to, _), nano in model.takings.items() if to == payee)
            assert (told.total_nano, told.jobs) == (taken, len(model.jobs[payee]))
            if len(told.recent) < 1_000:
                assert sum(row.provider_nano for row in told.recent) == taken
                assert sorted(row.request_id for row in told.recent) == sorted(model.jobs[payee])
        revenue = {(row.payee, row.owner): row.earned_nano for row in now(store.revenue(0, 10**9))}
        assert revenue == dict(model.takings)
        for owner, payee in model.promo_to:
            paid_nano = now(store.promo_paid(AccountId(owner), AccountId(payee)))
            assert paid_nano == model.promo_to[owner, payee]

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


def _parts(lost: Sequence[Lost]) -> tuple[Part, ...]:
    return tuple(
        Part(AccountId(m.payee), MachineId(m.machine), ProviderId("prv"), m.tokens, m.ask)
        for m in lost
    )


def _refusal(made: Purchase, usage: Usage, lost: Sequence[Lost], ask: int) -> int | None:
    """The status with which this much, by these Macs, must be refused; None: it is fine."""
    fits = (
        usage.cached_tokens <= usage.prompt_tokens <= made.prompt
        and usage.completion_tokens <= made.longest * made.choices
    )
    if not fits:
        return 409
    tokens = [mac.tokens for mac in lost]
    asks = [ask, *(mac.ask for mac in lost)]
    fair = all(at in range(1, 101) for at in asks) and all(count >= 0 for count in tokens)
    return None if fair and len(lost) < 9 and sum(tokens) <= usage.completion_tokens else 400
