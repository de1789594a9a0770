"""Rows that are not sealed but decide over money: lots, prices, linked machines."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path

import pytest

from market.accounting import registry
from market.accounting.prices import Price
from market.accounting.rows import OperationRow
from market.accounting.state_rows import MachineRow, PriceRow
from market.types import MachineId
from storage.verify import verify
from tests.contract.test_verify import spoil
from tests.support.ledger_bench import MODEL, start


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Books with earnings held back, a price an operator has set, and two linked machines."""
    folder = tmp_path_factory.mktemp("state") / "data"

    async def fill() -> None:
        bench = await start(folder, promo_maturity_days=7)
        await bench.do(bench.admit("req_1"))
        await bench.do(bench.settle("req_1"))
        await bench.accountant.set_price(MODEL, Price(5, 5, 9), "Olga", "a test")
        for name in ("mac_1", "mac_2"):
            await bench.accountant.link_machine(MachineId(name), bench.provider, "Olga")
        await bench.accountant.stop()

    asyncio.run(fill())
    return folder


@pytest.fixture
def data(healthy: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(healthy, tmp_path / "data"))


SPOILT = {
    "a lot made larger": (
        "UPDATE lot SET amount_nano = amount_nano + 1",
        r"account 2300 provider_maturing of acct_provider is at \d+ nano-USD; its lots add up to",
    ),
    "a lot deleted": ("DELETE FROM lot", r"2300 .* of acct_provider .* its lots add up to 0"),
    "a lot given to another": (
        "UPDATE lot SET payee = 'acct_consumer'",
        r"2300 .* of acct_consumer is at 0 nano-USD",
    ),
    "a price changed": (
        "UPDATE price SET price_out_nano = 1 WHERE actor = 'Olga'",
        rf"The price of {MODEL} set at \d+ was changed",
    ),
    "a listed price changed": (
        "UPDATE price SET price_in_nano = price_in_nano + 1 WHERE model = 'coster/demo'",
        r"The price of coster/demo set at \d+ was changed",
    ),
    "a price deleted": (
        "DELETE FROM price WHERE actor = 'Olga'",
        rf"The price of {MODEL} set at \d+ is missing",
    ),
    "a price slipped in": (
        f"INSERT INTO price VALUES ('{MODEL}', 4000000000000000000, 0, 0, 0, 'catalogue', 'x')",
        rf"The price of {MODEL} set at 4000000000000000000 was never set",
    ),
    "a machine given to another": (
        "UPDATE machine SET owner = 'acct_consumer' WHERE machine = 'mac_1'",
        r"mac_1 earns for acct_consumer; the journal says it is linked to acct_provider",
    ),
    "a machine deleted": (
        "DELETE FROM machine WHERE machine = 'mac_2'",
        r"mac_2 is linked to acct_provider in the journal; its row is missing",
    ),
    "a machine slipped in": (
        "INSERT INTO machine (machine, owner, created_ns) VALUES ('mac_9', 'acct_consumer', 1)",
        r"mac_9 earns for acct_consumer; the journal says it is linked to nobody",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_state_that_moves_money_is_compared_with_what_is_sealed(data: Path, case: str) -> None:
    """The report names the account, the price or the machine, past a checkpoint too."""
    statement, sentence = SPOILT[case]
    assert verify(data).ok
    spoil(data, statement)

    for full in (True, False):
        report = verify(data, full=full)
        assert any(re.search(sentence, problem) for problem in report.problems), report.problems


async def test_books_from_before_there_were_acts_are_given_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They do not turn red; a market that opens them writes the acts once."""
    data = tmp_path / "data"
    with monkeypatch.context() as older:
        older.setattr(registry, "price_act", _older)
        older.setattr(registry, "link_act", _older)
        bench = await start(data)
        await bench.accountant.link_machine(MachineId("mac_1"), bench.provider, "Olga")
        await bench.accountant.stop()
    spoil(data, "UPDATE price SET reason = 'listed then' WHERE model = 'coster/demo'")
    assert verify(data).problems == []

    for _ in range(2):
        bench = await start(data)
        await bench.accountant.link_machine(MachineId("mac_2"), bench.provider, "Olga")
        await bench.accountant.stop()
        assert verify(data).problems == []
    spoil(data, "UPDATE machine SET owner = 'acct_consumer' WHERE machine = 'mac_1'")
    assert "mac_1 earns for acct_consumer" in verify(data).problems[0]


def _older(row: PriceRow | MachineRow, *_: str) -> OperationRow:
    """An act of which no audit knows."""
    return OperationRow(f"older:{row[0]}:{row.created_ns}", "", "", row.created_ns)
