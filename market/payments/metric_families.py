"""What payments tell of themselves, by name."""

from __future__ import annotations

from typing import Final

from market.metrics import Family, counter, gauge

PAYMENTS: Final = "coster_payments"

FAMILIES: Final[tuple[Family, ...]] = (
    counter(f"{PAYMENTS}_webhooks_total", "Notices the processor sent."),
    counter(f"{PAYMENTS}_errands_total", "Errands done at the processor."),
    counter(f"{PAYMENTS}_errands_failed_total", "Errands that are tried again later."),
    counter(f"{PAYMENTS}_events_found_total", "Notices found that had not arrived."),
    gauge(f"{PAYMENTS}_topups_open", "Top-ups that are not paid yet."),
    gauge(f"{PAYMENTS}_refunds_open", "Refunds on their way."),
    gauge(f"{PAYMENTS}_payouts_open", "Payouts on their way."),
    gauge(f"{PAYMENTS}_payouts", "Payouts on their way, by state.", "state"),
    gauge(f"{PAYMENTS}_disputes_open", "Disputes that are not decided."),
    gauge(f"{PAYMENTS}_events_waiting", "Notices that are not dealt with yet."),
    gauge(f"{PAYMENTS}_payees", "Accounts that have a way to be paid."),
    gauge(f"{PAYMENTS}_suspense_cents", "Unexplained money at the processor; must be 0."),
    gauge(f"{PAYMENTS}_difference_cents", "Processor less books at the last reconciliation."),
    gauge("coster_payments_up", "1 while the payments actor answers."),
)
