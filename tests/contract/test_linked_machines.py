"""A machine that earned before anybody linked it: who gets what."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from market import keys
from market.accounting.registry import unclaimed
from market.errors import Conflict
from market.messages import Admitted
from market.types import AccountId, MachineId
from storage.pepper import load_pepper
from storage.verify import verify
from tests.support.ledger_bench import Bench, start


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


async def test_linking_a_machine_moves_its_earnings_but_never_ones_own_promo(data: Path) -> None:
    """Cat's and Ann's promo credit was spent on an unlinked Mac; Ann links it: hers goes back."""
    bench = await start(data)
    accountant, machine = bench.accountant, MachineId("mac_new")
    ann, ann_key = await _consumer(bench, "Ann")
    cat, cat_key = await _consumer(bench, "Cat")
    try:
        for request, key in (("req_ann", ann_key), ("req_cat", cat_key), ("req_late", cat_key)):
            (admitted,) = await bench.do(
                replace(bench.admit(request), key_hash=keys.key_hash(key, load_pepper(data)))
            )
            assert isinstance(admitted, Admitted)
            if request != "req_late":
                await bench.do(
                    replace(bench.settle(request), payee=unclaimed(machine), machine=machine)
                )
        earned = (await accountant.balance(unclaimed(machine))).earnings_nano // 2
        assert earned > 0

        moved = await accountant.link_machine(machine, ann, "op")
        again = await accountant.link_machine(machine, ann, "op")
        with pytest.raises(Conflict) as taken:
            await accountant.link_machine(machine, cat, "op")
        late = replace(bench.settle("req_late"), payee=unclaimed(machine), machine=machine)
        (first,) = await bench.do(late)
        (second,) = await bench.do(late)

        assert (moved, again) == (earned, 0)
        assert taken.value.code == "machine_linked"
        assert first == second
        assert (await accountant.balance(unclaimed(machine))).earnings_nano == 0
        assert (await accountant.balance(ann)).earnings_nano == 2 * earned
    finally:
        await accountant.stop()
    assert verify(data).ok


async def _consumer(bench: Bench, name: str) -> tuple[AccountId, str]:
    account, _, _ = await bench.accountant.create_account(name)
    _, secret = await bench.accountant.create_key(account, "k")
    return account, secret
