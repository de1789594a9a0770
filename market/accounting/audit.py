"""The audit: replay every transfer and say, in sentences, what does not add up.

Pure: it is fed the rows of a ledger in order and ends with a report. Each problem names
the row it is in, because "the books are wrong" helps nobody at three in the morning.

An audit may begin at a checkpoint instead of the first batch; it then says nothing about the
rows before it, except that the batch it begins at is still the one that was checked.

What can be seen: a changed row (its checksum, and the batch's hash), a missing row (a gap
in the numbers), an altered balance (the transfers add up to something else), a settlement
that does not pay what it charged. What cannot: somebody rewriting everything since some
batch and every hash after it; for that, keep the head's hash elsewhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final

from market.accounting.chain import (
    BatchContents,
    BatchRow,
    Cell,
    batch_hash,
    crc_of,
    sealed_text,
)
from market.accounting.chart import (
    NO_NEGATIVE,
    SETTLING,
    SPENDING_ORDER,
    Account,
    Code,
    Posting,
)
from market.accounting.checkpoints import JOURNAL_KINDS, Checkpoint
from market.accounting.rows import DeliveryRow, HoldRow, RequestRow, TransferRow
from market.accounting.settlements import (
    lot_problems,
    payment_problems,
    settlement_problems,
    shape_problems,
)
from market.accounting.state_rows import DisputeRow, LotRow, PayoutRow
from market.money import format_usd_exact

PROBLEMS_MAX: Final = 100  # sentences kept; the count goes on
_NAMES: Final = {
    Posting.PROMO_GRANT: "promo_granted",
    Posting.GOODWILL: "goodwill",
    Posting.TOP_UP: "topped_up",
    Posting.REFUND: "refunded",
    Posting.PAYOUT: "payouts_decided",
    Posting.PAYOUT_SENT: "paid_out",
    Posting.MATURE: "matured",
}


@dataclass(slots=True)
class VerifyReport:
    """What an audit found. `problems` are sentences; sums are nano-USD.

    Counts and sums are of the whole ledger; what was replayed for it is everything after
    `since_batch`. `checkpoint` is where the next audit may begin, None when there were
    problems. `sums` by time were counted again, None when they were left alone.
    """

    counts: dict[str, int] = field(default_factory=dict)
    totals_nano: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    problem_count: int = 0
    head_hash: str = ""
    since_batch: int = 0
    checkpoint: Checkpoint | None = None
    sums: int | None = None

    @property
    def ok(self) -> bool:
        return self.problem_count == 0

    def as_json(self) -> dict[str, object]:
        """The whole report, JSON-able."""
        return {
            "ok": self.ok,
            "counts": self.counts,
            "totals_nano": {name: str(nano) for name, nano in self.totals_nano.items()},
            "problem_count": self.problem_count,
            "problems": self.problems,
            "head_hash": self.head_hash,
            "since_batch": self.since_batch,
            "sums": self.sums,
        }

    def add(self, problem: str) -> None:
        """Keep a finding; beyond PROBLEMS_MAX only count it."""
        self.problem_count += 1
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(problem)

    def add_missing(self, numbers: range, found: AbstractSet[object], sentence: str) -> None:
        """One finding for each of the numbers that is not among `found`.

        A damaged number can make the range astronomically long: only as many of it are
        looked at as can be named, the others are counted.
        """
        named = numbers[: PROBLEMS_MAX + len(found)]
        for number in named:
            if number not in found:
                self.add(sentence.format(number))
        known = sum(isinstance(number, int) and number in numbers for number in found)
        known -= sum(number in found for number in named)
        self.problem_count += len(numbers) - len(named) - known


class Audit:
    """Feed it accounts, then batches in order, then holds and the head; then `finish`."""

    def __init__(self, accounts: Iterable[Account], since: Checkpoint | None = None) -> None:
        """Begin at a checkpoint, or at the first batch."""
        since = since or Checkpoint()
        self.report = VerifyReport(since_batch=since.number)
        self._accounts = {account.number: account for account in accounts}
        self._debited = defaultdict(int, {at: sums[0] for at, sums in since.sums.items()})
        self._credited = defaultdict(int, {at: sums[1] for at, sums in since.sums.items()})
        self._held: defaultdict[tuple[Code, str], int] = defaultdict(int)
        self._counts = defaultdict(int, since.counts)
        self._totals = defaultdict(int, since.totals_nano)
        self._next = dict(since.following)
        self._holds = 0
        self._number = since.number
        self._hash = since.hash
        self._marks = {since.number: since.hash} if since.number else {}
        self._last: BatchRow | None = None

    # ── the journal ───────────────────────────────────────────────────────────────────

    @property
    def begins_after(self) -> tuple[int, dict[str, int]]:
        """The batch to go on from, and the next number of each journal."""
        return self._number, dict(self._next)

    def mark(self, number: int, digest: bytes) -> None:
        """An earlier audit has seen this batch with this hash; it must still be there."""
        self._marks[number] = digest

    def marked(self, batch: BatchRow) -> None:
        """A batch that may have been marked is there, with this hash."""
        self._last = batch
        known = self._marks.pop(batch.number, None)
        if known is not None and known != batch.hash:
            self.report.add(
                f"Batch {batch.number} had another hash when it was last audited: the ledger was "
                "rewritten since."
            )

    def batch(self, batch: BatchRow, contents: BatchContents) -> None:
        """Check one batch: its place, its rows, its hash, and what its transfers mean."""
        report = self.report
        self._counts["batches"] += 1
        report.add_missing(range(self._number + 1, batch.number), set(), "Batch {} is missing.")
        self._number = batch.number
        texts: list[bytes] = []
        damaged = False
        for kind, count, rows in (
            ("account", batch.accounts, contents.accounts),
            ("transfer", batch.transfers, contents.transfers),
            ("request", batch.requests, contents.requests),
            ("delivery", contents.deliveries_count, contents.deliveries),
            ("operation", batch.operations, contents.operations),
        ):
            damaged |= self._rows(kind, count, rows, batch.number, texts)
        digest = batch_hash(self._hash, batch[:-1], texts)
        if digest != batch.hash:
            cause = "see its rows above" if damaged else "its head or its rows were changed"
            report.add(f"Batch {batch.number} does not match its hash: {cause}.")
        self._hash = batch.hash  # so that one bad batch does not spoil all that follow
        self.marked(batch)
        self._transfers(contents)

    def _rows(
        self,
        kind: str,
        count: int,
        rows: Sequence[tuple[Cell, ...]],
        number: int,
        texts: list[bytes],
    ) -> bool:
        """Check numbers and checksums of one journal's rows in a batch."""
        first = self._next[kind]
        expected = range(first, first + count)
        self._next[kind] = first + count
        self._counts[JOURNAL_KINDS[kind]] += len(rows)
        before = self.report.problem_count
        found = {row[0] for row in rows}
        self.report.add_missing(expected, found, f"The {kind} {{}} of batch {number} is missing.")
        for row in rows:
            text = sealed_text(kind, row[:-2], row[-2])
            texts.append(text)
            if crc_of(text) != row[-1]:
                self.report.add(f"The {kind} {_name(kind, row)} was changed after it was written.")
            elif row[0] not in expected:
                self.report.add(f"The {kind} {_name(kind, row)} does not belong to its batch.")
        return self.report.problem_count > before

    def stray(self, kind: str, row: tuple[Cell, ...]) -> None:
        """A row whose batch does not exist."""
        self.report.add(f"The {kind} {_name(kind, row)} belongs to no batch.")

    def _transfers(self, contents: BatchContents) -> None:
        legs: defaultdict[str, list[TransferRow]] = defaultdict(list)
        whose: dict[str, str] = {}
        for row in contents.transfers:
            transfer = TransferRow(*row[1:-2])  # type: ignore[arg-type]
            self._post(int(str(row[0])), transfer)
            if transfer.code in SETTLING:
                legs[transfer.id].append(transfer)
            else:
                self._one_owner(transfer, whose)
            if transfer.code in _NAMES:
                self._totals[_NAMES[Posting(transfer.code)]] += transfer.amount_nano
        delivered: defaultdict[str, list[DeliveryRow]] = defaultdict(list)
        for row in contents.deliveries:
            delivery = DeliveryRow(*row[1:-2])  # type: ignore[arg-type]
            delivered[delivery.request_id].append(delivery)
        for row in contents.requests:
            request = RequestRow(*row[1:-2])  # type: ignore[arg-type]
            name = request.request_id
            self._request(request, legs.pop(name, []), delivered.pop(name, []))
        for request_id in legs:
            self.report.add(f"A transfer pays for {request_id}, which did not end in its batch.")
        for request_id in delivered:
            self.report.add(f"A delivery is of {request_id}, which did not end in its batch.")

    def _post(self, seq: int, transfer: TransferRow) -> None:
        for side in (transfer.debit, transfer.credit):
            if side not in self._accounts:
                self.report.add(f"The transfer {seq} names account {side}, which does not exist.")
        for problem in shape_problems(seq, transfer, self._accounts):
            self.report.add(problem)
        self._debited[transfer.debit] += transfer.amount_nano
        self._credited[transfer.credit] += transfer.amount_nano
        debit = self._accounts.get(transfer.debit)
        left_nano = self._credited[transfer.debit] - self._debited[transfer.debit]
        if debit and debit.code in NO_NEGATIVE and left_nano < 0:
            self.report.add(
                f"The transfer {seq} takes {transfer.amount_nano} nano-USD from account "
                f"{debit.number} ({debit.label()}), which had {left_nano + transfer.amount_nano}."
            )

    def _one_owner(self, transfer: TransferRow, whose: dict[str, str]) -> None:
        """An act that is no settlement concerns one owner; only a claim moves between two."""
        if transfer.code == Posting.CLAIM:
            return
        for number in (transfer.debit, transfer.credit):
            account = self._accounts.get(number)
            if account and account.owner:
                owner = whose.setdefault(transfer.id, account.owner)
                if owner != account.owner:
                    self.report.add(
                        f"The transfers of {transfer.id} concern {owner} and {account.owner}; "
                        "they may concern one owner only."
                    )

    def _request(
        self, row: RequestRow, legs: list[TransferRow], deliveries: list[DeliveryRow]
    ) -> None:
        self._totals["spent"] += row.cost_nano
        self._totals["providers"] += row.provider_nano
        self._totals["fees"] += row.fee_nano
        self._totals["promo_spent"] += row.promo_nano
        for problem in settlement_problems(row, legs, deliveries, self._accounts):
            self.report.add(problem)

    # ── the present ───────────────────────────────────────────────────────────────────

    def hold(self, row: HoldRow, crc: int, *, ended: bool) -> None:
        """Check one open hold; `ended` says that its request has already finished."""
        self._holds += 1
        if crc_of(sealed_text("hold", row)) != crc:
            self.report.add(f"The hold {row.request_id} was changed after it was written.")
        if ended:
            self.report.add(f"The request {row.request_id} has ended and still has a hold.")
        legs = (row.promo_nano, row.cash_nano, row.earnings_nano)
        for code, amount in zip(SPENDING_ORDER, legs, strict=True):
            self._held[code, row.owner] += amount

    def payments(self, payouts: Iterable[PayoutRow], disputes: Iterable[DisputeRow]) -> None:
        """What is in transit is what open payouts say; what is owed, what open disputes say.

        A payout that looks open again would be paid again, and these rows are not sealed.
        """
        for problem in payment_problems(self._accounts.values(), payouts, disputes):
            self.report.add(problem)

    def lots(self, lots: Iterable[LotRow]) -> None:
        """What a provider may not withdraw yet is what its lots add up to."""
        for problem in lot_problems(self._accounts.values(), lots):
            self.report.add(problem)

    def head(self, number: int, digest: bytes, ts_ns: int, epoch: int) -> None:
        """Check that the chain ends where the ledger says it does.

        Time and epoch may be later than the last batch's: not every commit has a batch.
        """
        last = (self._last.ts_ns, self._last.epoch) if self._last else (0, 0)
        for what, stands, sealed in zip(("time", "epoch"), (ts_ns, epoch), last, strict=True):
            if stands < sealed:
                self.report.add(f"The ledger's {what} is {stands}, its last batch is of {sealed}.")
        self.report.head_hash = digest.hex()
        if (number, digest) != (self._number, self._hash):
            self.report.add(
                f"The ledger's head is batch {number} ({digest.hex()[:12]}…), its last batch is "
                f"{self._number} ({self._hash.hex()[:12]}…): batches are missing at the end."
            )
        for gone in self._marks:
            self.report.add(
                f"Batch {gone} was audited and is not there any more: batches are missing."
            )

    def finish(self) -> VerifyReport:
        """Compare every account with its transfers and holds, and draw the totals."""
        report = self.report
        for account in self._accounts.values():
            self._account(account)
        posted_debits = sum(account.dpo for account in self._accounts.values())
        posted_credits = sum(account.cpo for account in self._accounts.values())
        if posted_debits != posted_credits:
            report.add(
                f"All debits are {format_usd_exact(posted_debits)} and all credits "
                f"{format_usd_exact(posted_credits)}; they must be equal."
            )
        self._flows()
        if report.ok:
            report.checkpoint = self._checkpoint()
        held = sum(self._held.values())
        present = {"held": held, "debits": posted_debits, "credits": posted_credits}
        counts = {**self._counts, "holds": self._holds}
        rare = ("deliveries", "holds")  # not told of where there is none
        told = sorted(name for name, n in counts.items() if n or name not in rare)
        report.counts = {name: counts[name] for name in told}
        report.totals_nano = {**self._totals, **present}
        return report

    def _flows(self) -> None:
        """What consumers spent is what providers and we got; promo given is spent or left."""
        total, promo = self._totals, self._of(Code.CONSUMER_PROMO)
        for what, one_nano, other_nano in (
            ("spent and earned with fees", total["spent"], total["providers"] + total["fees"]),
            ("promo spent and taken from promo credit", total["promo_spent"], promo[0]),
            ("promo granted and received", total["promo_granted"] + total["goodwill"], promo[1]),
        ):
            if one_nano != other_nano:
                self.report.add(
                    f"The sums of {what} are {format_usd_exact(one_nano)} and "
                    f"{format_usd_exact(other_nano)}; they must be equal."
                )

    def _of(self, code: Code) -> tuple[int, int]:
        """What was debited from and credited to all accounts of a kind, in nano-USD."""
        numbers = [number for number, account in self._accounts.items() if account.code is code]
        return (
            sum(self._debited[number] for number in numbers),
            sum(self._credited[number] for number in numbers),
        )

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(
            number=self._number,
            hash=self._hash,
            sums={
                number: (self._debited[number], self._credited[number])
                for number in sorted(self._accounts)
            },
            following=dict(self._next),
            counts=dict(self._counts),
            totals_nano=dict(self._totals),
        )

    def _account(self, account: Account) -> None:
        where = f"Account {account.number} ({account.label()})"
        for what, stored, replayed in (
            ("debited", account.dpo, self._debited[account.number]),
            ("credited", account.cpo, self._credited[account.number]),
            ("held", account.dp, self._held[account.code, account.owner]),
            ("announced", account.cp, 0),
        ):
            if stored != replayed:
                self.report.add(
                    f"{where} says {stored} nano-USD {what}; its rows add up to {replayed}."
                )
        if account.code in NO_NEGATIVE and account.available_nano < 0:
            self.report.add(f"{where} is below zero: {account.available_nano} nano-USD.")


def _name(kind: str, row: tuple[Cell, ...]) -> str:
    """A row's number, and for a transfer whose it is."""
    return f"{row[0]} ({row[1]}, leg {row[2]})" if kind == "transfer" else f"{row[0]} ({row[1]})"
