"""Run the fake by itself, for building against it: `python -m actors.fake_stripe --help`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from pathlib import Path

from actors.fake_stripe.app import FakeStripe
from actors.fake_stripe.server import serve_fake
from actors.fake_stripe.state_file import UnreadableStateError
from actors.fake_stripe.world import SETTLE_S, FakeSettings

log = logging.getLogger("coster.fake_stripe")

API_KEY = "sk_test_fake"
WEBHOOK_SECRET = "whsec_fake"  # noqa: S105 - of test payments, which move no money


async def _serve(options: argparse.Namespace) -> None:
    fake = FakeStripe(
        FakeSettings(
            API_KEY,
            WEBHOOK_SECRET,
            webhook_url=options.webhook_url,
            state_file=options.state_file,
            settle_s=0 if options.instant else SETTLE_S,
        )
    )
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with serve_fake(fake, options.port) as url:
        log.info("test payments on %s, API key %s, signing %s", url, API_KEY, WEBHOOK_SECRET)
        await ended.wait()


def main() -> int:
    parser = argparse.ArgumentParser("python -m actors.fake_stripe", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--webhook-url", help="where notices are sent")
    parser.add_argument("--state-file", type=Path, help="where payments are kept")
    parser.add_argument("--instant", action="store_true", help="payments are available at once")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    try:
        asyncio.run(_serve(options))
    except (OSError, UnreadableStateError) as error:
        log.error("%s", error)  # noqa: TRY400 - the message is the whole story
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
