"""A manual trial of the doorway against a Stripe sandbox: `python -m actors.stripe.smoke`.

Only a person can pay the page it opens, so no suite runs it; docs/stripe.md tells when to.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import secrets
import sys
import time

from actors.stripe.processor import StripeProcessor, StripeSettings
from market.errors import MarketError

log = logging.getLogger("coster.stripe_smoke")

LIVE_PREFIXES = ("sk_live_", "rk_live_")
PAGE = "https://example.com/"
AMOUNT_CENTS = 2500
ASK_EVERY_S = 2.0
HISTORY_S = 86_400


async def smoke(settings: StripeSettings, wait_s: float) -> None:
    """Every kind of call once. Raises ProcessorError for the first that fails."""
    processor = StripeProcessor(settings)
    try:
        await _pay(processor, wait_s)
        await _recipient(processor)
        await _books(processor)
    finally:
        await processor.close()


async def _pay(processor: StripeProcessor, wait_s: float) -> None:
    topup_id = f"smoke_{secrets.token_hex(6)}"
    page = await processor.open_checkout(topup_id, AMOUNT_CENTS, success_url=PAGE, cancel_url=PAGE)
    again = await processor.open_checkout(topup_id, AMOUNT_CENTS, success_url=PAGE, cancel_url=PAGE)
    log.info("checkout       %s, asked again the same: %s", page.session, again == page)
    log.info("pay here       %s", page.url)
    until_s = time.monotonic() + wait_s
    while not page.paid and time.monotonic() < until_s:
        await asyncio.sleep(ASK_EVERY_S)
        page = await processor.checkout(page.session)
    if page.paid and page.intent is not None:
        log.info("paid           %s, fee %d cents", page.intent, page.fee_cents)
        refund_id = f"{topup_id}_refund"
        refund = await processor.refund(refund_id, page.intent, 100)
        found = await processor.find_refund(refund_id, page.intent)
        log.info("refund         %s, found again: %s", refund.refund, found is not None)
    else:
        log.info("not paid       within %g s; the rest goes on", wait_s)


async def _recipient(processor: StripeProcessor) -> None:
    recipient = await processor.open_recipient(f"smoke_{secrets.token_hex(6)}", "US")
    log.info("recipient      %s, active: %s", recipient.account, recipient.active)
    log.info("missing        %s", ", ".join(recipient.requirements) or "nothing")
    url = await processor.onboarding_url(recipient.account, return_url=PAGE, refresh_url=PAGE)
    log.info("onboard here   %s", url)


async def _books(processor: StripeProcessor) -> None:
    since_s = int(time.time()) - HISTORY_S
    balance = await processor.balance()
    log.info(
        "balance        %d cents available, %d pending",
        balance.available_cents,
        balance.pending_cents,
    )
    for line in await processor.lines_since(since_s):
        log.info(
            "line           %-12s %8d cents, fee %d, ours: %s",
            line.kind,
            line.amount_cents,
            line.fee_cents,
            line.our_id or "-",
        )
    log.info("disputes       %d since yesterday", len(await processor.disputes_since(since_s)))
    log.info("events         %d since yesterday", len(await processor.events_since(since_s)))


def main() -> int:
    parser = argparse.ArgumentParser("python -m actors.stripe.smoke", description=__doc__)
    parser.add_argument("--api-base", help="something that stands in for Stripe")
    parser.add_argument("--wait-s", type=float, default=300.0, help="for you to pay")
    parser.add_argument("--live-i-mean-it", action="store_true", help="allow a live key")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    log.setLevel(logging.INFO)
    key = os.environ.get("STRIPE_API_KEY", "")
    if not key:
        log.error("Set STRIPE_API_KEY to the secret key of a Stripe sandbox (sk_test_…).")
        return 2
    if key.startswith(LIVE_PREFIXES) and not options.live_i_mean_it:
        log.error("This is a live key: real money would move. Use a sandbox's (sk_test_…).")
        return 2
    settings = StripeSettings(key, webhook_secret="", api_base=options.api_base)
    try:
        asyncio.run(smoke(settings, options.wait_s))
    except MarketError as error:
        log.error("failed         %s (%s)", error, error.code)  # noqa: TRY400 - one line
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
