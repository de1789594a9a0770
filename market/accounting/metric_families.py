"""What the accountant tells of itself and of the books, by name."""

from __future__ import annotations

from typing import Final

from market.metrics import Family, counter, gauge

LEDGER: Final = "coster_ledger"

FAMILIES: Final[tuple[Family, ...]] = (
    counter(f"{LEDGER}_operations_total", "Operations carried out."),
    counter(f"{LEDGER}_refusals_total", "Operations refused, by code.", "code"),
    counter(f"{LEDGER}_leases_expired_total", "Holds that the books had to end themselves."),
    counter(f"{LEDGER}_commits_total", "Durable commits."),
    counter(f"{LEDGER}_commit_seconds_total", "Time spent in commits."),
    counter(f"{LEDGER}_audits_total", "Audits made since the start."),
    counter(f"{LEDGER}_audit_seconds_total", "Time spent in audits."),
    gauge(f"{LEDGER}_owners", "Accounts there are."),
    gauge(f"{LEDGER}_keys", "API keys that are known."),
    gauge(f"{LEDGER}_open_holds", "Requests that hold money."),
    gauge(f"{LEDGER}_held_nano_usd", "What they hold together, in nano-USD."),
    gauge(f"{LEDGER}_finished_remembered", "Ended requests kept in memory for repetitions."),
    gauge(f"{LEDGER}_holds_overdue", "Holds nobody has closed in time; must be 0."),
    gauge(f"{LEDGER}_imbalance_nano_usd", "Posted debits less posted credits; must be 0."),
    gauge(f"{LEDGER}_suspense_nano_usd", "Unexplained money at the processor; must be 0."),
    gauge(f"{LEDGER}_receivable_nano_usd", "What consumers owe after disputes, in nano-USD."),
    gauge(f"{LEDGER}_audit_problems", "What the last audit found; must be 0."),
    gauge(f"{LEDGER}_audited_batch", "Up to which batch the journal was found right."),
    gauge("coster_accountant_up", "1 while the accountant answers."),
)
