"""Which processor a market's payments run on: Stripe, the test payments, or none.

With an API key it is Stripe. Without one an embedded market runs the test payments on a port
of its own: the same HTTP, no money. A cluster without a key takes no payments and says so.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, cast

from actors.payments.loop import PaymentPlaces
from market.errors import Unavailable
from market.payments.processor import PaymentProcessor
from market.settings import MarketSettings

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

STATE_FOLDER: Final = "stripe_test"
WEBHOOK_PATH: Final = "/v1/payments/webhook"
ANYWHERE: Final = ("", "0.0.0.0", "::")  # noqa: S104 - addresses to bind, not to call


@dataclass(frozen=True, slots=True)
class PaymentSecrets:
    """What the processor knows us by, and what its notices are signed with."""

    api_key: str = field(repr=False)
    webhook_secret: str = field(repr=False)


class NoProcessor:
    """Stands where a processor would be: whatever is asked of it, there is none."""

    def __getattr__(self, name: str) -> NoReturn:
        raise payments_off()


def payments_off() -> Unavailable:
    """Why this market moves no money."""
    return Unavailable(
        "This market takes no payments: its operator has not set STRIPE_API_KEY and "
        "STRIPE_WEBHOOK_SECRET.",
        None,
        "payments_off",
        None,
        False,
    )


class ProcessorSetup:
    """Opens a processor inside the running loop, and keeps the test payments running."""

    def __init__(self, settings: MarketSettings, keys: PaymentSecrets | None) -> None:
        self._settings = settings
        self._keys = keys
        self._fake: AbstractAsyncContextManager[str] | None = None

    @property
    def kind(self) -> str:
        """stripe, test or off."""
        if self._keys is not None:
            return "stripe"
        return "test" if self._settings.stripe_port else "off"

    async def open(self) -> PaymentProcessor:
        """The processor. Raises OSError when the test payments' port is taken."""
        if self.kind == "off":
            return cast("PaymentProcessor", NoProcessor())
        from actors.stripe.processor import StripeProcessor, StripeSettings

        base = self._settings.payments.stripe_base or None
        keys = self._keys
        if keys is None:
            keys = PaymentSecrets(
                f"sk_test_{secrets.token_hex(16)}", f"whsec_{secrets.token_hex(16)}"
            )
            base = await self._open_fake(keys)
        return StripeProcessor(StripeSettings(keys.api_key, keys.webhook_secret, base))

    async def _open_fake(self, keys: PaymentSecrets) -> str:
        from actors.fake_stripe.app import FakeStripe
        from actors.fake_stripe.server import serve_fake
        from actors.fake_stripe.world import FakeSettings

        folder = Path(self._settings.data_dir) / STATE_FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        fake = FakeStripe(
            FakeSettings(
                keys.api_key,
                keys.webhook_secret,
                webhook_url=market_url(self._settings) + WEBHOOK_PATH,
                state_file=folder / "state.json",
                settle_s=0,
            )
        )
        self._fake = serve_fake(fake, self._settings.stripe_port)
        return await self._fake.__aenter__()

    async def close(self) -> None:
        """End the test payments, if they run. Idempotent."""
        fake, self._fake = self._fake, None
        if fake is not None:
            await fake.__aexit__(None, None, None)


def market_url(settings: MarketSettings) -> str:
    """Where this machine reaches the market's own door."""
    host = "127.0.0.1" if settings.host in ANYWHERE else settings.host
    return f"http://{host}:{settings.port}"


def places_of(settings: MarketSettings) -> PaymentPlaces:
    """Where people are sent back to after a hosted page."""
    base = settings.payments.public_url.rstrip("/") or market_url(settings)
    return PaymentPlaces(
        topup_done=f"{base}/paid",
        topup_cancelled=f"{base}/paid/cancelled",
        payouts=f"{base}/payouts/done",
    )
