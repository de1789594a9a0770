"""What an audit says of deliveries that were never made like that, though sealed as they are."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from market.accounting.chart import LEGS_PER_MAC, Code, Posting
from market.accounting.rows import DeliveryRow, RequestRow, TransferRow
from market.accounting.settlements import settlement_problems
from market.messages import Part, Settled
from market.types import AccountId, MachineId, ProviderId
from tests.support.books import OWNERS, admit, do, make_books, settle

ANN, BOB, CAT = OWNERS
BOOKS = make_books(promo_nano=100_000, fee_bps=500)


def written() -> tuple[RequestRow, list[DeliveryRow], list[TransferRow]]:
    """An answer by three Macs, paid with promo credit and then with cash, as the ledger had it."""
    ledger = BOOKS.ledger
    ledger.post(
        "top_up",
        0,
        debit=ledger.account(Code.STRIPE_CLEARING),
        credit=ledger.account(Code.CONSUMER_CASH, ANN),
        amount_nano=10**6,
        posting=Posting.TOP_UP,
        ts_ns=1,
    )
    do(BOOKS, admit())
    BOOKS.take()
    before = tuple(
        Part(payee, MachineId(f"mac_{n}"), ProviderId(f"prv_{n}"), tokens, ask)
        for n, (payee, tokens, ask) in enumerate(((BOB, 100, 90), (ANN, 50, 100)))
    )
    assert isinstance(do(BOOKS, settle(payee=CAT, before=before, ask_pct=80)), Settled)
    changes = BOOKS.take()
    return changes.requests[0], changes.deliveries, changes.transfers


ROW, DELIVERIES, LEGS = written()
ACCOUNTS = {account.number: account for account in BOOKS.ledger.accounts()}


def problems(
    row: RequestRow = ROW,
    deliveries: Sequence[DeliveryRow] = DELIVERIES,
    legs: Sequence[TransferRow] = LEGS,
) -> list[str]:
    return list(settlement_problems(row, legs, deliveries, ACCOUNTS))


def changed(at: int, **cells: object) -> list[DeliveryRow]:
    rows = list(DELIVERIES)
    rows[at] = rows[at]._replace(**cells)  # type: ignore[arg-type]
    return rows


def test_what_the_ledger_writes_is_green() -> None:
    """Each Mac's piece, its split, its funding and its transfers, and their sum."""
    assert problems() == []
    assert [row.promo_nano > 0 for row in DELIVERIES] == [True, True, False]


ONLY_SEALED = {"machine", "provider"}
"""Of a Mac that was lost: nothing else in the books says them, only the seal keeps them."""


@pytest.mark.parametrize("name", [name for name in DeliveryRow._fields if name != "request_id"])
def test_no_cell_of_a_delivery_can_be_another(name: str) -> None:
    """Each follows from the request, from the other deliveries or from the transfers."""
    for at, row in enumerate(DELIVERIES):
        cell = getattr(row, name)
        others = (cell + 1, cell - 1) if isinstance(cell, int) else (AccountId("acct_thief"),)
        for other in others:
            found = problems(deliveries=changed(at, **{name: other}))
            assert bool(found) == (at == 2 or name not in ONLY_SEALED), (at, found)


@pytest.mark.parametrize(
    "name",
    ["completion_tokens", "prompt_tokens", "cached_tokens", "cost_nano", "provider_nano",
     "fee_nano", "promo_nano", "cash_nano", "earnings_nano", "price_in_nano", "price_out_nano",
     "fee_bps", "deliveries"],
)  # fmt: skip
def test_no_cell_of_the_request_can_be_another(name: str) -> None:
    """What it says of the whole is what its deliveries say of the parts."""
    for step in (1, -1):
        found = problems(row=ROW._replace(**{name: getattr(ROW, name) + step}))  # type: ignore[arg-type]
        assert found, (name, step)


FORGED = {
    "two Macs that have changed places": (
        [DELIVERIES[1]._replace(number=0), DELIVERIES[0]._replace(number=1), DELIVERIES[2]],
        "is not paid from promo, cash and earnings in that order",
    ),
    "a nano of promo credit for a nano of cash": (
        [
            DELIVERIES[0]._replace(
                promo_nano=DELIVERIES[0].promo_nano - 1, cash_nano=DELIVERIES[0].cash_nano + 1
            ),
            DELIVERIES[1]._replace(
                promo_nano=DELIVERIES[1].promo_nano + 1, cash_nano=DELIVERIES[1].cash_nano - 1
            ),
            DELIVERIES[2],
        ],
        "is not paid from promo, cash and earnings in that order",
    ),
    "a nano of the fee for a Mac": (
        [
            DELIVERIES[0]._replace(
                provider_nano=DELIVERIES[0].provider_nano + 1, fee_nano=DELIVERIES[0].fee_nano - 1
            ),
            *DELIVERIES[1:],
        ],
        "The delivery 0 of req_1 is not split at the request's fee of 500 bps",
    ),
    "somebody who is not the finisher": (
        [*DELIVERIES[:2], DELIVERIES[2]._replace(payee=BOB)],
        "was finished by another Mac than its last delivery says",
    ),
    "one too few": (DELIVERIES[:2], "says that it has 3 deliveries; there are: 0, 1"),
    "one twice": ([*DELIVERIES, DELIVERIES[2]], "there are: 0, 1, 2, 2"),
}


@pytest.mark.parametrize("case", FORGED)
def test_a_forged_division_is_named(case: str) -> None:
    """Also where every sum of the request stays what it was."""
    deliveries, sentence = FORGED[case]

    found = problems(deliveries=deliveries)

    assert any(sentence in problem for problem in found), found


def test_money_that_went_to_another_mac_is_named() -> None:
    """The sums of the request's transfers are right; they pay for the wrong delivery."""
    first = LEGS[0]
    legs = [first._replace(leg=first.leg + LEGS_PER_MAC), *LEGS[1:]]

    assert problems(legs=legs) == [
        f"The transfers of req_1 do not move what its delivery {number} cost." for number in (0, 1)
    ]
    assert problems(legs=LEGS[:-1]) == [
        "The transfers of req_1 do not move what its delivery 2 cost."
    ]


def test_a_request_whose_deliveries_are_denied_is_named() -> None:
    """As an ordinary one it would have cost more, and paid one Mac."""
    denied = ROW._replace(deliveries=None)

    assert "cost" in problems(row=denied, deliveries=[])[0]
    assert "says that it has 0 deliveries; there are: 0, 1, 2" in problems(row=denied)[0]
