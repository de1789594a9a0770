"""Consumers pay exactly what providers earn and the platform keeps, at every fee there is."""

from __future__ import annotations

import pytest

from market.accounting.chart import Code
from market.types import Usage
from tests.support.ledger_model import Wanted
from tests.support.memory_audit import audited
from tests.support.twin import Twin

ODD = [
    # prompt, cached, completion: sums that no percentage divides
    (1, 0, 0), (0, 0, 1), (3, 1, 7), (412, 17, 187), (97, 97, 1), (399, 2, 299), (7, 0, 13),
]  # fmt: skip
PRICES = [(1, 0, 1), (3, 1, 7), (15, 4, 61), (100, 100, 780), (0, 0, 1)]
CUTS = [100 * percent for percent in range(101)] + [1, 33, 333, 777, 1234, 3333, 6667, 9999]


@pytest.mark.parametrize("own_promo", [False, True], ids=["paid by another", "own promo"])
def test_at_every_fee_a_consumer_pays_what_provider_and_platform_get(*, own_promo: bool) -> None:
    """To the nano, per request and in total, also where an account serves itself on promo.

    Promo credit that is spent on oneself earns nothing: that part is the platform's whole.
    """
    for fee_bps in CUTS:
        twin = Twin(fee_bps=fee_bps, mature_days=0, crashes=False)
        twin.owner("ann", 40_000, None, None)
        twin.owner("bob", 0, None, None)
        twin.key("key", "ann", {"day": None, "week": None, "month": None}, None)
        twin.move("top_up", "ann", 10**9)
        came_in, costs, paid, fees = 40_000 + 10**9, 0, 0, 0
        for at, (prompt, cached, completion) in enumerate(ODD * len(PRICES)):
            request, payee = f"req_{at}", "ann" if own_promo and at % 2 else "bob"
            twin.price(PRICES[at % len(PRICES)])
            promo_nano = twin.books.balance("ann").promo_nano  # type: ignore[arg-type]
            twin.admit(Wanted(request, "key", prompt, max(1, completion), 300))
            twin.settle(request, payee, "mac", Usage(prompt, completion, cached))
            ended = twin.model.ended[request]
            assert ended.provider + ended.fee == ended.cost
            barren = min(ended.cost, promo_nano) if payee == "ann" else 0
            assert (ended.cost - barren) * (10_000 - fee_bps) <= ended.provider * 10_000
            assert (ended.cost - barren) * (10_000 - fee_bps) > (ended.provider - 1) * 10_000
            costs, paid, fees = costs + ended.cost, paid + ended.provider, fees + ended.fee
        twin.commit()
        twin.check()
        report = audited(twin.disk)

        assert report.problems == []
        totals = report.totals_nano
        assert (totals["spent"], totals["providers"], totals["fees"]) == (costs, paid, fees)
        assert costs == paid + fees
        assert twin.books.ledger.account(Code.PLATFORM_FEE).cpo == fees
        ann, bob = twin.books.balance("ann"), twin.books.balance("bob")  # type: ignore[arg-type]
        assert ann.balance_nano + bob.balance_nano + fees == came_in
