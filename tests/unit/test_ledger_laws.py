"""The ledger under any history: money is conserved and the journal alone gives the books."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from market.accounting.chart import Code
from market.accounting.laws import broken_laws
from market.accounting.rows import Changes
from market.errors import MarketError
from market.messages import Checkpoint, Settled, Void, Voided
from market.types import RequestId, Usage
from tests.support.books import OWNERS, admit, do, make_books, settle, sweep

OPS = st.one_of(
    st.builds(
        admit,
        st.sampled_from([f"req_{n}" for n in range(6)]),
        st.sampled_from(OWNERS),
        prompt_tokens=st.integers(0, 600),
        max_tokens=st.one_of(st.none(), st.integers(1, 400)),
        n=st.integers(1, 3),
    ),
    st.builds(
        settle,
        st.sampled_from([f"req_{n}" for n in range(6)]),
        st.sampled_from(OWNERS),
        usage=st.builds(Usage, st.integers(0, 600), st.integers(0, 400)),
    ),
    st.builds(Void, st.sampled_from([RequestId(f"req_{n}") for n in range(6)]), st.just("x")),
    st.builds(
        Checkpoint,
        st.sampled_from([RequestId(f"req_{n}") for n in range(6)]),
        st.builds(Usage, st.integers(0, 600), st.integers(0, 400)),
        st.sampled_from([None, *OWNERS]),
    ),
    st.integers(1, 59).map(float),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(OPS, min_size=4, max_size=40),
    st.integers(0, 10_000),
    st.integers(0, 2_000_000),
    st.integers(1, 7),
)
def test_whatever_happens_money_is_conserved(
    ops: list[object], fee_bps: int, promo_nano: int, every: int
) -> None:
    """After any history every law holds, refusals change nothing, and a restart agrees.

    The journal alone, replayed, gives each account's counters; repeating an operation that
    was accepted gives the same answer.
    """
    books = make_books(promo_nano=promo_nano, fee_bps=fee_bps)
    written = [books.take()]
    clock_s = 0.0
    for step, op in enumerate(ops):
        if isinstance(op, float):
            clock_s += op
            sweep(books, clock_s)
            continue
        before = [books.balance(owner) for owner in OWNERS]
        try:
            first = do(books, op, at_s=clock_s)
        except MarketError:
            assert [books.balance(owner) for owner in OWNERS] == before
        else:
            after = [books.balance(owner) for owner in OWNERS]
            if isinstance(first, Settled | Voided):
                assert do(books, op, at_s=clock_s + 1) == first
            assert [books.balance(owner) for owner in OWNERS] == after
        assert broken_laws(books.ledger) == []
        if step % every == 0:
            written.append(books.take())
    written.append(books.take())

    assert_replay_agrees(written)
    total = sum(books.balance(owner).balance_nano for owner in OWNERS)
    held = sum(books.balance(owner).held_nano for owner in OWNERS)
    assert total + held + books.ledger.account(Code.PLATFORM_FEE).cpo == 3 * promo_nano


def assert_replay_agrees(written: list[Changes]) -> None:
    counters: dict[int, tuple[int, int, int, int]] = {}
    debited: dict[int, int] = {}
    credited: dict[int, int] = {}
    legs: set[tuple[str, int]] = set()
    for changes in written:
        counters.update(changes.counters)
        for row in changes.transfers:
            assert (row.id, row.leg) not in legs
            legs.add((row.id, row.leg))
            debited[row.debit] = debited.get(row.debit, 0) + row.amount_nano
            credited[row.credit] = credited.get(row.credit, 0) + row.amount_nano
    for number, (_, dpo, _, cpo) in counters.items():
        assert (dpo, cpo) == (debited.get(number, 0), credited.get(number, 0))
