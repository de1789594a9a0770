"""Who takes part, at which price, and who earns for which machine: the books without requests."""

from __future__ import annotations

from typing import Final

from market.accounting.acts import Acts, act_of, link_act, price_act
from market.accounting.answers import check_text
from market.accounting.chart import Code, Posting
from market.accounting.customers import Customers
from market.accounting.holding import BookTerms
from market.accounting.ledger import Ledger
from market.accounting.prices import Price, Prices
from market.accounting.rows import Snapshot
from market.accounting.state_rows import KeyRow, MachineRow, OwnerRow, PayeeRow, PriceRow
from market.errors import Conflict, InvalidRequest, NotFound
from market.messages import Balance, KeyRecord
from market.types import AccountId, KeyId, MachineId

UNCLAIMED: Final = "unclaimed_"
CATALOGUE: Final = "catalogue"
"""Who has set a price that no operator has set."""


def unclaimed(machine: MachineId) -> AccountId:
    """The account that a machine earns into until somebody has linked it."""
    return AccountId(f"{UNCLAIMED}{machine}")


class Registry:
    """Customers, keys, prices and linked machines; each change is noted for the next commit."""

    def __init__(self, terms: BookTerms, snapshot: Snapshot, ledger: Ledger) -> None:
        self.terms = terms
        self.ledger = ledger
        self.customers = Customers(snapshot)
        self.prices = Prices(snapshot.rows(PriceRow))
        self.machines = {row.machine: row.owner for row in snapshot.rows(MachineRow)}
        self._owned: dict[AccountId, tuple[MachineId, ...]] = {}
        for machine, owner in self.machines.items():
            self._owned[owner] = (*self._owned.get(owner, ()), machine)
        acts = Acts(snapshot.operations)
        self._without_act: list[PriceRow | MachineRow | PayeeRow] = []
        if not acts.known:
            self._without_act += [*snapshot.rows(PriceRow), *snapshot.rows(MachineRow)]
        if not acts.payees_known:
            self._without_act += snapshot.rows(PayeeRow)

    def link(self, machine: MachineId, owner: AccountId, now_ns: int, actor: str = "") -> None:
        """From now on a machine earns for this account; again is no error.

        Raises Conflict when it is linked to another account, NotFound for an unknown account,
        InvalidRequest for one that itself only stands for an unlinked machine.
        """
        check_text("machine", machine)
        self.customers.get(owner)
        if owner.startswith(UNCLAIMED):
            raise InvalidRequest(
                f"{owner[:80]} is no customer: it keeps what an unlinked machine earns. "
                "Name the account of the machine's owner.",
                "account",
            )
        linked = self.machines.get(machine)
        if linked not in (None, owner):
            raise Conflict(
                f"The machine {machine[:80]} is linked to another account. An operator can unlink "
                "it with `coster machines unlink`.",
                "machine",
                "machine_linked",
                None,
                False,
            )
        if linked is None:
            self.machines[machine] = owner
            self._owned[owner] = (*self._owned.get(owner, ()), machine)
            row = MachineRow(machine, owner, now_ns)
            self.ledger.changes.put(row)
            self.ledger.changes.operations.append(link_act(row, actor))

    def unlink(self, machine: MachineId) -> AccountId:
        """From now on a machine earns for nobody's account but its own; who it was linked to.

        Raises NotFound when it is not linked.
        """
        owner = self.machines.pop(machine, None)
        if owner is None:
            raise NotFound(
                f"The machine {machine[:80]} is not linked.", "machine", "machine_not_linked"
            )
        self._owned[owner] = tuple(one for one in self._owned[owner] if one != machine)
        self.ledger.changes.drop(MachineRow(machine, owner, 0))
        return owner

    def machines_of(self, owner: AccountId) -> tuple[MachineId, ...]:
        """The machines that are linked to an account."""
        return self._owned.get(owner, ())

    def claim(self, machine: MachineId, owner: AccountId, own_promo_nano: int, now_ns: int) -> int:
        """Give an account what its linked machine had earned before; in nano-USD.

        Of it `own_promo_nano` was paid with the account's own promo credit. That never earns
        on one's own machines, whether they were linked at the time or not: it goes back.
        """
        earned = unclaimed(machine)
        self.ledger.take_back_promo(earned, own_promo_nano, now_ns)
        return self.ledger.move_earnings(earned, owner, now_ns)

    def create_owner(self, row: OwnerRow, promo_nano: int) -> None:
        """Enter a new customer, with this much promo credit."""
        row = row._replace(promo_nano=max(0, promo_nano))
        self.customers.add_owner(row)
        self.ledger.changes.put(row)
        if promo_nano > 0:
            self.ledger.grant_promo(row.id, promo_nano, row.created_ns)

    def change_owner(self, row: OwnerRow) -> None:
        """Replace a customer's row; raises InvalidRequest or NotFound."""
        self.customers.change_owner(row)
        self.ledger.changes.put(row)

    def add_key(self, row: KeyRow) -> KeyRecord:
        """Enter a new key of a known owner."""
        record = self.customers.add_key(row)
        self.ledger.changes.put(row)
        return record

    def change_key(self, row: KeyRow) -> KeyRecord:
        """Replace a key's row: name, caps, models, end."""
        record = self.customers.change_key(row)
        self.ledger.changes.put(row)
        return record

    def revoke(self, owner_id: AccountId, key_id: KeyId, now_ns: int) -> KeyRecord:
        """End a key. Again is no error; a key of someone else is not found."""
        row, ended_now = self.customers.revoke(owner_id, key_id, now_ns)
        if ended_now:
            self.ledger.changes.put(row)
        return self.customers.key(owner_id, key_id).record

    def adopt_prices(self, now_ns: int) -> int:
        """Note the catalogue's prices where no operator has set one; returns how many were new.

        So the history begins with the first price, and a catalogue that comes with a new
        version of the program leaves a trace. Rows from before there were acts get theirs.
        """
        for row in self._without_act:
            self.ledger.changes.operations.append(act_of(row, CATALOGUE))
        self._without_act.clear()
        noted = 0
        for card in self.terms.catalogue.enabled():
            history = self.prices.history(card.id)
            listed = Price(card.price_in_nano, card.price_in_nano, card.price_out_nano)
            if history and (history[-1].actor != CATALOGUE or self.prices.now(card) == listed):
                continue
            self.set_price(card.id, listed, actor=CATALOGUE, reason="listed", now_ns=now_ns)
            noted += 1
        return noted

    def set_price(
        self, model: str, price: Price, *, actor: str, reason: str, now_ns: int
    ) -> PriceRow:
        """What a model costs from now on; raises NotFound or InvalidRequest."""
        card = self.terms.catalogue.get(model)
        row = self.prices.set(card, price, actor=actor, reason=reason, now_ns=now_ns)
        self.ledger.changes.put(row)
        self.ledger.changes.operations.append(price_act(row))
        return row

    def goodwill(self, owner: AccountId, act: str, amount_nano: int, now_ns: int) -> None:
        """Give a customer credit at the platform's cost; `act` is unique. Raises NotFound."""
        self.customers.get(owner)
        self.ledger.post(
            f"goodwill:{act}",
            0,
            debit=self.ledger.account(Code.GOODWILL),
            credit=self.ledger.account(Code.CONSUMER_PROMO, owner),
            amount_nano=amount_nano,
            posting=Posting.GOODWILL,
            ts_ns=now_ns,
        )

    def balance(self, owner_id: AccountId) -> Balance:
        """What the owner has; raises NotFound."""
        self.customers.get(owner_id)
        maturing = self.ledger.find(Code.PROVIDER_MATURING, owner_id)
        owed = self.ledger.find(Code.CONSUMER_RECEIVABLE, owner_id)
        return Balance(
            *self.ledger.available(owner_id),
            self.ledger.held(owner_id),
            maturing.posted_nano if maturing else 0,
            -owed.posted_nano if owed else 0,
        )
