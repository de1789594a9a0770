"""Laws of an answer by several Macs: each is paid for its own tokens, at what it asks, once."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.accounting.books import Books
from market.accounting.chart import LEGS_PER_MAC, Code, Posting
from market.accounting.laws import broken_laws
from market.accounting.parts import PARTS_MAX, parts_of, parts_text
from market.accounting.registry import unclaimed
from market.accounting.rows import Changes, DeliveryRow, RequestRow
from market.errors import Conflict, MarketError
from market.messages import Admitted, Checkpoint, Part, Settle, Settled
from market.types import AccountId, MachineId, ProviderId, Usage
from tests.support.books import NOW, OWNERS, admit, do, make_books, portrait, settle, sweep

ANN, BOB, CAT = OWNERS


def part(payee: AccountId, tokens: int, ask_pct: int = 100, number: int = 9) -> Part:
    return Part(payee, MachineId(f"mac_{number}"), ProviderId(f"prv_{number}"), tokens, ask_pct)


def earned(books: Books, owner: AccountId) -> int:
    balance = books.balance(owner)
    return balance.withdrawable_nano + balance.maturing_nano


def settled_with(books: Books, op: Settle) -> tuple[Settled, Changes]:
    """Admit the request, settle it like that, and see what both have changed."""
    do(books, admit(op.request_id))
    reply = do(books, op)
    assert isinstance(reply, Settled), reply
    return reply, books.take()


def test_the_published_example_of_a_lost_mac() -> None:
    """412 in and 187 out, A lost after 100: A gets 78,000, B 109,060, Ann pays 187,060."""
    books = make_books(fee_bps=0)

    reply, changes = settled_with(books, settle(payee=CAT, before=(part(BOB, 100),)))

    assert (reply.cost_nano, reply.provider_nano, reply.fee_nano) == (187_060, 187_060, 0)
    assert (earned(books, BOB), earned(books, CAT)) == (78_000, 109_060)
    assert books.balance(ANN).balance_nano == 1_000_000 - 187_060
    first, last = changes.deliveries
    assert (first.prompt_tokens, first.completion_tokens, first.cost_nano) == (0, 100, 78_000)
    assert (last.prompt_tokens, last.completion_tokens, last.cost_nano) == (412, 87, 109_060)
    (row,) = changes.requests
    assert (row.payee, row.machine, row.deliveries) == (CAT, "mac_1", 2)


def test_a_mac_that_asks_less_is_paid_less_and_so_does_the_consumer_pay() -> None:
    """95 % of 100 and 780 nano-USD are 95 and 741: nobody pays the market's price for it."""
    books = make_books(fee_bps=500)

    reply, changes = settled_with(books, settle(ask_pct=95))

    assert reply.cost_nano == 412 * 95 + 187 * 741
    (only,) = changes.deliveries
    assert (only.price_in_nano, only.price_out_nano, only.ask_pct) == (95, 741, 95)
    assert changes.requests[0].price_out_nano == 780  # what the market asks stays on record
    assert (only.provider_nano, only.fee_nano) == (reply.provider_nano, reply.fee_nano)
    assert books.balance(ANN).held_nano == 0


def test_an_ordinary_request_writes_no_more_than_before() -> None:
    """One Mac at the market's price: no delivery, the legs it always had, the same seal."""
    books = make_books(fee_bps=500)

    _, changes = settled_with(books, settle())

    assert changes.deliveries == []
    assert changes.requests[0].deliveries is None
    assert [(row.leg, row.code) for row in changes.transfers[-2:]] == [
        (0, Posting.SETTLE_PROVIDER),
        (1, Posting.SETTLE_FEE),
    ]


def test_a_mac_that_delivered_nothing_is_paid_nothing() -> None:
    """Its part is on record, so that the same settlement is known again; no money moves for it."""
    books = make_books(fee_bps=500)
    op = settle(payee=CAT, before=(part(BOB, 0),))

    _, changes = settled_with(books, op)

    assert earned(books, BOB) == 0
    assert [row.cost_nano for row in changes.deliveries] == [0, 187_060]
    assert all(row.leg // LEGS_PER_MAC == 1 for row in changes.transfers if row.id == "req_1")
    assert do(books, op) == do(books, op)


# ── for any parts ─────────────────────────────────────────────────────────────────────

ASKS = st.one_of(st.just(100), st.integers(1, 100))
PAYEES = st.sampled_from([ANN, BOB, CAT, AccountId("acct_new")])
SOURCES = st.tuples(*(st.integers(0, 200_000) for _ in range(2)))


@st.composite
def endings(draw: st.DrawFn) -> Settle:
    """Any settlement of the request that all tests here admit."""
    cached = draw(st.integers(0, 412))
    tokens = draw(st.integers(0, 187))
    left, before = tokens, []
    for number in range(draw(st.integers(0, 4))):
        some = draw(st.integers(0, left))
        before.append(part(draw(PAYEES), some, draw(ASKS), number))
        left -= some
    return settle(
        payee=draw(PAYEES),
        usage=Usage(412, tokens, cached),
        before=tuple(before),
        ask_pct=draw(ASKS),
    )


def rich_books(promo_nano: int, cash_nano: int, fee_bps: int) -> Books:
    """Ann's money lies in all three pots; what a request needs beyond two of them is earnings."""
    books = make_books(promo_nano=max(1, promo_nano), fee_bps=fee_bps)
    books.terms = replace(books.terms, promo_maturity_days=3)
    for posting, source, pot, nano in (
        (Posting.TOP_UP, Code.STRIPE_CLEARING, Code.CONSUMER_CASH, cash_nano),
        (Posting.PAYOUT_REVERSED, Code.STRIPE_CLEARING, Code.PROVIDER_EARNINGS, 10**6),
    ):
        if nano:
            ledger = books.ledger
            sides = ledger.account(source), ledger.account(pot, ANN)
            debit, credit = sides
            ledger.post(
                pot.name, 0, debit=debit, credit=credit, amount_nano=nano, posting=posting, ts_ns=1
            )
    return books


def flows(changes: Changes, books: Books) -> dict[int, list[tuple[Code, str, int]]]:
    """What each Mac's legs have paid, by the Mac's number."""
    accounts = {account.number: account for account in books.ledger.accounts()}
    paid: dict[int, list[tuple[Code, str, int]]] = {}
    for row in changes.transfers:
        if row.id == "req_1":
            to = accounts[row.credit]
            paid.setdefault(row.leg // LEGS_PER_MAC, []).append(
                (to.code, to.owner, row.amount_nano)
            )
    return paid


def owed(admitted: Admitted, op: Settle, fee_bps: int) -> list[tuple[int, ...]]:
    """By Mac: (cost, share, fee, promo, cash, earnings), in the arithmetic of a person."""
    funding = admitted.funding
    left = [funding.promo_nano, funding.cash_nano, funding.earnings_nano]
    counts = [(0, 0, mac.completion_tokens) for mac in op.before]
    cached, rest = op.usage.cached_tokens, sum(mac.completion_tokens for mac in op.before)
    counts.append((412 - cached, cached, op.usage.completion_tokens - rest))
    due = []
    for mac, (fresh, found, said) in zip([*op.before, op], counts, strict=True):
        price_in, price_out = (ceil(Fraction(mac.ask_pct * price, 100)) for price in (100, 780))
        cost = (fresh + found) * price_in + said * price_out
        spent: list[int] = []
        for pot in range(3):
            spent.append(min(left[pot], cost - sum(spent)))
            left[pot] -= spent[pot]
        barren = spent[0] if mac.payee == ANN else 0
        share = ceil(Fraction((cost - barren) * (10_000 - fee_bps), 10_000))
        due.append((cost, share, cost - share, *spent))
    return due


@settings(deadline=None, max_examples=150)
@given(op=endings(), sources=SOURCES, fee_bps=st.integers(0, 10_000))
def test_every_mac_gets_its_tokens_at_its_ask_and_nothing_is_lost(
    op: Settle, sources: tuple[int, int], fee_bps: int
) -> None:
    """To the nano: what the consumer pays is the sum of what every Mac and the platform get."""
    books = rich_books(*sources, fee_bps)
    had_nano = books.balance(ANN).balance_nano
    admitted = do(books, admit())
    assert isinstance(admitted, Admitted)
    books.take()
    reply = do(books, op)
    assert isinstance(reply, Settled)
    changes = books.take()
    due, macs = owed(admitted, op, fee_bps), [*op.before, op]

    assert reply.cost_nano == sum(cost for cost, *_ in due)
    assert reply.cost_nano == admitted.cost_nano(op.usage, op.before, op.ask_pct)
    assert reply.provider_nano == sum(share for _, share, *_ in due)
    assert books.ledger.account(Code.PLATFORM_FEE).cpo == reply.fee_nano
    assert reply.fee_nano == sum(fee for _, _, fee, *_ in due)
    ordinary = not op.before and op.ask_pct == 100
    assert changes.requests[0].deliveries == (None if ordinary else len(due))
    assert [row[-6:] for row in changes.deliveries] == ([] if ordinary else due)
    for number, paid in flows(changes, books).items():
        _, share, fee, *_ = due[number]
        ours = [nano for code, _, nano in paid if code is Code.PLATFORM_FEE]
        theirs = [(owner, nano) for code, owner, nano in paid if code is not Code.PLATFORM_FEE]
        assert (sum(ours), sum(nano for _, nano in theirs)) == (fee, share)
        assert {owner for owner, _ in theirs} <= {macs[number].payee}
    shares = dict.fromkeys((*OWNERS, op.payee, *(mac.payee for mac in op.before)), 0)
    for mac, (_, share, *_) in zip(macs, due, strict=True):
        shares[mac.payee] += share
    for owner in shares:
        has = books.balance(owner)
        spent_nano = reply.cost_nano - had_nano if owner == ANN else -max(1, sources[0])
        started_nano = -spent_nano if owner in OWNERS else 0
        assert has.balance_nano + has.maturing_nano == started_nano + shares[owner]
    legs = [(moved.id, moved.leg) for moved in changes.transfers]
    assert len(set(legs)) == len(legs)
    assert broken_laws(books.ledger) == []


@given(op=endings(), fee_bps=st.integers(0, 10_000))
def test_only_promo_credit_matures_and_for_whom_it_was_paid(op: Settle, fee_bps: int) -> None:
    """A lot for each payee, of exactly what promo credit has paid it; own promo earns nothing."""
    books = rich_books(100_000, 10**6, fee_bps)
    admitted = do(books, admit())
    assert isinstance(admitted, Admitted)
    do(books, op)

    lots: dict[AccountId, int] = {}
    for mac, (_, share, _, promo, *_) in zip(
        [*op.before, op], owed(admitted, op, fee_bps), strict=True
    ):
        if mac.payee != ANN and min(share, promo):
            lots[mac.payee] = lots.get(mac.payee, 0) + min(share, promo)
    assert {payee: nano for (payee, _), nano in books.ledger.lots.items()} == lots


# ── who is paid ───────────────────────────────────────────────────────────────────────


def test_a_part_is_its_linked_account_s() -> None:
    """Both Macs name their own accounts; the first one is linked to Bob, who gets its part."""
    books = make_books(fee_bps=0)
    first, last = MachineId("mac_9"), MachineId("mac_1")
    books.link(first, BOB, NOW)
    op = settle(payee=unclaimed(last), before=(part(unclaimed(first), 100),))

    settled_with(books, op)
    books.link(last, CAT, NOW)

    assert (earned(books, BOB), earned(books, unclaimed(last))) == (78_000, 109_060)
    assert unclaimed(first) not in books.customers
    again = replace(op, before=(part(BOB, 100),))
    assert do(books, op) == do(books, again)


def test_a_lease_that_runs_out_pays_each_mac_as_far_as_it_came() -> None:
    """The gateway dies after its last word: 100 of the first Mac, 20 of the second, at its ask."""
    books = make_books(fee_bps=0)
    do(books, admit())
    where = (MachineId("mac_1"), ProviderId("prv_1"))
    do(books, Checkpoint(admit().request_id, Usage(412, 100), BOB, *where))
    told = Checkpoint(admit().request_id, Usage(412, 120), CAT, *where, 50, (part(BOB, 100),))
    do(books, told)
    do(books, Checkpoint(admit().request_id, Usage(412, 120)))  # only renews the lease

    (row,) = sweep(books, at_s=59) + sweep(books, at_s=60)

    assert (row.status, row.deliveries, row.payee) == ("expired", 2, CAT)
    assert (earned(books, BOB), earned(books, CAT)) == (78_000, 412 * 50 + 20 * 390)
    assert row.cost_nano == 78_000 + 412 * 50 + 20 * 390
    assert books.balance(ANN).held_nano == 0


# ── what is refused, and what is the same again ───────────────────────────────────────

WRONG = {
    "more tokens than there are": {"before": (part(BOB, 100), part(CAT, 88))},
    "a negative part": {"before": (part(BOB, -1),)},
    "too many parts": {"before": (part(BOB, 1),) * (PARTS_MAX + 1)},
    "a free part": {"before": (part(BOB, 1, 0),)},
    "a dear part": {"before": (part(BOB, 1, 101),)},
    "a free answer": {"ask_pct": 0},
    "a dear answer": {"ask_pct": 101},
    "a payee that is no id": {"before": (part(BOB, 1), part(AccountId("acct_\u00e9"), 1))},
    "a finisher that is no id": {"payee": AccountId("\n"), "before": (part(AccountId("x"), 1),)},
    "a machine that is no id": {"before": (replace(part(BOB, 1), machine=MachineId("m" * 201)),)},
    "a provider that is no id": {"before": (replace(part(BOB, 1), provider=ProviderId("\0")),)},
}


@pytest.mark.parametrize("case", WRONG)
def test_what_no_answer_can_be_is_refused_and_changes_nothing(case: str) -> None:
    """Neither settled nor noted, no account opened for it; the hold waits for the right words."""
    books = make_books()
    do(books, admit())
    before = portrait(books)
    fields = {"payee": CAT, **WRONG[case]}
    op = settle(**fields)

    with pytest.raises(MarketError) as refused:
        do(books, op)
    assert refused.value.status == 400
    told = Checkpoint(
        op.request_id, op.usage, op.payee, op.machine, op.provider, op.ask_pct, op.before
    )
    with pytest.raises(MarketError):
        do(books, told)
    assert portrait(books) == before
    assert isinstance(do(books, settle(payee=CAT, before=(part(BOB, 187),))), Settled)


OTHERS = {
    "another ask": {"ask_pct": 90},
    "no parts": {"before": ()},
    "another number of tokens": {"before": (part(BOB, 99, 80),)},
    "another payee": {"before": (part(ANN, 100, 80),)},
    "another machine": {"before": (part(BOB, 100, 80, 7),)},
    "another ask of a part": {"before": (part(BOB, 100, 81),)},
    "one part more": {"before": (part(BOB, 100, 80), part(BOB, 0))},
    "the parts of one in two": {"before": (part(BOB, 50, 80), part(BOB, 50, 80))},
    "another finisher": {"payee": ANN},
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_settlement_with_parts_may_be_repeated_and_not_changed(case: str) -> None:
    """The same one gets its first answer; one that differs in any Mac, part or ask is refused."""
    books = make_books()
    op = settle(payee=CAT, before=(part(BOB, 100, 80),), ask_pct=95)
    first, _ = settled_with(books, op)
    before = portrait(books)

    assert do(books, op) == first
    with pytest.raises(Conflict) as refused:
        do(books, replace(op, **OTHERS[case]))
    assert refused.value.code == "settled_differently"
    assert portrait(books) == before


def test_an_ordinary_settlement_does_not_become_one_with_parts() -> None:
    """Nor one at another ask: it was paid as it was."""
    books = make_books()
    settled_with(books, settle())

    for other in ({"before": (part(BOB, 0),)}, {"ask_pct": 99}):
        with pytest.raises(Conflict):
            do(books, settle(**other))


@given(
    st.lists(
        st.builds(
            Part, PAYEES, st.just(MachineId("m")), st.just(ProviderId("p")), st.integers(0), ASKS
        ),
        max_size=PARTS_MAX,
    )
)
def test_parts_are_read_back_as_they_were_written(parts: list[Part]) -> None:
    """A checkpoint's parts survive a restart; ordinary ones take no room."""
    assert parts_of(parts_text(parts)) == tuple(parts)
    assert parts_text([]) == ""


@pytest.mark.parametrize("text", ["x", "3", "[[1]]", '[["a","m","p","many",1]]', "{}x"])
def test_parts_that_cannot_be_read_are_no_parts(text: str) -> None:
    """The start of the accountant says so, instead of the end of a lease."""
    with pytest.raises(ValueError, match="cannot be read"):
        parts_of(text)


def test_each_mac_s_owner_sees_their_own_share_of_a_request() -> None:
    """The row of the whole, with this Mac's tokens, prices, cost and shares in it."""
    _, changes = settled_with(make_books(), settle(payee=CAT, before=(part(BOB, 100, 80),)))
    (whole,) = changes.requests

    views = [delivery.as_request(whole) for delivery in changes.deliveries]

    assert [view.payee for view in views] == [BOB, CAT]
    assert [view.price_out_nano for view in views] == [624, 780]
    for name in set(DeliveryRow._fields) & set(RequestRow._fields):
        told = [getattr(delivery, name) for delivery in changes.deliveries]
        assert [getattr(view, name) for view in views] == told
    assert sum(view.cost_nano for view in views) == whole.cost_nano
