"""Prices, links and payees as acts in the journal, and what stored rows say against them.

`price`, `machine` and `payee` rows decide who pays how much and who is paid, and rows of state
are not sealed.
Their acts are: each is written beside its row, in the same commit, so that an audit can tell a
row that was changed, deleted or slipped in. Books from before this had no such acts; a market
that opens them writes one for each row it finds, and until then nothing is compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Final

from market.accounting.rows import OperationRow
from market.accounting.state_rows import MachineRow, PayeeRow, PriceRow
from market.types import AccountId, MachineId, ModelId

_PRICE: Final = "price:"
_LINK: Final = "link:"
_UNLINK: Final = "unlink:"
_PAYEE: Final = "payee:"


def price_act(row: PriceRow) -> OperationRow:
    """The act that set a price."""
    told = {
        "model": row.model,
        "created_ns": row.created_ns,
        "in_nano": row.price_in_nano,
        "cached_nano": row.price_cached_nano,
        "out_nano": row.price_out_nano,
        "actor": row.actor,
        "reason": row.reason,
    }
    return _act(f"{_PRICE}{row.model}:{row.created_ns}", told, row.created_ns)


def link_act(row: MachineRow, actor: str) -> OperationRow:
    """The act that linked a machine to an account."""
    told: dict[str, object] = {
        "machine": row.machine,
        "account": row.owner,
        "actor": actor,
        "reason": "linked",
    }
    return _act(f"{_LINK}{row.machine}:{row.created_ns}", told, row.created_ns)


def payee_act(row: PayeeRow) -> OperationRow:
    """The act that said to which account at the processor somebody is paid; it never changes."""
    told: dict[str, object] = {"account": row.owner, "recipient": row.account}
    return _act(f"{_PAYEE}{row.owner}:{row.created_ns}", told, row.created_ns)


def act_of(row: PriceRow | MachineRow | PayeeRow, actor: str) -> OperationRow:
    """The act that a row from before there were acts would have had."""
    match row:
        case PriceRow():
            return price_act(row)
        case MachineRow():
            return link_act(row, actor)
        case PayeeRow():
            return payee_act(row)


def _act(key: str, told: dict[str, object], ts_ns: int) -> OperationRow:
    return OperationRow(key, "", json.dumps(told, sort_keys=True), ts_ns)


class Acts:
    """What the acts of a journal, given in order, say of prices, linked machines and payees."""

    def __init__(self, operations: Iterable[OperationRow]) -> None:
        self._prices: dict[tuple[ModelId, int], PriceRow] = {}
        self._owners: dict[MachineId, AccountId] = {}
        self._recipients: dict[AccountId, str] = {}
        self.known = False
        """Whether the journal tells of prices and links at all: older books do not."""
        self.payees_known = False
        """The same of payees, of which it was told later."""
        for row in operations:
            if row.key.startswith((_PRICE, _LINK, _UNLINK, _PAYEE)):
                self._read(row)

    def _read(self, row: OperationRow) -> None:
        try:
            told = json.loads(row.result)
            if row.key.startswith(_PRICE):
                price = PriceRow(
                    told["model"],
                    told["created_ns"],
                    told["in_nano"],
                    told["cached_nano"],
                    told["out_nano"],
                    told["actor"],
                    told["reason"],
                )
                self._prices[price.model, price.created_ns] = price
            elif row.key.startswith(_PAYEE):
                self._recipients[told["account"]] = told["recipient"]
                self.payees_known = True
                return
            elif row.key.startswith(_LINK):
                self._owners[told["machine"]] = told["account"]
            else:
                self._owners.pop(told["machine"], None)
                return
        except (ValueError, LookupError, TypeError):
            return  # of an older version, or changed: then its own checksum says so
        self.known = True

    def problems(
        self,
        prices: Iterable[PriceRow],
        machines: Iterable[MachineRow],
        payees: Iterable[PayeeRow],
    ) -> Iterator[str]:
        """Rows that are not what the acts say, in sentences."""
        if self.known:
            yield from self._price_problems(prices)
            yield from self._machine_problems(machines)
        if self.payees_known:
            yield from self._payee_problems(payees)

    def _price_problems(self, rows: Iterable[PriceRow]) -> Iterator[str]:
        missing = dict(self._prices)
        for row in rows:
            act = missing.pop((row.model, row.created_ns), None)
            named = f"The price of {row.model} set at {row.created_ns}"
            if act is None:
                yield f"{named} was never set: no act in the journal tells of it."
            elif act != row:
                yield f"{named} was changed after it was written."
        for model, created_ns in missing:
            yield f"The price of {model} set at {created_ns} is missing."

    def _machine_problems(self, rows: Iterable[MachineRow]) -> Iterator[str]:
        missing = dict(self._owners)
        for row in rows:
            owner = missing.pop(row.machine, None)
            if owner != row.owner:
                whose = "nobody" if owner is None else owner
                yield (
                    f"The machine {row.machine} earns for {row.owner}; the journal says it is "
                    f"linked to {whose}."
                )
        for machine, owner in missing.items():
            yield f"The machine {machine} is linked to {owner} in the journal; its row is missing."

    def _payee_problems(self, rows: Iterable[PayeeRow]) -> Iterator[str]:
        missing = dict(self._recipients)
        for row in rows:
            recipient = missing.pop(row.owner, None)
            if recipient != row.account:
                where = "nowhere" if recipient is None else f"to {recipient}"
                yield f"{row.owner} is paid out to {row.account}; the journal says {where}."
        for owner, recipient in missing.items():
            yield f"{owner} is paid out to {recipient} in the journal; its row is missing."
