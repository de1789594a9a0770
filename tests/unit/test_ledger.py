"""Laws of the ledger: conservation, idempotency, nothing below zero, whatever happens."""

from __future__ import annotations

from dataclasses import replace

import pytest

from market import keys
from market.accounting.books import SWEEP_GAP_NS
from market.accounting.chart import Code
from market.accounting.holding import BookTerms
from market.accounting.laws import broken_laws
from market.accounting.registry import unclaimed
from market.accounting.state_rows import OwnerRow
from market.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    PaymentRequired,
    RateLimited,
    Unauthenticated,
)
from market.messages import Admit, Admitted, Checkpoint, ResolveKey, Settled, Void, Voided
from market.types import AccountId, MachineId, RequestId, Usage
from tests.support.books import MODEL, NOW, OWNERS, S, add_key, admit, do, make_books, settle, sweep


def test_the_published_example_is_charged_and_paid_exactly() -> None:
    """Hold the worst case, charge 187,060 nano, pay 177,707 and keep 9,353 as the fee."""
    books = make_books()

    admitted = do(books, admit())
    assert isinstance(admitted, Admitted)
    assert admitted.funding.total_nano == 187_060
    assert books.balance(OWNERS[0]).held_nano == 187_060
    settled = do(books, settle())

    assert isinstance(settled, Settled)
    assert (settled.cost_nano, settled.provider_nano, settled.fee_nano) == (187_060, 177_707, 9_353)
    assert books.balance(OWNERS[0]).balance_nano == 1_000_000 - 187_060
    assert books.balance(OWNERS[1]).withdrawable_nano == 177_707
    assert books.balance(OWNERS[0]).held_nano == 0
    assert books.ledger.account(Code.PLATFORM_FEE).cpo == 9_353


def test_prices_and_fee_are_those_of_the_hold() -> None:
    """A price change between hold and settlement touches nobody."""
    books = make_books()
    do(books, admit())
    card = replace(books.terms.catalogue.get(MODEL), price_in_nano=1, price_out_nano=1)
    books.terms = BookTerms(books.terms.catalogue.with_card(card), fee_bps=0)

    settled = do(books, settle())

    assert isinstance(settled, Settled)
    assert (settled.cost_nano, settled.fee_nano) == (187_060, 9_353)


def test_promo_is_spent_first_and_earnings_last() -> None:
    """With 100,000 promo, no cash and earnings, both legs pay and both are recorded."""
    books = make_books(promo_nano=100_000)
    rich = AccountId("acct_rich")
    books.create_owner(OwnerRow(rich, "", "operator", NOW), 10**9)
    add_key(books, rich, keys.INFERENCE_SCOPES)
    do(books, admit("req_pay", rich))
    do(books, settle("req_pay", OWNERS[0]))
    assert books.balance(OWNERS[0]).withdrawable_nano == 177_707

    admitted = do(books, admit("req_both"))
    assert isinstance(admitted, Admitted)
    assert (admitted.funding.promo_nano, admitted.funding.earnings_nano) == (100_000, 87_060)
    do(books, settle("req_both", OWNERS[1]))

    after = books.balance(OWNERS[0])
    assert after.promo_nano == 0
    assert after.withdrawable_nano == 177_707 - 87_060
    assert not broken_laws(books.ledger)


def test_repeating_an_operation_returns_the_first_answer() -> None:
    """Admit, settle and void may each be sent again; money moves once."""
    books = make_books()
    assert do(books, admit()) == do(books, admit())
    assert do(books, settle()) == do(books, settle(), at_s=5)
    do(books, admit("req_2"))
    assert do(books, Void(RequestId("req_2"), "no provider")) == Voided(RequestId("req_2"))
    assert do(books, Void(RequestId("req_2"), "no provider")) == Voided(RequestId("req_2"))

    assert books.balance(OWNERS[0]).balance_nano == 1_000_000 - 187_060


@pytest.mark.parametrize(
    "op",
    [
        settle(usage=Usage(412, 186)),
        settle(payee=OWNERS[2]),
        settle(finish_reason="length"),
        settle(machine="mac_2"),
        admit(),
        Void(RequestId("req_1"), "late"),
    ],
    ids=["usage", "payee", "reason", "machine", "admit", "void"],
)
def test_a_settled_request_stays_as_it_is(op: object) -> None:
    """Anything but the same settlement is a conflict and changes nothing."""
    books = make_books()
    do(books, admit())
    do(books, settle())
    before = [books.balance(owner) for owner in OWNERS]

    with pytest.raises(Conflict):
        do(books, op)
    assert [books.balance(owner) for owner in OWNERS] == before


def test_a_voided_request_cannot_be_settled() -> None:
    """Nobody is paid after the hold has been released."""
    books = make_books()
    do(books, admit())
    do(books, Void(RequestId("req_1"), "cancelled"))

    with pytest.raises(Conflict, match="voided") as refused:
        do(books, settle())
    assert refused.value.code == "request_voided"


@pytest.mark.parametrize("change", [{"model": "coster/demo"}, {"max_tokens": 5}, {"n": 2}])
def test_a_reused_request_id_is_a_conflict(change: dict[str, object]) -> None:
    """The same id with other parameters is never mistaken for a repetition."""
    books = make_books()
    do(books, admit())

    with pytest.raises(Conflict) as refused:
        do(books, admit(**change))
    assert refused.value.code == "request_id_reused"


@pytest.mark.parametrize(
    "usage",
    [Usage(413, 1), Usage(1, 188), Usage(10, 1, 11), Usage(1, 1, 0, 2), Usage(-1, 1), Usage(1, -1)],
)
def test_a_usage_beyond_the_hold_is_refused(usage: Usage) -> None:
    """No report of tokens can charge more than was reserved, or make no sense."""
    books = make_books()
    do(books, admit())

    with pytest.raises(Conflict):
        do(books, settle(usage=usage))
    assert books.balance(OWNERS[0]).held_nano == 187_060


@pytest.mark.parametrize(
    "op",
    [
        admit(prompt_tokens=-1),
        admit(n=0),
        admit(max_tokens=0),
        admit(max_tokens=1001),
        admit(max_tokens_cap=0),
        admit("req_\udcff"),
        admit("r" * 201),
    ],
)
def test_counts_and_ids_that_no_request_has_are_invalid(op: Admit) -> None:
    """What could not be written is refused before anything changed."""
    books = make_books()
    books.take()

    with pytest.raises(InvalidRequest):
        do(books, op)
    assert not books.take()


@pytest.mark.parametrize(
    "change",
    [
        {"ttft_ms": float("nan")},
        {"total_ms": float("inf")},
        {"finish_reason": "\ud800"},
        {"attempts": -1},
        {"machine": "x" * 500},
    ],
)
def test_a_settlement_that_could_not_be_written_is_invalid(change: dict[str, object]) -> None:
    """Odd measurements are refused; the hold stays and can still be settled."""
    books = make_books()
    do(books, admit())

    with pytest.raises(InvalidRequest):
        do(books, settle(**change))
    assert isinstance(do(books, settle()), Settled)


def test_a_payee_without_an_account_earns_into_one_of_its_id() -> None:
    """What a Mac earns before its owner's account is opened is kept for that owner."""
    books = make_books()
    do(books, admit())

    settled = do(books, settle(payee=AccountId("acct_nobody")))

    assert books.balance(AccountId("acct_nobody")).earnings_nano == settled.provider_nano
    assert books.balance(OWNERS[0]).held_nano == 0


def test_keys_speak_only_while_they_are_live() -> None:
    """Unknown, expired and revoked keys are 401, a key without the scope is 403."""
    books = make_books()
    add_key(books, OWNERS[0], keys.MANAGEMENT_SCOPES, hash=b"m" * 32)
    add_key(books, OWNERS[0], keys.INFERENCE_SCOPES, hash=b"e" * 32, expires_ns=NOW + 10 * S)

    with pytest.raises(Unauthenticated):
        do(books, admit(key_hash=b"?" * 32))
    with pytest.raises(Forbidden):
        do(books, admit(key_hash=b"m" * 32))
    assert do(books, ResolveKey(b"e" * 32), at_s=9)
    with pytest.raises(Unauthenticated, match="expired"):
        do(books, ResolveKey(b"e" * 32), at_s=10)
    key_id = books.customers.keys_of(OWNERS[0])[0].key_id
    with pytest.raises(NotFound):
        books.revoke(OWNERS[1], key_id, NOW)
    books.revoke(OWNERS[0], key_id, NOW)
    with pytest.raises(Unauthenticated, match="revoked"):
        do(books, admit())


def test_with_money_for_k_requests_exactly_k_are_admitted() -> None:
    """The next one says that running requests are in the way; when they end, it passes."""
    books = make_books(promo_nano=187_060 * 5)
    for number in range(5):
        do(books, admit(f"req_{number}"))

    with pytest.raises(PaymentRequired) as refused:
        do(books, admit("req_5"))
    assert (refused.value.code, refused.value.retry) == ("in_flight_budget", True)
    do(books, Void(RequestId("req_0"), "no provider"))
    assert do(books, admit("req_5"))


def test_a_free_account_reserves_its_tokens_and_gets_the_rest_back() -> None:
    """Tokens a day count the worst case while running and the truth afterwards."""
    books = make_books(promo_nano=10**12, tier="free")
    admitted = do(books, admit(max_tokens=100_000, max_tokens_cap=200_000))
    assert isinstance(admitted, Admitted)
    assert admitted.rate.remaining_tokens == 200_000 - 100_412

    with pytest.raises(RateLimited) as refused:
        do(books, admit("req_2", max_tokens=100_000, max_tokens_cap=200_000))
    assert refused.value.code == "tokens_in_flight"
    do(books, settle())
    later = do(books, admit("req_3", max_tokens=None, max_tokens_cap=200_000))

    assert isinstance(later, Admitted)
    assert later.max_tokens == 200_000 - 412 - 187 - 412


def test_a_silent_gateway_pays_for_its_last_checkpoint() -> None:
    """Without a renewal a hold expires after its lease: at the checkpoint, or for nothing."""
    books = make_books()
    do(books, admit("req_1"))
    do(books, admit("req_2"))
    do(books, Checkpoint(RequestId("req_1"), Usage(412, 64), OWNERS[1]), at_s=30)

    assert [row.request_id for row in sweep(books, 59.9)] == []
    assert [(row.request_id, row.cost_nano) for row in sweep(books, 60)] == [("req_2", 0)]
    (expired,) = sweep(books, 90)

    assert (expired.status, expired.cost_nano) == ("expired", 412 * 100 + 64 * 780)
    assert books.balance(OWNERS[1]).earnings_nano == expired.provider_nano
    with pytest.raises(Conflict) as refused:
        do(books, settle())
    assert refused.value.code == "request_expired"
    assert not broken_laws(books.ledger)


def test_after_a_long_sleep_nothing_expires_at_once() -> None:
    """When the accountant itself was stopped, every lease starts afresh."""
    books = make_books()
    do(books, admit())
    sleep_s = SWEEP_GAP_NS / S + 1

    assert sweep(books, sleep_s) == []
    assert sweep(books, sleep_s + 59) == []
    assert len(sweep(books, sleep_s + 60)) == 1


def test_ledger_time_only_grows() -> None:
    """A wall clock that jumps back cannot reorder the journal."""
    books = make_books()

    stamps = [books.stamp(wall) for wall in (NOW, NOW - 3600 * S, NOW, NOW + 1, NOW - 1)]

    assert stamps == sorted(set(stamps))


def test_a_machine_is_not_linked_to_what_stands_for_a_machine() -> None:
    """An account that keeps an unlinked machine's earnings is no owner, least of all its own."""
    books = make_books()
    machine = MachineId("mac_1")
    do(books, admit())
    do(books, settle(payee=unclaimed(machine)))
    before = books.balance(unclaimed(machine))

    with pytest.raises(InvalidRequest, match="no customer"):
        books.link(machine, unclaimed(machine), NOW)

    assert books.balance(unclaimed(machine)) == before
    assert machine not in books.machines
    assert broken_laws(books.ledger) == []
