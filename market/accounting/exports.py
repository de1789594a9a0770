"""The journal in forms that other programs read: beancount's text, CSV, a JSON object a line.

Beancount is an independent judge: each transfer is a transaction of its own, and each account
ends in an assertion of the balance that the ledger's own counters give, exact to the nano. An
altered digit anywhere makes its checker name the transaction or the account.

Account names are made from account ids one to one. They are private, so an export is too.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Final, Literal, NamedTuple, get_args

from market.accounting.chart import Account, Code, Posting
from market.accounting.rows import DeliveryRow, TransferRow
from market.money import format_usd_exact

Format = Literal["beancount", "csv", "jsonl"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
DAY_NS: Final = 86_400_000_000_000
COLUMNS: Final = (
    *("number", "time", "ts_ns", "batch", "id", "leg", "reason"),
    *("debit", "debit_account", "credit", "credit_account", "amount_nano_usd", "amount_usd"),
    *("delivery", "ask_pct"),
)
"""The last two are "" but for what pays one of several Macs, or one below the market's prices."""

_NAMES: Final = {
    Code.STRIPE_CLEARING: "Assets:Stripe:Clearing",
    Code.CONSUMER_RECEIVABLE: "Assets:Consumers:Receivable",
    Code.CONSUMER_CASH: "Liabilities:Consumers:Cash",
    Code.CONSUMER_PROMO: "Liabilities:Consumers:Promo",
    Code.PROVIDER_MATURING: "Liabilities:Providers:Maturing",
    Code.PROVIDER_EARNINGS: "Liabilities:Providers:Earnings",
    Code.PAYOUT_IN_TRANSIT: "Liabilities:Providers:InTransit",
    Code.PLATFORM_CAPITAL: "Equity:Capital",
    Code.PLATFORM_FEE: "Income:Fees",
    Code.PROMO_EXPENSE: "Expenses:Promo",
    Code.STRIPE_FEES: "Expenses:Stripe",
    Code.DISPUTE_LOSS: "Expenses:Disputes",
    Code.GOODWILL: "Expenses:Goodwill",
    Code.SUSPENSE: "Assets:Suspense",
}
_PLAIN_ID: Final = re.compile(r"[a-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*", re.ASCII)
_OPENED: Final = "1970-01-01"
_REST: Final = "Equity:Opening"  # the other side of opening balances when not all are told


class Entry(NamedTuple):
    """One transfer with the accounts it moves between, and the delivery that it pays for."""

    number: int
    transfer: TransferRow
    debit: Account
    credit: Account
    batch: int
    delivery: DeliveryRow | None = None


class Selection(NamedTuple):
    """What an export is asked for: from a UTC day on, and one owner's alone or ""."""

    since_ns: int = 0
    owner: str = ""

    def takes(self, account: Account) -> bool:
        return not self.owner or account.owner == self.owner


def account_name(account: Account) -> str:
    """Beancount's name: ids of ours read well, any other is spelled in hexadecimal."""
    kind, owner = _NAMES[account.code], account.owner
    if not owner:
        return kind
    if _PLAIN_ID.fullmatch(owner):
        return f"{kind}:{owner[0].upper()}{owner[1:].replace('_', '-')}"
    return f"{kind}:0x{owner.encode('utf-8', 'surrogatepass').hex()}"


# ── beancount ─────────────────────────────────────────────────────────────────────────


def beancount_head(accounts: Iterable[Account], *, rest: bool) -> Iterator[str]:
    """Options and the opening of each account."""
    yield 'option "title" "coster"\noption "operating_currency" "USD"\n\n'
    for account in accounts:
        yield f"{_OPENED} open {account_name(account)} USD\n"
    if rest:
        yield f"{_OPENED} open {_REST} USD\n"


def beancount_opening(
    accounts: Iterable[Account], sums: Mapping[int, int], since_ns: int
) -> Iterator[str]:
    """What each account had before the first transfer told; `sums` are debits less credits."""
    postings = [
        (account_name(account), sums[account.number])
        for account in accounts
        if sums.get(account.number)
    ]
    if not postings:
        return
    left = -sum(nano for _, nano in postings)
    if left:
        postings.append((_REST, left))
    yield f'\n{_day(since_ns) - timedelta(days=1)} * "opening" "Balances before"\n'
    for name, nano in postings:
        yield f"  {name}  {_usd(nano)} USD\n"


def beancount_entry(entry: Entry) -> str:
    """One transfer as a transaction of two postings."""
    moved, paid = entry.transfer, entry.delivery
    more = f"  delivery: {paid.number}\n  ask_pct: {paid.ask_pct}\n" if paid else ""
    return (
        f'\n{_day_text(moved.ts_ns // DAY_NS)} * "{Posting(moved.code).name.lower()}" '
        f'"{_escaped(moved.id)} leg {moved.leg}"\n'
        f"  number: {entry.number}\n{more}"
        f"  {account_name(entry.debit)}  {_usd(moved.amount_nano)} USD\n"
        f"  {account_name(entry.credit)}  {_usd(-moved.amount_nano)} USD\n"
    )


def beancount_balances(accounts: Iterable[Account], last_ns: int) -> Iterator[str]:
    """What each account must have come to, by the ledger's counters, tolerating nothing."""
    day = _day(last_ns) + timedelta(days=1)
    yield "\n"
    for account in accounts:
        yield f"{day} balance {account_name(account)}  {_usd(-account.posted_nano)} ~ 0 USD\n"


# ── rows ──────────────────────────────────────────────────────────────────────────────


def csv_head() -> str:
    """The line of column names."""
    return _csv_line(COLUMNS)


def csv_entry(entry: Entry) -> str:
    """One transfer as a line; text cells are quoted where they need it."""
    return _csv_line(_cells(entry))


def json_entry(entry: Entry) -> str:
    """One transfer as an object on a line; sums are strings, because JSON is not exact."""
    told = dict(zip(COLUMNS, _cells(entry), strict=True))
    told["amount_nano_usd"] = str(told["amount_nano_usd"])
    return json.dumps(told, separators=(",", ":")) + "\n"


def _cells(entry: Entry) -> tuple[int | str, ...]:
    moved, debit, credit, paid = entry.transfer, entry.debit, entry.credit, entry.delivery
    time = datetime.fromtimestamp(moved.ts_ns // 1_000_000_000, UTC).isoformat()
    return (
        *(entry.number, time, moved.ts_ns, entry.batch, moved.id, moved.leg),
        Posting(moved.code).name.lower(),
        *(int(debit.code), debit.owner, int(credit.code), credit.owner),
        *(moved.amount_nano, _usd(moved.amount_nano)),
        *((paid.number, paid.ask_pct) if paid else ("", "")),
    )


class _Echo:
    """Where a csv writer writes when its caller wants the line back."""

    def write(self, line: str) -> str:
        return line


_write_row: Final[Callable[[Iterable[object]], str]] = csv.writer(
    _Echo(), lineterminator="\n"
).writerow


def _csv_line(cells: Iterable[object]) -> str:
    return _write_row(cells)


def _usd(nano: int) -> str:
    return format_usd_exact(nano).replace("$", "")


def _day(ns: int) -> date:
    return datetime.fromtimestamp(ns // 1_000_000_000, UTC).date()


@lru_cache(maxsize=64)
def _day_text(day: int) -> str:
    return _day(day * DAY_NS).isoformat()


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
